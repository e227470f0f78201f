"""Components at work for as long as a test needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """These at work; what has ended with an error by itself fails the test."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


TURN_SECONDS = 0.05


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, for what is expected to stay away. It is counted in turns of the
    loop: while a busy machine does not run this process, answers wait as well as the clock, and
    they would be called late before they have been looked at."""
    async with asyncio.timeout(None) as limit:

        async def count() -> None:
            for _ in range(round(seconds / TURN_SECONDS)):
                await asyncio.sleep(TURN_SECONDS)
            limit.reschedule(asyncio.get_running_loop().time())

        counting = asyncio.create_task(count())
        try:
            yield
        finally:
            counting.cancel()
