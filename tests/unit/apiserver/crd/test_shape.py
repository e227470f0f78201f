"""Bodies of custom resources: what they must say of themselves, and what is told of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.kinds import Kind
from navarch.api.schema.decode import FieldValidation
from navarch.apiserver.crd.shape import CustomShape, CustomStrategy

KIND = Kind(group="ex.io", version="v1", kind="Foo", plural="foos", singular="foo", namespaced=True)
SPEC = {
    "type": "object",
    "properties": {
        "a": {"type": "integer"},
        "inner": {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
        },
    },
}
SHAPE = CustomShape(KIND, {"type": "object", "properties": {"spec": SPEC}})
SELF = {"apiVersion": "ex.io/v1", "kind": "Foo"}
UNRECOGNISED = "the object provided is unrecognized (must be of type Foo): "
STRUCT = (
    'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; '
    'Kind string "json:\\"kind,omitempty\\"" }'
)
BAD = 'Foo in version "v1" cannot be handled as a Foo: '


def decode(
    body: Any, validation: FieldValidation = FieldValidation.WARN, content_type: str = "json"
) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return SHAPE.decode(data, f"application/{content_type}", validation)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (
            b"{",
            400,
            f"{UNRECOGNISED}couldn't get version/kind; json parse error: unexpected end of JSON "
            "input ({)",
        ),
        (b"null", 400, f"{UNRECOGNISED}Object 'Kind' is missing in 'null' (6e756c6c)"),
        (b"{}", 400, f"{UNRECOGNISED}Object 'Kind' is missing in '{{}}' ({{}})"),
        (
            b"[]",
            400,
            f"{UNRECOGNISED}couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"array into Go value of type {STRUCT} (5b5d)",
        ),
        (
            {"kind": "Foo"},
            400,
            "the API version in the data () does not match the expected API version (ex.io/v1)",
        ),
        (
            {"apiVersion": "ex.io/v2", "kind": "Foo"},
            400,
            "the API version in the data (ex.io/v2) does not match the expected API version "
            "(ex.io/v1)",
        ),
        (
            SELF | {"kind": "Bar", "metadata": {"name": "a"}},
            422,
            'Bar.ex.io "a" is invalid: kind: Invalid value: "Bar": must be Foo',
        ),
        (
            SELF | {"metadata": "x"},
            400,
            f"{BAD}json: cannot unmarshal string into Go value of type v1.ObjectMeta",
        ),
        (
            SELF | {"metadata": {"name": 1}},
            400,
            f"{BAD}json: cannot unmarshal number into Go struct field ObjectMeta.name of type "
            "string",
        ),
        (
            SELF | {"spec": {"inner": {"apiVersion": 1}}},
            400,
            f"{BAD}spec.inner.apiVersion: Invalid value: 1: must be a string",
        ),
        (
            SELF | {"spec": {"inner": {"metadata": "x"}}},
            400,
            f'{BAD}spec.inner.metadata: Invalid value: "x": json: cannot unmarshal string into Go '
            "value of type v1.ObjectMeta",
        ),
    ],
)
def test_what_cannot_be_read(body: Any, status: int, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode(body)
    assert (caught.value.status, caught.value.message) == (status, message)


@pytest.mark.parametrize(
    ("body", "content_type", "warnings"),
    [
        (
            SELF
            | {
                "z": 1,
                "metadata": {"odd": 1},
                "spec": {"b": 1, "inner": {"metadata": {"odd": 1}}},
            },
            "json",
            ["metadata.odd", "spec.b", "z", "spec.inner.metadata.odd"],
        ),
        (
            b"apiVersion: ex.io/v1\nkind: Foo\nspec:\n  a: 1\n  a: 2\nz: 1",
            "yaml",
            ['line 5: key "a" already set in map', "z"],
        ),
    ],
)
def test_what_is_warned_of(body: Any, content_type: str, warnings: list[str]) -> None:
    found = decode(body, content_type=content_type)[1]
    assert found == [text if " " in text else f'unknown field "{text}"' for text in warnings]


def test_strict_errors_are_in_the_order_of_their_finding() -> None:
    body = b'{"apiVersion":"ex.io/v1","kind":"Foo","spec":{"a":1,"a":2},"z":1}'
    with pytest.raises(ApiError) as caught:
        decode(body, FieldValidation.STRICT)
    problems = 'duplicate field "spec.a", unknown field "z"'
    assert caught.value.message == f"{BAD}strict decoding error: {problems}"


def test_whole_numbers_are_kept_as_integers() -> None:
    kept = decode(SELF | {"spec": {"a": 2.0}})[0]["spec"]["a"]
    assert (kept, type(kept)) == (2, int)


LABEL = "a DNS-1035 label must consist of lower case"


@pytest.mark.parametrize(
    ("inner", "complaints"),
    [
        ({"apiVersion": "v1", "kind": "Pod"}, []),
        ({}, ["spec.inner.apiVersion: Required", "spec.inner.kind: Required"]),
        (
            {"apiVersion": "a/b/c", "kind": "bad kind", "metadata": {"labels": {"a b": ""}}},
            [
                'spec.inner.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string',
                'spec.inner.kind: Invalid value: "bad kind": may have mixed case, but should',
                'spec.inner.metadata.labels: Invalid value: "a b": name part must consist of',
            ],
        ),
        (
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}},
            ["spec.inner.metadata.name: Invalid value: \"a/b\": may not contain '/'"],
        ),
    ],
)
def test_objects_inside_are_objects(inner: Any, complaints: list[str]) -> None:
    obj = SELF | {"metadata": {"name": "a"}, "spec": {"inner": inner}}
    errors = [str(each) for each in SHAPE.validate(obj, None, lambda text: None)]
    assert [each[: len(start)] for each, start in zip(errors, complaints, strict=True)] == (
        complaints
    )


@pytest.mark.parametrize(
    ("finalizers", "before", "hints"),
    [
        ([], [], []),
        (["ex.io/a", "orphan"], [], []),
        (["b", "a"], ["b"], ["a: "]),
        (["b", "a.b"], [], ["a.b: including a path (/) ", "b: "]),
    ],
)
def test_names_of_finalizers(finalizers: list[str], before: list[str], hints: list[str]) -> None:
    strategy = CustomStrategy(has_status=False, selectable=())
    old = {"metadata": {"finalizers": before}} if before else None
    expected = []
    for name, more in (hint.split(": ") for hint in hints):
        expected.append(
            f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name {more}'
            "to avoid accidental conflicts with other finalizer writers"
        )
    assert [*strategy.warnings({"metadata": {"finalizers": finalizers}}, old)] == expected
