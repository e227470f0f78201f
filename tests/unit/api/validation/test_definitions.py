"""Custom resource definitions: what they are refused for, in upstream's places and words."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.api.validation.samples import judged

from navarch.api.strategies.extensions import CustomResourceDefinitionStrategy
from navarch.api.validation.definitions import validate_definition, validate_definition_update

Object = dict[str, Any]
SCHEMA: Object = {"openAPIV3Schema": {"type": "object"}}


def version(**fields: Any) -> Object:
    return {"name": "v1", "served": True, "storage": True, "schema": SCHEMA, **fields}


def definition(*versions: Object, group: str = "ex.io", **spec: Any) -> Object:
    names = {"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"}
    obj: Object = {
        "metadata": {"name": f"foos.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": names,
            "versions": list(versions),
            "conversion": {"strategy": "None"},
            **spec,
        },
    }
    obj["status"] = CustomResourceDefinitionStrategy().empty_status(obj)
    return obj


def webhook(**fields: Any) -> Object:
    return {"conversion": {"strategy": "Webhook", "webhook": fields}}


def column(**fields: Any) -> Object:
    good = {"name": "A", "type": "string", "jsonPath": ".spec.a"}
    return version(additionalPrinterColumns=[{**good, **fields}])


def scale(**paths: str) -> Object:
    good = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    return version(subresources={"scale": {**good, **paths}})


def deprecated(warning: str) -> Object:
    return version(deprecated=True, deprecationWarning=warning)


COLUMN, SCALE = "spec.additionalPrinterColumns[0]", "spec.subresources.scale"
WARNING = "spec.versions[0].deprecationWarning: Invalid value"
UNPRINTABLE = "must only contain printable UTF-8 characters; non-printable character found at"
TYPES = "must be one of boolean,date,integer,number,string"
CLIENT: Object = {"service": {"name": "a", "namespace": "b"}}


@pytest.mark.parametrize(
    ("obj", "complaints"),
    [
        (definition(version()), []),
        (column(name=""), [f"{COLUMN}.name: Required value"]),
        (column(type="x"), [f'{COLUMN}.type: Invalid value: "x": {TYPES}']),
        (column(type=""), [f"{COLUMN}.type: Required value: {TYPES}"]),
        (
            column(jsonPath="spec.a"),
            [
                f'{COLUMN}.JSONPath: Invalid value: "spec.a": must be a simple json path starting '
                "with ."
            ],
        ),
        (
            definition(column(name=""), version(name="v2", storage=False)),
            ["spec.versions[0].additionalPrinterColumns[0].name: Required value"],
        ),
        (
            scale(specReplicasPath="spec.x"),
            [
                f'{SCALE}.specReplicasPath: Invalid value: "spec.x": must be a simple json path '
                "starting with ."
            ],
        ),
        (
            scale(labelSelectorPath=".x"),
            [
                f'{SCALE}.labelSelectorPath: Invalid value: ".x": should be a json path under '
                "either .spec or .status"
            ],
        ),
        (deprecated(""), [f'{WARNING}: "": must not be an empty string']),
        (deprecated("é\n"), [f'{WARNING}: "é\\n": {UNPRINTABLE} index 2']),
        (version(schema={}), ["spec.versions[0].schema.openAPIV3Schema: Required value"]),
        (
            definition(),
            [
                "spec.versions: Invalid value: []: must have exactly one version marked as storage "
                "version",
                "status.storedVersions: Invalid value: []: must have at least one stored version",
            ],
        ),
        (
            definition(version(), **webhook(clientConfig=CLIENT)),
            ["spec.conversion.conversionReviewVersions: Required value"],
        ),
    ],
)
def test_what_is_refused(obj: Object, complaints: list[str]) -> None:
    whole = obj if "spec" in obj else definition(obj)
    assert [str(each) for each in judged(validate_definition, whole)] == complaints


DEFAULT = "spec.validation.openAPIV3Schema.properties[a].default"
EMBEDDED = {
    "type": "object",
    "x-kubernetes-embedded-resource": True,
    "x-kubernetes-preserve-unknown-fields": True,
}


@pytest.mark.parametrize(
    ("schema", "complaints"),
    [
        (EMBEDDED | {"default": {"apiVersion": "v1", "kind": "Pod"}}, []),
        (
            EMBEDDED | {"default": {}},
            [f"{DEFAULT}.apiVersion: Required value", f"{DEFAULT}.kind: Required value"],
        ),
        (
            {"type": "string", "$schema": "x"},
            [
                "spec.validation.openAPIV3Schema: Invalid value: \"\": OpenAPIV3Schema 'schema' is "
                "not supported"
            ],
        ),
        (
            {
                "x-kubernetes-preserve-unknown-fields": True,
                "x-kubernetes-validations": [{"rule": "true"}],
            },
            [
                "spec.validation.openAPIV3Schema.properties[a].x-kubernetes-validations: Internal "
                "error: internal error: failed to construct type information for "
                "x-kubernetes-validations rules: unable to convert structural schema to CEL "
                "declarations"
            ],
        ),
    ],
)
def test_what_schemas_are_refused_for(schema: Object, complaints: list[str]) -> None:
    whole = {"type": "object", "properties": {"a": schema}}
    obj = definition(version(schema={"openAPIV3Schema": whole}))
    assert [str(each) for each in judged(validate_definition, obj)] == complaints


def test_defaults_are_plain_numbers() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "default": 2.0}}}
    obj = definition(version(schema={"openAPIV3Schema": schema}), conversion={"webhook": {}})
    CustomResourceDefinitionStrategy().defaults(obj)
    assert type(schema["properties"]["a"]["default"]) is int  # type: ignore[index]
    assert obj["spec"]["conversion"] == {}


def test_formats_that_nothing_checks_are_warned_of_once() -> None:
    def with_formats(**formats: str) -> Object:
        properties = {
            f"{kind}{n}": {"type": kind, "format": form}
            for n, (kind, form) in enumerate(each.split("_") for each in formats)
        }
        schema = {"type": "object", "properties": properties}
        return definition(version(schema={"openAPIV3Schema": schema}))

    strategy = CustomResourceDefinitionStrategy()
    good = dict.fromkeys(("string_date", "string_password", "integer_int32", "number_double"), "")
    bad = dict.fromkeys(("string_odd", "string_int32", "integer_date"), "")
    assert strategy.warnings(with_formats(**good), None) == []
    assert strategy.warnings(with_formats(**bad), None) == [
        f'unrecognized format "{each}"' for each in ("odd", "int32", "date")
    ]
    assert strategy.warnings(with_formats(**bad), with_formats(string_int32="")) == [
        f'unrecognized format "{each}"' for each in ("odd", "date")
    ]


HERE = "metadata.annotations[api-approved.kubernetes.io]"


@pytest.mark.parametrize(
    ("group", "approval", "before", "complaint"),
    [
        ("ex.io", "", None, ""),
        ("xk8s.io", "", None, ""),
        ("k8s.io", "", None, f"{HERE}: Required value"),
        ("a.kubernetes.io", "bla", None, f'{HERE}: Invalid value: "bla"'),
        ("a.k8s.io", "https://", None, f'{HERE}: Invalid value: "https://"'),
        ("a.k8s.io", "https://example.com/1", None, ""),
        ("a.k8s.io", "unapproved, yet", None, ""),
        ("a.k8s.io", "", "", ""),
        ("a.k8s.io", "", "unapproved", f"{HERE}: Required value"),
    ],
)
def test_groups_of_the_community_need_approval(
    group: str, approval: str, before: str | None, complaint: str
) -> None:
    def approved(value: str) -> Object:
        obj = definition(version(), group=group)
        obj["metadata"]["annotations"] = {"api-approved.kubernetes.io": value}
        return obj

    if before is None:
        errors = judged(validate_definition, approved(approval))
    else:
        errors = judged(validate_definition_update, approved(approval), approved(before))
    assert [str(each)[: len(complaint)] for each in errors] == ([complaint] if complaint else [])
