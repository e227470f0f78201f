"""Doubling batches stop at the first failing one."""

from __future__ import annotations

import asyncio

import pytest

from navarch.api.errors import ApiError
from navarch.client.batches import slow_start


@pytest.mark.parametrize(
    ("count", "fails_at", "tried", "succeeded"),
    [
        pytest.param(0, None, 0, 0, id="nothing"),
        pytest.param(10, None, 10, 10, id="all"),
        pytest.param(500, 0, 1, 0, id="fails at once"),
        pytest.param(500, 4, 7, 6, id="the batch of the failure is finished"),
    ],
)
async def test_slow_start(count: int, fails_at: int | None, tried: int, succeeded: int) -> None:
    seen: list[int] = []

    async def action(index: int) -> None:
        seen.append(index)
        await asyncio.sleep(0)
        if index == fails_at:
            raise ApiError(403, "Forbidden", "quota")

    result, error = await slow_start(count, action)
    assert (seen, result) == ([*range(tried)], succeeded)
    assert (error is None) == (fails_at is None)


async def test_a_bug_is_not_taken_for_a_refusal() -> None:
    async def action(index: int) -> None:
        raise KeyError(index)

    with pytest.raises(KeyError):
        await slow_start(3, action)
