"""The defaults of pods."""

from __future__ import annotations

import pytest
from tests.unit.api.validation.pods import STRATEGY, Object, container, errors_of, pod


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("host:5000/web", "Always"),
        ("web:1", "IfNotPresent"),
        ("Web", "IfNotPresent"),
        ("Host.example/web", "Always"),
        ("host:5000/web:1", "IfNotPresent"),
        ("web@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert (
        pod(containers=[container(image=image)])["spec"]["containers"][0]["imagePullPolicy"]
        == policy
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1", "memory": "1Gi"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"limits": {"cpu": "0"}}], "BestEffort"),
    ],
)
def test_quality_of_service(resources: list[Object], expected: str) -> None:
    containers = [
        container(name=f"c{index}", resources=each) for index, each in enumerate(resources)
    ]
    obj = pod(containers=containers)
    assert obj["status"] == {"phase": "Pending", "qosClass": expected}


def test_defaults() -> None:
    obj = pod(
        containers=[
            container(
                ports=[{"containerPort": 80}],
                resources={"limits": {"cpu": "1"}},
                env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                readinessProbe={"httpGet": {"port": 80}},
            )
        ],
        volumes=[{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}],
        hostNetwork=True,
        serviceAccount="robot",
    )
    spec = obj["spec"]
    (only,) = spec["containers"]
    assert only["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert only["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}
    assert only["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert only["readinessProbe"] == {
        "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert only["terminationMessagePath"] == "/dev/termination-log"
    assert spec["volumes"][0] == {"name": "v", "emptyDir": {}}
    assert spec["volumes"][1]["configMap"]["defaultMode"] == 420
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "robot"
    expected = {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True,
    }
    assert {key: spec[key] for key in expected} == expected
    assert obj["metadata"]["generation"] == 1


@pytest.mark.parametrize(("given", "kept"), [(-1, 1), (0, 0), (7, 7)])
def test_a_negative_grace_period_is_a_second(given: int, kept: int) -> None:
    assert pod(terminationGracePeriodSeconds=given)["spec"]["terminationGracePeriodSeconds"] == kept


def test_gates_and_label_keys() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {},
        "matchLabelKeys": ["app"],
    }
    obj = pod(schedulingGates=[{"name": "g"}], topologySpreadConstraints=[constraint])
    (condition,) = obj["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulingGated")
    obj["metadata"] |= {"labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"}
    for _ in ("as it was sent", "as a webhook changed it"):
        STRATEGY.prepare_create(obj)
    (condition,) = obj["status"]["conditions"]
    assert condition["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert obj["spec"]["topologySpreadConstraints"][0]["labelSelector"] == {
        "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]
    }
    assert errors_of(obj) == []


def test_selectable_fields() -> None:
    obj = pod(nodeName="n", hostNetwork=True)
    obj["status"]["podIPs"] = [{"ip": "10.0.0.1"}]
    fields = STRATEGY.selectable_fields(obj)
    assert fields["spec.nodeName"] == "n"
    assert fields["spec.hostNetwork"] == "true"
    assert fields["status.podIP"] == "10.0.0.1"
    assert fields["status.phase"] == "Pending"
    assert fields["spec.restartPolicy"] == "Always"
