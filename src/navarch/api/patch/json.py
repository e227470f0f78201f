"""JSON Patch (RFC 6902), with the limits of the API server.

A patch that is no list of operations is 400, more than 10 000 operations are 413, and everything
that only shows when the patch is applied (a failing test, a missing path, a bad index, copies that
sum up to more than the largest request) is 422. As in the library upstream uses, negative indices
count from the end, the document itself (path "") can only be replaced, what stands before the first
slash of a path does not count, a missing value is null, and so is what is copied from a key that an
object does not have; to replace such a key is to add it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from navarch.api.errors import ApiError, bad_request
from navarch.api.patch.common import (
    PatchError,
    copy_json,
    go_mismatch,
    json_equal,
    too_deep,
    unprocessable,
)

MAX_OPERATIONS = 10_000
MAX_COPIED_BYTES = 3 * 1024 * 1024
_INDEX = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_MISSING = object()


class FailedTest(PatchError):
    """A `test` of the patch found another value."""


class _NoPath(PatchError):
    """There is nothing that could hold the last key of a path."""


class _Document:
    """A document being changed. Only the containers on the way to a change are copied; the rest
    stays shared with the original."""

    def __init__(self, original: dict[str, Any]) -> None:
        self.root = dict(original)
        self.copied_bytes = 0
        self._own: dict[int, Any] = {}
        """The copies made so far, by identity; kept alive so that no identity is used twice."""

    def replace(self, root: dict[str, Any]) -> None:
        """Go on with another document."""
        self.root, self._own = root, {}

    def container(self, path: list[str]) -> Any:
        """The dict or list that holds the last key of `path`, to be changed."""
        current: Any = self.root
        for key in path[:-1]:
            child = _child(_checked_container(current), key)
            if isinstance(child, dict | list) and id(child) not in self._own:
                child = child.copy()
                self._own[id(child)] = child
                if isinstance(current, dict):
                    current[key] = child
                else:
                    current[_index(key, len(current))] = child
            current = child
        return _checked_container(current)

    def parent(self, path: list[str]) -> Any:
        """The same, to be read."""
        current: Any = self.root
        for key in path[:-1]:
            current = _child(_checked_container(current), key)
        return _checked_container(current)


def _checked_container(value: Any) -> Any:
    if not isinstance(value, dict | list):
        raise _NoPath
    return value


def apply_json_patch(document: dict[str, Any], patch: Any) -> dict[str, Any]:
    """`document` with the operations of `patch` (decoded JSON) applied. Unchanged parts are
    shared."""
    operations = _checked(patch)
    try:
        result = _Document(document)
        for operation in operations:
            _apply_operation(result, operation)
    except PatchError as error:
        raise unprocessable() from error
    except RecursionError:
        raise too_deep() from None
    return result.root


def _checked(patch: Any) -> list[dict[str, Any]]:
    if patch is None:
        return []
    if not isinstance(patch, list):
        raise bad_request(f"error decoding patch: {go_mismatch(patch, '[]handlers.jsonPatchOp')}")
    if len(patch) > MAX_OPERATIONS:
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: The allowed maximum operations in a JSON patch is "
            f"{MAX_OPERATIONS}, got {len(patch)}",
            {},
        )
    for operation in patch:
        if not isinstance(operation, dict):
            problem = go_mismatch(operation, "handlers.jsonPatchOp")
            raise bad_request(f"error decoding patch: {problem}")
        for name in ("op", "path", "from"):
            if not isinstance(operation.get(name, ""), str | None):
                problem = go_mismatch(operation[name], "string")
                problem = problem.replace("value", f"struct field jsonPatchOp.{name}")
                raise bad_request(f"error decoding patch: {problem}")
    return patch


def _apply_operation(document: _Document, operation: dict[str, Any]) -> None:
    """What is wrong is said in the words of the library upstream uses."""
    name, path = operation.get("op"), operation.get("path")
    if name == "replace" and path == "" and isinstance(operation.get("value"), dict):
        document.replace(copy_json(operation["value"]))
        return
    if name not in ("add", "remove", "replace", "test", "move", "copy"):
        raise PatchError(f"Unexpected kind: {name or 'unknown'}")
    try:
        _apply(document, operation, name)
    except FailedTest:
        raise
    except _NoPath:
        shown = f'"{path}"' if name in ("add", "remove") else path
        raise PatchError(
            f"{name} operation does not apply: doc is missing path: {shown}: missing value"
        ) from None
    except PatchError as error:
        if name == "replace":
            why = f"doc is missing key: {path}: missing value"
            raise PatchError(f"replace operation does not apply: {why}") from None
        raise PatchError(f"error in {name} for path: '{path}': {error}") from None


def _apply(document: _Document, operation: dict[str, Any], name: Any) -> None:
    path = _pointer(operation.get("path"))
    if name == "add":
        _add(document, path, copy_json(operation.get("value")))
    elif name == "remove":
        _remove(document, path)
    elif name == "replace":
        _replace(document, path, copy_json(operation.get("value")))
    elif name == "test":
        _test(document, path, operation.get("value"))
    elif name == "move":
        source = _pointer(operation.get("from"))
        _add(document, path, _remove(document, source))
    else:
        value = _get(document, _pointer(operation.get("from")))
        document.copied_bytes += len(msgspec.json.encode(value))
        if document.copied_bytes > MAX_COPIED_BYTES:
            raise PatchError(f"copies of more than {MAX_COPIED_BYTES} bytes")
        # A part that stood in two places would be brought into two forms by whoever reads it.
        _add(document, path, copy_json(value))


def _pointer(text: Any) -> list[str]:
    """The keys of a JSON pointer (RFC 6901) below the root."""
    if not text or "/" not in text:
        raise _NoPath
    keys = str(text).split("/")[1:]
    if "~" in text:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in keys]
    return keys


def _index(key: str, length: int) -> int:
    if not _INDEX.fullmatch(key):
        raise PatchError(f"value was not a proper array index: '{key}'")
    index = int(key)
    if not -length <= index < length:
        raise PatchError(f"Unable to access invalid index: {index}: invalid index referenced")
    return index + length if index < 0 else index


def _child(container: Any, key: str) -> Any:
    if isinstance(container, dict):
        return container.get(key, _MISSING)
    if isinstance(container, list):
        return container[_index(key, len(container))]
    raise PatchError(f"nothing below a scalar: {key!r}")


def _get(document: _Document, path: list[str]) -> Any:
    value = _child(document.parent(path), path[-1])
    return None if value is _MISSING else value


def _add(document: _Document, path: list[str], value: Any) -> None:
    container, key = document.container(path), path[-1]
    if isinstance(container, dict):
        container[key] = value
    elif key == "-":
        container.append(value)
    else:
        container.insert(_index(key, len(container) + 1), value)


def _remove(document: _Document, path: list[str]) -> Any:
    container, key = document.container(path), path[-1]
    if isinstance(container, list):
        return container.pop(_index(key, len(container)))
    if key not in container:
        raise PatchError(f"Unable to remove nonexistent key: {key}: missing value")
    return container.pop(key)


def _replace(document: _Document, path: list[str], value: Any) -> None:
    container, key = document.container(path), path[-1]
    if isinstance(container, list):
        container[_index(key, len(container))] = value
    else:
        container[key] = value


def _test(document: _Document, path: list[str], expected: Any) -> None:
    actual = _child(document.parent(path), path[-1])
    if actual is _MISSING:
        actual = None
    if not json_equal(actual, expected):
        raise FailedTest("a test failed")
