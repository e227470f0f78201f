"""The operations of a resource, written down once for both versions of OpenAPI.

Clients read few of these: kubectl looks whether the patch operation of a kind takes
`fieldValidation` and `dryRun`, and generators of client libraries make a method of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from navarch.api.kinds import Kind, Subresource
from navarch.apiserver.openapi.definitions import DELETE_OPTIONS, GVK, PATCH, STATUS

Object = dict[str, Any]

OBJECT_TYPES = ("application/json", "application/yaml")
STRATEGIC = "application/strategic-merge-patch+json"
PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC,
    "application/apply-patch+yaml",
)
CUSTOM_PATCH_TYPES = tuple(each for each in PATCH_TYPES if each != STRATEGIC)
"""kubectl looks here whether it may send a strategic patch: custom resources take none."""
WATCH_TYPES = ("application/json;stream=watch",)

_PARAMETERS = {
    "allowWatchBookmarks": ("boolean", "Ask for bookmark events during a watch."),
    "continue": ("string", "The token that the previous page of a list ended with."),
    "dryRun": ("string", "`All`: do everything but store the result."),
    "fieldManager": ("string", "The name under which the fields are owned."),
    "fieldSelector": ("string", "Only objects with these values in their selectable fields."),
    "fieldValidation": (
        "string",
        "What unknown and duplicate fields lead to: `Ignore`, `Warn` or `Strict`.",
    ),
    "force": ("boolean", "Of an apply patch: take over fields that others own."),
    "gracePeriodSeconds": ("integer", "How long the object may take to end."),
    "labelSelector": ("string", "Only objects with matching labels."),
    "limit": ("integer", "The greatest number of objects in one page."),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "pretty": ("string", "`true`: indent the JSON."),
    "propagationPolicy": ("string", "What becomes of dependents: Orphan, Background, Foreground."),
    "resourceVersion": ("string", "The state to read, or to begin watching at."),
    "resourceVersionMatch": ("string", "How resourceVersion is meant: NotOlderThan or Exact."),
    "sendInitialEvents": ("boolean", "Begin a watch with the present state."),
    "timeoutSeconds": ("integer", "How long a list or watch may take."),
    "watch": ("boolean", "Follow changes instead of listing."),
}
_LIST = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_DELETE = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
_LOG = {
    "container": "string",
    "follow": "boolean",
    "limitBytes": "integer",
    "previous": "boolean",
    "sinceSeconds": "integer",
    "stream": "string",
    "tailLines": "integer",
    "timestamps": "boolean",
}
_CONNECT = {
    "attach": {
        "container": "string",
        "stderr": "boolean",
        "stdin": "boolean",
        "stdout": "boolean",
        "tty": "boolean",
    },
    "portforward": {"ports": "integer"},
    "proxy": {"path": "string"},
}
_CONNECT["exec"] = {"command": "string", **_CONNECT["attach"]}

_VERBS = {
    # verb: method, action, word in the operation's id, query parameters
    "list": ("get", "list", "list", _LIST),
    "create": ("post", "post", "create", _WRITE),
    "deletecollection": ("delete", "deletecollection", "deleteCollection", (*_LIST[:-1], *_DELETE)),
    "get": ("get", "get", "read", ()),
    "update": ("put", "put", "replace", _WRITE),
    "patch": ("patch", "patch", "patch", (*_WRITE, "force")),
    "delete": ("delete", "delete", "delete", _DELETE),
}
_COLLECTION = ("list", "create", "deletecollection")
_ITEM = ("get", "update", "patch", "delete")
_SUCCESS = {"post": (200, 201, 202), "put": (200, 201), "patch": (200, 201)}
_CONNECT_METHODS = {
    "get": "get",
    "create": "post",
    "update": "put",
    "patch": "patch",
    "delete": "delete",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `body` and `response` are names of definitions; a response that is
    no object (logs, proxied answers) is "string"."""

    method: str
    action: str
    id: str
    gvk: tuple[str, str, str]
    query: tuple[tuple[str, str, str], ...]
    """Name, type and description of each query parameter."""
    body: str
    response: str
    consumes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Path:
    path: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The definitions of a kind and its list."""

    kind: str
    list_kind: str
    patch_types: tuple[str, ...] = PATCH_TYPES


def resource_paths(
    kind: Kind, names: Names, kind_names: dict[tuple[str, str, str], str]
) -> Iterator[Path]:
    """All paths of a resource. `kind_names` gives the definitions of kinds by group, version, kind
    for what subresources speak."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    base = f"{root}/namespaces/{{namespace}}" if kind.namespaced else root
    collection = [_operation(kind, verb, names) for verb in _COLLECTION if verb in kind.verbs]
    if collection:
        yield Path(f"{base}/{kind.plural}", tuple(collection))
    if kind.namespaced and "list" in kind.verbs:
        every = _operation(kind, "list", names, scope=False, suffix="ForAllNamespaces")
        yield Path(f"{root}/{kind.plural}", (every,))
    item = tuple(_operation(kind, verb, names) for verb in _ITEM if verb in kind.verbs)
    if item:
        yield Path(f"{base}/{kind.plural}/{{name}}", item)
    for sub in kind.subresources:
        below = f"{base}/{kind.plural}/{{name}}/{sub.name}"
        if sub.name in _CONNECT:
            operations = tuple(_connect(kind, sub))
            yield Path(below, operations)
            if sub.name == "proxy":
                yield Path(f"{below}/{{path}}", tuple(_connect(kind, sub, "WithPath")))
            continue
        spoken = kind_names.get((sub.group, sub.version, sub.kind), names.kind)
        yield Path(below, tuple(_subresource(kind, sub, spoken, names)))


def _pascal(text: str) -> str:
    return text[:1].upper() + text[1:]


def _group_word(kind: Kind) -> str:
    """`CoreV1`, `RbacAuthorizationV1`: a group version inside an operation's id."""
    group = kind.group.removesuffix(".k8s.io") or "core"
    return "".join(map(_pascal, [*group.replace("-", ".").split("."), kind.version]))


def _operation(
    kind: Kind, verb: str, names: Names, scope: bool = True, suffix: str = ""
) -> Operation:
    method, action, word, query = _VERBS[verb]
    where = "Namespaced" if kind.namespaced and scope else ""
    word, collection, _ = word.partition("Collection")
    operation_id = f"{word}{_group_word(kind)}{collection}{where}{kind.kind}{suffix}"
    return Operation(
        method,
        action,
        operation_id,
        kind.gvk,
        _described((*query, "pretty")),
        _body(verb, names.kind),
        _response(verb, names),
        _consumed(verb, names),
    )


def _described(names: tuple[str, ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, *_PARAMETERS[name]) for name in sorted(names))


def _body(verb: str, name: str) -> str:
    if verb in ("create", "update"):
        return name
    if verb == "patch":
        return PATCH
    return DELETE_OPTIONS if verb in ("delete", "deletecollection") else ""


def _consumed(verb: str, names: Names) -> tuple[str, ...]:
    return names.patch_types if verb == "patch" else OBJECT_TYPES


def _response(verb: str, names: Names) -> str:
    if verb == "list":
        return names.list_kind
    return STATUS if verb in ("delete", "deletecollection") else names.kind


def _subresource(kind: Kind, sub: Subresource, spoken: str, names: Names) -> Iterator[Operation]:
    where = "Namespaced" if kind.namespaced else ""
    for verb in sub.verbs:
        method, action, word, query = _VERBS[verb]
        parameters = _described((*query, "pretty"))
        response = spoken
        if sub.name == "log":
            parameters = tuple((each, of_type, "") for each, of_type in _LOG.items())
            response = "string"
        yield Operation(
            method,
            action,
            f"{word}{_group_word(kind)}{where}{kind.kind}{_pascal(sub.name)}",
            (sub.group, sub.version, sub.kind),
            parameters,
            _body(verb, spoken),
            response,
            _consumed(verb, names),
        )


def _connect(kind: Kind, sub: Subresource, suffix: str = "") -> Iterator[Operation]:
    where = "Namespaced" if kind.namespaced else ""
    for verb in sub.verbs:
        method = _CONNECT_METHODS[verb]
        yield Operation(
            method,
            "connect",
            f"connect{_group_word(kind)}{_pascal(method)}{where}{kind.kind}"
            f"{_pascal(sub.name)}{suffix}",
            (sub.group, sub.version, sub.kind),
            tuple((name, of_type, "") for name, of_type in _CONNECT[sub.name].items()),
            "",
            "string",
            (),
        )


# ---- rendering


def render_path(path: Path, tag: str, is_v3: bool) -> Object:
    """A path item: its operations, and the parameters that are part of the path."""
    item: Object = {
        operation.method: _render_v3(operation, tag) if is_v3 else _render_v2(operation, tag)
        for operation in path.operations
    }
    inside = [part[1:-1] for part in path.path.split("/") if part.startswith("{")]
    if inside:
        item["parameters"] = [
            _typed({"name": name, "in": "path", "required": True}, "string", is_v3)
            for name in inside
        ]
    return item


def _typed(parameter: Object, of_type: str, is_v3: bool) -> Object:
    if is_v3:
        return parameter | {"schema": {"type": of_type, "uniqueItems": True}}
    return parameter | {"type": of_type, "uniqueItems": True}


def _query(operation: Operation, is_v3: bool) -> list[Object]:
    result = []
    for name, of_type, description in operation.query:
        parameter: Object = {"name": name, "in": "query"}
        if description:
            parameter["description"] = description
        result.append(_typed(parameter, of_type, is_v3))
    return result


def _common(operation: Operation, tag: str) -> Object:
    group, version, kind = operation.gvk
    return {
        "operationId": operation.id,
        "tags": [tag],
        "x-kubernetes-action": operation.action,
        GVK: {"group": group, "version": version, "kind": kind},
    }


def _produced(operation: Operation) -> tuple[str, ...]:
    if operation.response == "string":
        return ("*/*",) if operation.action == "connect" else ("text/plain",)
    return (*OBJECT_TYPES, *WATCH_TYPES) if operation.action == "list" else OBJECT_TYPES


def _success(operation: Operation) -> tuple[int, ...]:
    if operation.action == "delete":
        return (200, 202)
    return _SUCCESS.get(operation.method, (200,)) if operation.action != "connect" else (200,)


def _render_v2(operation: Operation, tag: str) -> Object:
    parameters = _query(operation, is_v3=False)
    rendered = _common(operation, tag) | {
        "produces": list(_produced(operation)),
        "parameters": parameters,
    }
    if operation.body:
        schema = {"$ref": f"#/definitions/{operation.body}"}
        body: Object = {"name": "body", "in": "body", "schema": schema}
        if operation.body != DELETE_OPTIONS:
            body["required"] = True
        parameters.insert(0, body)
        rendered["consumes"] = list(operation.consumes)
    if operation.response == "string":
        answer: Object = {"type": "string"}
    else:
        answer = {"$ref": f"#/definitions/{operation.response}"}
    rendered["responses"] = {
        str(code): {"description": _REASONS[code], "schema": answer} for code in _success(operation)
    } | {"401": {"description": "Unauthorized"}}
    return rendered


def _render_v3(operation: Operation, tag: str) -> Object:
    rendered = _common(operation, tag) | {"parameters": _query(operation, is_v3=True)}
    if operation.body:
        schema = {"$ref": f"#/components/schemas/{operation.body}"}
        content = {each: {"schema": schema} for each in operation.consumes}
        rendered["requestBody"] = {"content": content}
        if operation.body != DELETE_OPTIONS:
            rendered["requestBody"]["required"] = True
    if operation.response == "string":
        answer: Object = {"type": "string"}
    else:
        answer = {"$ref": f"#/components/schemas/{operation.response}"}
    rendered["responses"] = {
        str(code): {
            "description": _REASONS[code],
            "content": {each: {"schema": answer} for each in _produced(operation)},
        }
        for code in _success(operation)
    } | {"401": {"description": "Unauthorized"}}
    return rendered


_REASONS = {200: "OK", 201: "Created", 202: "Accepted"}
