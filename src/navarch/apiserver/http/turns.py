"""Long work in one event loop: given back every few milliseconds, or done in a thread.

Whatever holds the loop holds up every other client, and new connections most of all, since only a
few of them are taken in at each turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")

TURN_SECONDS = 0.004
SLICE = 64
SMALL_BYTES = 64 * 1024


async def slices(items: Sequence[T], size: int = SLICE) -> AsyncIterator[Sequence[T]]:
    """The items in slices; between them, others have their turn when this one has lasted."""
    until = perf_counter() + TURN_SECONDS
    for start in range(0, len(items), size):
        if start and perf_counter() > until:
            await asyncio.sleep(0)
            until = perf_counter() + TURN_SECONDS
        yield items[start : start + size]


async def off_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Work on so many bytes: at once when they are few, else in a thread. That is no faster, but
    others are served meanwhile."""
    if size <= SMALL_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)
