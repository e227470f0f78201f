"""Which API servers there are: each one writes down its address, and all together are the endpoints
of `default/kubernetes`.

Upstream renews such a lease every ten seconds and lets the store forget it. Here a server that is
alone has nothing to renew, so an idle cluster writes nothing; once it sees others it renews like
them. Who has not renewed for a while, by the clock of whoever looks, is gone: no two clocks are
compared.
Source: upstream's `pkg/controlplane/reconcilers/lease.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from navarch.store.contract import CasFailed, Store

PREFIX = "/registry/masterleases/"
PATIENCE = timedelta(seconds=25)
"""More than two turns of whoever renews."""


class Peers:
    """The addresses of all servers on one store, our own among them."""

    def __init__(self, store: Store, address: str, now: Callable[[], datetime]) -> None:
        self._store = store
        self._address = address
        self._now = now
        self._seen: dict[str, tuple[int, datetime]] = {}
        """By address: the revision of the lease, and since when it is that."""

    async def addresses(self) -> list[str]:
        """Those that are there, in order. Renews our own lease, and removes what has run out."""
        found = {
            each.key[len(PREFIX) :]: each.mod_revision
            for each in (await self._store.range(PREFIX)).items
        }
        others = found.keys() - {self._address}
        if others or self._address not in found:
            await self._store.put(f"{PREFIX}{self._address}", b"{}")
        now = self._now()
        before, self._seen = self._seen, {}
        for address in others:
            revision, since = before.get(address, (0, now))
            self._seen[address] = (found[address], since if revision == found[address] else now)
        live = {self._address}
        for address, (revision, since) in self._seen.items():
            if now - since < PATIENCE:
                live.add(address)
            else:
                await self._remove(address, revision)
        return sorted(live)

    async def leave(self) -> list[str]:
        """Our server ends: who stays."""
        others = [each for each in await self.addresses() if each != self._address]
        found = await self._store.get(f"{PREFIX}{self._address}")
        if found is not None:
            await self._remove(self._address, found.mod_revision)
        return others

    async def _remove(self, address: str, revision: int) -> None:
        try:
            await self._store.delete(f"{PREFIX}{address}", expected=revision)
        except CasFailed:
            return  # It was renewed.
