"""What the kubelet's server tells of real containers: statistics, metrics, pods, node logs."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.certificates import Authority
from tests.cluster.node.conftest import Cluster, _cluster, pod, shell
from tests.cluster.node.environment import RuntimeEnvironment
from tests.cluster.node.test_pod_life import is_ready
from yarl import URL

from navarch.api.trust import trusting
from navarch.node.cri.values import ExecStream

pytestmark = pytest.mark.cluster

PORT = 10250
BURN = "while :; do :; done"


class Kubelet:
    """A client of the node's server."""

    def __init__(self, session: aiohttp.ClientSession, tls: ssl.SSLContext) -> None:
        self._session, self.tls = session, tls

    async def get(self, path: str, status: int = 200) -> str:
        url = URL(f"https://127.0.0.1:{PORT}{path}", encoded=True)
        async with self._session.get(url, ssl=self.tls) as answer:
            text = await answer.text()
            assert answer.status == status, (answer.status, text)
            return text

    async def post(self, path: str) -> tuple[int, str]:
        url = f"https://127.0.0.1:{PORT}{path}"
        async with self._session.post(url, ssl=self.tls) as answer:
            return answer.status, await answer.text()

    async def json(self, path: str) -> Any:
        url = f"https://127.0.0.1:{PORT}{path}"
        async with self._session.get(url, ssl=self.tls) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


@asynccontextmanager
async def served(cluster: Cluster, directory: Path, **options: Any) -> AsyncIterator[Kubelet]:
    """Starts the agent with its server, and lets one administrator in."""
    authority = Authority(directory)
    pair = authority.issue("kubelet", address="127.0.0.1")
    logs = directory / "log"
    logs.mkdir(exist_ok=True)
    cluster.start_agent(
        tls_certificate=pair.certificate,
        tls_key=pair.key,
        client_ca=authority.file,
        listen_address="127.0.0.1",
        node_logs_directory=logs,
        authorization_mode="AlwaysAllow",
        **options,
    )
    client = authority.issue("admin")
    tls = trusting(file=authority.file)
    tls.load_cert_chain(client.certificate, client.key)
    async with aiohttp.ClientSession() as session:
        yield Kubelet(session, tls)


@pytest.fixture
async def node(runtime_environment: RuntimeEnvironment, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster whose agent does not run yet."""
    async with _cluster(runtime_environment, tmp_path) as cluster:
        yield cluster


@dataclass(frozen=True)
class Sample:
    value: float
    seconds: float = 0.0
    """When it was taken, if the line says so."""


def samples(text: str, name: str, **labels: str) -> list[Sample]:
    """The samples of a metric whose labels are as wanted."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)(?: (\d+))?", line)
        if match is None:
            continue
        given = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
        if labels.items() <= given.items():
            found.append(Sample(float(match[2]), int(match[3] or 0) / 1000))
    return found


def one(text: str, name: str, **labels: str) -> Sample:
    found = samples(text, name, **labels)
    assert len(found) == 1, (name, labels, found)
    return found[0]


WRITER = """
dd if=/dev/zero of=/v/f bs=1M count=2 2>/dev/null; echo hello; touch /v/done; sleep 1000
"""
PLACE = {"namespace": "default", "pod": "busy"}


async def test_what_containers_use(node: Cluster, tmp_path: Path) -> None:
    """One container burns a fifth of a core, the other fills a volume and waits."""
    limits = {"cpu": "200m", "memory": "64Mi"}
    document = pod(
        "busy",
        shell("burner", BURN, resources={"limits": limits}),
        shell("idle", WRITER, volumeMounts=[{"name": "v", "mountPath": "/v"}],
              readinessProbe={"exec": {"command": ["test", "-e", "/v/done"]}, "periodSeconds": 1}),
        volumes=[{"name": "v", "emptyDir": {}}],
    )  # fmt: skip
    async with served(node, tmp_path, max_pods=17) as kubelet:
        await node.create(document)
        await node.wait("busy", is_ready)
        await _check_rates(kubelet)
        await _check_summary(kubelet)
        await _check_cadvisor(kubelet)
        await _check_metrics(kubelet)
        await _check_other_paths(kubelet)


async def _check_rates(kubelet: Kubelet) -> None:
    """Counters in core-seconds, whose rate is the share of a core that the limit allows."""
    first = await kubelet.get("/metrics/resource")
    cpu = "container_cpu_usage_seconds_total"
    before = one(first, cpu, container="burner", **PLACE)
    async with asyncio.timeout(60):
        while True:
            second = await kubelet.get("/metrics/resource")
            after = one(second, cpu, container="burner", **PLACE)
            if after.seconds - before.seconds > 2:
                break
            await asyncio.sleep(0.5)
    rate = (after.value - before.value) / (after.seconds - before.seconds)
    assert 0.02 < rate < 0.5
    idle = one(second, cpu, container="idle", **PLACE)
    whole = one(second, "pod_cpu_usage_seconds_total", **PLACE)
    assert idle.value < after.value <= whole.value
    assert one(second, "node_cpu_usage_seconds_total").value >= whole.value
    memory = one(second, "container_memory_working_set_bytes", container="idle", **PLACE).value
    assert 4096 <= memory < 64 << 20
    assert memory <= one(second, "pod_memory_working_set_bytes", **PLACE).value
    assert one(second, "node_memory_working_set_bytes").value > memory
    started = one(second, "container_start_time_seconds", container="idle", **PLACE).value
    assert 0 < after.seconds - started < 120
    assert one(second, "scrape_error").value == one(second, "resource_scrape_error").value == 0


async def _check_summary(kubelet: Kubelet) -> None:
    summary = await kubelet.json("/stats/summary")
    node, found = summary["node"], summary["pods"][0]
    assert node["nodeName"] == "node-1"
    assert [each["name"] for each in node["systemContainers"]] == ["kubelet", "pods"]
    for part in ("cpu", "memory", "network", "fs", "runtime", "rlimit"):
        assert node[part], part
    assert node["fs"]["usedBytes"] + node["fs"]["availableBytes"] <= node["fs"]["capacityBytes"]
    assert found["podRef"]["name"] == "busy"
    containers = {each["name"]: each for each in found["containers"]}
    burner = containers["burner"]
    assert 10_000_000 < burner["cpu"]["usageNanoCores"] < 600_000_000
    assert burner["memory"]["availableBytes"] <= 64 << 20
    assert "availableBytes" not in containers["idle"]["memory"]
    assert containers["idle"]["logs"]["usedBytes"] > 0
    assert containers["idle"]["rootfs"]["capacityBytes"] > 0
    volume = found["volume"][0]
    assert (volume["name"], volume["usedBytes"] >= 2 << 20) == ("v", True)
    assert found["ephemeral-storage"]["usedBytes"] >= volume["usedBytes"]
    assert found["network"]["name"] == "eth0" and found["network"]["interfaces"]
    assert found["process_stats"]["process_count"] >= 3
    narrow = await kubelet.json("/stats/summary?only_cpu_and_memory=true")
    assert narrow["node"].keys() == {
        "nodeName", "systemContainers", "startTime", "cpu", "memory", "swap",
    }  # fmt: skip
    assert narrow["pods"][0].keys() == {
        "podRef", "startTime", "containers", "cpu", "memory", "swap",
    }  # fmt: skip


async def _check_cadvisor(kubelet: Kubelet) -> None:
    text = await kubelet.get("/metrics/cadvisor")
    cpu = one(text, "container_cpu_usage_seconds_total", container="burner", cpu="total", **PLACE)
    assert cpu.value > 0
    image = "docker.io/library/busybox:1.36"
    for name in ("container_memory_working_set_bytes", "container_memory_rss",
                 "container_fs_usage_bytes", "container_start_time_seconds"):  # fmt: skip
        assert one(text, name, container="idle", image=image, **PLACE).value >= 0, name
    limit = one(text, "container_spec_memory_limit_bytes", container="burner", **PLACE)
    assert limit.value == 64 << 20
    quota = one(text, "container_spec_cpu_quota", container="burner", **PLACE).value
    period = one(text, "container_spec_cpu_period", container="burner", **PLACE).value
    assert quota / period == pytest.approx(0.2)
    assert one(text, "container_network_receive_bytes_total", interface="eth0", **PLACE).value >= 0
    assert one(text, "machine_cpu_cores").value >= 1
    assert one(text, "machine_memory_bytes").value > 1 << 26
    assert samples(text, "container_memory_usage_bytes", id="/", container="")


async def _check_metrics(kubelet: Kubelet) -> None:
    text = await kubelet.get("/metrics")
    assert one(text, "kubelet_running_pods").value == 1
    assert one(text, "kubelet_running_containers", container_state="running").value == 2
    assert one(text, "kubelet_node_name", node="node-1").value == 1
    assert one(text, "kubelet_runtime_operations_total", operation_type="run_podsandbox").value >= 1
    assert one(text, "kubernetes_build_info", major="1", minor="36").value == 1
    assert samples(text, "kubelet_http_requests_total", path="metrics/resource", method="GET")
    assert samples(text, "rest_client_requests_total", method="GET", code="200")
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes",
                 "process_start_time_seconds"):  # fmt: skip
        assert one(text, name).value > 0, name
    assert one(text, "kubelet_pod_start_duration_seconds_count").value >= 1
    assert one(text, "kubelet_started_pods_total").value >= 1
    assert one(text, "kubelet_started_containers_total", container_type="container").value >= 2
    probes = await kubelet.get("/metrics/probes")
    labels = {"probe_type": "Readiness", "result": "successful", "container": "idle", **PLACE}
    assert one(probes, "prober_probe_total", **labels).value >= 1


async def test_a_stream_is_for_one_request_on_loopback(node: Cluster, tmp_path: Path) -> None:
    """Who learns of a stream's address later, or elsewhere, gets nothing by it."""
    async with served(node, tmp_path), aiohttp.ClientSession() as session:
        await node.create(pod("web", shell("main", "sleep 1000")))
        running = await node.wait("web", is_ready)
        container = running.status.containerStatuses[0].containerID.rpartition("/")[2]
        url = URL(await node.runtime.stream_url(ExecStream(container, ["id"])))
        assert url.host == "127.0.0.1"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        statuses = []
        for _ in range(2):
            async with session.get(url, headers=upgrade) as answer:
                statuses.append(answer.status)
        assert statuses == [101, 404]
        async with session.get(url.with_path(url.path[:-4] + "AAAA"), headers=upgrade) as answer:
            assert answer.status == 404


async def _check_other_paths(kubelet: Kubelet) -> None:
    running = (await kubelet.json("/runningpods/"))["items"]
    assert {each["name"] for each in running[0]["spec"]["containers"]} == {"burner", "idle"}
    assert (await kubelet.json("/pods"))["items"][0]["status"]["phase"] == "Running"
    assert (await kubelet.json("/configz"))["kubeletconfig"]["maxPods"] == 17
    assert await kubelet.get("/healthz/syncloop") == "ok"
    status, text = await kubelet.post("/checkpoint/default/busy/idle")
    if status != 200:  # most runtimes cannot
        expected = "checkpointing of default/busy/idle failed (rpc error: code = Unimplemented"
        assert (status, text.startswith(expected)) == (500, True), text
