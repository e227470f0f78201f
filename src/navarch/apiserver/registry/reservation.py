"""What a write takes before it is done, and gives back if it is not: addresses, node ports.

A resource's hook makes the reservation for a valid object, and answers with a function that ends
it. That is called exactly once, however the write ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.registry.context import WriteContext
from navarch.store.contract import CasFailed

Object = dict[str, Any]

Settle = Callable[[bool | None], Awaitable[None]]
"""Ends a reservation: kept (True), given back (False), or nobody knows (None), because the write
was broken off."""
Hook = Callable[[Object, Object | None, WriteContext], Awaitable[Settle | None]]


@asynccontextmanager
async def reservation(
    hook: Hook | None, obj: Object, old: Object | None, context: WriteContext
) -> AsyncIterator[None]:
    """Around the write: kept if it succeeds, given back if it is refused or loses a race."""
    settle = await hook(obj, old, context) if hook is not None else None
    kept: bool | None = None
    try:
        yield
        kept = not context.dry_run
    except (ApiError, CasFailed):
        kept = False
        raise
    finally:
        if settle is not None:
            await settle(kept)
