"""All that is said about one object, in upstream's words: no complaint more, none less."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.samples import (
    CLAIM,
    KIND_OF,
    Object,
    complaints,
    new,
    template,
    update,
)

from navarch.api.strategies.registry import strategy_for

MISMATCH = "Invalid value: null: `selector` does not match template `labels`"
NO_CONTAINERS = "spec.template.spec.containers: Required value"
ODD = {"matchExpressions": [{"key": "app", "operator": "Likes"}]}
ODD_OPERATOR = (
    'spec.selector.matchExpressions[0].operator: Invalid value: "Likes": '
    "not a valid selector operator"
)
SHOWN_ODD = 'spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Likes"}]}'
OTHER_NAMESPACE = 'involvedObject.namespace: Invalid value: "": does not match event.namespace'
NEEDS_INDEXES = "Invalid value: 1: requires indexed completion mode"
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
EVENT_TIME = "2026-01-01T00:00:00.000000Z"
DETAILED = {
    "eventTime": EVENT_TIME,
    "reportingInstance": "a",
    "action": "b",
    "reason": "c",
}


@pytest.mark.parametrize(
    ("plural", "content", "expected"),
    [
        pytest.param(
            "deployments",
            {"spec": {}},
            [
                "spec.selector: Required value",
                f"spec.template.metadata.labels: {MISMATCH}",
                NO_CONTAINERS,
            ],
            id="deployment without a selector",
        ),
        pytest.param(
            "daemonsets",
            {"spec": {}},
            [f"spec.template.metadata.labels: {MISMATCH}", NO_CONTAINERS],
            id="daemon set without a selector",
        ),
        pytest.param(
            "deployments",
            {"spec": {"selector": ODD}},
            [ODD_OPERATOR, f"{SHOWN_ODD}: invalid label selector"],
            id="deployment whose selector means nothing",
        ),
        pytest.param(
            "statefulsets",
            {"spec": {"selector": ODD}},
            [ODD_OPERATOR, SHOWN_ODD],
            id="stateful set whose selector means nothing",
        ),
        pytest.param(
            "events",
            {"involvedObject": {"namespace": "elsewhere"}, **DETAILED},
            [
                "reportingComponent: Required value",
                'reportingComponent: Invalid value: "": name part must be non-empty',
                'reportingComponent: Invalid value: "": name part must consist of',
            ],
            id="detailed event about another namespace",
        ),
        pytest.param(
            "events",
            {"metadata": {"namespace": "kube-system"}},
            [OTHER_NAMESPACE],
            id="old event about nothing in kube-system",
        ),
        pytest.param(
            "events",
            {
                "metadata": {"namespace": "kube-system"},
                "reportingComponent": "a.b/c",
                **DETAILED,
            },
            [],
            id="detailed event about nothing in kube-system",
        ),
        pytest.param(
            "events.events.k8s.io",
            {"type": "Odd", "deprecatedCount": 3, "series": {"count": 1}},
            [
                'series.count: Invalid value: "": should be at least 2',
                "series.lastObservedTime: Required value",
                "eventTime: Required value",
                'type: Invalid value: "": has invalid value: Odd',
                'count: Invalid value: "": needs to be unset',
            ],
            id="new event with old fields",
        ),
        pytest.param(
            "jobs",
            {
                "spec": {
                    "template": template(restartPolicy="Never"),
                    "completionMode": "Odd",
                    "backoffLimitPerIndex": 1,
                }
            },
            [
                'spec.completionMode: Unsupported value: "Odd": supported values: "NonIndexed", '
                '"Indexed"'
            ],
            id="job of an unknown mode",
        ),
        pytest.param(
            "jobs",
            {"spec": {"template": template(restartPolicy="Never"), "backoffLimitPerIndex": 1}},
            [f"spec.backoffLimitPerIndex: {NEEDS_INDEXES}"],
            id="job without indexes",
        ),
        pytest.param(
            "horizontalpodautoscalers.v2",
            {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 1}},
            [
                'spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API '
                "group"
            ],
            id="autoscaler of a Deployment of no group",
        ),
        pytest.param(
            "horizontalpodautoscalers.v2",
            {
                "spec": {
                    "scaleTargetRef": {"kind": "ReplicationController", "name": "d"},
                    "maxReplicas": 1,
                }
            },
            [],
            id="autoscaler of the core group's only scalable kind",
        ),
        pytest.param(
            "horizontalpodautoscalers.v2",
            {
                "spec": {
                    "scaleTargetRef": TARGET,
                    "maxReplicas": 1,
                    "minReplicas": 0,
                    "metrics": [
                        {
                            "type": "External",
                            "external": {
                                "metric": {"name": "q"},
                                "target": {"type": "Value", "value": "1"},
                            },
                        }
                    ],
                }
            },
            ["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"],
            id="autoscaler to zero",
        ),
        pytest.param(
            "leases",
            {"spec": {"strategy": "Odd", "preferredHolder": "a"}},
            [],
            id="lease with a strategy, which is not kept",
        ),
        pytest.param(
            "persistentvolumes",
            {"spec": {"accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}},
            [
                "spec.capacity: Required value",
                'spec.capacity: Unsupported value: null: supported values: "storage"',
            ],
            id="volume of no size",
        ),
        pytest.param(
            "certificatesigningrequests",
            {"spec": {"usages": ["any"], "signerName": "a.b/c"}},
            ["spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST"],
            id="no request",
        ),
    ],
)
def test_create(plural: str, content: Object, expected: list[str]) -> None:
    said = complaints(plural, new(plural, **content)).splitlines()
    said = [each for each in said if "restartPolicy" not in each]
    assert len(said) == len(expected), said
    for complaint, start in zip(sorted(said), sorted(expected), strict=True):
        assert complaint.startswith(start)


def test_an_old_autoscaler_keeps_its_target() -> None:
    old = new(
        "horizontalpodautoscalers.v2",
        spec={"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 1},
    )
    assert update("horizontalpodautoscalers.v2", old, spec__maxReplicas=2)[1] == ""
    _, said = update("horizontalpodautoscalers.v2", old, spec__scaleTargetRef__kind="ReplicaSet")
    assert "apiVersion must specify API group" in said


def test_the_name_of_a_stateful_set_is_a_label() -> None:
    strategy = strategy_for(KIND_OF["statefulsets"])
    assert strategy.validate_name("web") == []
    assert strategy.validate_name("web.a") != []
    spec = {
        "serviceName": "a.b",
        "selector": {"matchLabels": {"app": "web"}},
        "template": template(),
        "volumeClaimTemplates": [{"spec": CLAIM}],
    }
    assert 'spec.serviceName: Invalid value: "a.b"' in complaints(
        "statefulsets", new("statefulsets", spec=spec)
    )
