"""Custom resources with validation rules (`x-kubernetes-validations`)."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from tests.api.conftest import Answer, Api
from tests.api.test_custom_resources import define as establish

Object = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FOOS = "/apis/rules.example/v1/namespaces/default/foos"
RULES = "x-kubernetes-validations"
AT_SPEC = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]"


def definition(spec: Object, status: Object | None = None) -> Object:
    properties = {"spec": spec}
    if status is not None:
        properties["status"] = status
    version: Object = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
    }
    if status is not None:
        version["subresources"] = {"status": {}}
    return {
        "metadata": {"name": "foos.rules.example"},
        "spec": {
            "group": "rules.example",
            "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo"},
            "versions": [version],
        },
    }


def rules(*entries: str | Object, **properties: Object) -> Object:
    """A schema with properties and rules."""
    listed = [{"rule": each} if isinstance(each, str) else each for each in entries]
    return {"type": "object", "properties": properties, RULES: listed}


INTEGER: Object = {"type": "integer"}
STRING: Object = {"type": "string"}


async def define(api: Api, spec: Object, status: Object | None = None) -> None:
    """Make the definition and wait until its resource is served."""
    await establish(api, definition(spec, status))


async def write(api: Api, spec: Object, name: str = "one") -> Answer:
    body = {
        "apiVersion": "rules.example/v1",
        "kind": "Foo",
        "metadata": {"name": name},
        "spec": spec,
    }
    return await api.post(FOOS, body)


async def change(api: Api, spec: Object, name: str = "one") -> Answer:
    obj = (await api.get(f"{FOOS}/{name}")).ok()
    return await api.put(f"{FOOS}/{name}", {**obj, "spec": spec})


async def test_rules_are_enforced(api: Api) -> None:
    await define(api, rules("self.x + self.y > 0", x=INTEGER, y=INTEGER))
    (await write(api, {"x": 1, "y": 2})).ok(201)
    refused = await write(api, {"x": -1, "y": 0}, "two")
    assert refused.status == 422
    assert refused.json["message"] == (
        'Foo.rules.example "two" is invalid: spec: Invalid value: failed rule: self.x + self.y > 0'
    )
    assert (await change(api, {"x": -5, "y": 1})).status == 422


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param(
            rules("self.z == 100", x=INTEGER),
            "compilation failed: ERROR: <input>:1:5: undefined field 'z'\n"
            " | self.z == 100\n | ....^",
            id="a property that is not there",
        ),
        pytest.param(rules("self = 42", x=INTEGER), "Syntax error", id="a syntax error"),
        pytest.param(
            rules("self.x + 1", x=INTEGER), "cel expression must evaluate to a bool", id="no bool"
        ),
        pytest.param(
            rules({"rule": "true", "messageExpression": "1"}, x=INTEGER),
            "messageExpression must evaluate to a string",
            id="a message that is none",
        ),
        pytest.param(
            {
                "type": "object",
                "properties": {
                    "l": {
                        "type": "array",
                        "items": {
                            "type": "array",
                            "items": STRING,
                            RULES: [{"rule": "self.all(s, s == 'k')"}],
                        },
                    }
                },
            },
            "estimated rule cost exceeds budget by factor of more than 100x",
            id="too dear",
        ),
        pytest.param(
            {
                "type": "object",
                "properties": {
                    "l": {
                        "type": "array",
                        "items": {"type": "integer", RULES: [{"rule": "self > oldSelf"}]},
                    }
                },
            },
            "oldSelf cannot be used on the uncorrelatable portion of the schema within "
            "spec.validation.openAPIV3Schema.properties[spec].properties[l]",
            id="a change that nobody can see",
        ),
        pytest.param(
            rules({"rule": "true", "optionalOldSelf": True}, x=INTEGER),
            "may not be set if oldSelf is not used in rule",
            id="optionalOldSelf in vain",
        ),
        pytest.param(
            rules({"rule": "true", "fieldPath": ".z"}, x=INTEGER),
            f'{AT_SPEC}.fieldPath: Invalid value: ".z": must be a valid path',
            id="a path that leads nowhere",
        ),
        pytest.param(
            rules({"rule": "true", "reason": "Why"}, x=INTEGER),
            f'{AT_SPEC}.reason: Unsupported value: "Why"',
            id="an unknown reason",
        ),
        pytest.param(
            {"type": "object", "allOf": [{RULES: [{"rule": "true"}]}]},
            "must be empty to be structural",
            id="under a junctor",
        ),
        pytest.param({"type": "array"}, "properties[spec].items: Required value", id="no items"),
        pytest.param({"type": "text"}, 'Unsupported value: "text"', id="no such type"),
        pytest.param(
            {"type": "string", "pattern": "("}, "must be a valid regular expression", id="pattern"
        ),
        pytest.param(
            {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"},
            "x-kubernetes-list-map-keys: Required value",
            id="a map list without keys",
        ),
    ],
)
async def test_definitions_that_are_refused(api: Api, schema: Object, expected: str) -> None:
    refused = await api.post(DEFINITIONS, definition(schema))
    assert refused.status == 422
    assert expected in refused.json["message"]


async def test_transition_rules(api: Api) -> None:
    num = {"type": "integer", RULES: [{"rule": "self > oldSelf"}]}
    await define(api, {"type": "object", "properties": {"num": num}})
    (await write(api, {"num": 10})).ok(201)
    refused = await change(api, {"num": 9})
    assert refused.status == 422
    assert "spec.num: Invalid value: 9: failed rule: self > oldSelf" in refused.json["message"]
    (await change(api, {"num": 11})).ok()


async def test_optional_old_values(api: Api) -> None:
    rule = {"rule": "oldSelf.orValue(5) <= self", "optionalOldSelf": True}
    await define(api, {"type": "object", "properties": {"n": {"type": "integer", RULES: [rule]}}})
    assert (await write(api, {"n": 4})).status == 422
    (await write(api, {"n": 6})).ok(201)
    assert (await change(api, {"n": 5})).status == 422


async def test_messages_reasons_and_paths(api: Api) -> None:
    await define(
        api,
        rules(
            {
                "rule": "self.m != 'a'",
                "reason": "FieldValueForbidden",
                "fieldPath": ".m",
                "messageExpression": "'not ' + self.m",
            },
            {"rule": "self.m != 'a'", "messageExpression": "''", "message": " plain "},
            {"rule": "self.m != 'a'", "reason": "FieldValueRequired", "message": "needed"},
            m=STRING,
        ),
    )
    causes = (await write(api, {"m": "a"})).json["details"]["causes"]
    assert causes == [
        {"reason": "FieldValueForbidden", "message": "Forbidden: not a", "field": "spec.m"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: plain", "field": "spec"},
        {
            "reason": "FieldValueRequired",
            "message": "Required value: needed",
            "field": "spec",
        },
    ]


async def test_errors_while_evaluating(api: Api) -> None:
    either = {"x-kubernetes-int-or-string": True}
    await define(api, rules("self.p > 'a'", "[1][self.i] == 1", p=either, i=INTEGER))
    causes = (await write(api, {"p": 5, "i": 3})).json["details"]["causes"]
    first, second = (cause["message"] for cause in causes)
    assert first.startswith('Invalid value: "object": \'no such overload')
    assert first.endswith(
        "call arguments did not match a supported operator, function or macro signature for rule: "
        "self.p > 'a'"
    )
    assert second == (
        'Invalid value: "object": index out of bounds: 3 evaluating rule: [1][self.i] == 1'
    )


async def test_a_rule_that_runs_too_long_is_cancelled(api: Api) -> None:
    items = {"type": "array", "maxItems": 725, "items": {"type": "integer"}}
    await define(api, rules("self.l.all(x, self.l.all(y, x == y))", l=items))
    refused = await write(api, {"l": [0] * 725})
    assert refused.status == 422
    assert "call cost exceeds limit" in refused.json["message"]


async def test_what_was_wrong_before_may_stay(api: Api) -> None:
    schema = {"type": "object", "properties": {"a": dict(STRING), "b": dict(STRING)}}
    await define(api, schema)
    (await write(api, {"a": "bad", "b": "x"})).ok(201)
    stricter = definition(copy.deepcopy(schema))
    version = stricter["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    version["properties"]["spec"]["properties"]["a"][RULES] = [{"rule": "self != 'bad'"}]
    current = (await api.get(f"{DEFINITIONS}/foos.rules.example")).ok()
    stricter["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
    (await api.put(f"{DEFINITIONS}/foos.rules.example", stricter)).ok()
    async with asyncio.timeout(60):
        while (await write(api, {"a": "bad"}, "two")).status != 422:
            (await api.delete(f"{FOOS}/two")).ok()
    kept = await change(api, {"a": "bad", "b": "y"})
    kept.ok()
    assert "failed rule: self != 'bad'" in kept.headers["Warning"]
    assert (await change(api, {"a": "bad", "b": "y"}, "one")).status == 200


async def test_status_is_checked_too(api: Api) -> None:
    status = rules("self.done <= self.total", done=INTEGER, total=INTEGER)
    await define(api, {"type": "object", "properties": {"a": STRING}}, status)
    obj = (await write(api, {"a": "x"})).ok(201)
    obj["status"] = {"done": 3, "total": 2}
    assert (await api.put(f"{FOOS}/one/status", obj)).status == 422
    obj["status"] = {"done": 1, "total": 2}
    (await api.put(f"{FOOS}/one/status", obj)).ok()


async def test_an_invalid_object_is_not_asked_about_its_rules(api: Api) -> None:
    await define(api, {**rules("self.x > 0", x=INTEGER), "required": ["y"]})
    message = (await write(api, {"x": 0})).json["message"]
    assert "spec.y: Required value" in message
    assert (
        "<nil>: Invalid value: null: some validation rules were not checked because the object was "
        "invalid; correct the existing errors to complete validation" in message
    )
