"""Managed fields of every write: who set which field, for server-side apply to look at."""

from __future__ import annotations

from functools import cache
from typing import Any

from navarch.api.managedfields import Writer, apply, is_readable, track_create, track_update
from navarch.api.schema.facts import schema_for
from navarch.api.schema.walker import walker_of
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]


@cache
def _empty_object(group: str, version: str, kind: str) -> Object:
    """What an object of the kind has when nothing is set: not the doing of whoever creates it."""
    return {**walker_of(schema_for(group, version, kind)).empty(), "metadata": {}}


def empty_object(resource: Resource) -> Object:
    """The kind's empty object; never to be changed."""
    return {"metadata": {}} if resource.is_custom else _empty_object(*resource.kind.gvk)


def writer_of(resource: Resource, context: WriteContext, now: str, subresource: str) -> Writer:
    """Who books this write, and what it cannot claim."""
    ignored = resource.strategy.reset_fields(subresource)
    booked_as = subresource or context.info.subresource
    return Writer(context.field_manager, resource.kind.api_version, now, booked_as, ignored)


def book_create(resource: Resource, obj: Object, context: WriteContext, now: str) -> None:
    """Book all fields of a new object, unless an apply has done so already."""
    if context.is_apply:
        return
    writer = writer_of(resource, context, now, "")
    track_create(obj, resource.field_type, writer, empty_object(resource))


def book_update(
    resource: Resource,
    states: tuple[Object, Object],
    context: WriteContext,
    now: str,
    subresource: str,
) -> None:
    """Book what an update changes; `states` are the new and the old object."""
    if context.is_apply:
        return
    obj, old = states
    track_update(obj, old, resource.field_type, writer_of(resource, context, now, subresource))


INVALID_FIELDS = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an "
    "outdated mutating admission controller; please fix your requests"
)


def restore_fields(obj: Object, before: Any) -> list[str]:
    """After admission: entries that it made unreadable are those from before again. Returns the
    warnings to give."""
    metadata = obj["metadata"]
    if is_readable(metadata.get("managedFields")):
        return []
    metadata["managedFields"] = before
    return [INVALID_FIELDS]


def applied(
    resource: Resource, live: Object | None, config: Object, writer: Writer, force: bool
) -> Object:
    """The object after a configuration was applied to it; `live` is None for a new one."""
    if live is None:
        live = {"apiVersion": resource.kind.api_version, "kind": resource.kind.kind, "metadata": {}}
    return apply(live, config, resource.field_type, writer, force)
