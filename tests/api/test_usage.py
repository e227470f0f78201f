"""`metrics.k8s.io`: what nodes and pods use, from kubelets that are played by the test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.api.conftest import Api, secured_server
from tests.api.test_connect import Backend as Kubelet
from tests.api.test_connect import make_node, server_tls, serving

Object = dict[str, Any]

BASE = "/apis/metrics.k8s.io/v1beta1"
PODS = "/api/v1/namespaces/default/pods"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}


class Statistics(Kubelet):
    """Half a core for each container in `running`, a quarter for the node."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[tuple[str, str], int] = {}
        """Containers by pod and name, and their memory."""
        self.is_sick = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self.is_sick or request.path != "/metrics/resource":
            return web.Response(status=500, text="sick")
        now = time.time()
        stamp = int(now * 1000)
        lines = [
            f"node_cpu_usage_seconds_total {now / 4} {stamp}",
            f"node_memory_working_set_bytes 1048576 {stamp}",
        ]
        for (pod, container), memory in self.running.items():
            labels = f'{{container="{container}",namespace="default",pod="{pod}"}}'
            lines += [
                f"container_cpu_usage_seconds_total{labels} {now / 2} {stamp}",
                f"container_memory_working_set_bytes{labels} {memory} {stamp}",
                f"container_start_time_seconds{labels} 1000000",
            ]
        return web.Response(text="\n".join([*lines, ""]))


@pytest.fixture
async def kubelet(api: Api, tmp_path: Path) -> AsyncIterator[Statistics]:
    """The kubelet of the node `n1`, on which nothing runs yet."""
    backend = Statistics()
    async with serving(backend, server_tls(tmp_path)) as port:
        await make_node(api, port)
        yield backend


async def place(
    api: Api, name: str, *containers: str, node: str = "n1", phase: str = "Running", **meta: Any
) -> None:
    """A pod on the node, in that phase."""
    spec = {
        "nodeName": node,
        "containers": [{"name": each, "image": "registry.example/i"} for each in containers],
    }
    body = {"metadata": {"name": name, **meta}, "spec": spec}
    (await api.post(PODS, body)).ok(201)
    (await api.patch(f"{PODS}/{name}/status", {"status": {"phase": phase}})).ok()


def millicores(usage: Object) -> float:
    text: str = usage["cpu"]
    units = {"n": 1e-6, "u": 1e-3, "m": 1}
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text) * 1000


async def test_nodes_and_pods(api: Api, kubelet: Statistics) -> None:
    await place(api, "web", "main", "side", labels={"app": "web"})
    kubelet.running = {("web", "main"): 4096, ("web", "side"): 3 << 20}
    node = (await api.get(f"{BASE}/nodes/n1")).ok()
    assert (node["kind"], node["metadata"]["name"]) == ("NodeMetrics", "n1")
    assert millicores(node["usage"]) == pytest.approx(250, rel=0.1)
    assert node["usage"]["memory"] == "1Mi"
    assert node["window"].startswith(("1.", "1s", "999"))
    listed = (await api.get(f"{BASE}/namespaces/default/pods")).ok()
    assert (listed["kind"], listed["apiVersion"]) == ("PodMetricsList", "metrics.k8s.io/v1beta1")
    [found] = listed["items"]
    assert (found["metadata"]["name"], found["metadata"]["labels"]) == ("web", {"app": "web"})
    assert {each["name"]: each["usage"]["memory"] for each in found["containers"]} == {
        "main": "4Ki",
        "side": "3Mi",
    }
    for each in found["containers"]:
        assert millicores(each["usage"]) == pytest.approx(500, rel=0.1)
    assert [each["metadata"]["name"] for each in (await api.get(f"{BASE}/pods")).ok()["items"]]


async def test_a_question_soon_after_another_costs_nothing(api: Api, kubelet: Statistics) -> None:
    (await api.get(f"{BASE}/nodes")).ok()
    asked = len(kubelet.requests)
    await asyncio.gather(*(api.get(f"{BASE}/nodes") for _ in range(5)))
    assert (asked, len(kubelet.requests)) == (2, 2)


async def test_nobody_is_asked_while_nobody_asks(api: Api, kubelet: Statistics) -> None:
    await place(api, "web", "main")
    assert (await api.get("/apis")).status == 200
    assert not kubelet.requests


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("labelSelector=app%3Dweb", ["a"]),
        ("labelSelector=app", ["a", "b"]),
        ("fieldSelector=metadata.name%3Db", ["b"]),
        ("fieldSelector=metadata.namespace!%3Ddefault", []),
    ],
)
async def test_selectors(api: Api, kubelet: Statistics, query: str, names: list[str]) -> None:
    await place(api, "a", "main", labels={"app": "web"})
    await place(api, "b", "main", labels={"app": "other"})
    await place(api, "c", "main", labels={"app": "web"}, phase="Succeeded")
    kubelet.running = {("a", "main"): 1, ("b", "main"): 1, ("c", "main"): 1}
    found = (await api.get(f"{BASE}/namespaces/default/pods?{query}")).ok()
    assert [each["metadata"]["name"] for each in found["items"]] == names


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("nodes/nobody", 404, 'nodes "nobody" not found'),
        ("namespaces/default/pods/nobody", 404, 'pods "nobody" not found'),
        (
            "namespaces/default/pods/waiting",
            404,
            'podmetrics.metrics.k8s.io "default/waiting" not found',
        ),
        (
            "namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1",
            400,
            '"spec.nodeName" is not a known field selector: only "metadata.name", '
            '"metadata.namespace"',
        ),
        ("nodes?labelSelector=%3D%3D", 400, ""),
        ("nodes?watch=true", 405, ""),
    ],
)
async def test_refusals(
    api: Api, kubelet: Statistics, path: str, status: int, message: str
) -> None:
    await place(api, "waiting", "main", phase="Pending")
    answer = await api.get(f"{BASE}/{path}")
    assert answer.status == status, answer.body
    assert answer.json["message"] == message or not message


@pytest.mark.parametrize("path", ["services", "pods/p", "namespaces/default/nodes", "nodes/n1/x"])
async def test_there_is_nothing_else(api: Api, kubelet: Statistics, path: str) -> None:
    assert (await api.get(f"{BASE}/{path}")).status == 404


async def test_nothing_can_be_written(api: Api, kubelet: Statistics) -> None:
    assert (await api.post(f"{BASE}/nodes", {"metadata": {"name": "x"}})).status == 405
    assert (await api.delete(f"{BASE}/nodes/n1")).status == 405


async def test_a_node_that_does_not_answer_is_left_out(api: Api, kubelet: Statistics) -> None:
    kubelet.is_sick = True
    assert (await api.get(f"{BASE}/nodes")).ok()["items"] == []
    answer = await api.get(f"{BASE}/nodes/n1")
    assert answer.json["message"] == 'nodemetrics.metrics.k8s.io "n1" not found'
    assert len(kubelet.requests) == 1


async def test_what_is_new_on_a_node_is_asked_for(api: Api, kubelet: Statistics) -> None:
    (await api.get(f"{BASE}/nodes")).ok()
    await place(api, "web", "main")
    kubelet.running = {("web", "main"): 4096}

    async with asyncio.timeout(60):
        while (answer := await api.get(f"{BASE}/namespaces/default/pods/web")).status != 200:
            assert answer.status == 404
    assert answer.json["containers"][0]["name"] == "main"


async def test_samples_are_forgotten_when_nobody_asks(
    api: Api, kubelet: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next question begins anew, with two samples."""
    monkeypatch.setattr("navarch.apiserver.usage.scraper.FORGET_SECONDS", 0.01)
    (await api.get(f"{BASE}/nodes")).ok()
    async with asyncio.timeout(60):
        while len(kubelet.requests) < 4:
            await asyncio.sleep(0.02)
            (await api.get(f"{BASE}/nodes")).ok()


async def test_a_pod_counts_only_as_a_whole(api: Api, kubelet: Statistics) -> None:
    """A pod without figures of its own is no more reported by the node that it was on before."""
    await place(api, "web", "main", node="n2")
    kubelet.running = {("web", "main"): 1}
    assert (await api.get(f"{BASE}/pods")).ok()["items"] == []


async def test_tables(api: Api, kubelet: Statistics) -> None:
    await place(api, "web", "main", "side")
    kubelet.running = {("web", "main"): 1024, ("web", "side"): 1024}
    table = (await api.get(f"{BASE}/namespaces/default/pods", headers=TABLE)).ok()
    assert [each["name"] for each in table["columnDefinitions"]] == [
        "Name",
        "cpu",
        "memory",
        "Window",
    ]
    [row] = table["rows"]
    assert (row["cells"][0], row["cells"][2]) == ("web", "2Ki")
    assert millicores({"cpu": row["cells"][1]}) == pytest.approx(1000, rel=0.1)


async def test_simulated_nodes_use_what_annotations_say(api: Api) -> None:
    (await api.post("/api/v1/nodes", {"metadata": {"name": "sim-0"}})).ok(201)
    info = {"nodeInfo": {"containerRuntimeVersion": "simulated://1"}}
    (await api.patch("/api/v1/nodes/sim-0/status", {"status": info})).ok()
    annotations = {
        "simulated.navarch.dev/cpu": "150m",
        "simulated.navarch.dev/memory": "32Mi",
        "b.simulated.navarch.dev/cpu": "1",
    }
    await place(api, "busy", "a", "b", node="sim-0", annotations=annotations)
    await place(api, "idle", "a", node="sim-0")
    bad = {"simulated.navarch.dev/cpu": "much"}
    await place(api, "odd", "a", node="sim-0", annotations=bad)
    found = {
        each["metadata"]["name"]: [container["usage"] for container in each["containers"]]
        for each in (await api.get(f"{BASE}/pods")).ok()["items"]
    }
    nothing = {"cpu": "0", "memory": "0"}
    assert found == {
        "busy": [{"cpu": "150m", "memory": "32Mi"}, {"cpu": "1", "memory": "32Mi"}],
        "idle": [nothing],
        "odd": [nothing],
    }
    [node] = (await api.get(f"{BASE}/nodes")).ok()["items"]
    assert node["usage"] == {"cpu": "1150m", "memory": "64Mi"}
    dead = {"metadata": {"annotations": {"simulated.navarch.dev/fault": "dead"}}}
    (await api.patch("/api/v1/nodes/sim-0", dead)).ok()
    for what in ("nodes", "pods"):
        assert (await api.get(f"{BASE}/{what}")).ok()["items"] == []


async def test_the_group_is_known(api: Api) -> None:
    groups = (await api.get("/apis")).ok()["groups"]
    assert groups[-1]["name"] == "metrics.k8s.io"
    resources = (await api.get(BASE)).ok()["resources"]
    assert [(each["name"], each["kind"], each["verbs"]) for each in resources] == [
        ("nodes", "NodeMetrics", ["get", "list"]),
        ("pods", "PodMetrics", ["get", "list"]),
    ]
    accept = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
    groups = (await api.get("/apis", headers=accept)).ok()["items"]
    [version] = next(e for e in groups if e["metadata"]["name"] == "metrics.k8s.io")["versions"]
    assert [each["resource"] for each in version["resources"]] == ["nodes", "pods"]
    swagger = (await api.get("/openapi/v2")).ok()
    assert f"{BASE}/namespaces/{{namespace}}/pods/{{name}}" in swagger["paths"]
    schema = (await api.get("/openapi/v3/apis/metrics.k8s.io/v1beta1")).ok()
    for document, known in (
        (swagger, swagger["definitions"]),
        (schema, schema["components"]["schemas"]),
    ):
        name = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"
        assert known[name]["required"] == ["containers", "timestamp", "window"]
        text = json.dumps(
            {key: each for key, each in document["paths"].items() if key.startswith(BASE)}
            | {key: each for key, each in known.items() if ".metrics." in key}
        )
        for part in text.split('"$ref": "')[1:]:
            assert part.split('"')[0].rpartition("/")[2] in known


async def test_an_installed_metrics_server_takes_the_place(api: Api) -> None:
    """And gives it back when it goes."""
    services = "/apis/apiregistration.k8s.io/v1/apiservices"
    name = "v1beta1.metrics.k8s.io"
    assert (await api.get(f"{services}/{name}")).status == 404
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "service": {"namespace": "kube-system", "name": "metrics-server"},
        "insecureSkipTLSVerify": True,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    (await api.post(services, {"metadata": {"name": name}, "spec": spec})).ok(201)
    assert (await api.get(f"{BASE}/nodes")).status == 503
    (await api.delete(f"{services}/{name}")).ok()
    assert (await api.get(f"{BASE}/nodes")).ok()["items"] == []
    assert "metrics.k8s.io" in [each["name"] for each in (await api.get("/apis")).ok()["groups"]]


async def test_viewers_may_look(tmp_path: Path) -> None:
    async with secured_server(tmp_path) as server, aiohttp.ClientSession() as session:
        api = Api(server, session)
        binding = {
            "metadata": {"name": "viewer", "namespace": "default"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "view",
            },
            "subjects": [{"kind": "User", "name": "anna", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
        (await api.post(path, binding, user="root", groups="system:masters")).ok(201)
        pods = f"{BASE}/namespaces/default/pods"
        assert (await api.get(pods, user="anna")).ok()["items"] == []
        assert (await api.get(f"{BASE}/nodes", user="anna")).status == 403
        assert (await api.get(pods, user="otto")).status == 403
