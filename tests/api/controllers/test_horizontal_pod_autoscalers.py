"""Autoscalers: over pods of a simulated node, whose use the test writes into annotations, and with
an adapter of its own behind the custom and external metrics APIs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import generate_latest
from tests.api.conftest import Api
from tests.api.test_connect import server_tls
from tests.api.test_connect import serving as serve

from navarch.api.types.core_v1 import Event
from navarch.client import Client, Object

from .conftest import Kubelet, eventually, running

HPAS = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
SETS = "/apis/apps/v1/namespaces/default/replicasets"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
CPU = "simulated.navarch.dev/cpu"
MEMORY = "simulated.navarch.dev/memory"
QUICK = {
    "horizontal_pod_autoscaler_sync_period": "100ms",
    "horizontal_pod_autoscaler_cpu_initialization_period": "0s",
    "horizontal_pod_autoscaler_downscale_stabilization": "0s",
}


@pytest.fixture
async def cluster(api: Api, client: Client) -> AsyncIterator[Api]:
    """ReplicaSets and autoscalers at work, and a node that pods can be written on."""
    (await api.post("/api/v1/nodes", {"metadata": {"name": "sim"}})).ok(201)
    info = {"nodeInfo": {"containerRuntimeVersion": "simulated://1"}}
    (await api.patch("/api/v1/nodes/sim/status", {"status": info})).ok()
    names = ("horizontalpodautoscaling", "replicaset")
    async with Kubelet(client), running(client, *names, **QUICK):
        yield api


async def make_set(
    api: Api, replicas: int = 1, name: str = "web", requests: Any = None, **use: str
) -> None:
    """Pods that request a tenth of a core and use what `cpu` and `memory` say."""
    labels = {"app": name}
    keys = {"cpu": CPU, "memory": MEMORY}
    annotations = {keys[key]: value for key, value in use.items()}
    resources = {"requests": {"cpu": "100m"} if requests is None else requests}
    container = {"name": "main", "image": "registry.example/i", "resources": resources}
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"nodeName": "sim", "containers": [container], "terminationGracePeriodSeconds": 0},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    (await api.post(SETS, {"metadata": {"name": name}, "spec": spec})).ok(201)


async def make_hpa(api: Api, *metrics: Object, name: str = "hpa", **spec: Any) -> None:
    target = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"}
    body = {"scaleTargetRef": target, "maxReplicas": 4, "metrics": list(metrics), **spec}
    (await api.post(HPAS, {"metadata": {"name": name}, "spec": body})).ok(201)


def resource(name: str, container: str = "", **target: Any) -> Object:
    kind = "Utilization" if "averageUtilization" in target else "AverageValue"
    source: Object = {"name": name, "target": {"type": kind, **target}}
    if container:
        return {
            "type": "ContainerResource",
            "containerResource": {**source, "container": container},
        }
    return {"type": "Resource", "resource": source}


async def until(api: Api, check: Callable[[Object], Any], name: str = "hpa") -> Object:
    """The autoscaler's status, once it is as wanted."""

    async def is_so() -> Object:
        status: Object = (await api.get(f"{HPAS}/{name}")).ok().get("status") or {}
        assert check(status), status
        return status

    return await eventually(is_so, "the status")


def conditions(status: Object) -> dict[str, tuple[str, str, str]]:
    return {
        each["type"]: (each["status"], each["reason"], each["message"])
        for each in status.get("conditions") or ()
    }


def says(kind: str, status: str, reason: str) -> Callable[[Object], bool]:
    return lambda found: conditions(found).get(kind, ())[:2] == (status, reason)


async def event(client: Client, reason: str) -> str:
    """The message of the first event of that reason."""

    async def found() -> str:
        events = await client.resource(Event).list("default")
        return next((each.message for each in events.items if each.reason == reason), "")

    return await eventually(found, f"an event {reason}")


async def replicas(api: Api) -> int:
    return int((await api.get(f"{SETS}/web")).ok()["spec"]["replicas"])


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


# ---- adapters


class Adapter:
    """Answers with `values`, by path; remembers what it was asked."""

    def __init__(self) -> None:
        self.values: dict[str, list[Object]] = {}
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.versions: tuple[str, ...] = ()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        for version in self.versions:
            if request.path == f"/apis/{version}":
                body = {"kind": "APIResourceList", "groupVersion": version, "resources": []}
                return web.json_response(body)
        self.asked.append((request.path, dict(request.query)))
        items = self.values.get(request.path.removeprefix("/apis/"))
        if items is None:
            return web.Response(status=404, text="404 page not found")
        return web.json_response({"kind": "MetricValueList", "items": items})


@asynccontextmanager
async def adapting(api: Api, directory: Path, *versions: str) -> AsyncIterator[Adapter]:
    """An adapter, registered for these group versions."""
    adapter = Adapter()
    adapter.versions = versions
    async with serve(adapter, server_tls(directory)) as port:  # type: ignore[arg-type]
        spec: Object = {"type": "ExternalName", "externalName": "127.0.0.1"}
        path = "/api/v1/namespaces/default/services"
        (await api.post(path, {"metadata": {"name": "adapter"}, "spec": spec})).ok(201)
        for each in versions:
            group, version = each.split("/")
            spec = {
                "group": group,
                "version": version,
                "service": {"namespace": "default", "name": "adapter", "port": port},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            }
            body = {"metadata": {"name": f"{version}.{group}"}, "spec": spec}
            (await api.post(SERVICES, body)).ok(201)

            async def is_there(path: str = f"/apis/{each}") -> bool:
                return (await api.get(path)).status == 200

            await eventually(is_there, each)
        yield adapter


def value(amount: str, name: str = "", **fields: Any) -> Object:
    described = {"kind": "Pod", "name": name}
    time = "2026-01-01T00:00:00Z"
    return {"describedObject": described, "timestamp": time, "value": amount} | fields


def aim(**target: str) -> Object:
    return {"type": "Value" if "value" in target else "AverageValue", **target}


QUEUE = {"name": "queue", "selector": {"matchLabels": {"shard": "1"}}}
QUEUE_TEXT = (
    "&LabelSelector{MatchLabels:map[string]string{shard: 1,},"
    "MatchExpressions:[]LabelSelectorRequirement{},}"
)
INGRESS = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"}
SPACE = {"apiVersion": "v1", "kind": "Namespace", "name": "default"}
CUSTOM = "custom.metrics.k8s.io/v1beta2/namespaces/default"
EXTERNAL = "external.metrics.k8s.io/v1beta1/namespaces/default"


@pytest.mark.parametrize(
    ("metric", "path", "values", "query", "name", "current"),
    [
        pytest.param(
            {
                "type": "Object",
                "object": {"describedObject": INGRESS, "metric": QUEUE, "target": aim(value="10")},
            },
            f"{CUSTOM}/ingresses.networking.k8s.io/front/queue",
            [value("30")],
            {"metricLabelSelector": "shard=1"},
            "Ingress metric queue",
            {"value": "30"},
            id="an object",
        ),
        pytest.param(
            {
                "type": "Object",
                "object": {
                    "describedObject": SPACE,
                    "metric": {"name": "queue"},
                    "target": aim(averageValue="10"),
                },
            },
            f"{CUSTOM}/metrics/queue",
            [value("30")],
            {},
            "external metric queue(nil)",
            {"averageValue": "30"},
            id="the namespace",
        ),
        pytest.param(
            {"type": "External", "external": {"metric": QUEUE, "target": aim(averageValue="10")}},
            f"{EXTERNAL}/queue",
            [value("10"), value("19500m")],
            {"labelSelector": "shard=1"},
            f"external metric queue({QUEUE_TEXT})",
            {"averageValue": "29500m"},
            id="external, for each pod",
        ),
        pytest.param(
            {"type": "External", "external": {"metric": QUEUE, "target": aim(value="10")}},
            f"{EXTERNAL}/queue",
            [value("30")],
            {"labelSelector": "shard=1"},
            f"external metric queue({QUEUE_TEXT})",
            {"value": "30"},
            id="external, for all",
        ),
    ],
)
async def test_adapters(
    cluster: Api,
    client: Client,
    tmp_path: Path,
    metric: Object,
    path: str,
    values: list[Object],
    query: Mapping[str, str],
    name: str,
    current: Object,
) -> None:
    versions = ("custom.metrics.k8s.io/v1beta2", "external.metrics.k8s.io/v1beta1")
    async with adapting(cluster, tmp_path, *versions) as adapter:
        adapter.values[path] = values
        await make_set(cluster, 1)
        await make_hpa(cluster, metric, maxReplicas=3)
        text = f"New size: 3; reason: {name} above target"
        assert await event(client, "SuccessfulRescale") == text
        assert (f"/apis/{path}", query) in adapter.asked
        status = await until(cluster, lambda found: found.get("currentMetrics"))
        [shown] = status["currentMetrics"]
        found = shown[shown["type"].lower()]
        assert found["metric"]["name"] == "queue"
        if current.get("averageValue") != "30":
            assert found["current"].keys() == current.keys()


@pytest.mark.parametrize("version", ["v1beta2", "v1beta1"])
async def test_metrics_of_pods(cluster: Api, client: Client, tmp_path: Path, version: str) -> None:
    async with adapting(cluster, tmp_path, f"custom.metrics.k8s.io/{version}") as adapter:
        await make_set(cluster, 2)

        async def names() -> list[str]:
            found = [p["metadata"]["name"] for p in (await cluster.get(PODS)).ok()["items"]]
            assert len(found) == 2
            return found

        first, second = await eventually(names)
        path = f"custom.metrics.k8s.io/{version}/namespaces/default/pods/*/requests"
        adapter.values[path] = [value("15", first, window=10), value("15", second)]
        source = {"metric": {"name": "requests"}, "target": aim(averageValue="10")}
        await make_hpa(cluster, {"type": "Pods", "pods": source}, maxReplicas=3)
        text = "New size: 3; reason: pods metric requests above target"
        assert await event(client, "SuccessfulRescale") == text
        assert (f"/apis/{path}", {"labelSelector": "app=web"}) in adapter.asked


@pytest.mark.parametrize(
    ("metric", "reason", "message"),
    [
        pytest.param(
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": aim(averageValue="1")}},
            "FailedGetPodsMetric",
            "unable to get metric x: unable to fetch metrics from custom metrics API: "
            "no custom metrics API (custom.metrics.k8s.io) registered",
            id="no adapter",
        ),
        pytest.param(
            {
                "type": "External",
                "external": {"metric": {"name": "x"}, "target": aim(value="1")},
            },
            "FailedGetExternalMetric",
            "unable to get external metric default/x/nil: unable to fetch metrics from external "
            "metrics API: the server could not find the requested resource "
            "(get x.external.metrics.k8s.io)",
            id="no external adapter",
        ),
        pytest.param(
            {
                "type": "Object",
                "object": {
                    "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
                    "metric": {"name": "x"},
                    "target": aim(value="1"),
                },
            },
            "FailedGetObjectMetric",
            "unable to get metric x: unable to fetch metrics from custom metrics API: "
            "no custom metrics API (custom.metrics.k8s.io) registered on Service default/s",
            id="no adapter for objects",
        ),
    ],
)
async def test_adapters_that_are_not_there(
    cluster: Api, client: Client, metric: Object, reason: str, message: str
) -> None:
    await make_set(cluster, 1)
    await make_hpa(cluster, metric)
    await until(cluster, says("ScalingActive", "False", reason))
    assert await event(client, reason) == message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "no metrics returned from custom metrics API"),
        ([value("much", "p")], "quantities must match the regular expression"),
        ([value("1", "p", windowSeconds=10**30)], "is no time that a metric can be about"),
        ([value("1", "p", timestamp="yesterday")], "cannot parse"),
        ([{"describedObject": 7}], "couldn't read version-specific list"),
    ],
)
async def test_adapters_that_talk_nonsense(
    cluster: Api, client: Client, tmp_path: Path, answer: list[Object], message: str
) -> None:
    async with adapting(cluster, tmp_path, "custom.metrics.k8s.io/v1beta2") as adapter:
        await make_set(cluster, 1)
        adapter.values[f"{CUSTOM}/pods/*/requests"] = answer
        source = {"metric": {"name": "requests"}, "target": aim(averageValue="10")}
        await make_hpa(cluster, {"type": "Pods", "pods": source})
        await until(cluster, says("ScalingActive", "False", "FailedGetPodsMetric"))
        assert message in await event(client, "FailedGetPodsMetric")


async def test_a_metric_that_fails_never_scales_down(cluster: Api, tmp_path: Path) -> None:
    """The others scale up nevertheless."""
    async with adapting(cluster, tmp_path, "external.metrics.k8s.io/v1beta1") as adapter:
        await make_set(cluster, 2, cpu="10m")
        external = {"metric": {"name": "queue"}, "target": aim(value="10")}
        await make_hpa(
            cluster,
            {"type": "External", "external": external},
            resource("cpu", averageUtilization=100),
        )
        await until(cluster, says("ScalingActive", "False", "FailedGetExternalMetric"))

        def is_half_told(found: Object) -> bool:
            types = [each["type"] for each in found.get("currentMetrics") or ()]
            return types == ["", "Resource"]

        await until(cluster, is_half_told)
        assert await replicas(cluster) == 2
        adapter.values[f"{EXTERNAL}/queue"] = [value("1")]
        await until(cluster, lambda found: found.get("currentReplicas") == 1)
        del adapter.values[f"{EXTERNAL}/queue"]
        for pod in (await cluster.get(PODS)).ok()["items"]:
            busy = {"metadata": {"annotations": {CPU: "200m"}}}
            await cluster.patch(f"{PODS}/{pod['metadata']['name']}", busy)
        await until(cluster, lambda found: found.get("currentReplicas", 0) >= 2)
