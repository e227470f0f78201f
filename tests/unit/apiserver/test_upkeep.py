"""The server's steady work: it goes on after failures, and ends when told to."""

from __future__ import annotations

import asyncio
import logging

import pytest

from navarch.apiserver import upkeep
from navarch.apiserver.upkeep import ended, forever, told


async def test_work_ends_though_its_turn_fails_in_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "AGAIN_SECONDS", 0.01)
    begun = asyncio.Event()
    turns: list[int] = []

    async def turn() -> None:
        turns.append(1)
        begun.set()
        if len(turns) > 1:
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the disk is full")

    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(forever("work", 0.0, turn))]
        await begun.wait()
        await ended(tasks)
    assert tasks[0].cancelled()
    await ended([])


async def test_work_that_ends_by_itself_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def waits() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(work(), name=work.__name__) for work in (fails, waits)]
    for task in tasks:
        task.add_done_callback(told)
    with caplog.at_level(logging.CRITICAL):
        await asyncio.sleep(0.01)
        await ended(tasks)
    assert [record.getMessage() for record in caplog.records] == ["fails has ended"]
