"""Node ports: which numbers of the range are in use, by the Services there are and by writes that
are under way."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

Object = dict[str, Any]

RANDOM_TRIES = 32


class PortError(Exception):
    """Why a node port cannot be had."""


def static_band(size: int) -> int:
    """How many ports at the low end are kept for those who choose one themselves (KEP-3668)."""
    return min(max(16, size // 32), 128) if size > 16 else 0


def node_ports(service: Object | None) -> set[int]:
    """The numbers a Service holds."""
    spec = (service or {}).get("spec") or {}
    found = {each.get("nodePort") or 0 for each in spec.get("ports") or ()}
    found.add(spec.get("healthCheckNodePort") or 0)
    found.discard(0)
    return found


class PortAllocator:
    """Hands out node ports. `follow` is told of every change of a Service."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self._held: Counter[int] = Counter()
        self._pending: set[int] = set()

    def follow(self, old: Object | None, new: Object | None) -> None:
        self._held.subtract(node_ports(old))
        self._held.update(node_ports(new))

    def _is_free(self, number: int) -> bool:
        return self._held[number] <= 0 and number not in self._pending

    def take(self, number: int) -> None:
        """Take a certain port. Raises PortError."""
        if not self.first <= number <= self.last:
            raise PortError(
                "provided port is not in the valid range. The range of valid ports is "
                f"{self.first}-{self.last}"
            )
        if not self._is_free(number):
            raise PortError("provided port is already allocated")
        self._pending.add(number)

    def take_any(self) -> int:
        """Take a free port, from the upper band first. Raises PortError."""
        start = self.first + static_band(self.last - self.first + 1)
        for _ in range(RANDOM_TRIES):
            number: int = random.randint(start, self.last)
            if self._is_free(number):
                self._pending.add(number)
                return number
        for number in (*range(start, self.last + 1), *range(self.first, start)):
            if self._is_free(number):
                self._pending.add(number)
                return number
        raise PortError("range is full")

    def settle(self, numbers: set[int]) -> None:
        """A write is over: whether its ports are in use shows in the Services now."""
        self._pending -= numbers
