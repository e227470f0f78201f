"""What CEL makes of the values a structural schema describes, and what rules on them may cost."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.cel.errors import CelError, CompileError
from navarch.api.cel.library import NEW, base_environment
from navarch.api.cel.rules import FieldPathProblem, compile_rules, resolve_field_path
from navarch.api.cel.schema import declare, escape, unescape, value_of

Schema = dict[str, Any]

INTEGER: Schema = {"type": "integer"}
STRING: Schema = {"type": "string"}
INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True}
ENTRY: Schema = {"type": "object", "properties": {"k": INTEGER, "v": INTEGER}}


def of(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def many(items: Schema, type: str = "", **more: Any) -> Schema:
    listed = {"x-kubernetes-list-type": type} if type else {}
    return {"type": "array", "items": items, **listed, **more}


SET = many(STRING, "set")
MAP = many(ENTRY, "map", **{"x-kubernetes-list-map-keys": ["k"]})
RESERVED = of(**{"x-y": INTEGER, "namespace": STRING})


@pytest.mark.parametrize(
    ("schema", "value", "expression"),
    [
        (of(a=SET), {"a": ["y", "z"]}, "self.a == ['z', 'y']"),
        (of(a=SET), {"a": ["y", "z"]}, "(self.a + ['z', 'x']).size() == 3"),
        (of(a=many(STRING)), {"a": ["y", "z"]}, "self.a != ['z', 'y']"),
        (of(a=many(STRING)), {"a": ["y"]}, "(self.a + ['y']).size() == 2"),
        (
            many(MAP),
            [[{"k": 1, "v": 1}], [{"k": 1, "v": 2}]],
            "self[0] + self[1] == self[1] && self[0] != self[1]",
        ),
        (many(MAP), [[{"k": 1}, {"k": 2}], [{"k": 2}, {"k": 1}]], "self[0] == self[1]"),
        (
            RESERVED,
            {"x-y": 1, "namespace": "n"},
            "self.x__dash__y > 0 && self.namespace == 'n' && self.__namespace__ == 'n'",
        ),
        (of(p=INT_OR_STRING), {"p": "30%"}, "type(self.p) == string && self.p.endsWith('%')"),
        (of(p=INT_OR_STRING), {"p": 5}, "type(self.p) == int && self.p == 5"),
        (of(n={**STRING, "nullable": True}), {"n": None}, "!has(self.n)"),
        (of(b={**STRING, "format": "byte"}), {"b": "QUI="}, "self.b == b'AB'"),
        (of(d={**STRING, "format": "date"}), {"d": "1999-07-16"}, "self.d.getDate() == 16"),
        (
            of(d={**STRING, "format": "date-time"}),
            {"d": "1999-07-16T12:00:00Z"},
            "self.d.getHours() == 12",
        ),
        (
            of(d={**STRING, "format": "duration"}),
            {"d": "90s"},
            "self.d == duration('1m30s')",
        ),
        (of(x=INTEGER), {}, "!has(self.x)"),
        (
            {"type": "object", "additionalProperties": INTEGER},
            {"a": 1, "b": 2},
            "self.all(key, self[key] > 0) && 'a' in self",
        ),
        (
            of(e={"type": "object", "x-kubernetes-embedded-resource": True}),
            {"e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}}},
            "self.e.kind == 'Pod' && self.e.metadata.name == 'n'",
        ),
    ],
)
def test_values(schema: Schema, value: Any, expression: str) -> None:
    assert evaluate(schema, value, expression) is True


def evaluate(schema: Schema, value: Any, expression: str) -> Any:
    declared = declare(schema)
    assert declared is not None
    environment = base_environment(NEW).extend(variables={"self": declared.type})
    return environment.compile(expression).evaluate({"self": value_of(value, schema)}).value


def test_a_mixed_value_is_compared_as_what_it_is() -> None:
    with pytest.raises(CelError, match="no such overload"):
        evaluate(of(p=INT_OR_STRING), {"p": 5}, "self.p > 'a'")


@pytest.mark.parametrize(
    ("schema", "expression", "problem"),
    [
        (of(x=INTEGER), "self.z == 100", "undefined field 'z'"),
        (of(n={**STRING, "nullable": True}), "self.n == null", r"'\(string, null\)'"),
        (of(a=MAP, b=MAP), "self.a == self.b", "no matching overload for '_==_'"),
        (of(o=of(f=STRING)), "self.o == {'f': 'a'}", "no matching overload for '_==_'"),
        (
            of(o={"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
            "self.o.any == 1",
            "undefined field 'any'",
        ),
    ],
)
def test_what_the_schema_does_not_have(schema: Schema, expression: str, problem: str) -> None:
    with pytest.raises(CompileError, match=problem):
        evaluate(schema, {}, expression)


def test_whole_objects_have_a_name_only() -> None:
    declared = declare(of(), is_root=True)
    assert declared is not None
    environment = base_environment(NEW).extend(variables={"self": declared.type})
    environment.compile("self.metadata.name == '' && self.kind == ''")
    with pytest.raises(CompileError, match="undefined field 'namespace'"):
        environment.compile("has(self.metadata.namespace)")


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("plain", "plain"),
        ("a-b.c/d", "a__dash__b__dot__c__slash__d"),
        ("a__b", "a__underscores__b"),
        ("namespace", "__namespace__"),
        ("in", "__in__"),
        ("a b", None),
        ("1a", None),
    ],
)
def test_names(name: str, escaped: str | None) -> None:
    assert escape(name) == escaped
    if escaped is not None:
        assert unescape(escaped) == name


NUMBER: Schema = {"type": "number"}


@pytest.mark.parametrize(
    ("schema", "expression", "cost"),
    [
        (many(NUMBER, maxItems=7), "self.all(x, true)", 23),
        (many(NUMBER), "self.all(x, true)", 4718591),
        (many(NUMBER, maxItems=10), "self.all(x, self.all(y, true))", 352),
        ({**STRING, "maxLength": 25}, "self.contains('abc')", 11),
        ({**STRING, "maxLength": 30}, "self.matches('^[a-z]+$')", 27),
    ],
)
def test_estimated_costs(schema: Schema, expression: str, cost: int) -> None:
    declared = declare(schema)
    assert declared is not None
    (rule,) = compile_rules(declared, [{"rule": expression}], lambda text: NEW)
    assert not rule.problem
    assert rule.cost == cost


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        (".a", "a"),
        (".a.x-y", "a.x-y"),
        (".a['x-y']", "a.x-y"),
        (".m['any key']", "m[any key]"),
        (".z", None),
        ("a", None),
        (".", None),
        (".l[0]", None),
    ],
)
def test_field_paths(path: str, resolved: str | None) -> None:
    schema = of(
        a=RESERVED,
        m={"type": "object", "additionalProperties": STRING},
        l=many(STRING),
    )
    if resolved is None:
        with pytest.raises(FieldPathProblem):
            resolve_field_path(path, schema)
    else:
        assert resolve_field_path(path, schema)[0] == resolved
