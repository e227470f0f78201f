"""Served resources: a row of the kinds table joined with its cache, its strategy and its shape.

The catalog knows every resource that is served right now; custom resources come and go while it
runs. All versions of one kind share one cache, which holds the stored version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from navarch.api.conversion import conversions
from navarch.api.kinds import KINDS, Kind
from navarch.api.managedfields import FieldType, custom_field_type, field_type
from navarch.api.schema.facts import schema_for
from navarch.api.strategies.base import Strategy
from navarch.api.strategies.registry import strategy_for
from navarch.apiserver.http.body import OBJECT_TYPES
from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.entry import Entry, StoredKind, encode_tail, object_head
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.registry.shape import Shape, built_in_shape

Object = dict[str, Any]

INDEX_FIELDS = {"pods": "spec.nodeName"}
"""The field of a kind that many watches select by, each another value."""


class Converter(Protocol):
    """Moves custom resources between versions, with a webhook's help."""

    async def convert(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Objects, each of which says its own version, in another. They become the callee's.
        Raises ApiError 500."""
        ...

    async def entries(self, entries: Sequence[Entry], api_version: str) -> list[Entry]:
        """Stored entries in another version; what was converted lately is not converted again.
        Raises ApiError 500."""
        ...


@dataclass(eq=False, slots=True)
class Resource:
    """One resource in one version, ready to be served."""

    kind: Kind
    stored: Kind
    """The row of the stored version; the same row for most."""
    cache: Cache
    strategy: Strategy
    shape: Shape
    is_custom: bool = False
    convert_out: Callable[[Object], Object] | None = None
    """From the stored version to this one; None when only apiVersion differs. May change its
    argument."""
    convert_in: Callable[[Object], Object] | None = None
    definition: Object | None = None
    """Of a custom resource: its CustomResourceDefinition."""
    converter: Converter | None = None
    """Of a custom resource whose versions are converted by a webhook."""
    selectable: frozenset[str] | None = None
    """The fields that this version can be selected by; None for all that the store knows."""
    deprecation: str = ""
    """Of a custom resource in a deprecated version: what every request to it is warned of."""
    _field_type: FieldType | None = None
    head: bytes = field(init=False)
    has_status: bool = field(init=False)
    """Its objects are written by one after the other: with a status after the rest."""
    item_head: bytes = field(init=False)
    """The bytes of a list item before its tail: items of built-in lists carry no kind."""

    @property
    def is_terminating(self) -> bool:
        """Whether the definition of a custom resource is being deleted, and its objects with it."""
        return bool((self.definition or {}).get("metadata", {}).get("deletionTimestamp"))

    def __post_init__(self) -> None:
        self.head = object_head(self.kind.api_version, self.kind.kind)
        self.has_status = self.kind.subresource("status") is not None
        self.item_head = self.head if self.is_custom else b"{"

    @property
    def body_types(self) -> tuple[str, ...]:
        """The media types that request bodies may have."""
        return OBJECT_TYPES[:2] if self.is_custom else OBJECT_TYPES

    @property
    def field_type(self) -> FieldType:
        """How fields of this kind are owned (server-side apply), compiled at first use."""
        if self._field_type is None:
            if self.is_custom:
                schema = getattr(self.shape, "schema", None)
                self._field_type = custom_field_type(schema)
            else:
                self._field_type = field_type(schema_for(*self.kind.gvk))
        return self._field_type

    @property
    def stored_kind(self) -> StoredKind:
        return self.cache.stored

    @property
    def name(self) -> str:
        """`pods`, `deployments.apps`: as messages and lookups spell it."""
        return str(self.kind)

    def to_stored(self, obj: Object) -> Object:
        """An object of this version in the stored one."""
        return obj if self.convert_in is None else self.convert_in(obj)

    def from_stored(self, obj: Object) -> Object:
        """A stored object (private to the caller) in this version."""
        if self.convert_out is not None:
            obj = self.convert_out(obj)
        obj["apiVersion"] = self.kind.api_version
        return obj

    async def in_version_of(self, other: Resource, obj: Object) -> Object:
        """An object of this version (the caller's own) in that of another resource of the kind.
        Raises ApiError 500 when a conversion webhook fails."""
        if self.converter is not None:
            return (await self.converter.convert([obj], other.kind.api_version))[0]
        return other.from_stored(self.to_stored(obj))

    async def view(self, entry: Entry) -> Entry:
        """A stored entry in this version. Only webhooks convert here: what else there is to
        convert, `decode` and `tail` do. Raises ApiError 500 when the webhook fails."""
        return (await self.views((entry,)))[0]

    async def views(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The same for many at once."""
        if self.converter is None:
            return entries
        return await self.converter.entries(entries, self.kind.api_version)

    def decode(self, entry: Entry) -> Object:
        """A private copy of an entry in this version."""
        return self.from_stored(entry.decode(self.stored_kind))

    def borrow(self, entry: Entry) -> Object | None:
        """An entry that was written a moment ago as its writer left it, never to be changed; None
        when it is to be decoded."""
        return entry.borrow() if self.kind is self.stored else None

    def tail(self, entry: Entry) -> bytes:
        """The tail of an entry in this version."""
        if self.convert_out is None:
            return entry.tail
        return encode_tail(self.decode(entry))

    def body(self, entry: Entry) -> bytes:
        """The whole object in this version, as a response."""
        return self.head + self.tail(entry)


class Catalog:
    """Every resource that is served, by group, version and plural."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.generation = 0
        """Counts changes: what is derived from the catalog (discovery) is cached under it."""
        self._resources: dict[tuple[str, str, str], Resource] = {}
        self._listeners: list[Callable[[], None]] = []

    def add_built_in(self) -> None:
        """Register every stored kind of the table."""
        for kind in KINDS:
            if kind.is_stored:
                self._resources[kind.group, kind.version, kind.plural] = built_in(kind, self.hub)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def get(self, group: str, version: str, plural: str) -> Resource:
        """A resource that must exist. Raises KeyError."""
        return self._resources[group, version, plural]

    def by_group(self, group: str, plural: str) -> Resource | None:
        """A resource in any served version, the stored one first."""
        found = [
            each
            for (of_group, _, of_plural), each in self._resources.items()
            if of_group == group and of_plural == plural
        ]
        found.sort(key=lambda each: each.kind.version != each.stored.version)
        return found[0] if found else None

    def by_name(self, name: str) -> Resource | None:
        """A resource as lookups spell it: `pods`, `rolebindings.rbac.authorization.k8s.io`."""
        plural, _, group = name.partition(".")
        return self.by_group(group, plural)

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._resources.values()))

    def custom(self) -> list[Resource]:
        return [each for each in self._resources.values() if each.is_custom]

    def set_custom(self, group: str, plural: str, resources: list[Resource]) -> None:
        """Replace all versions of one custom resource; none removes it."""
        for key in [key for key in self._resources if key[0] == group and key[2] == plural]:
            if self._resources[key].is_custom:
                del self._resources[key]
        for each in resources:
            self._resources[each.kind.group, each.kind.version, each.kind.plural] = each
        self.changed()

    def changed(self) -> None:
        self.generation += 1
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)


def built_in(kind: Kind, hub: Hub) -> Resource:
    """A kind of the table as a served resource."""
    stored = kind.stored_kind
    strategy = strategy_for(kind)
    stored_strategy = strategy if stored is kind else strategy_for(stored)
    probe = stored_strategy.selectable_fields({"metadata": {}})
    cache = hub.register(
        StoredKind(
            prefix=stored.storage_range(),
            api_version=stored.api_version,
            kind=stored.kind,
            namespaced=stored.namespaced,
            field_names=tuple(probe),
            selectable_fields=stored_strategy.selectable_fields,
        ),
        INDEX_FIELDS.get(str(stored), ""),
    )
    convert_out, convert_in = conversions(stored, kind)
    return Resource(
        kind=kind,
        stored=stored,
        cache=cache,
        strategy=strategy,
        shape=built_in_shape(kind),
        convert_out=convert_out,
        convert_in=convert_in,
    )
