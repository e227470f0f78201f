"""Secrets, followed one by one as they are named: nobody holds or sees any other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from navarch.api.types.core_v1 import Secret
from navarch.client.clock import Clock, timeout
from navarch.client.informer import Informer, InformerFactory

SYNC_SECONDS = 5.0


class Secrets:
    """`wake` is called when one of them changes."""

    def __init__(
        self, informers: InformerFactory, clock: Clock, wake: Callable[..., object]
    ) -> None:
        self._informers = informers
        self._clock = clock
        self._wake = wake
        self._followed: dict[str, Informer[Secret]] = {}

    def get(self, key: str) -> Secret | None:
        informer = self._followed.get(key)
        return informer.cache.get(key) if informer is not None else None

    async def follow(self, wanted: Iterable[str]) -> bool:
        """Follow these and no others. Tells whether there are new ones."""
        wanted = frozenset(wanted)
        for key in self._followed.keys() - wanted:
            await self._informers.stop_informer(self._followed.pop(key))
        new = wanted - self._followed.keys()
        for key in new:
            namespace, _, name = key.partition("/")
            informer = self._informers.informer(
                Secret, namespace, field_selector=f"metadata.name={name}"
            )
            informer.add_handler(self._wake, self._wake, self._wake)
            self._followed[key] = informer
        if not new:
            return False
        await self._informers.start()
        with contextlib.suppress(TimeoutError):
            async with timeout(self._clock, SYNC_SECONDS):
                for key in new:
                    await self._followed[key].wait_synced()
        return True
