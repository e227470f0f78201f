"""Autoscalers over pods of a simulated node, whose use the test writes into annotations."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest
from tests.api.conftest import Api

from navarch.api.types.core_v1 import Event
from navarch.client import Client, Object

from .autoscalers import (
    CPU,
    HPAS,
    PODS,
    conditions,
    event,
    make_hpa,
    make_set,
    replicas,
    resource,
    says,
    until,
)
from .conftest import eventually


async def test_up_and_down_again(cluster: Api, client: Client) -> None:
    await make_set(cluster, 1, cpu="250m")
    await make_hpa(cluster, resource("cpu", averageUtilization=100))
    status = await until(cluster, lambda found: found.get("currentReplicas") == 4)
    assert await replicas(cluster) == 4
    assert await event(client, "SuccessfulRescale") == (
        "New size: 3; reason: cpu resource utilization (percentage of request) above target"
    )
    assert status["lastScaleTime"]
    status = await until(cluster, says("ScalingLimited", "True", "TooManyReplicas"))
    assert conditions(status) == {
        "AbleToScale": ("True", "ReadyForNewScale", "recommended size matches current size"),
        "ScalingActive": (
            "True",
            "ValidMetricFound",
            "the HPA was able to successfully calculate a replica count from cpu resource "
            "utilization (percentage of request)",
        ),
        "ScalingLimited": (
            "True",
            "TooManyReplicas",
            "the desired replica count is more than the maximum replica count",
        ),
    }
    current = {"averageUtilization": 250, "averageValue": "250m"}
    assert status["currentMetrics"] == [
        {"type": "Resource", "resource": {"name": "cpu", "current": current}}
    ]
    for pod in (await cluster.get(PODS)).ok()["items"]:
        calm = {"metadata": {"annotations": {CPU: "10m"}}}
        (await cluster.patch(f"{PODS}/{pod['metadata']['name']}", calm)).ok()
    await until(cluster, lambda found: found.get("currentReplicas") == 1)
    assert await replicas(cluster) == 1
    figures = generate_latest().decode()
    prefix = "horizontal_pod_autoscaler_controller_"
    for line in (
        'desired_replicas{hpa_name="hpa",namespace="default"} 1.0',
        'metric_computation_total{action="scale_down",error="none",metric_type="Resource"}',
        'reconciliations_total{action="scale_up",error="none"}',
        'reconciliation_duration_seconds_count{action="scale_down",error="none"}',
    ):
        assert prefix + line in figures
    events = [each.message for each in (await client.resource(Event).list("default")).items]
    assert "New size: 1; reason: All metrics below target" in events


@pytest.mark.parametrize(
    ("metric", "size", "name", "current"),
    [
        pytest.param(
            resource("memory", averageValue="8Mi"),
            2,
            "memory resource",
            {"averageValue": "16Mi"},
            id="an average of memory",
        ),
        pytest.param(
            resource("cpu", "main", averageUtilization=100),
            3,
            "cpu container resource utilization (percentage of request)",
            {"averageUtilization": 250, "averageValue": "250m"},
            id="one container",
        ),
    ],
)
async def test_other_uses(
    cluster: Api, client: Client, metric: Object, size: int, name: str, current: Object
) -> None:
    await make_set(cluster, 1, cpu="250m", memory="16Mi")
    await make_hpa(cluster, metric)
    text = f"New size: {size}; reason: {name} above target"
    assert await event(client, "SuccessfulRescale") == text
    status = await until(cluster, lambda found: found.get("currentMetrics"))
    [shown] = status["currentMetrics"]
    source = shown["type"][0].lower() + shown["type"][1:]
    assert shown[source]["current"] == current


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [
        (6, {}, "New size: 4; reason: Current number of replicas above Spec.MaxReplicas"),
        (1, {"minReplicas": 2}, "New size: 2; reason: Current number of replicas below"),
    ],
)
async def test_limits_need_no_metrics(
    cluster: Api, client: Client, size: int, limits: Object, reason: str
) -> None:
    await make_set(cluster, size)
    await make_hpa(cluster, **limits)
    assert (await event(client, "SuccessfulRescale")).startswith(reason)


async def test_a_target_at_zero_is_left_there(cluster: Api) -> None:
    await make_set(cluster, 0)
    await make_hpa(cluster, minReplicas=2)
    status = await until(cluster, says("ScalingActive", "False", "ScalingDisabled"))
    text = "scaling is disabled since the replica count of the target is zero"
    assert conditions(status)["ScalingActive"][2] == text
    assert await replicas(cluster) == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("apps/v1", "ReplicaSet", "gone"), 'replicasets.apps "gone" not found'),
        (("example.com/v1", "Thing", "x"), 'no matches for kind "Thing" in group "example.com"'),
        (
            ("v1", "ConfigMap", "x"),
            "could not find scale subresource for /v1, Resource=configmaps in discovery "
            "information",
        ),
    ],
)
async def test_no_scale(
    cluster: Api, client: Client, target: tuple[str, str, str], message: str
) -> None:
    names = dict(zip(("apiVersion", "kind", "name"), target, strict=True))
    if target[0] == "v1":
        # Nobody may make it so any more, but it may have been made before that was checked.
        names["apiVersion"] = "/v1"
    await make_hpa(cluster, scaleTargetRef=names)
    status = await until(cluster, says("AbleToScale", "False", "FailedGetScale"))
    prefix = "the HPA controller was unable to get the target's current scale: "
    assert conditions(status)["AbleToScale"][2] == prefix + message
    assert await event(client, "FailedGetScale") == message


async def test_no_samples(cluster: Api, client: Client) -> None:
    """Of pods that request nothing there is no percentage."""
    await make_set(cluster, 1, requests={})
    await make_hpa(cluster, resource("cpu", averageUtilization=50))
    status = await until(
        cluster, lambda found: "missing" in conditions(found).get("ScalingActive", ("",) * 3)[2]
    )
    pod = (await cluster.get(PODS)).ok()["items"][0]["metadata"]["name"]
    why = f"failed to get cpu utilization: missing request for cpu in container main of Pod {pod}"
    assert conditions(status)["ScalingActive"] == (
        "False",
        "FailedGetResourceMetric",
        f"the HPA was unable to compute the replica count: {why}",
    )
    assert status["currentReplicas"] == 1

    async def is_told() -> bool:
        events = (await client.resource(Event).list("default")).items
        text = (
            "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource "
            f"metric value: {why}"
        )
        return ("FailedComputeMetricsReplicas", text) in [(e.reason, e.message) for e in events]

    await eventually(is_told, "the event")


async def test_two_for_the_same_pods_do_nothing(cluster: Api) -> None:
    await make_set(cluster, 1, cpu="250m")
    metric = resource("cpu", averageUtilization=1000)
    await make_hpa(cluster, metric, name="a")
    await until(cluster, says("ScalingActive", "True", "ValidMetricFound"), "a")
    await make_hpa(cluster, metric, name="b")
    text = "pods by selector app=web are controlled by multiple HPAs: [{a default} {b default}]"
    for name in ("a", "b"):
        status = await until(cluster, says("ScalingActive", "False", "AmbiguousSelector"), name)
        assert conditions(status)["ScalingActive"][2] == text
    (await cluster.delete(f"{HPAS}/a")).ok()
    await until(cluster, says("ScalingActive", "True", "ValidMetricFound"), "b")


async def test_rates_and_windows(cluster: Api) -> None:
    """One pod an hour and no way down."""
    await make_set(cluster, 1, cpu="900m")
    slow = {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1800}]}
    behavior = {"scaleUp": slow, "scaleDown": {"selectPolicy": "Disabled"}}
    await make_hpa(cluster, resource("cpu", averageUtilization=100), behavior=behavior)
    await until(cluster, says("ScalingLimited", "True", "ScaleUpLimit"))
    await until(cluster, lambda found: found.get("currentReplicas") == 2)
    for pod in (await cluster.get(PODS)).ok()["items"]:
        calm = {"metadata": {"annotations": {CPU: "1m"}}}
        (await cluster.patch(f"{PODS}/{pod['metadata']['name']}", calm)).ok()
    await until(cluster, says("ScalingLimited", "True", "ScaleDownLimit"))
    assert await replicas(cluster) == 2


async def test_tolerances(cluster: Api) -> None:
    await make_set(cluster, 1, cpu="130m")
    behavior = {"scaleUp": {"tolerance": "0.5"}}
    await make_hpa(cluster, resource("cpu", averageUtilization=100), behavior=behavior)
    await until(cluster, says("ScalingActive", "True", "ValidMetricFound"))
    assert await replicas(cluster) == 1
    patch = {"spec": {"behavior": {"scaleUp": {"tolerance": "0.2"}}}}
    (await cluster.patch(f"{HPAS}/hpa", patch)).ok()
    await until(cluster, lambda found: found.get("currentReplicas", 0) > 1)


async def test_the_old_version_means_four_fifths_of_a_core(cluster: Api) -> None:
    await make_set(cluster, 1, cpu="250m")
    target = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"}
    body = {"metadata": {"name": "hpa"}, "spec": {"scaleTargetRef": target, "maxReplicas": 3}}
    (await cluster.post(HPAS.replace("/v2/", "/v1/"), body)).ok(201)
    await until(cluster, lambda found: found.get("currentReplicas") == 3)


# ---- custom resources as targets

CRONTAB = {
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
            }
        ],
    },
}


async def test_custom_resources_are_scaled(cluster: Api) -> None:
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    (await cluster.post(definitions, CRONTAB)).ok(201)
    things = "/apis/example.com/v1/namespaces/default/things"

    async def made() -> Any:
        body = {"metadata": {"name": "t"}, "spec": {"replicas": 1}}
        head = {"apiVersion": "example.com/v1", "kind": "Thing"}
        return (await cluster.post(things, {**head, **body})).ok(201)

    await eventually(made, "the thing")
    await make_hpa(
        cluster, scaleTargetRef={"apiVersion": "example.com/v1", "kind": "Thing", "name": "t"}
    )
    status = await until(cluster, says("ScalingActive", "False", "InvalidSelector"))
    assert conditions(status)["ScalingActive"][2] == "the HPA target's scale is missing a selector"
    await make_set(cluster, 1, cpu="250m")
    (await cluster.patch(f"{things}/t/status", {"status": {"selector": "app=web"}})).ok()
    await until(cluster, lambda found: found.get("desiredReplicas") == 4)
    assert (await cluster.get(f"{things}/t")).ok()["spec"]["replicas"] == 4
