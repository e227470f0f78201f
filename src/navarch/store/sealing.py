"""Values that are sealed on disk: plain in memory, unreadable in the file, its log and its backups.

The store knows nothing of ciphers. It hands each value to a *sealer* on its way to the disk and
back, and remembers by which key each current value is sealed, so that it can tell those that an
older key sealed: writing them anew, even unchanged, is how keys are rotated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from navarch.store.contract import KeyValue, StoreUnusable
from navarch.store.index import is_tombstone

SEALED = b"k8s:enc:"
"""What every sealed value begins with; no JSON does."""
_MARK_FIELDS = 5


class Unsealable(Exception):
    """A value that no key opens, and why."""


class Sealer(Protocol):
    """Safe to call from several threads."""

    def mark(self, key: str) -> bytes:
        """What values of this key begin with when they are sealed now; empty: they stay plain."""
        ...

    def seal(self, key: str, value: bytes) -> bytes: ...

    def unseal(self, key: str, value: bytes) -> bytes:
        """The plain value of one that begins with `SEALED`. Raises Unsealable."""
        ...


def mark_of(value: bytes) -> bytes:
    """Provider, version and key that sealed a value (`k8s:enc:aescbc:v1:key1:`), empty if none."""
    if not value.startswith(SEALED):
        return b""
    head = value.split(b":", _MARK_FIELDS)
    return b":".join(head[:_MARK_FIELDS]) + b":"


class Seals:
    """The values of one store on their way to the disk and back."""

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer = sealer
        self._marks: dict[str, bytes] = {}
        """By key, what sealed its current value; keys of plain values are not in it."""
        self._broken: dict[str, str] = {}
        self.lost_before = 0
        """The revision at which the last value was replaced that no key opens any more: nobody can
        be told of the past before it."""

    def is_stale(self, key: str) -> bool:
        """Whether the key's value is not on disk in the form in which it would be written now."""
        return self._sealer is not None and self._marks.get(key, b"") != self._sealer.mark(key)

    def sealed(self, records: Sequence[KeyValue]) -> Sequence[KeyValue]:
        """The records as the disk gets them."""
        sealer = self._sealer
        if sealer is None:
            return records
        return [
            replace(each, value=sealer.seal(each.key, each.value))
            if not is_tombstone(each) and sealer.mark(each.key)
            else each
            for each in records
        ]

    def written(self, records: Iterable[KeyValue]) -> None:
        """Note how records are sealed that are durable now."""
        if self._sealer is None:
            return
        for each in records:
            self._note(each.key, mark_of(each.value))

    def _note(self, key: str, mark: bytes) -> None:
        if mark:
            self._marks[key] = mark
        else:
            self._marks.pop(key, None)

    def loaded(self, record: KeyValue) -> KeyValue:
        """A record read at start, plain. One that cannot be opened is left as it is until it is
        known whether it is still current: of superseded ones the keys may be gone."""
        mark = mark_of(record.value)
        if not mark and not self._marks:
            return record
        self._note(record.key, mark)
        if self._broken.pop(record.key, ""):
            self.lost_before = record.mod_revision
        if not mark:
            return record
        try:
            return self._opened(record)
        except Unsealable as error:
            self._broken[record.key] = str(error)
            return record

    def check_loaded(self) -> None:
        """Raises StoreUnusable when current values could not be opened."""
        if self._broken:
            key, why = next(iter(self._broken.items()))
            raise StoreUnusable(
                f"{len(self._broken)} values are encrypted and cannot be read, the first is "
                f"{key} ({why}); start with the encryption configuration that holds their key"
            )

    def readable(self, records: Iterable[KeyValue]) -> list[KeyValue]:
        """Records of the past, plain; those that no key opens any more are left out."""
        found = []
        for each in records:
            try:
                found.append(self._opened(each) if mark_of(each.value) else each)
            except Unsealable:
                continue
        return found

    def _opened(self, record: KeyValue) -> KeyValue:
        if self._sealer is None:
            raise Unsealable("no encryption configuration is given")
        return replace(record, value=self._sealer.unseal(record.key, record.value))
