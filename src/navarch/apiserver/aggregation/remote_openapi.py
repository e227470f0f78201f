"""The OpenAPI documents of extension API servers, made part of ours.

Servers that speak OpenAPI v3 are asked for it, and their document is served as it came. Of the
Swagger document only the paths of the group versions in question are taken, with the definitions
they need. What a server without v3 says in Swagger is brought into the form of v3.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import msgspec

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.extension import Extensions
from navarch.apiserver.aggregation.records import Record
from navarch.apiserver.aggregation.remote_discovery import decode
from navarch.apiserver.openapi import gnostic
from navarch.apiserver.openapi.documents import Extension, OpenApi

Object = dict[str, Any]

JSON = "application/json"
SWAGGER_REF, V3_REF = "#/definitions/", "#/components/schemas/"
MAX_DEPTH = 200


class RemoteOpenApi:
    """Fetches, filters and publishes."""

    def __init__(self, extensions: Extensions, openapi: OpenApi) -> None:
        self._extensions = extensions
        self._openapi = openapi
        self._kept: dict[str, tuple[str, str]] = {}
        """Of each APIService: what the server last said its documents are."""

    def forget(self, record: Record) -> None:
        self._kept.pop(record.name, None)
        self._openapi.set_extension(record.path.lstrip("/"), None)

    async def refresh(self, record: Record) -> None:
        """Bring the published documents up to date. Raises ApiError when the server has none."""
        path = record.path.lstrip("/")
        before = self._kept.get(record.name, ("", ""))
        v3_url = await self._v3_url(record, path)
        etag = before[1] if v3_url == before[0] else ""
        answer = await self._extensions.fetch(record, "/openapi/v2", JSON, etag)
        if answer.status == 304:
            return
        if answer.status not in (200, 404):
            raise ApiError(502, "", f"/openapi/v2 answered {answer.status}")
        swagger = decode(answer.body) if answer.status == 200 else {}
        try:
            paths, definitions = part_of(swagger, record.path)
            # What cannot be written in both forms would break the whole document for everybody.
            for name, item in paths.items():
                gnostic.encode_path(name, item)
            for name, schema in definitions.items():
                gnostic.encode_definition(name, schema)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ApiError(502, "", f"/openapi/v2 cannot be understood: {error!r}") from error
        if v3_url:
            document = await self._extensions.fetch(record, v3_url, JSON)
            if document.status != 200:
                raise ApiError(502, "", f"{v3_url} answered {document.status}")
            body = msgspec.json.encode(decode(document.body))
        else:
            body = msgspec.json.encode(v3_from_swagger(paths, definitions))
        found = Extension(
            hash=hashlib.sha512(body).hexdigest().upper(),
            v3=zlib.compress(body, wbits=31),
            paths=paths,
            definitions=definitions,
        )
        self._openapi.set_extension(path, found)
        self._kept[record.name] = v3_url, answer.etag

    async def _v3_url(self, record: Record, path: str) -> str:
        """Where the server has the group version's v3 document; "" when it knows none."""
        index = await self._extensions.fetch(record, "/openapi/v3", JSON)
        if index.status != 200:
            return ""
        entry = (decode(index.body).get("paths") or {}).get(path)
        url = entry.get("serverRelativeURL") if isinstance(entry, dict) else None
        return url if isinstance(url, str) and url.startswith("/") else ""


def part_of(swagger: Object, base: str) -> tuple[Object, Object]:
    """The paths below a group version's, and all definitions that they lead to."""
    found = swagger.get("paths") or {}
    shared = swagger.get("parameters") or {}
    paths = {
        path: _with_own_parameters(item, shared)
        for path, item in found.items()
        if path.rstrip("/") == base or path.startswith(base + "/")
    }
    all_definitions = swagger.get("definitions") or {}
    definitions: Object = {}
    pending = [*_references(paths)]
    while pending:
        name = pending.pop()
        if name not in definitions and name in all_definitions:
            definitions[name] = all_definitions[name]
            pending += _references(all_definitions[name])
    return paths, definitions


def _with_own_parameters(value: Any, shared: Object) -> Any:
    """A path or operation with the parameters that it shares with others written out: their names
    are those of another document. Raises KeyError for what there is not."""
    if not isinstance(value, dict):
        return value
    result = {key: _with_own_parameters(each, shared) for key, each in value.items()}
    if isinstance(parameters := value.get("parameters"), list):
        result["parameters"] = [
            shared[each["$ref"].removeprefix("#/parameters/")] if "$ref" in each else each
            for each in parameters
        ]
    return result


def _references(value: Any, depth: int = 0) -> list[str]:
    """The names of the definitions that are referred to anywhere inside."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        ref = value.get("$ref")
        own = [ref.removeprefix(SWAGGER_REF)] if isinstance(ref, str) else []
        return own + [name for each in value.values() for name in _references(each, depth + 1)]
    if isinstance(value, list):
        return [name for each in value for name in _references(each, depth + 1)]
    return []


def v3_from_swagger(paths: Object, definitions: Object) -> Object:
    """Swagger 2.0 as OpenAPI 3.0: references, bodies and answers move, the rest stays."""
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": {path: _path_item(item) for path, item in paths.items()},
        "components": {"schemas": {name: _moved(each) for name, each in definitions.items()}},
    }


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: V3_REF + each.removeprefix(SWAGGER_REF)
            if key == "$ref" and isinstance(each, str)
            else _moved(each)
            for key, each in value.items()
        }
    return [_moved(each) for each in value] if isinstance(value, list) else value


def _path_item(item: Object) -> Object:
    result: Object = {}
    for key, value in item.items():
        if key == "parameters":
            result[key] = [_parameter(each) for each in value]
        elif isinstance(value, dict) and not key.startswith("x-"):
            result[key] = _operation(value)
        else:
            result[key] = value
    return result


def _operation(operation: Object) -> Object:
    moved = ("parameters", "consumes", "produces", "schemes", "responses")
    result = {key: _moved(value) for key, value in operation.items() if key not in moved}
    parameters = operation.get("parameters") or []
    plain = [_parameter(each) for each in parameters if each.get("in") != "body"]
    if plain:
        result["parameters"] = plain
    for each in parameters:
        if each.get("in") == "body":
            types = operation.get("consumes") or [JSON]
            content = {name: {"schema": _moved(each.get("schema") or {})} for name in types}
            result["requestBody"] = {"content": content}
            if each.get("required"):
                result["requestBody"]["required"] = True
    types = operation.get("produces") or [JSON]
    result["responses"] = {
        code: _response(each, types) for code, each in (operation.get("responses") or {}).items()
    }
    return result


def _parameter(parameter: Object) -> Object:
    keep = ("name", "in", "description", "required")
    result = {key: parameter[key] for key in keep if key in parameter}
    schema = {key: value for key, value in parameter.items() if key not in keep}
    if schema:
        result["schema"] = _moved(schema)
    return result


def _response(response: Object, types: list[str]) -> Object:
    result = {"description": response.get("description", "")}
    if "schema" in response:
        result["content"] = {name: {"schema": _moved(response["schema"])} for name in types}
    return result
