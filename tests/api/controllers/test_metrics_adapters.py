"""Autoscalers that go by the custom and external metrics APIs, behind which is an adapter of the
test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.api.conftest import Api
from tests.api.test_connect import server_tls
from tests.api.test_connect import serving as serve

from navarch.client import Client, Object

from .autoscalers import (
    CPU,
    PODS,
    SERVICES,
    event,
    make_hpa,
    make_set,
    replicas,
    resource,
    says,
    until,
)
from .conftest import eventually


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
