"""Which changes are refused, for the kinds other than pods."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.samples import (
    CLAIM,
    Object,
    data,
    deployment,
    job,
    judged,
    new,
    update,
)

from navarch.api.validation.workloads import validate_replica_status


@pytest.mark.parametrize(
    ("plural", "content", "changes", "expected"),
    [
        ("deployments", deployment(), {"spec__replicas": 3}, ""),
        (
            "deployments",
            deployment(selector={"matchLabels": {"app": "web"}}),
            {"spec__selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
            "spec.selector: Invalid value: ",
        ),
        ("statefulsets", deployment(), {"spec__replicas": 3, "spec__minReadySeconds": 1}, ""),
        (
            "statefulsets",
            deployment(serviceName="a"),
            {"spec__serviceName": "b"},
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'",
        ),
        ("jobs", job(), {"spec__parallelism": 2}, ""),
        (
            "jobs",
            job(),
            {"spec__template__spec__priorityClassName": "x"},
            "spec.template: Invalid value: ",
        ),
        ("jobs", job(), {"spec__completions": 5}, "spec.completions: Invalid value: 5: field is"),
        (
            "jobs",
            job(suspend=True),
            {"spec__template__spec__nodeSelector": {"a": "b"}},
            "",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"data": {"a": "2"}},
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"immutable": False},
            "immutable: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "configmaps",
            {"data": {"a": "1"}, "immutable": True},
            {"metadata__labels": {"a": "b"}},
            "",
        ),
        (
            "secrets",
            {"data": data(a="1"), "immutable": True},
            {"stringData": {"a": "2"}},
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "secrets",
            {"type": "Opaque"},
            {"type": "example.com/other"},
            'type: Invalid value: "example.com/other": field is immutable',
        ),
        (
            "rolebindings",
            {"roleRef": {"kind": "Role", "name": "r"}},
            {"roleRef__name": "other"},
            "cannot change roleRef",
        ),
        (
            "priorityclasses",
            {"value": 1},
            {"value": 2},
            "value: Forbidden: may not be changed in an update.",
        ),
        (
            "persistentvolumeclaims",
            {"spec": CLAIM},
            {"spec__accessModes": ["ReadOnlyMany"]},
            "spec: Forbidden: spec is immutable after creation except resources.requests",
        ),
        ("persistentvolumeclaims", {"spec": CLAIM}, {"spec__volumeName": "v"}, ""),
        (
            "nodes",
            {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}},
            {"spec__podCIDR": "10.2.0.0/24"},
            'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid',
        ),
        (
            "endpointslices",
            {"addressType": "IPv4"},
            {"addressType": "IPv6"},
            'addressType: Invalid value: "IPv6": field is immutable',
        ),
        (
            "resourcequotas",
            {"spec": {"hard": {"pods": "1"}}},
            {"spec__scopes": ["BestEffort"]},
            'spec.scopes: Invalid value: ["BestEffort"]: field is immutable',
        ),
        (
            "runtimeclasses",
            {"handler": "a"},
            {"handler": "b"},
            'handler: Invalid value: "b": field is immutable',
        ),
        (
            "storageclasses",
            {"provisioner": "a/b"},
            {"provisioner": "c/d"},
            'provisioner: Invalid value: "c/d": field is immutable',
        ),
        (
            "storageclasses",
            {"provisioner": "a/b"},
            {"parameters": {"a": "b"}},
            'parameters: Invalid value: {"a":"b"}: field is immutable',
        ),
        (
            "persistentvolumeclaims",
            {"spec": CLAIM},
            {"spec__volumeMode": "Block"},
            '\nvolumeMode: Invalid value: "Block": field is immutable',
        ),
    ],
)
def test_updates(plural: str, content: Object, changes: Object, expected: str) -> None:
    _, found = update(plural, new(plural, **content), **changes)
    assert expected in found if expected else not found


def test_counts_that_a_status_leaves_out_are_zero() -> None:
    found = judged(validate_replica_status, {"status": {"replicas": -1}})
    assert [f"{error.field} {error.message}" for error in found] == [
        "status.replicas Invalid value: -1: must be greater than or equal to 0",
        *(
            f"status.{count} Invalid value: 0: cannot be greater than status.replicas"
            for count in ("fullyLabeledReplicas", "readyReplicas", "availableReplicas")
        ),
    ]
