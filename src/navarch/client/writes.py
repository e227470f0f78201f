"""What a controller wrote and its informers have yet to show.

A controller that looks at its caches right after it wrote sees the world before its writes: it
would create the same pods again. So it notes each write here and does nothing more about the object
until the informers have caught up. A create or an update is seen once the informer has come to its
resourceVersion, however it got there (after a reconnect the object may have come and gone unseen);
a deletion once the cache has lost the object or shows its deletionTimestamp. Nothing is counted, so
no lost, repeated or late event can put the books out. Only versions that are set back (a restored
backup) could keep a controller waiting for ever, so it waits for at most five minutes.

Source: the idea of KEP-5647 (stale controller mitigation), for deletions as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from navarch.client.clock import Clock
from navarch.client.informer import Informer
from navarch.client.objects import KubernetesObject, object_key
from navarch.client.queue import WorkQueue

TIMEOUT_SECONDS = 300.0
LAG_SECONDS = 1.0
"""After this long caches that lagged behind are looked at again: most times an event says sooner
that they have caught up, but a list that is read anew tells of nothing that was known already."""


@dataclass(frozen=True, slots=True)
class _Deleted:
    """What is to disappear, and where; unless it is known to be gone it may also linger, being
    deleted."""

    informer: Informer[Any]
    uid: str
    is_gone: bool

    def is_seen(self, key: str) -> bool:
        present = self.informer.cache.get(key)
        if present is None or present.metadata.uid != self.uid:
            return True
        return not self.is_gone and bool(present.metadata.deletionTimestamp)


@dataclass(slots=True)
class _Pending:
    since: float
    versions: dict[Informer[Any], int] = field(default_factory=dict)
    deleted: dict[str, _Deleted] = field(default_factory=dict)
    """By key."""


class Writes:
    """By the key of the object on whose behalf they were made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[str, _Pending] = {}

    def wrote(self, key: str, informer: Informer[Any], answer: KubernetesObject) -> None:
        """The server answered a create, update or patch with this."""
        versions = self._of(key).versions
        version = int(answer.metadata.resourceVersion or 0)
        versions[informer] = max(version, versions.get(informer, 0))

    def deleted(
        self, key: str, informer: Informer[Any], obj: KubernetesObject, is_gone: bool = False
    ) -> None:
        """The server took the deletion of this object, or has it no more (`is_gone`)."""
        deleted = _Deleted(informer, obj.metadata.uid, is_gone)
        self._of(key).deleted[object_key(obj)] = deleted

    def are_pending(self, key: str) -> bool:
        """Whether something had not been seen when last asked for."""
        return key in self._pending

    def are_seen(self, key: str) -> bool:
        """Whether the informers show everything that was noted."""
        pending = self._pending.get(key)
        if pending is None:
            return True
        if self._shows(pending) or self._clock.monotonic() - pending.since > TIMEOUT_SECONDS:
            del self._pending[key]
            return True
        return False

    def hold_back(self, key: str, queue: WorkQueue) -> bool:
        """Whether the key has to wait until the informers show everything; then it comes again."""
        if self.are_seen(key):
            return False
        queue.add_after(key, LAG_SECONDS)
        return True

    @staticmethod
    def _shows(pending: _Pending) -> bool:
        for informer, version in pending.versions.items():
            # An informer that is about to list again has no version.
            if int(informer.resource_version or 0) < version:
                return False
        for name, deleted in [*pending.deleted.items()]:
            if not deleted.is_seen(name):
                return False
            del pending.deleted[name]
        return True

    def forget(self, key: str) -> None:
        """The object is gone; one made anew under its name starts afresh."""
        self._pending.pop(key, None)

    def _of(self, key: str) -> _Pending:
        pending = self._pending.setdefault(key, _Pending(0.0))
        pending.since = self._clock.monotonic()
        return pending
