"""From a request body to the object that the registry writes: its form, its place, its name."""

from __future__ import annotations

from typing import Any

from navarch.api.errors import bad_request
from navarch.api.schema.decode import FieldValidation
from navarch.apiserver.http.body import JSON, effective_type, object_type, read_body
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import WriteOptions
from navarch.apiserver.http.turns import off_loop
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import OTHER_NAMESPACE
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]


async def read_object(
    call: Call, resource: Resource, options: WriteOptions, context: WriteContext
) -> Object:
    """The object in the request body, in canonical form. Raises 400, 413, 415."""
    media_type = object_type(call.request, resource.body_types)
    body = await read_body(call.request)
    validation = FieldValidation(options.field_validation)
    media_type = effective_type(media_type, body)
    # JSON takes milliseconds, YAML of the same size may take a second.
    size = 0 if media_type == JSON else len(body)
    decoded = await off_loop(size, resource.shape.decode, body, media_type, validation)
    obj = accept(decoded, context)
    if context.trail is not None:
        context.trail.request_object(obj)
    return obj


def accept(decoded: tuple[Object, list[str]], context: WriteContext) -> Object:
    """A decoded object, its warnings given and its metadata there."""
    obj, warnings = decoded
    context.warnings.take(warnings)
    if not isinstance(obj.get("metadata"), dict):
        obj["metadata"] = {}
    return obj


def place(call: Call, resource: Resource, obj: Object) -> None:
    """Give the object the namespace of the URL. Raises 400 when it names another; one that lies in
    no namespace forgets what it names."""
    metadata = obj["metadata"]
    if not resource.kind.namespaced:
        metadata.pop("namespace", None)
        return
    namespace = metadata.get("namespace")
    if not namespace:
        metadata["namespace"] = call.info.namespace
    elif namespace != call.info.namespace:
        raise bad_request(OTHER_NAMESPACE)


def named(call: Call, obj: Object) -> None:
    """Check that the object has the name of the URL. Raises 400."""
    check_name(obj, call.info.name)


def check_name(obj: Object, wanted: str) -> None:
    name = obj["metadata"].get("name")
    if not name:
        raise bad_request(
            f"the name of the object ({wanted} based on URL) was undeterminable: name must be "
            "provided"
        )
    if name != wanted:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({wanted})"
        )
