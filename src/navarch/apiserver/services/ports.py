"""Node ports: one key in the store per number that is taken.

Writing the key only if it is absent is what makes sure that no number is given twice, by whatever
API server; the value says for whom, which only people read. Upstream keeps one bitmap for the whole
range (`/registry/ranges/servicenodeports`): with keys of their own, creations do not wait for each
other. The low end is kept for those who choose a number themselves (KEP-3668).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from navarch.apiserver.services.holdings import Holdings, Key
from navarch.store.contract import CasFailed, KeyValue, Store

Object = dict[str, Any]

PREFIX = "/registry/ranges/servicenodeports/"


TAKEN = "provided port is already allocated"


class PortError(Exception):
    """Why a node port cannot be had."""


def static_band(size: int) -> int:
    """How many ports at the low end are kept for those who choose one themselves (KEP-3668)."""
    return min(max(16, size // 32), 128) if size > 16 else 0


class PortAllocator:
    """Takes and gives back node ports."""

    def __init__(
        self,
        store: Store,
        limits: tuple[int, int],
        holdings: Holdings,
        chance: Random,
        timestamp: Callable[[], str],
    ) -> None:
        """`limits` are the first and the last number."""
        self._store = store
        self.first, self.last = limits
        self._holdings = holdings
        self._chance = chance
        self._timestamp = timestamp
        self._asked: set[int] = set()
        """Numbers whose writes are under way here."""
        self.tally: Counter[tuple[str, ...]] = Counter()
        """Allocations and refusals, by scope: for the metrics."""

    def is_valid(self, number: int) -> bool:
        return self.first <= number <= self.last

    def _is_free(self, number: int) -> bool:
        return number not in self._holdings.ports and number not in self._asked

    def check(self, number: int, dry_run: bool) -> None:
        """Raises PortError for a port that cannot be had, as far as it is known here."""
        if not self.is_valid(number):
            self._count("allocation_errors_total", "static", dry_run)
            raise PortError(
                "provided port is not in the valid range. The range of valid ports is "
                f"{self.first}-{self.last}"
            )
        if not self._is_free(number):
            self._count("allocation_errors_total", "static", dry_run)
            raise PortError(TAKEN)

    async def take(self, number: int, whose: Key, dry_run: bool) -> tuple[int, int]:
        """Take a certain port: its number and the revision of its record. Raises PortError."""
        self.check(number, dry_run)
        revision = 0 if dry_run else await self.record(number, whose)
        if revision is None:
            self._count("allocation_errors_total", "static", dry_run)
            raise PortError(TAKEN)
        self._count("allocation_total", "static", dry_run)
        return number, revision

    def _count(self, what: str, scope: str, dry_run: bool) -> None:
        if not dry_run:
            self.tally[what, scope] += 1

    async def take_any(self, whose: Key, dry_run: bool) -> tuple[int, int]:
        """Take a free port, from the upper band first. Raises PortError when none is left."""
        for number in self._candidates():
            if self._is_free(number):
                revision = 0 if dry_run else await self.record(number, whose)
                if revision is not None:
                    self._count("allocation_total", "dynamic", dry_run)
                    return number, revision
        self._count("allocation_errors_total", "dynamic", dry_run)
        raise PortError("range is full")

    def _candidates(self) -> Iterator[int]:
        middle = self.first + static_band(self.last - self.first + 1)
        for first, last in ((middle, self.last), (self.first, middle - 1)):
            if first <= last:
                start = self._chance.randrange(first, last + 1)
                yield from range(start, last + 1)
                yield from range(first, start)

    async def record(self, number: int, whose: Key) -> int | None:
        """Write down that a port is taken: the revision, or None when somebody else was first."""
        namespace, name = whose
        value = {"namespace": namespace, "name": name, "time": self._timestamp()}
        self._asked.add(number)
        try:
            return await self._store.put(
                f"{PREFIX}{number}", json.dumps(value).encode(), expected=0
            )
        except CasFailed:
            return None
        finally:
            self._asked.discard(number)

    async def release(self, number: int, before: int) -> None:
        """Remove the record of a port that was made before a revision."""
        key = f"{PREFIX}{number}"
        found = await self._store.get(key)
        if found is not None and found.create_revision < before:
            try:
                await self._store.delete(key, expected=found.mod_revision)
            except CasFailed:
                return  # Somebody else has released it.

    async def records(self) -> dict[int, KeyValue]:
        """All ports that are written down as taken."""
        found = await self._store.range(PREFIX)
        return {
            int(each.key[len(PREFIX) :]): each
            for each in found.items
            if each.key[len(PREFIX) :].isdigit()
        }

    async def is_recorded(self, number: int) -> bool:
        return await self._store.get(f"{PREFIX}{number}") is not None


def time_of(record: KeyValue) -> str:
    """When a port was taken."""
    return str(json.loads(record.value).get("time", ""))
