"""One resource of the API: get, list, create, update, patch, delete, watch.

The same class serves typed Structs, dicts and metadata-only objects; a `Codec` makes the
difference. Names and namespaces are plain arguments, the namespace of a created or updated object
is the one in its metadata.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from navarch.api.errors import ignoring, missing
from navarch.api.kinds import kind_by_name
from navarch.api.objects import ApiStruct, Object, encode
from navarch.client.client import JSON, Client
from navarch.client.objects import (
    AnyObject,
    Codec,
    KubernetesObject,
    ObjectList,
    WatchEvent,
    identify,
)
from navarch.client.watch import decode_event, read_watch

T = TypeVar("T")

Patch = Mapping[str, Any] | Sequence[Mapping[str, Any]] | ApiStruct | bytes
"""A patch: a mapping (merge, strategic, apply), a list of operations (JSON patch), a Struct, or
ready-made bytes."""


class PatchType(Enum):
    """The four ways to patch; the value is the content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """Where a resource lives on the server."""

    group: str
    version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=":"))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def resource_path_of(kind: type[Any]) -> ResourcePath:
    """The path of a Struct's kind, from the kinds table."""
    group, version, name = kind.GROUP_VERSION_KIND
    row = kind_by_name(group, version, name)
    if row is None:
        raise ValueError(f"{name} in {group}/{version} is no resource")
    return ResourcePath(group, version, row.plural, row.namespaced)


class ResourceClient(Generic[T]):
    """Every method raises `ApiError`; `ApiConnectionError` when there was no answer."""

    def __init__(self, client: Client, path: ResourcePath, codec: Codec[T]) -> None:
        self.client = client
        self.path = path
        self.codec = codec

    async def get(self, name: str, namespace: str = "", *, resource_version: str = "") -> T:
        query = _query(resourceVersion=resource_version)
        path = self._named(name, namespace)
        return self.codec.decode(await self.client.request("GET", path, query=query))

    async def find(self, name: str, namespace: str = "") -> T | None:
        """The object, or None if there is none."""
        with ignoring(missing):
            return await self.get(name, namespace)
        return None

    async def list(
        self,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> ObjectList[T]:
        """One page (everything with `limit=0`); an empty namespace means all of them."""
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit) if limit else "",
            resourceVersion=resource_version,
            resourceVersionMatch=resource_version_match,
            **{"continue": continue_},
        )
        data = await self.client.request("GET", self.path.path(namespace), query=query)
        return self.codec.decode_list(data)

    async def create(self, obj: T, *, field_manager: str = "", dry_run: bool = False) -> T:
        identity = identify(cast("AnyObject", obj))
        query = _query(fieldManager=field_manager, dryRun="All" if dry_run else "")
        path = self._collection(identity.namespace)
        return await self._send("POST", path, query, obj)

    async def update(
        self, obj: T, *, subresource: str = "", field_manager: str = "", dry_run: bool = False
    ) -> T:
        """Replace an object. Its resourceVersion makes this fail with a conflict if somebody else
        changed it since; an object without one overwrites whatever is there."""
        identity = identify(cast("AnyObject", obj))
        query = _query(fieldManager=field_manager, dryRun="All" if dry_run else "")
        path = self._named(identity.name, identity.namespace, subresource)
        return await self._send("PUT", path, query, obj)

    async def update_status(self, obj: T) -> T:
        return await self.update(obj, subresource="status")

    async def patch(
        self,
        name: str,
        namespace: str,
        body: Patch,
        *,
        subresource: str = "",
        patch_type: PatchType = PatchType.MERGE,
        field_manager: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> T:
        """Change parts of an object. Put `metadata.uid` or `metadata.resourceVersion` into the
        patch to guard it. `force` is for `PatchType.APPLY`, which also needs a field manager."""
        query = _query(
            fieldManager=field_manager,
            force="true" if force else "",
            dryRun="All" if dry_run else "",
        )
        data = await self.client.request(
            "PATCH",
            self._named(name, namespace, subresource),
            query=query,
            body=body if isinstance(body, bytes) else encode(body),
            content_type=patch_type.value,
        )
        return self.codec.decode(data)

    async def apply_status(self, obj: T, status: Mapping[str, Any], field_manager: str) -> T:
        """Let the manager's part of this very object's status be so (applied by force)."""
        known, identity = cast("KubernetesObject", obj), identify(cast("AnyObject", obj))
        metadata = _query(name=identity.name, namespace=identity.namespace, uid=identity.uid)
        head = {"apiVersion": known.apiVersion, "kind": known.kind, "metadata": metadata}
        return await self.patch(
            identity.name,
            identity.namespace,
            {**head, "status": status},
            subresource="status",
            patch_type=PatchType.APPLY,
            field_manager=field_manager,
            force=True,
        )

    async def delete(
        self,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
        grace_period: int | None = None,
    ) -> None:
        """Delete, or begin to: finalizers and grace may keep the object for a while. `uid` and
        `resource_version` are preconditions (conflict when they do not hold), `propagation` is
        Background, Foreground or Orphan."""
        options = _delete_options(uid, resource_version, propagation, grace_period)
        path = self._named(name, namespace)
        await self.client.request("DELETE", path, body=encode(options))

    async def remove(self, obj: T) -> None:
        """Delete this very object, not one that was made anew; that it is gone is no failure."""
        identity = identify(cast("AnyObject", obj))
        with ignoring(missing):
            await self.delete(identity.name, identity.namespace, uid=identity.uid)

    async def delete_collection(
        self,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        propagation: str = "",
        grace_period: int | None = None,
    ) -> None:
        """Delete everything in a namespace (of a cluster-scoped resource: everything) that
        matches."""
        query = _query(labelSelector=label_selector, fieldSelector=field_selector)
        options = _delete_options("", "", propagation, grace_period)
        path = self._collection(namespace)
        await self.client.request("DELETE", path, query=query, body=encode(options))

    async def get_subresource(
        self, name: str, namespace: str, subresource: str, query: Mapping[str, str] | None = None
    ) -> bytes:
        """The raw answer of a subresource such as `scale` or `log`."""
        path = self._named(name, namespace, subresource)
        return await self.client.request("GET", path, query=query)

    async def post_subresource(
        self, name: str, namespace: str, subresource: str, obj: AnyObject
    ) -> bytes:
        """Create through a subresource (`binding`, `eviction`, `token`); the raw answer."""
        path = self._named(name, namespace, subresource)
        return await self.client.request("POST", path, body=encode(obj))

    async def watch(
        self,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = False,
        timeout_seconds: int = 0,
        send_initial_events: bool = False,
        decode: Callable[[bytes], WatchEvent[T]] | None = None,
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """The events after `resource_version` (without one: the present objects as ADDED, then
        what follows). Ends when the server ends the watch, which is normal: go on from the last
        resourceVersion seen. Raises `ApiError` with `is_gone` when history no longer reaches back
        that far; then list again. Informers do both. `decode` takes the place of the plain decoding
        of an event."""
        query = _query(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            allowWatchBookmarks="true" if allow_bookmarks or send_initial_events else "",
            timeoutSeconds=str(timeout_seconds) if timeout_seconds else "",
            sendInitialEvents="true" if send_initial_events else "",
            resourceVersionMatch="NotOlderThan" if send_initial_events else "",
        )
        path = self.path.path(namespace)
        async with self.client.stream("GET", path, query=query, accept=JSON) as response:
            read = decode or partial(decode_event, codec=self.codec)
            async for event in read_watch(response.content.iter_any(), read):
                yield event

    def _named(self, name: str, namespace: str, subresource: str = "") -> str:
        if not name:
            raise ValueError(f"{self.path}: a name is required")
        if self.path.namespaced and not namespace:
            raise ValueError(f"{self.path} {name}: a namespace is required")
        return self.path.path(namespace, name, subresource)

    def _collection(self, namespace: str) -> str:
        if self.path.namespaced and not namespace:
            raise ValueError(f"{self.path}: a namespace is required")
        return self.path.path(namespace)

    async def _send(self, method: str, path: str, query: dict[str, str], obj: T) -> T:
        data = await self.client.request(method, path, query=query, body=self.codec.encode(obj))
        return self.codec.decode(data)


def _query(**parameters: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def _delete_options(
    uid: str, resource_version: str, propagation: str, grace_period: int | None
) -> Object:
    options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
    preconditions = _query(uid=uid, resourceVersion=resource_version)
    if preconditions:
        options["preconditions"] = preconditions
    if propagation:
        options["propagationPolicy"] = propagation
    if grace_period is not None:
        options["gracePeriodSeconds"] = grace_period
    return options
