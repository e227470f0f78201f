"""Several requests at once: all together, or first one, then two, four, ...

When creates fail for a reason that holds for all (a full quota, a refusing webhook), doubling
batches find out after one or a few attempts instead of after hundreds (upstream's
`slowStartBatch`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from navarch.api.errors import ApiError

T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")


@overload
async def together(one: Awaitable[T1], two: Awaitable[T2], /) -> tuple[T1, T2]: ...
@overload
async def together(
    one: Awaitable[T1], two: Awaitable[T2], three: Awaitable[T3], /
) -> tuple[T1, T2, T3]: ...
@overload
async def together(*works: Awaitable[T1]) -> tuple[T1, ...]: ...
async def together(*works: Awaitable[Any]) -> tuple[Any, ...]:
    """The results of all; when all have ended, the first failure is raised.

    Unlike with `asyncio.gather`, nothing goes on behind the back of who saw a failure, and who is
    told to end ends: there a failure of one in that very moment takes the place of the end, and a
    loop that tries again after failures would then run for ever."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.gather(*tasks, return_exceptions=True)
    # Not by what gather returns: a result may be an exception that nobody has raised.
    return tuple(task.result() for task in tasks)


async def slow_start(
    count: int, action: Callable[[int], Awaitable[object]], initial: int = 1
) -> tuple[int, ApiError | None]:
    """Call `action(index)` for 0..count-1 in doubling batches, each batch at once; stop after the
    first batch in which one raised `ApiError`. How many succeeded, and the first error. Everything
    from the batches that were begun has ended when this returns."""
    done = 0
    succeeded = 0
    size = max(1, initial)
    while done < count:
        batch = range(done, min(done + size, count))
        results = await asyncio.gather(*(action(index) for index in batch), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, ApiError):
                raise failure
        succeeded += len(results) - len(failures)
        if failures:
            first = failures[0]
            assert isinstance(first, ApiError)
            return succeeded, first
        done += len(results)
        size *= 2
    return succeeded, None
