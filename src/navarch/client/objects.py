"""Objects as components hold them: typed Structs for built-in kinds, dicts for custom resources,
and metadata-only Structs for those who need nothing else (the garbage collector).

A `Codec` hides which of the three it is from the resource client and the informers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from navarch.api.objects import ApiStruct, encode, without_nulls
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ListMeta, ObjectMeta
from navarch.client.sharing import share_parts

T = TypeVar("T")


class KubernetesObject(Protocol):
    """What every top-level Struct has."""

    apiVersion: str
    kind: str
    metadata: ObjectMeta


AnyObject = KubernetesObject | Mapping[str, Any]


class PartialObject(ApiStruct, kw_only=True):
    """Any object reduced to its identity and metadata (upstream's `PartialObjectMetadata`)."""

    apiVersion: str = ""
    kind: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What the machinery itself needs to know of an object."""

    name: str
    namespace: str
    uid: str
    resource_version: str


class ObjectList(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list. `continue_` is empty on the last page."""

    items: list[T]
    resource_version: str
    continue_: str = ""
    remaining: int | None = None


class WatchEvent(msgspec.Struct, Generic[T], frozen=True):
    """One event of a watch: `type` is ADDED, MODIFIED, DELETED or (only where bookmarks were asked
    for) BOOKMARK, whose object has nothing but a resourceVersion and perhaps annotations."""

    type: str
    object: T


class _WireList(msgspec.Struct, Generic[T]):
    apiVersion: str = ""
    kind: str = ""
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[T] = msgspec.field(default_factory=list)


def object_key(obj: AnyObject) -> str:
    """`namespace/name`, or the bare name for an object without a namespace."""
    identity = identify(obj)
    return f"{identity.namespace}/{identity.name}" if identity.namespace else identity.name


def split_key(key: str) -> tuple[str, str]:
    """The namespace (empty when there is none) and name of a key made by `object_key`."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def identify(obj: AnyObject) -> Identity:
    if isinstance(obj, Mapping):
        metadata = obj.get("metadata") or {}
        return Identity(
            metadata.get("name", ""),
            metadata.get("namespace", ""),
            metadata.get("uid", ""),
            metadata.get("resourceVersion", ""),
        )
    meta = obj.metadata
    return Identity(meta.name, meta.namespace, meta.uid, meta.resourceVersion)


def drop_managed_fields(obj: T) -> T:
    """The default transform of informers: managedFields are often half of an object's size, and
    no component reads them. Pods, of which there are most, share what they have in common."""
    if isinstance(obj, dict):
        (obj.get("metadata") or {}).pop("managedFields", None)
    else:
        cast("KubernetesObject", obj).metadata.managedFields = []
        if isinstance(obj, Pod):
            share_parts(obj)
    return obj


class Codec(Generic[T]):
    """Encodes and decodes one kind, and lists and watch events of it. Nulls where Go writes them
    for "empty" are forgiven, at the price of a second pass."""

    def __init__(self, item_type: type[T]) -> None:
        self.item_type = item_type
        self._item = msgspec.json.Decoder(item_type)
        self._list = msgspec.json.Decoder(_WireList[item_type])  # type: ignore[valid-type]
        self._event = msgspec.json.Decoder(WatchEvent[item_type])  # type: ignore[valid-type]

    def decode(self, data: bytes) -> T:
        return _decode(self._item, data)

    def decode_list(self, data: bytes) -> ObjectList[T]:
        wire: _WireList[T] = _decode(self._list, data)
        if not hasattr(self.item_type, "GROUP_VERSION_KIND"):
            _name_items(wire)
        meta = wire.metadata
        return ObjectList(wire.items, meta.resourceVersion, meta.continue_, meta.remainingItemCount)

    def decode_event(self, line: bytes) -> WatchEvent[T]:
        event: WatchEvent[T] = _decode(self._event, line)
        return event

    def encode(self, obj: T) -> bytes:
        return encode(obj)


def _name_items(wire: _WireList[Any]) -> None:
    """Say apiVersion and kind in each item: upstream leaves them out in lists of built-in kinds,
    where Structs have them by themselves."""
    kind = wire.kind.removesuffix("List")
    for item in wire.items:
        if isinstance(item, dict):
            item.setdefault("apiVersion", wire.apiVersion)
            item.setdefault("kind", kind)
        else:
            item.apiVersion = item.apiVersion or wire.apiVersion
            item.kind = item.kind or kind


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return msgspec.convert(without_nulls(msgspec.json.decode(data)), type=decoder.type)
