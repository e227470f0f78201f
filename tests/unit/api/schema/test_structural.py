"""Structural schemas: pruning, defaults, validation."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.schema import structural
from navarch.apiserver.crd.controller import accepted_names, plan

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
    obj = {"spec": spec}
    errors = structural.validate(obj, SCHEMA) + structural.list_errors(obj, SCHEMA)
    assert [str(each) for each in errors] == ([complaint] if complaint else [])


ANY_OF = {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
ONE_OF = {"oneOf": [{"maximum": 3}, {"minimum": 2}]}
NOT_VALIDATED = 'Invalid value: "": "x" must'


@pytest.mark.parametrize(
    ("schema", "value", "complaints"),
    [
        ({"type": "number"}, 3, []),
        ({"maxLength": 1}, "ab", ["x: Too long: may not be more than 1 byte"]),
        ({"type": "integer"}, 3.0, []),
        (
            {"type": "integer"},
            1.5,
            [
                'x: Invalid value: "number": x in body must be of type integer: "number"',
                '<nil>: Invalid value: "": Checked value must be of type integer (default format) '
                "in x",
            ],
        ),
        (
            {"type": "integer", "format": "int32"},
            2**31,
            [
                '<nil>: Invalid value: "": Checked value must be of type integer with format int32 '
                "in x"
            ],
        ),
        (
            {"type": "string", "enum": ["a"]},
            5,
            [
                'x: Invalid value: "integer": x in body must be of type string: "integer"',
                'x: Unsupported value: 5: supported values: "a"',
            ],
        ),
        (
            {"type": "number", "maximum": 5.5},
            6,
            ["x: Invalid value: 6: x in body should be less than or equal to 5"],
        ),
        ({"type": "number", "multipleOf": 0.1}, 0.3, []),
        (
            {"type": "integer", "multipleOf": 3},
            2**31,
            ["x: Invalid value: 2147483648: x in body should be a multiple of 3"],
        ),
        (
            {"type": "number", "multipleOf": 0.1},
            1,
            ["x: Invalid value: 0: factor MultipleOf declared for x must be positive: 0"],
        ),
        (
            {"type": "object", "maxProperties": 1},
            {"a": 1, "b": 2},
            ["x: Too many: 2: must have at most 1 item"],
        ),
        (
            {"type": "string", "minLength": 2, "pattern": "^a"},
            "b",
            ['x: Invalid value: "b": x in body should be at least 2 chars long'],
        ),
        (
            ANY_OF,
            {},
            [f"<nil>: {NOT_VALIDATED} validate at least one schema (anyOf)", "x.a: Required value"],
        ),
        (
            ONE_OF,
            2,
            [
                f"<nil>: {NOT_VALIDATED} validate one and only one schema (oneOf). "
                "Found 2 valid alternatives"
            ],
        ),
        (
            {"allOf": [{"minLength": 2}, {"pattern": "^a"}]},
            "b",
            [
                'x: Invalid value: "b": x in body should be at least 2 chars long',
                "x: Invalid value: \"b\": x in body should match '^a'",
                f"<nil>: {NOT_VALIDATED} validate all the schemas (allOf). None validated",
            ],
        ),
        ({"not": {"enum": ["a"]}}, "a", [f"<nil>: {NOT_VALIDATED} not validate the schema (not)"]),
        (
            {"type": "string", "nullable": True, "enum": ["a"]},
            None,
            ['x: Unsupported value: null: supported values: "a"'],
        ),
    ],
)
def test_every_complaint_of_upstream(schema: Any, value: Any, complaints: list[str]) -> None:
    assert [str(each) for each in structural.validate(value, schema, "x")] == complaints


LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "j"]}


@pytest.mark.parametrize(
    ("schema", "value", "complaints"),
    [
        ({"x-kubernetes-list-type": "set"}, [1, 1, 1], ["x[1]: Duplicate value: 1"]),
        (
            {"additionalProperties": {"x-kubernetes-list-type": "set"}},
            {"a": ["b", "b"]},
            ['x[a][1]: Duplicate value: "b"'],
        ),
        (LIST_MAP, [{"k": 1, "j": 2}] * 2, ['x[1]: Duplicate value: {"j":2,"k":1}']),
        (
            LIST_MAP,
            ["a", "a"],
            ['x[0]: Invalid value: "a": must be an object for an array of list-type map'],
        ),
    ],
)
def test_doubled_items(schema: Any, value: Any, complaints: list[str]) -> None:
    assert [str(each) for each in structural.list_errors(value, schema, "x")] == complaints


NULLS = {
    "properties": {
        "plain": {"type": "string"},
        "nullable": {"type": "string", "nullable": True},
        "default": {"type": "string", "default": "d"},
        "map": {"additionalProperties": {"type": "string"}},
        "list": {"items": {"type": "string"}},
    }
}


def test_nulls_are_absent_where_they_are_not_allowed() -> None:
    obj: dict[str, Any] = dict.fromkeys(("plain", "nullable", "default", "unknown"))
    obj |= {"map": {"a": None, "b": "c"}, "list": [None]}
    structural.default(obj, NULLS)
    structural.drop_nulls(obj, NULLS)
    assert obj == {
        "nullable": None,
        "default": "d",
        "unknown": None,
        "map": {"b": "c"},
        "list": [None],
    }


@pytest.mark.parametrize(
    ("schema", "value", "kept"),
    [
        ({"additionalProperties": True}, {"a": {"b": 1}, "c": 1}, {"a": {}, "c": 1}),
        ({"type": "string"}, [{"a": 1}], [{}]),
        ({structural.PRESERVE: True}, [{"a": 1}], [{"a": 1}]),
        ({structural.PRESERVE: True, "items": {"type": "object"}}, [{"a": 1}], [{"a": 1}]),
    ],
)
def test_what_is_pruned(schema: Any, value: Any, kept: Any) -> None:
    structural.prune(value, schema, is_root=False)
    assert value == kept


def test_numbers_are_kept_as_integers_where_they_can_be() -> None:
    kept = structural.plain_numbers({"a": [2.0, 1.5, 2**63, 1e20, True]})["a"]
    assert kept == [2, 1.5, 2.0**63, 1e20, True]
    assert [type(each) for each in kept] == [int, float, float, float, bool]


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
    assert accepted_names(new, [other, new]) == (
        {"plural": "foos", "kind": "", "listKind": "FooList"},
        ("KindConflict", '"Foo" is already in use'),
    )
    conditions = {each["type"]: each for each in plan(new, [other], "now")["conditions"]}
    assert conditions["NamesAccepted"]["reason"] == "KindConflict"
    assert conditions["Established"]["status"] == "False"
