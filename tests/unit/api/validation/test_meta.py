"""Object metadata: names, labels, annotations, owners, finalizers."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api import names
from navarch.api.validation.meta import validate_object_meta, validate_object_meta_update

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "metadata.name: Required value: name or generateName is required"),
        ({"name": "UPPER"}, 'metadata.name: Invalid value: "UPPER": a lowercase RFC 1123 subdom'),
        ({"name": "a" * 254}, "must be no more than 253 characters"),
        ({"name": "a\n"}, "a lowercase RFC 1123 subdomain must consist"),
        ({"name": "a", "generateName": "A-"}, 'metadata.generateName: Invalid value: "A-"'),
        ({"name": "a", "namespace": ""}, "metadata.namespace: Required value"),
        ({"name": "a", "labels": {"a b": "c"}}, 'metadata.labels: Invalid value: "a b": name part'),
        ({"name": "a", "labels": {"a": "b c"}}, 'metadata.labels: Invalid value: "b c": a valid l'),
        ({"name": "a", "annotations": {"/x": "y"}}, "prefix part must be non-empty"),
        ({"name": "a", "annotations": {"x": "y" * 300_000}}, "Too long: may not be more than 262"),
        (
            {"name": "a", "finalizers": ["a b"]},
            'metadata.finalizers: Invalid value: "a b": name part must consist',
        ),
        (
            {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]},
            "finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            {"name": "a", "ownerReferences": [{**OWNER, "uid": ""}]},
            'metadata.ownerReferences.uid: Invalid value: "": must not be empty',
        ),
        (
            {"name": "a", "ownerReferences": [{**OWNER, "controller": True}] * 2},
            "Only one reference can have Controller set to true. Found",
        ),
        (
            {"name": "a", "ownerReferences": [{**OWNER, "apiVersion": "v1", "kind": "Event"}]},
            "/v1, Kind=Event is disallowed from being an owner",
        ),
        (
            {"name": "a", "managedFields": [{"operation": "Guess"}]},
            'metadata.managedFields[0].operation: Invalid value: "Guess": must be `Apply` or',
        ),
    ],
)
def test_invalid(metadata: dict[str, Any], expected: str) -> None:
    found = validate_object_meta(
        {"namespace": "default", **metadata}, True, names.dns1123_subdomain
    )
    assert any(expected in str(error) for error in found), list(map(str, found))


def test_valid() -> None:
    metadata = {
        "generateName": "a-",
        "name": "a-x",
        "namespace": "default",
        "labels": {"example.com/a": "b", "c": ""},
        "annotations": {"Example.com/A": "any text"},
        "finalizers": ["orphan", "example.com/f"],
        "ownerReferences": [OWNER],
    }
    assert validate_object_meta(metadata, True, names.dns1123_subdomain) == []
    (error,) = validate_object_meta(metadata, False, names.dns1123_subdomain)
    assert str(error) == "metadata.namespace: Forbidden: not allowed on this type"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"name": "a"}, {"name": "b"}, 'metadata.name: Invalid value: "b": field is immutable'),
        ({"uid": "1"}, {"uid": "2"}, 'metadata.uid: Invalid value: "2": field is immutable'),
        (
            {"deletionTimestamp": "t", "finalizers": ["a/b"]},
            {"deletionTimestamp": "t", "finalizers": ["a/b", "a/c"]},
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being "
            'deleted, found new finalizers []string{"a/c"}',
        ),
        ({"generation": 2}, {"generation": 1}, "must not be decremented"),
    ],
)
def test_updates(old: dict[str, Any], new: dict[str, Any], expected: str) -> None:
    found = validate_object_meta_update({"resourceVersion": "1", **new}, old)
    assert expected in str(found[0])
