"""`/scale`: the replicas of a workload as an autoscaling/v1 Scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp.web import StreamResponse
from msgspec import structs

from navarch.api.errors import (
    OBJECT_MODIFIED,
    ApiError,
    bad_request,
    conflict,
    internal_error,
    invalid,
    invalid_object,
)
from navarch.api.kinds import Subresource
from navarch.api.patch.json import apply_json_patch
from navarch.api.patch.merge import apply_merge_patch
from navarch.api.schema.decode import FieldValidation, normalise_object, parse_document
from navarch.api.selectors import label_selector_from_map, label_selector_from_object
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.body import JSON, content_type, read_body, unsupported_media_type
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import write_options
from navarch.apiserver.http.respond import respond_object
from navarch.apiserver.http.transform import transform_unstored
from navarch.apiserver.registry.context import Face, WriteContext
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.subresources.bodies import read_kind
from navarch.apiserver.tables.workloads import SCALE as SCALE_TABLE
from navarch.apiserver.verbs.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from navarch.apiserver.verbs.write import context_of

Object = dict[str, Any]

SCALE = Subresource("scale", (), "autoscaling", "v1", "Scale")


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where an object keeps what a Scale shows; custom resources say so in their definition."""

    spec_replicas: tuple[str, ...] = ("spec", "replicas")
    status_replicas: tuple[str, ...] = ("status", "replicas")
    selector: tuple[str, ...] = ()
    """Of a selector that is text already; otherwise spec.selector is one."""


BUILT_IN = ScalePaths()


def scale_paths(resource: Resource) -> ScalePaths:
    """The paths of a resource."""
    for version in ((resource.definition or {}).get("spec") or {}).get("versions") or ():
        if version["name"] == resource.kind.version:
            scale = (version.get("subresources") or {}).get("scale") or {}
            return ScalePaths(
                _path(scale.get("specReplicasPath", "")),
                _path(scale.get("statusReplicasPath", "")),
                _path(scale.get("labelSelectorPath", "")),
            )
    return BUILT_IN


def _path(text: str) -> tuple[str, ...]:
    return tuple(text.strip(".").split(".")) if text.strip(".") else ()


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def scale_of(resource: Resource, obj: Object) -> Object:
    """The Scale of an object."""
    paths = scale_paths(resource)
    metadata = obj["metadata"]
    replicas = _at(obj, paths.spec_replicas)
    if replicas is None and resource.is_custom:
        where = "." + ".".join(paths.spec_replicas)
        raise internal_error(f"the spec replicas field {where!r} does not exist")
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": _at(obj, paths.status_replicas) or 0}
    selector = _selector(resource, obj, paths)
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def _selector(resource: Resource, obj: Object, paths: ScalePaths) -> str:
    if resource.is_custom:
        return str(_at(obj, paths.selector) or "") if paths.selector else ""
    selector = (obj.get("spec") or {}).get("selector")
    if resource.name == "replicationcontrollers":
        return str(label_selector_from_map(selector))
    return str(label_selector_from_object(selector)) if selector is not None else ""


def with_replicas(resource: Resource, obj: Object, scale: Object) -> Object:
    """The object as the Scale wants it (the object is the caller's own)."""
    metadata, kind = scale["metadata"], resource.kind
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0 and resource.is_custom:
        where = "." + ".".join(scale_paths(resource).spec_replicas)
        error = invalid(where, replicas, "should be a non-negative integer")
        raise invalid_object(kind.kind, kind.group, metadata.get("name", ""), [error])
    if replicas < 0:
        error = invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid_object("Scale", "autoscaling", metadata.get("name", ""), [error])
    version = metadata.get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        raise conflict(kind.plural, kind.group, obj["metadata"]["name"], OBJECT_MODIFIED)
    uid = metadata.get("uid")
    if uid and uid != obj["metadata"]["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
        raise conflict(
            kind.plural, kind.group, obj["metadata"]["name"], why + obj["metadata"]["uid"]
        )
    path = scale_paths(resource).spec_replicas
    holder = obj
    for name in path[:-1]:
        holder = holder.setdefault(name, {})
    holder[path[-1]] = replicas
    return obj


async def get_scale(core: Core, call: Call, resource: Resource) -> StreamResponse:
    obj = await core.registry.read(resource, call.info.namespace, call.info.name)
    return _respond(call, scale_of(resource, obj))


async def update_scale(core: Core, call: Call, resource: Resource) -> StreamResponse:
    scale, context = await read_kind(call, SCALE, "UpdateOptions")
    name = scale["metadata"].get("name")
    if name != call.info.name:
        if not name:
            raise bad_request(
                f"the name of the object ({call.info.name} based on URL) was undeterminable: "
                "name must be provided"
            )
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({call.info.name})"
        )
    return await _write(core, call, resource, lambda current: scale, context)


async def patch_scale(core: Core, call: Call, resource: Resource) -> StreamResponse:
    options = write_options(call, "PatchOptions")
    context = context_of(call, options, "UpdateOptions")
    media_type = content_type(call.request)
    accepted = [JSON_PATCH, MERGE_PATCH] + [STRATEGIC_PATCH] * (not resource.is_custom)
    if media_type not in accepted:
        raise unsupported_media_type(", ".join(accepted))
    value, problems = parse_document(await read_body(call.request), JSON)
    if call.trail is not None:
        call.trail.request_patch(value)
    context.warnings.take(problems)
    validation = FieldValidation(options.field_validation)

    def patched(current: Object) -> Object:
        # A Scale has no lists, so a strategic patch of it is a merge patch.
        apply = apply_json_patch if media_type == JSON_PATCH else apply_merge_patch
        scale, warnings = normalise_object(SCALE, apply(current, value), validation)
        context.warnings.take(warnings)
        return scale

    return await _write(core, call, resource, patched, context)


async def _write(
    core: Core,
    call: Call,
    resource: Resource,
    wanted: Callable[[Object], Object],
    context: WriteContext,
) -> StreamResponse:
    """Write what `wanted` makes of the current Scale."""

    def current_scale(obj: Object) -> Object:
        try:
            return scale_of(resource, obj)
        except ApiError:
            # A custom resource without replicas can be given some.
            current = {"metadata": dict(obj["metadata"]), "spec": {}, "status": {"replicas": 0}}
            return current | {"kind": "Scale", "apiVersion": "autoscaling/v1"}

    def transform(obj: Object) -> Object:
        return with_replicas(resource, obj, wanted(current_scale(obj)))

    face = Face("Scale", current_scale, lambda obj, scale: with_replicas(resource, obj, scale))
    key = call.info.namespace, call.info.name
    written = await core.registry.update(
        resource, key, transform, structs.replace(context, face=face)
    )
    return _respond(call, scale_of(resource, written.obj))


def _respond(call: Call, scale: Object) -> StreamResponse:
    wanted = call.representation
    if wanted.transform:
        scale = transform_unstored(SCALE_TABLE, [scale], wanted, call.parameter("includeObject"))
    return respond_object(call, scale)


def add_scale(app: App) -> None:
    """Put the handlers into the app's table."""
    app.subresources["*", "scale", "get"] = get_scale
    app.subresources["*", "scale", "update"] = update_scale
    app.subresources["*", "scale", "patch"] = patch_scale
