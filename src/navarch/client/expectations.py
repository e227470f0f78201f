"""Expectations: a controller waits to see its own writes come back before it counts again.

A ReplicaSet that created three pods must not create three more because its informer has not shown
them yet. It says "I expect 3 creations" before it writes, its handlers lower the count as the pods
appear, and `satisfied` is False until then. Deletions are expected by uid, because a graceful
deletion is seen several times. Expectations expire after five minutes, so that a lost write cannot
hold a controller for ever (upstream's `ControllerExpectations`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from navarch.client.clock import Clock

TIMEOUT_SECONDS = 300.0


@dataclass(slots=True)
class _Expected:
    since: float
    creations: int = 0
    deletions: set[str] = field(default_factory=set)


class Expectations:
    """By the key of the controlling object."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[str, _Expected] = {}

    def expect_creations(self, key: str, count: int) -> None:
        """Before creating `count` dependents. For each create that then fails, call
        `creation_failed`, because it will never be seen."""
        self._renew(key).creations += count

    def expect_deletions(self, key: str, uids: Iterable[str]) -> None:
        """Before deleting these dependents. For each delete that then fails, call
        `deletion_observed`."""
        self._renew(key).deletions.update(uids)

    def creation_observed(self, key: str) -> None:
        """A dependent appeared (in `on_add`)."""
        expected = self._expected.get(key)
        if expected is not None and expected.creations > 0:
            expected.creations -= 1

    def creation_failed(self, key: str, count: int = 1) -> None:
        """Creates that did not happen, or were not tried."""
        for _ in range(count):
            self.creation_observed(key)

    def deletion_observed(self, key: str, uid: str) -> None:
        """A dependent is gone, or has its deletionTimestamp (which is as good)."""
        expected = self._expected.get(key)
        if expected is not None:
            expected.deletions.discard(uid)

    def satisfied(self, key: str) -> bool:
        """Whether everything expected was seen, or is too old to wait for."""
        expected = self._expected.get(key)
        if expected is None:
            return True
        if expected.creations <= 0 and not expected.deletions:
            return True
        return self._clock.monotonic() - expected.since > TIMEOUT_SECONDS

    def forget(self, key: str) -> None:
        """The controlling object is gone."""
        self._expected.pop(key, None)

    def _renew(self, key: str) -> _Expected:
        now = self._clock.monotonic()
        expected = self._expected.get(key)
        if expected is None or self.satisfied(key):
            # Fulfilled or expired: what is left of it no longer counts.
            expected = self._expected[key] = _Expected(now)
        expected.since = now
        return expected
