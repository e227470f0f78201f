"""One stored object as the hub keeps it: the encoded bytes, and the few facts that select it.

The store's value is JSON that begins `{"apiVersion":..,"kind":..,"metadata":{`. What the hub
shows is its *tail*: everything from `"metadata"` on, with the resourceVersion spliced in as the
first field of the metadata. A response is then a join of bytes: a head with apiVersion and kind
(items of a built-in list have none) plus the tail. Nothing is decoded to answer a GET, a LIST or a
WATCH. What the hub keeps is the store's own value, so that a large store is in memory once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any

import msgspec

from navarch.store.contract import KeyValue

Object = dict[str, Any]

_encode = msgspec.json.Encoder().encode
decode_json = msgspec.json.Decoder().decode

VERSION = b'{"apiVersion":"'
METADATA = b'"metadata":{'
RESOURCE_VERSION = b'"metadata":{"resourceVersion":"'


@dataclass(frozen=True, eq=False)
class StoredKind:
    """How one resource lies in the store: its key prefix and the version its values are written in.

    `selectable_fields` gives the field-selector values beyond name and namespace, in an order that
    never changes for the kind; `field_names` are their names."""

    prefix: str
    api_version: str
    kind: str
    namespaced: bool
    field_names: tuple[str, ...]
    selectable_fields: Callable[[Object], Mapping[str, str]]

    @cached_property
    def head(self) -> bytes:
        return object_head(self.api_version, self.kind)

    @cached_property
    def value_start(self) -> bytes:
        """How every value of ours begins: up to the fields of the metadata."""
        return self.head + METADATA

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else self.prefix + name


def object_head(api_version: str, kind: str) -> bytes:
    """The bytes of an object before its tail."""
    return b'{"apiVersion":%b,"kind":%b,' % (_encode(api_version), _encode(kind))


class Facts:
    """What selectors look at: the labels, and the values of the kind's selectable fields."""

    __slots__ = ("fields", "labels")

    def __init__(self, labels: Mapping[str, str], fields: tuple[str, ...]) -> None:
        self.labels = labels
        self.fields = fields


_NO_LABELS: Mapping[str, str] = {}
_labels: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
"""Labels that many objects have: all pods of a workload do."""
LABELS_LIMIT = 10_000


def _shared_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    items = tuple(labels.items())
    known = _labels.get(items)
    if known is None:
        if len(_labels) >= LABELS_LIMIT:
            _labels.clear()  # costs no more than the sharing
        known = {sys.intern(key): sys.intern(value) for key, value in items}
        _labels[tuple(known.items())] = known
    return known


def facts_of(stored: StoredKind, obj: Object) -> Facts:
    """Read the facts off a decoded object; what repeats is kept once."""
    labels = obj["metadata"].get("labels")
    if labels:
        labels = _shared_labels(labels)
    if not stored.field_names:
        return Facts(labels or _NO_LABELS, ())
    values = stored.selectable_fields(obj)
    fields = map(str, map(values.get, stored.field_names, repeat("")))
    return Facts(labels or _NO_LABELS, tuple(map(sys.intern, fields)))


class Entry:
    """An object at one revision. Entries are never changed: a write makes a new one."""

    __slots__ = (
        "_bytes",
        "_decoded",
        "_is_lent",
        "_start",
        "create_revision",
        "facts",
        "name",
        "namespace",
        "revision",
    )

    def __init__(
        self,
        namespace: str,
        name: str,
        content: bytes,
        facts: Facts,
        revisions: tuple[int, int],
        start: int = 0,
    ) -> None:
        """`content` is the tail, or a stored value in which the fields of the metadata begin at
        `start`."""
        self.namespace = namespace
        self.name = name
        self._bytes = content
        self._start = start
        self.facts = facts
        self.create_revision, self.revision = revisions
        self._decoded: Object | None = None
        self._is_lent = False

    @property
    def api_version(self) -> bytes:
        """The version that the stored value is in, as JSON writes it; empty for a bare tail."""
        if not self._start:
            return b""
        return self._bytes[len(VERSION) : self._bytes.index(b'"', len(VERSION))]

    def at_revision(self, revision: int) -> Entry:
        """The same object with another resourceVersion (a DELETED event carries the deletion's)."""
        content = self._bytes if self._start else tail_at(self._bytes, revision)
        revisions = (self.create_revision, revision)
        return Entry(self.namespace, self.name, content, self.facts, revisions, self._start)

    @property
    def tail(self) -> bytes:
        return b"".join(self.tail_parts) if self._start else self._bytes

    @property
    def tail_parts(self) -> tuple[bytes | memoryview, ...]:
        """The tail as what it is joined of, so that a list copies each object once."""
        if not self._start:
            return (self._bytes,)
        return _spliced(self._bytes, self._start, self.revision)

    @property
    def tail_size(self) -> int:
        """The length of the tail, which need not be made for that."""
        if not self._start:
            return len(self._bytes)
        added = len(RESOURCE_VERSION) + len(str(self.revision)) + len(b'",')
        return len(self._bytes) - self._start + added

    @property
    def path(self) -> str:
        """`namespace/name`, or the name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def is_written_as(self, value: bytes, stored: StoredKind) -> bool:
        """Whether the store would have this very value of the object, its version aside."""
        if self._start and value.startswith(self._bytes[: self._start]):
            return value == self._bytes
        return tail_of(value, stored, self.revision) == self.tail

    def decode(self, stored: StoredKind) -> Object:
        """A fresh, private copy of the object, with apiVersion, kind and resourceVersion."""
        obj: Object = decode_json(stored.head + self.tail)
        return obj

    def shared(self, stored: StoredKind) -> Object:
        """The object decoded once and kept: for readers that never change it."""
        if self._decoded is None:
            self._decoded = self.decode(stored)
        return self._decoded

    def lend(self, obj: Object) -> None:
        """The writer's own object serves as the decoded copy."""
        self._decoded = obj
        self._is_lent = True

    def borrow(self) -> Object | None:
        """The object that its writer left here, if it still is; never to be changed, for others
        may look at it as well."""
        return self._decoded if self._is_lent else None

    def forget(self) -> None:
        """Drop the decoded copy; it comes back on demand."""
        self._decoded = None
        self._is_lent = False


def encode_stored(obj: Object, stored: StoredKind) -> bytes:
    """The store's value of an object: apiVersion, kind and metadata first, no resourceVersion."""
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    ordered: Object = {"apiVersion": stored.api_version, "kind": stored.kind, "metadata": metadata}
    for key, value in obj.items():
        if key not in ordered:
            ordered[key] = value
    return _encode(ordered)


def encode_object(obj: Object, api_version: str, kind: str) -> bytes:
    """An object as a response: apiVersion, kind and metadata first."""
    ordered: Object = {"apiVersion": api_version, "kind": kind, "metadata": obj["metadata"]}
    for key, value in obj.items():
        if key not in ordered:
            ordered[key] = value
    return _encode(ordered)


def encode_tail(obj: Object) -> bytes:
    """The tail of a decoded object that has its resourceVersion."""
    metadata = dict(obj["metadata"])
    ordered: Object = {
        "metadata": {"resourceVersion": metadata.pop("resourceVersion", ""), **metadata}
    }
    for key, value in obj.items():
        if key not in ("apiVersion", "kind", "metadata"):
            ordered[key] = value
    return _encode(ordered)[1:]


def tail_of(value: bytes, stored: StoredKind, revision: int) -> bytes:
    """The tail of a stored value at a revision. Values that another writer laid out differently
    (upstream's own) are brought into our order first."""
    start = stored.value_start
    if not value.startswith(start):
        value = encode_stored(decode_json(value), stored)
    return b"".join(_spliced(value, len(start), revision))


def _spliced(value: bytes, start: int, revision: int) -> tuple[bytes | memoryview, ...]:
    return (RESOURCE_VERSION, b'%d",' % revision, memoryview(value)[start:])


def tail_at(tail: bytes, revision: int) -> bytes:
    end = tail.index(b'"', len(RESOURCE_VERSION))
    return b"".join((RESOURCE_VERSION, b"%d" % revision, memoryview(tail)[end:]))


def entry_of(kv: KeyValue, stored: StoredKind, facts: Facts | None) -> Entry:
    """The entry of a stored key; `facts` when the writer knows them, else they are read here."""
    path = kv.key[len(stored.prefix) :]
    namespace, _, name = path.rpartition("/")
    if facts is None:
        facts = facts_of(stored, decode_json(kv.value))
    value, start = kv.value, stored.value_start
    if not value.startswith(start):
        # Of an earlier storage version, or laid out by another writer: the version stays.
        obj = decode_json(value)
        stored = replace(stored, api_version=obj.get("apiVersion") or stored.api_version)
        value, start = encode_stored(obj, stored), stored.value_start
    revisions = (kv.create_revision, kv.mod_revision)
    return Entry(sys.intern(namespace), name, value, facts, revisions, len(start))
