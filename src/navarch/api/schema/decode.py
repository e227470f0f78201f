"""From a request body to an object of a built-in kind, with upstream's complaints.

    obj, warnings = decode_object(kind, body, "application/json", FieldValidation.WARN)

The object is what upstream would print before defaulting: see `walker`. Unknown and repeated fields
are an error (Strict), warnings (Warn) or nothing (Ignore); wrong types and bad syntax are always a
400. `normalise_object` does the same for an object that is decoded already (the result of a patch).
Custom resources share `parse_document`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from navarch.api.errors import ApiError, bad_request
from navarch.api.kinds import GROUPS_BY_NAME, split_api_version
from navarch.api.schema.facts import schema_for
from navarch.api.schema.json_body import (
    TOO_DEEP,
    JsonError,
    Repeated,
    may_have_repeats,
    parse_json,
    parse_json_with_repeats,
    without_repeats,
)
from navarch.api.schema.walker import (
    MAX_PROBLEMS,
    TypeProblem,
    Walk,
    strict_path,
    type_problem,
    walker_of,
)

Object = dict[str, Any]


class FieldValidation(Enum):
    """The `fieldValidation` parameter."""

    STRICT = "Strict"
    WARN = "Warn"
    IGNORE = "Ignore"


STILL_TAKEN = {("policy", "v1beta1", "Eviction"): ("policy", "v1", "Eviction")}
"""What is served no more but taken as a body like its successor, for the sake of old clients."""


class HasKind(Protocol):
    """A `Kind` or a `Subresource`: what the body must be."""

    @property
    def group(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def kind(self) -> str: ...


def decode_object(
    kind: HasKind,
    data: bytes,
    content_type: str = "application/json",
    field_validation: FieldValidation = FieldValidation.WARN,
) -> tuple[Object, list[str]]:
    """The object in a body, and the warnings to send back; raises `ApiError` 400."""
    problems: list[str] = []
    lenient = field_validation is FieldValidation.IGNORE
    try:
        if is_yaml(content_type):
            value, problems = _parse_yaml(data)
            obj, walk = _walk(kind, value, data)
        else:
            value = parse_json(data)
            slow = not lenient and may_have_repeats(value, data)
            obj, walk = _walk(kind, parse_json_with_repeats(data) if slow else value, data)
            obj = without_repeats(obj) if slow else obj
    except JsonError as error:
        message = f"couldn't get version/kind; json parse error: {error}"
        raise unrecognised(kind, data, message) from None
    except RecursionError:
        raise unrecognised(kind, data, TOO_DEEP) from None
    return obj, _judge(kind, [*problems, *walk.problems], field_validation)


def normalise_object(
    kind: HasKind, obj: Object, field_validation: FieldValidation = FieldValidation.WARN
) -> tuple[Object, list[str]]:
    """Like `decode_object` for plain data, which is changed in place (a patched object)."""
    try:
        result, walk = _walk(kind, obj, b"")
    except RecursionError:
        raise bad_request(TOO_DEEP) from None
    return result, _judge(kind, walk.problems, field_validation)


def _walk(kind: HasKind, value: Any, data: bytes) -> tuple[Object, Walk]:
    if value is None:
        value = {}
    check_type_meta(kind, value, data)
    group, version, name = _check_kind(kind, value, data)
    walk = Walk()
    walker = walker_of(schema_for(kind.group, kind.version, kind.kind))
    try:
        obj = walker(value, None, walk)
    except TypeProblem as problem:
        raise cannot_handle(kind, str(problem)) from problem
    if "kind" in obj and "apiVersion" in obj:
        return obj, walk
    api_version = f"{group}/{version}" if group else version
    return {**obj, "kind": name, "apiVersion": api_version}, walk


_META_STRUCT = (
    'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; '
    'Kind string "json:\\"kind,omitempty\\"" }'
)


def check_type_meta(kind: HasKind, value: Any, data: bytes) -> None:
    """A body is an object, and its apiVersion and kind are text if they are there. Raises 400."""
    problem = None
    if not isinstance(value, dict):
        problem = type_problem(value, "", _META_STRUCT)
    else:
        for key in ("kind", "apiVersion"):
            if not isinstance(value.get(key, ""), str | None):
                problem = type_problem(value[key], f".{key}", "string")
    if problem is not None:
        why = f"couldn't get version/kind; json parse error: {problem}"
        raise unrecognised(kind, data, why)


def _check_kind(kind: HasKind, value: Object, data: bytes) -> tuple[str, str, str]:
    """Group, version and kind of the body, which default to those expected and must be them."""
    name = value.get("kind") or kind.kind
    given = value.get("apiVersion") or ""
    if given.count("/") > 1:
        raise unrecognised(kind, data, f"unexpected GroupVersion string: {given}")
    group, version = split_api_version(given) if given else (kind.group, kind.version)
    own = kind.group, kind.version, kind.kind
    if own in ((group, version, name), STILL_TAKEN.get((group, version, name))):
        return group, version, name
    if not _is_known(group, version, name):
        api_version = f"{group}/{version}" if group else version
        why = (
            f'no kind "{name}" is registered for version "{api_version}" in scheme '
            '"pkg/api/legacyscheme/scheme.go:30"'
        )
        raise bad_request(
            f'{name} in version "{version}" cannot be handled as a {kind.kind}: {why}'
        ) from TypeProblem(why)
    if (group, name) != (kind.group, kind.kind):
        internal = kind.group.partition(".")[0] or "core"
        raise bad_request(
            f'{name} in version "{version}" cannot be handled as a {kind.kind}: converting '
            f"({version}.{name}) to ({internal}.{kind.kind}): unknown conversion"
        )
    expected = f"{kind.group}/{kind.version}" if kind.group else kind.version
    raise bad_request(
        f"the API version in the data ({given}) does not match the expected API version "
        f"({expected})"
    )


def _is_known(group: str, version: str, name: str) -> bool:
    offered = GROUPS_BY_NAME.get(group)
    if offered is None or version not in offered.versions:
        return False
    try:
        schema_for(group, version, name)
    except KeyError:
        return False
    return True


def _judge(kind: HasKind, problems: list[str], field_validation: FieldValidation) -> list[str]:
    """The warnings for what strictness found, or the error."""
    if not problems or field_validation is FieldValidation.IGNORE:
        return []
    if field_validation is FieldValidation.WARN:
        return as_warnings(problems)
    raise strictly(kind, problems)


_YAML_PROBLEMS = "yaml: unmarshal errors:\n  "


def as_warnings(problems: list[str]) -> list[str]:
    """What strictness found, one by one: of YAML it is one error of several lines."""
    return [
        line for problem in problems for line in problem.removeprefix(_YAML_PROBLEMS).split("\n  ")
    ]


def strictly(kind: HasKind, problems: list[str]) -> ApiError:
    """400 for what a client who asked to be held to every word got wrong."""
    problem = TypeProblem(f"strict decoding error: {', '.join(problems)}")
    error = cannot_handle(kind, str(problem))
    error.__cause__ = problem
    return error


def cannot_handle(kind: HasKind, why: str) -> ApiError:
    """400 for a body whose kind is right and whose content is not."""
    return bad_request(
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}'
    )


def unrecognised(kind: HasKind, data: bytes, why: str) -> ApiError:
    """400 for a body whose kind cannot even be read."""
    if not data:
        shown = "<empty>"
    else:
        start = data[:30]
        shown = start.decode(errors="replace") if data[:1] == b"{" else start.hex()
        shown += " ..." if len(data) > 30 else ""
    return bad_request(
        f"the object provided is unrecognized (must be of type {kind.kind}): {why} ({shown})"
    )


def is_yaml(content_type: str) -> bool:
    return "yaml" in content_type


def _parse_yaml(data: bytes) -> tuple[Any, list[str]]:
    # PyYAML is imported only where YAML is met: components that speak JSON never load it.
    from navarch.api.schema.yaml_body import YamlError, parse_yaml

    try:
        document = parse_yaml(data)
    except YamlError as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None
    if not document.duplicates:
        return document.value, []
    lines = "\n  ".join(document.duplicates)
    return document.value, [_YAML_PROBLEMS + lines]


def parse_document(
    data: bytes, content_type: str, kind: HasKind | None = None
) -> tuple[Any, list[str]]:
    """Any JSON or YAML body, for what has no built-in schema: the value and one problem per
    repeated key, as strictness words them. Raises `ApiError` 400, which names the kind of an object
    that the body was to be."""
    if is_yaml(content_type):
        return _parse_yaml(data)
    try:
        value = parse_json(data)
        if not may_have_repeats(value, data):
            return value, []
        repeats: list[str] = []
        value = parse_json_with_repeats(data)
        _find_repeats(value, None, repeats)
        return without_repeats(value), repeats
    except JsonError as error:
        if kind is None:
            raise bad_request(str(error)) from None
        why = f"couldn't get version/kind; json parse error: {error}"
        raise unrecognised(kind, data, why) from None
    except RecursionError:
        raise bad_request(TOO_DEEP) from None


def _find_repeats(value: Any, path: Any, repeats: list[str]) -> None:
    if isinstance(value, Repeated):
        seen: set[str] = set()
        for key, _ in value.pairs:
            if key in seen and len(repeats) < MAX_PROBLEMS:
                problem = f'duplicate field "{strict_path((path, key))}"'
                if problem not in repeats:
                    repeats.append(problem)
            seen.add(key)
    if isinstance(value, dict):
        for key, item in value.items():
            _find_repeats(item, (path, key), repeats)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _find_repeats(item, (path, index), repeats)
