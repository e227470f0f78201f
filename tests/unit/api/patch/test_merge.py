"""JSON Merge Patch: the examples of RFC 7396 and the refusals of the API server."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.patch.merge import apply_merge_patch


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": 1}, {"a": [None, {"x": None}]}, {"a": [None, {"x": None}]}),
    ],
)
def test_rfc(document: Any, patch: Any, expected: Any) -> None:
    before = repr((document, patch))
    assert apply_merge_patch(document, patch) == expected
    assert repr((document, patch)) == before


@pytest.mark.parametrize("patch", [None, [], 1, "text"])
def test_only_objects(patch: Any) -> None:
    with pytest.raises(ApiError) as caught:
        apply_merge_patch({}, patch)
    assert caught.value.status == 400


def test_nesting_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(ApiError) as caught:
        apply_merge_patch({}, deep)
    assert caught.value.status == 400
