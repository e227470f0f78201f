"""Writing many objects: first one, then two, four, ... at once.

When creates fail for a reason that holds for all (a full quota, a refusing webhook), doubling
batches find out after one or a few attempts instead of after hundreds (upstream's
`slowStartBatch`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from navarch.api.errors import ApiError


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
