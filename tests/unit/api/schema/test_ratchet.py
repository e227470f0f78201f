"""Which complaints about a custom resource its old state excuses."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.schema.ratchet import new_errors
from navarch.api.schema.structural import list_errors, validate

ONE = {"type": "string", "enum": ["one"]}
ITEM = {"type": "object", "properties": {"name": {"type": "string"}, "value": ONE}}


def items(kind: str, schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    found = {"type": "array", "x-kubernetes-list-type": kind, "items": schema}
    return found | ({"x-kubernetes-list-map-keys": list(keys)} if keys else {})


@pytest.mark.parametrize(
    ("schema", "old", "new", "fields"),
    [
        pytest.param(ONE, "two", "two", [], id="as before"),
        pytest.param(ONE, "two", "three", ["x"], id="wrong in another way"),
        pytest.param(ONE, "one", "two", ["x"], id="right before"),
        pytest.param(items("atomic", ONE), ["a", "b"], ["a", "b"], [], id="the same list"),
        pytest.param(
            items("atomic", ONE), ["a"], ["a", "b"], ["x[0]", "x[1]"], id="another list, as a whole"
        ),
        pytest.param(items("set", ONE), ["a"], ["a", "one"], ["x[0]"], id="another set"),
        pytest.param(
            items("map", ITEM, "name"),
            [{"name": "a", "value": "two"}, {"name": "b", "value": "two"}],
            [{"name": "c", "value": "two"}, {"name": "a", "value": "two"}],
            ["x[0].value"],
            id="items are known by their keys",
        ),
        pytest.param(
            {"type": "object", "additionalProperties": ONE},
            {"a.b": "two", "c": "one"},
            {"a.b": "two", "c": "two"},
            ["x.c"],
            id="values are known by their keys",
        ),
        pytest.param(
            {"type": "object", "required": ["a"]}, {"b": 1}, {"b": 1}, [], id="missing all along"
        ),
        pytest.param(
            {"type": "object", "required": ["a"]}, {"b": 1}, {"b": 2}, ["x.a"], id="still missing"
        ),
        pytest.param(
            items("set", {"type": "string"}), ["a", "a"], ["b", "b"], [], id="doubles all along"
        ),
        pytest.param(
            items("set", {"type": "string"}), ["a"], ["b", "b"], ["x[1]"], id="doubles now"
        ),
    ],
)
def test_what_is_excused(schema: dict[str, Any], old: Any, new: Any, fields: list[str]) -> None:
    root = {"type": "object", "properties": {"x": schema, "other": {"type": "integer"}}}
    before, after = {"x": old, "other": 1}, {"x": new, "other": 2}
    errors, stood = (validate(each, root) + list_errors(each, root) for each in (after, before))
    found = new_errors(errors, stood, root, after, before)
    assert [error.field for error in found] == fields
