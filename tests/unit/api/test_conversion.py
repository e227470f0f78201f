"""Conversions: a round trip loses nothing, and hostile annotations do no harm."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from navarch.api.conversion import conversions
from navarch.api.kinds import KINDS, Kind, kind_by_name
from navarch.api.schema.decode import FieldValidation, decode_object
from navarch.api.strategies.control import ResourceClaimStrategy


def row(group: str, version: str, name: str) -> Kind:
    found = kind_by_name(group, version, name)
    assert found is not None
    return found


def canonical(kind: Kind, body: dict[str, Any]) -> Any:
    return decode_object(
        kind, json.dumps(body).encode(), "application/json", FieldValidation.STRICT
    )[0]


def to_stored(kind: Kind, obj: Any) -> Any:
    _, convert = conversions(kind.stored_kind, kind)
    assert convert is not None
    return convert(copy.deepcopy(obj))


def from_stored(kind: Kind, obj: Any) -> Any:
    convert, _ = conversions(kind.stored_kind, kind)
    assert convert is not None
    return convert(copy.deepcopy(obj))


HPA_V1 = row("autoscaling", "v1", "HorizontalPodAutoscaler")
HPA_V2 = row("autoscaling", "v2", "HorizontalPodAutoscaler")
EVENT = row("events.k8s.io", "v1", "Event")
CLAIM = row("resource.k8s.io", "v1beta1", "ResourceClaim")
TEMPLATE = row("resource.k8s.io", "v1beta1", "ResourceClaimTemplate")
SLICE = row("resource.k8s.io", "v1beta1", "ResourceSlice")

TARGET = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
METRIC = {"name": "hits", "selector": {"matchLabels": {"a": "b"}}}


def cpu(percent: int, member: str = "target") -> dict[str, Any]:
    given: dict[str, Any] = {"averageUtilization": percent}
    if member == "target":
        given["type"] = "Utilization"
    return {"type": "Resource", "resource": {"name": "cpu", member: given}}


SPEC_METRICS = [
    {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    },
    {
        "type": "ContainerResource",
        "containerResource": {
            "name": "cpu",
            "container": "c",
            "target": {"type": "Utilization", "averageUtilization": 40},
        },
    },
    {
        "type": "Pods",
        "pods": {"metric": METRIC, "target": {"type": "AverageValue", "averageValue": "5"}},
    },
    {
        "type": "Object",
        "object": {
            "metric": METRIC,
            "describedObject": TARGET,
            "target": {"type": "Value", "value": "7"},
        },
    },
    {
        "type": "Object",
        "object": {
            "metric": METRIC,
            "describedObject": TARGET,
            "target": {"type": "AverageValue", "averageValue": "8"},
        },
    },
    {
        "type": "External",
        "external": {"metric": METRIC, "target": {"type": "Value", "value": "9"}},
    },
    {
        "type": "External",
        "external": {"metric": METRIC, "target": {"type": "AverageValue", "averageValue": "9"}},
    },
]
FULL_V2 = canonical(
    HPA_V2,
    {
        "metadata": {"name": "x", "annotations": {"mine": "1"}},
        "spec": {
            "scaleTargetRef": TARGET,
            "minReplicas": 2,
            "maxReplicas": 5,
            "metrics": [*SPEC_METRICS, cpu(60)],
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": 0,
                    "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}],
                }
            },
        },
        "status": {
            "currentReplicas": 3,
            "desiredReplicas": 4,
            "currentMetrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "current": {"averageUtilization": 50, "averageValue": "100m"},
                    },
                },
                {"type": "Pods", "pods": {"metric": METRIC, "current": {"averageValue": "3"}}},
            ],
            "conditions": [
                {
                    "type": "AbleToScale",
                    "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
        },
    },
)


def test_an_autoscaler_survives_the_older_version() -> None:
    old = from_stored(HPA_V1, FULL_V2)
    assert old["apiVersion"] == "autoscaling/v1"
    assert old["spec"] == {
        "scaleTargetRef": TARGET,
        "minReplicas": 2,
        "maxReplicas": 5,
        "targetCPUUtilizationPercentage": 60,
    }
    assert old["status"] == {
        "currentReplicas": 3,
        "desiredReplicas": 4,
        "currentCPUUtilizationPercentage": 50,
    }
    assert canonical(HPA_V1, old) == old
    kept = old["metadata"]["annotations"]
    metrics = json.loads(kept["autoscaling.alpha.kubernetes.io/metrics"])
    assert metrics[0] == {
        "type": "Resource",
        "resource": {"name": "memory", "targetAverageValue": "1Gi"},
    }
    assert metrics[4]["object"]["targetValue"] == "0"
    assert to_stored(HPA_V1, old) == FULL_V2


def test_an_older_autoscaler_gets_the_cpu_target_the_controller_used_to_assume() -> None:
    plain = canonical(HPA_V1, {"spec": {"scaleTargetRef": TARGET, "maxReplicas": 3}})
    assert to_stored(HPA_V1, plain)["spec"]["metrics"] == [cpu(80)]
    body = {"status": {"currentCPUUtilizationPercentage": 33}}
    stored = to_stored(HPA_V1, canonical(HPA_V1, body))
    assert stored["status"]["currentMetrics"] == [cpu(33, "current")]
    assert from_stored(HPA_V1, stored)["spec"]["targetCPUUtilizationPercentage"] == 80


@pytest.mark.parametrize("name", ["metrics", "current-metrics", "conditions", "behavior"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        "[5]",
        '[{"resource": 5}]',
        '[{"object": {"target": 1}}]',
        "[" * 100_000,
        "null",
    ],
    ids=["empty", "cut", "number", "numbers", "scalar", "nested", "deep", "null"],
)
def test_annotations_that_do_not_fit_are_dropped(name: str, text: str) -> None:
    annotations = {f"autoscaling.alpha.kubernetes.io/{name}": text}
    old = canonical(HPA_V1, {"metadata": {"annotations": annotations}})
    stored = to_stored(HPA_V1, old)
    assert "annotations" not in stored["metadata"]
    assert stored["spec"]["metrics"] == [cpu(80)]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(
            EVENT,
            {
                "regarding": {"kind": "Pod", "name": "p"},
                "note": "text",
                "reason": "Why",
                "reportingController": "me",
                "deprecatedCount": 3,
                "deprecatedSource": {"component": "c"},
                "eventTime": "2026-01-01T00:00:00.000001Z",
                "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000001Z"},
            },
            id="event",
        ),
        pytest.param(
            CLAIM,
            {
                "spec": {
                    "devices": {
                        "requests": [
                            {"name": "a", "deviceClassName": "gpu", "count": 2},
                            {"name": "b", "firstAvailable": [{"name": "x"}]},
                        ]
                    }
                }
            },
            id="claim",
        ),
        pytest.param(
            TEMPLATE,
            {"spec": {"spec": {"devices": {"requests": [{"name": "a", "count": 2}]}}}},
            id="template",
        ),
        pytest.param(
            SLICE,
            {
                "spec": {
                    "driver": "d",
                    "nodeName": "n",
                    "devices": [{"name": "x", "basic": {"capacity": {"m": {"value": "1Gi"}}}}],
                }
            },
            id="slice",
        ),
    ],
)
def test_round_trips(kind: Kind, body: dict[str, Any]) -> None:
    obj = canonical(kind, {"metadata": {"name": "x"}, **body})
    stored = to_stored(kind, obj)
    assert stored["apiVersion"] == kind.stored_kind.api_version
    assert canonical(kind.stored_kind, stored) == stored
    assert from_stored(kind, stored) == obj


def test_stored_forms() -> None:
    event = to_stored(EVENT, canonical(EVENT, {"note": "text", "regarding": {"name": "p"}}))
    assert (event["message"], event["involvedObject"]) == ("text", {"name": "p"})
    request = {"name": "a", "deviceClassName": "gpu"}
    claim = to_stored(CLAIM, canonical(CLAIM, {"spec": {"devices": {"requests": [request]}}}))
    assert claim["spec"]["devices"]["requests"] == [
        {"name": "a", "exactly": {"deviceClassName": "gpu"}}
    ]
    choice = {"name": "b", "firstAvailable": [{"name": "c", "deviceClassName": "gpu"}]}
    sent = {"spec": {"devices": {"requests": [{**choice, "deviceClassName": ""}]}}}
    ResourceClaimStrategy().defaults(sent)
    assert ResourceClaimStrategy().validate(sent) == []
    assert to_stored(CLAIM, canonical(CLAIM, sent))["spec"]["devices"]["requests"] == [
        {
            "name": "b",
            "firstAvailable": [
                {
                    "name": "c",
                    "deviceClassName": "gpu",
                    "allocationMode": "ExactCount",
                    "count": 1,
                }
            ],
        }
    ]


def test_all_other_versions_differ_in_name_alone() -> None:
    from navarch.api.schema.facts import schema_for

    for kind in KINDS:
        stored = kind.stored_kind
        if stored is not kind and conversions(stored, kind) == (None, None):
            one, other = (schema_for(*each.gvk).fields for each in (kind, stored))
            assert one.keys() == other.keys()
            for name in one.keys() - {"metadata"}:
                assert one[name].type.fields.keys() == other[name].type.fields.keys()
