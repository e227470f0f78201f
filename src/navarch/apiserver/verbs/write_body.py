"""From a request body to the object that the registry writes.

Checks that the body is of the kind, version, namespace and name of the URL, and reports unknown and
doubled fields as the client asked (`fieldValidation`).
"""

from __future__ import annotations

from typing import Any

from navarch.api.errors import ApiError, bad_request, invalid_object, required
from navarch.apiserver.http.body import Document, content_type, decode_body, read_body
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import WriteOptions
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]


async def read_object(
    call: Call, resource: Resource, options: WriteOptions, context: WriteContext
) -> Object:
    """The object in the request body, in canonical form. Raises 400, 413, 415, 422."""
    body = await read_body(call.request)
    strict = options.field_validation == "Strict"
    document = decode_body(body, content_type(call.request), strict)
    return shaped(resource, document, options.field_validation, context)


def shaped(
    resource: Resource, document: Document, validation: str, context: WriteContext
) -> Object:
    """A decoded body as an object of the resource's kind."""
    value = document.value
    kind = resource.kind
    if value is None:
        raise invalid_object(
            kind.kind,
            kind.group,
            "",
            [required("metadata.name", "name or generateName is required")],
        )
    if not isinstance(value, dict):
        raise bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{_json_type(value)} into Go value of type struct"
        )
    check_kind(resource, value)
    obj, unknown = resource.shape.decode(value)
    obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
    if not isinstance(obj.get("metadata"), dict):
        obj["metadata"] = {}
    report(resource, unknown, document, validation, context)
    return obj


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list):
        return "array"
    return "string" if isinstance(value, str) else "number"


def check_kind(resource: Resource, value: Object) -> None:
    """The body may leave out apiVersion and kind, but not say another one."""
    kind = resource.kind
    api_version, name = value.get("apiVersion"), value.get("kind")
    if api_version is not None and not isinstance(api_version, str):
        raise bad_request(_unmarshal("apiVersion", api_version))
    if name is not None and not isinstance(name, str):
        raise bad_request(_unmarshal("kind", name))
    if name and name != kind.kind:
        if resource.is_custom:
            error = f'Invalid value: "{name}": must be {kind.kind}'
            raise ApiError(400, "BadRequest", f"the object provided is unrecognized: kind: {error}")
        raise bad_request(
            f'{name} in version "{(api_version or "").rpartition("/")[2]}" cannot be handled as a '
            f"{kind.kind}: converting ({_go_type(api_version or '', name)}) to "
            f"({_go_type(kind.api_version, kind.kind)}): unknown conversion"
        )
    if api_version and api_version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({kind.api_version})"
        )


def _go_type(api_version: str, kind: str) -> str:
    return f"{api_version.rpartition('/')[2]}.{kind}"


def _unmarshal(field: str, value: object) -> str:
    return (
        "couldn't get version/kind; json parse error: json: cannot unmarshal "
        f"{_json_type(value)} into Go struct field .{field} of type string"
    )


def report(
    resource: Resource,
    unknown: list[str],
    document: Document,
    validation: str,
    context: WriteContext,
) -> None:
    """Unknown fields first, then doubled ones: refused, warned about, or ignored."""
    if validation == "Ignore" or not (unknown or document.duplicates):
        return
    fields = [f'unknown field "{path}"' for path in unknown]
    doubled = list(document.duplicates)
    if validation == "Warn":
        for text in fields + doubled:
            context.warn(text)
        return
    if document.is_yaml and doubled:
        doubled = ["yaml: unmarshal errors:\n  " + "\n  ".join(doubled)]
    kind = resource.kind
    raise bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
        f"strict decoding error: {', '.join(fields + doubled)}"
    )


def place(call: Call, resource: Resource, obj: Object) -> None:
    """Give the object the namespace of the URL. Raises 400 when it names another."""
    metadata = obj["metadata"]
    if not resource.kind.namespaced:
        metadata.pop("namespace", None) if not metadata.get("namespace") else None
        return
    namespace = metadata.get("namespace")
    if not namespace:
        metadata["namespace"] = call.info.namespace
    elif namespace != call.info.namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def named(call: Call, obj: Object) -> None:
    """Give the object the name of the URL. Raises 400 when it has another."""
    metadata = obj["metadata"]
    name = metadata.get("name")
    if not name:
        raise (
            bad_request(
                "the name of the object (based on URL) was undeterminable: name must be provided"
            )
            if not call.info.name
            else bad_request(
                f"the name of the object ( based on URL) does not match the name on the URL "
                f"({call.info.name})"
            )
        )
    if name != call.info.name:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({call.info.name})"
        )
