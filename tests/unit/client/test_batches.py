"""Several requests at once, and what becomes of the failures among them."""

from __future__ import annotations

import asyncio

import pytest

from navarch.api.errors import ApiError
from navarch.client.batches import slow_start, together


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


async def test_who_is_told_to_end_ends_though_one_of_several_fails_in_that_moment() -> None:
    begin = asyncio.Event()
    ended: list[str] = []

    async def fails() -> None:
        await begin.wait()
        raise ApiError(500, "InternalError", "down")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    for turns in range(4):
        begin.clear()
        task = asyncio.create_task(together(fails(), waits()))
        await asyncio.sleep(0.001)
        begin.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), f"{turns} turns after the failure"
    assert ended == ["waits"] * 4


async def test_a_failure_is_raised_when_all_have_ended() -> None:
    done: list[int] = []

    async def work(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        done.append(number)
        if number == 1:
            raise ApiError(403, "Forbidden", "no")
        return number

    with pytest.raises(ApiError):
        await together(work(1), work(3))
    assert done == [1, 3]
    assert await together(work(0), work(2)) == (0, 2)
