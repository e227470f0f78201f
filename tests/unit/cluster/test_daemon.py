"""Components that share a process share its end, and nobody ends in silence."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from navarch.cluster.daemon import run_components


async def for_ever(started: list[str]) -> None:
    started.append("for ever")
    await asyncio.Event().wait()


async def returns(_: Any) -> None:
    return


async def fails(_: Any) -> None:
    raise OSError("no disk")


@pytest.mark.parametrize(("other", "reason"), [(returns, "ended by itself"), (fails, "no disk")])
def test_one_that_ends_ends_all(other: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    assert run_components({"a": (for_ever, []), "b": (other, None)}) == 1
    assert reason in caplog.text


def test_a_signal_ends_them_cleanly() -> None:
    async def ask(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert run_components({"a": (for_ever, []), "b": (ask, None)}) == 0
