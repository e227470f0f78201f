"""Who may write what when nginx' controllers elect one of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from navarch.client.leader import LeadershipLost
from navarch.network.ingress.controller import IngressServing


class LostLease:
    """An election that was won, and a lease that has expired: its fence stays."""

    def __init__(self, client: Any, *, is_told: bool) -> None:
        self._client, self._is_told = client, is_told
        self.runs = 0

    async def run(self, work: Any) -> None:
        self.runs += 1
        self._client.fence = "nobody writes"
        if self._is_told and self.runs == 1:
            raise LeadershipLost
        await asyncio.Event().wait()


@pytest.mark.parametrize("is_told", [False, True])
async def test_endpoints_can_be_taken_back_after_a_lease_was_lost(is_told: bool) -> None:
    """A node that ends says so, leader or not."""
    serving: Any = IngressServing.__new__(IngressServing)
    client = SimpleNamespace(fence=None)
    serving.context = SimpleNamespace(client=client)
    serving._elector = LostLease(client, is_told=is_told)
    leading = asyncio.create_task(serving._lead())
    async with asyncio.timeout(60):
        while serving._elector.runs < 1 + is_told:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert client.fence is not None
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    assert client.fence is None
