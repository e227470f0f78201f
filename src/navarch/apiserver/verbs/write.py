"""POST and PUT: create and update."""

from __future__ import annotations

from typing import Any

from aiohttp.web import StreamResponse

from navarch.api.patch.common import copy_json
from navarch.apiserver.core import Core
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import WriteOptions, write_options
from navarch.apiserver.http.respond import respond_bytes, respond_object
from navarch.apiserver.http.transform import transform_object
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Written
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs.write_body import named, place, read_object

Object = dict[str, Any]


def context_of(call: Call, options: WriteOptions, kind: str) -> WriteContext:
    """The context of a client's write. `kind` is what admission takes the options for: a patch is
    an update to it."""
    as_object: Object = {"kind": kind, "apiVersion": "meta.k8s.io/v1"}
    if options.dry_run:
        as_object["dryRun"] = ["All"]
    if call.parameter("fieldManager"):
        as_object["fieldManager"] = options.field_manager
    if call.parameter("fieldValidation"):
        as_object["fieldValidation"] = options.field_validation
    return WriteContext(
        info=call.info,
        user=call.user,
        field_manager=options.field_manager,
        dry_run=options.dry_run,
        options=as_object,
        warnings=call.warnings,
        trail=call.trail,
    )


def respond_written(
    call: Call, resource: Resource, written: Written, status: int = 200
) -> StreamResponse:
    """The object as it was written, in the view that was negotiated."""
    if call.representation.transform:
        include = call.parameter("includeObject")
        view = transform_object(resource, written.obj, call.representation, include)
        return respond_object(call, view, status)
    return respond_bytes(call, written.body, status)


async def create(core: Core, call: Call, resource: Resource) -> StreamResponse:
    options = write_options(call, "CreateOptions")
    context = context_of(call, options, "CreateOptions")
    obj = await read_object(call, resource, options, context)
    place(call, resource, obj)
    written = await core.registry.create(resource, obj, context)
    return respond_written(call, resource, written, 201)


async def update(
    core: Core, call: Call, resource: Resource, subresource: str = ""
) -> StreamResponse:
    options = write_options(call, "UpdateOptions")
    context = context_of(call, options, "UpdateOptions")
    obj = await read_object(call, resource, options, context)
    place(call, resource, obj)
    named(call, obj)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    key = (namespace, call.info.name)
    creates = resource.strategy.allow_create_on_update and not subresource
    if creates and resource.cache.get(*key) is None:
        obj["metadata"].pop("resourceVersion", None)
        written = await core.registry.create(resource, obj, context)
        return respond_written(call, resource, written, 201)
    written = await core.registry.update(
        resource, key, lambda old: copy_json(obj), context, subresource
    )
    return respond_written(call, resource, written)
