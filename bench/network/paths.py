"""Throughput and latency along each way that a packet of a pod can take, on a real cluster.

Two nodes, on each a pod that serves; a client in a third pod beside the first. Every round goes
along all ways, the bare ones among them, and a ratio is one of figures of the same round: what else
the machine does changes from round to round.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec
from tests.cluster.machine import SHELL_IMAGE, Machine, pod
from tests.cluster.three_nodes import Trio
from tests.images.busybox import build_busybox

from bench.cluster import expose_to_connect
from bench.network import peer
from bench.network.places import RIGHT, Place, bare
from bench.report import Row
from navarch.api.types.core_v1 import Pod
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.cluster import processes

NAME = "bench-network"
ROUNDS = 15
"""Many short ones: a median of them bears a machine that does other work, too."""
CHANGES = 7
HOST = "bench.example"
LOOPBACK, VETH = "loopback", "a veth pair"


@dataclass(frozen=True, slots=True)
class Way:
    """From a client to a server."""

    title: str
    client: Place
    address: str
    port: int = peer.PORT
    host: str = ""

    def ask(self, do: str, **options: Any) -> Any:
        return self.client.ask(do, self.address, self.port, host=self.host, **options)


@dataclass(slots=True)
class Figures:
    """What was measured along one way, round by round: bytes a second, and seconds."""

    throughput: list[float] = field(default_factory=list)
    latency: list[list[float]] = field(default_factory=list)

    @property
    def medians(self) -> list[float]:
        return [median(times) for times in self.latency]

    def p99(self) -> float:
        return quantiles([time for times in self.latency for time in times], n=100)[98]


Measured = dict[str, Figures]


def rounds(ways: Sequence[Way]) -> Measured:
    for way in ways:
        ready(way)
    found: Measured = {way.title: Figures() for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            figures = found[way.title]
            figures.throughput.append(way.ask("throughput"))
            figures.latency.append(way.ask("latency"))
    return found


def ready(way: Way) -> None:
    """The API has taken what leads there; whoever follows it may need a moment more."""

    def works() -> bool:
        try:
            way.ask("latency", count=1)
        except RuntimeError:
            return False
        return True

    if not processes.wait_until(works, 60.0, 0.05):
        raise RuntimeError(f"{way.title}: nobody answers at {way.address}:{way.port}")


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    return median(one / other for one, other in zip(ours, others, strict=True))


COLUMNS = (
    *("", "MB/s", "of loopback", "of a veth pair"),
    *("p50", "to loopback", "to a veth pair", "p99"),
)


def lines(measured: Measured) -> list[tuple[str, ...]]:
    """One line of the table for each way."""
    loopback, veth = measured[LOOPBACK], measured[VETH]
    found: list[tuple[str, ...]] = []
    for title, figures in measured.items():
        speed, times = figures.throughput, figures.medians
        found.append(
            (
                title,
                f"{median(speed) / 1e6:,.0f}",
                f"{ratio(speed, loopback.throughput):.2f}×",
                f"{ratio(speed, veth.throughput):.2f}×",
                f"{median(times) * 1e6:.0f} µs",
                f"{ratio(times, loopback.medians):.2f}×",
                f"{ratio(times, veth.medians):.2f}×",
                f"{figures.p99() * 1e6:.0f} µs",
            )
        )
    return found


@dataclass
class Ground:
    """The cluster, and the places in it."""

    machine: Machine
    wires: tuple[Place, Place]
    pods: dict[str, Place] = field(default_factory=dict)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        feed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.machine.kubectl("apply", "-f", "-", feed=feed)

    def start(self, *flags: str) -> None:
        self.machine.navarch("start", "-p", NAME, *flags)

    def run_pods(self) -> None:
        """All anew: a pod keeps the size of packets that it was born with."""
        for place in self.pods.values():
            place.close()
        self.machine.kubectl("delete", "pod", "--all", "--grace-period=0")
        first, second = self.machine.profile(NAME).node_names()
        nodes = {"client": first, "near": first, "far": second}
        self.apply(*(json.loads(pod(name, "sleep 1000000", node)) for name, node in nodes.items()))
        self.machine.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s")
        trio = Trio(self.machine)
        self.pods = {name: Place(f"/proc/{trio.pid(name)}/ns/net") for name in nodes}
        for name in ("near", "far"):
            self.pods[name].serve()

    def address(self, name: str) -> str:
        return str(self.machine.get("pod", name)["status"]["podIP"])

    def cluster_ip(self, name: str) -> str:
        return str(self.machine.get("service", name)["spec"]["clusterIP"])

    def bare_ways(self) -> list[Way]:
        left = self.wires[0]
        return [Way(LOOPBACK, left, "127.0.0.1"), Way(VETH, left, RIGHT)]

    def close(self) -> None:
        for place in self.pods.values():
            place.close()
        self.machine.navarch("delete", "-p", NAME, expect=None)


def service(name: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": peer.PORT}]
    spec = {"selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def ingress() -> dict[str, Any]:
    backend = {"service": {"name": "near", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": "bench",
            "annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"},
        },
        "spec": {"ingressClassName": "nginx", "rules": [{"host": HOST, "http": {"paths": [path]}}]},
    }


@contextmanager
def cluster() -> Iterator[Ground]:
    home = Path(tempfile.mkdtemp(prefix="nb-", dir="/tmp"))
    with bare() as wires:
        ground = Ground(Machine(home / "home", home / "kubeconfig"), wires)
        try:
            archive = build_busybox(home / "shell.tar", SHELL_IMAGE)
            ground.start("--nodes", "2", "--addons", "ingress")
            ground.machine.navarch("image", "load", "-p", NAME, str(archive))
            yield ground
        finally:
            ground.close()
            shutil.rmtree(home, ignore_errors=True)


def measure() -> tuple[list[tuple[str, ...]], list[Row]]:
    """Along all ways, over plain routes and then wrapped; and how fast changes take effect."""
    with cluster() as ground:
        ground.run_pods()
        ground.apply(service("near"), service("far"), ingress())
        client = ground.pods["client"]
        profile = ground.machine.profile(NAME)
        node = profile.node_address(profile.node_names()[0])
        ways = [
            *ground.bare_ways(),
            Way("pod to pod, one node", client, ground.address("near")),
            Way("pod to ClusterIP, same node", client, ground.cluster_ip("near"), 80),
            Way("across nodes, plain routes", client, ground.address("far")),
            Way("pod to ClusterIP, other node", client, ground.cluster_ip("far"), 80),
            Way("pod to Ingress to pod", client, node, 80, HOST),
        ]
        found: list[tuple[str, ...]] = [COLUMNS, *lines(rounds(ways))]
        rows = asyncio.run(changes(ground))
        ground.start("--pod-network", "vxlan")
        ground.run_pods()
        wrapped = Way("across nodes, VXLAN", ground.pods["client"], ground.address("far"))
        found.append(lines(rounds([*ground.bare_ways(), wrapped]))[-1])
        return found, rows


async def changes(ground: Ground) -> list[Row]:
    """From a change in the API to the first packet that it lets pass."""
    async with Client(ClientConfig.from_kubeconfig(ground.machine.kubeconfig)) as client:
        exposed = [
            await expose_to_connect(client, f"near-{number}", {"app": "near"})
            for number in range(CHANGES)
        ]
        allowed = await allow(client, ground)
    return [
        Row("LoadBalancer Service made to connected (host)", median(exposed) * 1e3, "ms", 500),
        Row("  the slowest", max(exposed) * 1e3, "ms"),
        Row("a pod's label changed to policy in force", median(allowed) * 1e3, "ms", 200),
        Row("  the slowest", max(allowed) * 1e3, "ms"),
    ]


async def allow(client: Client, ground: Ground) -> list[float]:
    """From the label by which a policy lets a pod pass, to its first connection. Each time in
    seconds."""
    guest = {"podSelector": {"matchLabels": {"role": "guest"}}}
    spec = {"podSelector": {"matchLabels": {"app": "near"}}, "ingress": [{"from": [guest]}]}
    policy = msgspec.convert(
        {"metadata": {"name": "guests", "namespace": "default"}, "spec": spec}, NetworkPolicy
    )
    await client.resource(NetworkPolicy).create(policy)
    pods, place = client.resource(Pod), ground.pods["client"]
    where = ground.address("near"), peer.CONNECT_PORT
    times = []
    for _ in range(CHANGES):
        await pods.patch("client", "default", {"metadata": {"labels": {"role": None}}})
        place.ask("refused", *where)
        place.order("reach", *where)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await pods.patch("client", "default", {"metadata": {"labels": {"role": "guest"}}})
        times.append(await asyncio.to_thread(place.answer) - began)
    await client.resource(NetworkPolicy).delete("guests", "default")
    return times
