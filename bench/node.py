"""What a node's agent takes and how fast it is: `python -m bench.node [FIGURE...]`, as root.

The agent is the process `node-<profile>`: kubelet, service proxy and name server in one. Each
figure is measured as a client of the API sees it. `bare` is the same work without us: 50 pods made
through CRI alone, in the same run, because the runtime's share depends on the machine's mood.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import uvloop

from bench.cluster import (
    IMAGE,
    PROFILE,
    SLEEP,
    is_ready,
    loaded_profile,
    navarch,
    pod_to_ready,
    rollout,
    spec,
)
from bench.process import Processes
from bench.report import Row, show
from navarch.api.types.apps_v1 import Deployment
from navarch.api.types.core_v1 import HTTPGetAction, Pod, Probe, TCPSocketAction
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.client import CriRuntime

CROWD = 50
IDLE_PODS = 100
IDLE_SECONDS = 60.0
REPEATS = 7
LOG_MEGABYTES = 200


@dataclass(frozen=True)
class Bench:
    """A running profile with one real node."""

    client: Client
    home: Path

    def pid(self, what: str) -> int:
        """The process whose last argument is a file of that name under our home."""
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except (OSError, ValueError):
                continue
            if any(word.startswith(str(self.home)) and word.endswith(what) for word in words):
                return int(entry.name)
        raise RuntimeError(f"no process with {what}")

    @cached_property
    def agent(self) -> Processes:
        return Processes((self.pid(f"node-{PROFILE}.json"),))

    @cached_property
    def node(self) -> Path:
        return self.home / "home" / PROFILE / "nodes" / PROFILE

    @cached_property
    def host(self) -> str:
        """The address at which the node finds this machine."""
        profile = self.home / "home" / PROFILE / "profile.json"
        subnet: str = msgspec.json.decode(profile.read_bytes())["subnet"]
        return subnet.rsplit(".", 1)[0] + ".1"

    @property
    def resident(self) -> float:
        """The agent's resident megabytes."""
        status = Path(f"/proc/{self.agent.pids[0]}/status").read_text()
        return next(int(x.split()[1]) for x in status.splitlines() if "VmRSS" in x) / 1024

    async def remove_pods(self) -> float:
        """Deletes all pods and returns how long it took until they were gone."""
        pods = self.client.resource(Pod)
        page = await pods.list("default")
        left = {pod.metadata.name for pod in page.items}
        started = time.perf_counter()
        await asyncio.gather(*(pods.delete(name, "default", grace_period=0) for name in left))
        return await self.watch_go(left, page.resource_version, started)

    async def remove(self, deployment: str) -> tuple[float, float]:
        """Deletes a Deployment: seconds until its pods are gone for clients, and until the runtime
        has none of them left."""
        page = await self.client.resource(Pod).list("default")
        names = {pod.metadata.name for pod in page.items}
        started = time.perf_counter()
        deployments = self.client.resource(Deployment)
        await deployments.delete(deployment, "default", propagation="Background")
        gone = await self.watch_go(names, page.resource_version, started)
        async with self.runtime() as runtime:
            while await runtime.pods():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return gone, time.perf_counter() - started

    def runtime(self) -> CriRuntime:
        """The node's containerd."""
        root = f"/proc/{self.pid('containerd.toml')}/root"
        return CriRuntime(f"unix://{root}/run/containerd/containerd.sock")

    async def watch_go(self, left: set[str], version: str, started: float) -> float:
        async with asyncio.timeout(120):
            async for event in self.client.resource(Pod).watch("default", resource_version=version):
                if event.type == "DELETED":
                    left.discard(event.object.metadata.name)
                if not left:
                    break
        return time.perf_counter() - started


async def start(bench: Bench) -> list[Row]:
    """One pod after the other, on an otherwise idle node."""
    before = bench.agent.cpu()
    times = [await pod_to_ready(bench.client, f"one-{n}") for n in range(REPEATS)]
    cost = (bench.agent.cpu() - before) / REPEATS
    await bench.remove_pods()
    return [
        Row("pod created to Ready (median)", statistics.median(times), "s", 0.4, 0.75),
        Row("  CPU of the agent for each", cost, "s"),
    ]


async def crowd(bench: Bench) -> list[Row]:
    """Many pods at once: by the runtime alone, then as a Deployment."""
    bare_up, bare_down = await _bare(bench)
    before = bench.agent.cpu()
    up = await rollout(bench.client, "fifty", CROWD)
    cost = bench.agent.cpu() - before
    down, empty = await bench.remove("fifty")
    return [
        Row(f"{CROWD} pods rolled out", up, "s", 7, 13.3),
        Row("  made by the runtime alone", bare_up, "s"),
        Row("  as a multiple of that", up / bare_up, "×"),
        Row("  CPU of the agent for all", cost, "s"),
        Row(f"{CROWD} pods gone from the API", down, "s", 2, 2.2),
        Row("  and from the runtime", empty, "s"),
        Row("  stopped by the runtime alone", bare_down, "s"),
    ]


async def _bare(bench: Bench) -> tuple[float, float]:
    async with bench.runtime() as runtime:

        async def make(number: int) -> tuple[str, str]:
            name = f"bare-{number}"
            config = pb.PodSandboxConfig(
                metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace="bare"),
                hostname=name,
                log_directory=f"/tmp/{name}",
                linux=pb.LinuxPodSandboxConfig(),
            )
            sandbox = await runtime.run_sandbox(config, "")
            container = pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name="main"),
                image=pb.ImageSpec(image=IMAGE),
                command=SLEEP,
                linux=pb.LinuxContainerConfig(),
            )
            made = await runtime.create_container(sandbox, container, config)
            await runtime.start_container(made)
            return sandbox, made

        async def end(sandbox: str, container: str) -> None:
            await runtime.stop_container(container, 0)
            await runtime.stop_sandbox(sandbox)

        started = time.perf_counter()
        made = await asyncio.gather(*(make(number) for number in range(CROWD)))
        up = time.perf_counter() - started
        started = time.perf_counter()
        await asyncio.gather(*(end(*each) for each in made))
        down = time.perf_counter() - started
        await asyncio.gather(*(runtime.remove_sandbox(sandbox) for sandbox, _ in made))
    return up, down


async def idle(bench: Bench) -> list[Row]:
    """What it costs to look after pods to which nothing happens."""
    await rollout(bench.client, "idle", IDLE_PODS)
    await asyncio.sleep(30)
    before, started = bench.agent.cpu(), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    share = (bench.agent.cpu() - before) / (time.perf_counter() - started)
    rows = [
        Row(f"agent with {IDLE_PODS} idle pods: a core's share", 100 * share, "%", 3),
        Row("  resident memory (proxy and DNS included)", bench.resident, "MB", 120),
        Row("  of that its own", bench.agent.memory(), "MB"),
    ]
    await bench.remove("idle")
    return rows


async def probes(bench: Bench) -> list[Row]:
    """What probes cost the agent: two of each container, every second."""
    template = spec(("httpd", "-f", "-p", "80", "-h", "/bin"))
    container = template.containers[0]
    container.readinessProbe = Probe(httpGet=HTTPGetAction(path="/ls", port=80), periodSeconds=1)
    container.livenessProbe = Probe(tcpSocket=TCPSocketAction(port=80), periodSeconds=1)
    await rollout(bench.client, "probed", CROWD, template)
    before, started = bench.agent.cpu(), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS / 2)
    share = (bench.agent.cpu() - before) / (time.perf_counter() - started)
    await bench.remove("probed")
    return [
        Row(f"agent with {2 * CROWD} probes a second: a core's share", 100 * share, "%"),
        Row("  CPU of one (HTTP and TCP, half and half)", 1000 * share / (2 * CROWD), "ms"),
    ]


async def readiness(bench: Bench) -> list[Row]:
    """From the answer to a probe until a client sees the pod as ready. The probe asks us."""
    is_up = False
    answered: asyncio.Event = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = "200 OK" if is_up else "503 No"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        if is_up:
            answered.set()
        writer.close()

    server = await asyncio.start_server(answer, bench.host, 0)
    port = server.sockets[0].getsockname()[1]
    probe = Probe(
        httpGet=HTTPGetAction(host=bench.host, port=port), periodSeconds=1, failureThreshold=1
    )
    pod = Pod(metadata=ObjectMeta(name="probed", namespace="default"), spec=spec(SLEEP))
    pod.spec.containers[0].readinessProbe = probe
    pods = bench.client.resource(Pod)
    times = []
    async with server:
        created = await pods.create(pod)
        changes = pods.watch("default", resource_version=created.metadata.resourceVersion)
        for _ in range(REPEATS):
            await _next(changes, lambda pod: bool(pod.status.podIP) and not is_ready(pod))
            answered.clear()
            is_up = True
            await answered.wait()
            started = time.perf_counter()
            await _next(changes, is_ready)
            times.append(time.perf_counter() - started)
            is_up = False
    await bench.remove_pods()
    return [
        Row("probe's success to Ready seen (median)", statistics.median(times), "s", 0.2),
        Row("  the slowest", max(times), "s", 0.2),
    ]


async def _next(changes: AsyncIterator[object], condition: Callable[[Pod], bool]) -> None:
    async with asyncio.timeout(60):
        async for event in changes:
            if condition(event.object):  # type: ignore[attr-defined]
                return


async def logs(bench: Bench) -> list[Row]:
    """Following a log into which somebody writes as fast as can be (the runtime is slower)."""
    pki = bench.home / "home" / PROFILE / "pki"
    server = ClientConfig.from_kubeconfig(bench.home / "kubeconfig").server
    rows = []
    for what, name, user in (
        ("kubelet to client", "one", "kubelet-client"),
        ("kubelet to API server to client", "two", "admin"),
    ):
        await pod_to_ready(bench.client, name)
        pod = await bench.client.resource(Pod).get(name, "default")
        log = bench.node / "pod-logs" / f"default_{name}_{pod.metadata.uid}" / "main" / "0.log"
        address = f"{pod.status.hostIP}:10250"
        path = f"/containerLogs/default/{name}/main"
        if user == "admin":
            address = server.removeprefix("https://")
            path = f"/api/v1/namespaces/default/pods/{name}/log"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")
        connection = http.client.HTTPSConnection(address, context=context, timeout=60)
        rate = await asyncio.to_thread(_follow, connection, path, log)
        rows.append(Row(f"following a log, {what}", rate, "MB/s", 100))
    await bench.remove_pods()
    return rows


def _follow(connection: http.client.HTTPSConnection, path: str, log: Path) -> float:
    """Megabytes of text a second. The text of a line is 100 bytes long."""
    line = b"2026-01-01T00:00:00.123456789Z stdout F " + b"x" * 99 + b"\n"
    block = line * 10_000
    connection.request("GET", f"{path}?follow=true")
    answer = connection.getresponse()
    started = time.perf_counter()
    with log.open("ab", buffering=0) as file:
        for _ in range(LOG_MEGABYTES):
            file.write(block)
    left = LOG_MEGABYTES * 1_000_000
    while left > 0:
        received = len(answer.read1(1 << 20))
        if not received:
            raise RuntimeError(f"the log ended {left} bytes early")
        left -= received
    connection.close()
    return LOG_MEGABYTES / (time.perf_counter() - started)


async def execute(bench: Bench) -> list[Row]:
    """`true` in a container, from the request to its exit status."""
    await pod_to_ready(bench.client, "worker")
    path = "/api/v1/namespaces/default/pods/worker/exec?command=true&stdout=true&stderr=true"
    times = []
    for _ in range(3 * REPEATS):
        started = time.perf_counter()
        async with bench.client.websocket(path, protocols=("v5.channel.k8s.io",)) as socket:
            messages = [message async for message in socket]
        times.append(time.perf_counter() - started)
        if not any(b'"Success"' in bytes(message.data) for message in messages):
            raise RuntimeError(f"exec failed: {messages}")
    await bench.remove_pods()
    return [
        Row("exec round trip (median)", statistics.median(times), "s", 0.1),
        Row("  the slowest", max(times), "s"),
    ]


FIGURES: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "start": start,
    "crowd": crowd,
    "readiness": readiness,
    "probes": probes,
    "logs": logs,
    "exec": execute,
    "idle": idle,
}


@asynccontextmanager
async def _bench(home: Path) -> AsyncIterator[Bench]:
    navarch("start")
    async with Client(ClientConfig.from_kubeconfig(home / "kubeconfig")) as client:
        await pod_to_ready(client, "first")
        bench = Bench(client, home)
        await bench.remove_pods()
        yield bench


async def measure(home: Path, wanted: list[str]) -> list[Row]:
    rows = []
    async with _bench(home) as bench:
        for name in wanted:
            rows += await FIGURES[name](bench)
    return rows


def main() -> None:
    wanted = sys.argv[1:] or list(FIGURES)
    if unknown := set(wanted) - FIGURES.keys():
        raise SystemExit(f"unknown figures: {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    with loaded_profile() as home:
        show(uvloop.run(measure(home, wanted)))


if __name__ == "__main__":
    main()
