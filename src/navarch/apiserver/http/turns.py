"""Long work in one event loop: given back every few milliseconds, or done in a thread.

Whatever holds the loop holds up every other client, and new connections most of all, since only a
few of them are taken in at each turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

TURN_SECONDS = 0.004
SLICE = 64


async def slices(items: Sequence[T], size: int = SLICE) -> AsyncIterator[Sequence[T]]:
    """The items in slices; between them, others have their turn when this one has lasted."""
    until = perf_counter() + TURN_SECONDS
    for start in range(0, len(items), size):
        if start and perf_counter() > until:
            await asyncio.sleep(0)
            until = perf_counter() + TURN_SECONDS
        yield items[start : start + size]
