"""JSON Merge Patch (RFC 7396): null deletes, objects merge, everything else is replaced."""

from __future__ import annotations

from typing import Any

from navarch.api.errors import bad_request
from navarch.api.patch.common import copy_json, not_a_map, too_deep


def apply_merge_patch(document: dict[str, Any], patch: Any) -> dict[str, Any]:
    """`document` with `patch` (decoded JSON) merged into it. Unchanged parts are shared."""
    if patch is None:
        raise bad_request("Invalid JSON Patch")
    if not isinstance(patch, dict):
        raise bad_request(f"error decoding patch: {not_a_map(patch)}")
    try:
        return _merge(document, patch)
    except RecursionError:
        raise too_deep() from None


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            current = result.get(key)
            result[key] = _merge(current if isinstance(current, dict) else {}, value)
        else:
            result[key] = copy_json(value)
    return result
