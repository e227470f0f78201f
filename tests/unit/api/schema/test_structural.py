"""Structural schemas: pruning, defaults, validation."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.schema import structural
from navarch.apiserver.crd.controller import name_conflict, plan

SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 9},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "list": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}},
        },
        "gone": {"type": "string", "nullable": True},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"spec": SPEC}}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        pytest.param({"size": 3, "gone": None, "port": "http"}, "", id="good"),
        pytest.param({}, "spec.size: Required value", id="required"),
        pytest.param(
            {"size": 0},
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            id="minimum",
        ),
        pytest.param(
            {"size": "3"},
            'spec.size: Invalid value: "string": spec.size in body must be of type integer: '
            '"string"',
            id="type",
        ),
        pytest.param(
            {"size": 1, "color": "green"},
            'spec.color: Unsupported value: "green": supported values: "red", "blue"',
            id="enum",
        ),
        pytest.param(
            {"size": 1, "name": "UP"},
            "spec.name: Invalid value: \"UP\": spec.name in body should match '^[a-z]+$'",
            id="pattern",
        ),
        pytest.param(
            {"size": 1, "port": 1.5},
            'spec.port: Invalid value: "number": spec.port in body must be of type integer,string: '
            '"number"',
            id="int or string",
        ),
        pytest.param(
            {"size": 1, "map": {"a": "x"}},
            'spec.map.a: Invalid value: "string": spec.map.a in body must be of type integer: '
            '"string"',
            id="map values",
        ),
        pytest.param(
            {"size": 1, "list": [{"k": "a"}, {"k": "a"}]},
            'spec.list[1]: Duplicate value: {"k":"a"}',
            id="list keys",
        ),
    ],
)
def test_validation(spec: dict[str, Any], complaint: str) -> None:
    errors = structural.validate({"spec": spec}, SCHEMA)
    assert [str(each) for each in errors] == ([complaint] if complaint else [])


def test_pruning_keeps_what_the_schema_preserves() -> None:
    obj = {
        "apiVersion": "v1",
        "kind": "Foo",
        "metadata": {"any": 1},
        "spec": {"size": 1, "free": {"x": {"y": 1}}, "map": {"a": 1}, "odd": 1},
        "more": 1,
    }
    assert structural.prune(obj, SCHEMA) == ["more", "spec.odd"]
    assert obj["spec"] == {"size": 1, "free": {"x": {"y": 1}}, "map": {"a": 1}}


@pytest.mark.parametrize("spec", [{"size": 1}, {"size": 1, "color": None}])
def test_defaults(spec: dict[str, Any]) -> None:
    obj = {"spec": spec}
    structural.default(obj, SCHEMA)
    assert obj["spec"]["color"] == "red"


def definition(name: str, kind: str = "Foo", **status: Any) -> dict[str, Any]:
    plural, _, group = name.partition(".")
    names = {"plural": plural, "kind": kind, "listKind": f"{kind}List"}
    return {
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "names": names,
            "versions": [{"name": "v1", "served": True, "storage": True}],
        },
        "status": status,
    }


def test_a_definition_is_established() -> None:
    status = plan(definition("foos.ex.io"), [], "now")
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    assert status["storedVersions"] == ["v1"]
    assert plan(definition("foos.ex.io", **status), [], "later") == status


def test_names_that_are_taken_are_not_accepted() -> None:
    other = definition("bars.ex.io", acceptedNames={"plural": "bars", "kind": "Foo"})
    new = definition("foos.ex.io")
    assert name_conflict(new, [other, new]) == ("KindConflict", '"Foo" is already in use')
    conditions = {each["type"]: each for each in plan(new, [other], "now")["conditions"]}
    assert conditions["NamesAccepted"]["reason"] == "KindConflict"
    assert conditions["Established"]["status"] == "False"
