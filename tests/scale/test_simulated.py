"""A whole cluster in this process: API server, scheduler, controllers, simulated nodes."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.tasks import running

from navarch.api.types.core_v1 import Container, Node, Pod, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.contracts import Attributes, Decision, PeerCertificate, UserInfo
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.security import Security
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes
from navarch.node.simulated.timetable import EXIT_CODE, RUN_SECONDS
from navarch.scheduler.main import run_scheduler
from navarch.scheduler.scheduler import Settings
from navarch.store.memory import open_memory_store


class Nobody:
    """Everybody is anonymous."""

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        return None


class AllowEverything:
    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        return Decision.ALLOW, ""


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    server = Server(
        ServerOptions(port=0), open_memory_store(), Security(Nobody(), AllowEverything())
    )
    await server.start()
    try:
        async with Client(ClientConfig(server.url)) as client:
            yield client
    finally:
        await server.stop()


@asynccontextmanager
async def cluster(client: Client, **options: Any) -> AsyncIterator[None]:
    manager = ManagerOptions("", ("nodelifecycle", "nodeipam"), cluster_cidr="10.244.0.0/16")
    async with running(
        run_controllers(client, manager),
        run_scheduler(client, Settings(), 1),
        run_nodes(client, SimulatedOptions("", **options)),
    ):
        yield


def pod(name: str, cpu: str = "100m", **annotations: str) -> Pod:
    container = Container(name="c", image="busybox")
    container.resources.requests = {"cpu": cpu, "memory": "64Mi"}
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", annotations=annotations),
        spec=PodSpec(containers=[container]),
    )


async def watched(client: Client, done: Callable[[dict[str, Pod]], bool]) -> dict[str, Pod]:
    """All pods, once they are as wanted."""
    pods: dict[str, Pod] = {}
    async with asyncio.timeout(180):
        async for event in client.resource(Pod).watch("default"):
            if event.type == "DELETED":
                del pods[event.object.metadata.name]
            else:
                pods[event.object.metadata.name] = event.object
            if done(pods):
                return pods
    raise AssertionError("the watch ended")


def ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


async def test_two_hundred_pods_on_fifty_nodes(client: Client) -> None:
    pods = client.resource(Pod)
    async with cluster(client, nodes=50, zones=("a", "b")):
        await asyncio.gather(*(pods.create(pod(f"p{n}")) for n in range(200)))
        found = await watched(
            client, lambda pods: len(pods) == 200 and all(map(ready, pods.values()))
        )
        assert all(p.status.phase == "Running" for p in found.values())
        per_node = Counter(p.spec.nodeName for p in found.values())
        assert len(per_node) == 50
        assert max(per_node.values()) <= 5
        nodes = {n.metadata.name: n for n in (await client.resource(Node).list()).items}
        addresses = {p.status.podIP for p in found.values()}
        assert len(addresses) == 200
        ranges = {name: node.spec.podCIDR for name, node in nodes.items()}
        outside = [
            p.metadata.name
            for p in found.values()
            if not ranges[p.spec.nodeName]
            or ipaddress.ip_address(p.status.podIP)
            not in ipaddress.ip_network(ranges[p.spec.nodeName])
        ]
        assert not outside, [
            (n, ranges[found[n].spec.nodeName], found[n].status.podIP) for n in outside
        ]
        assert {n.metadata.labels["topology.kubernetes.io/zone"] for n in nodes.values()} == {
            "a",
            "b",
        }
        await asyncio.gather(*(pods.delete(f"p{n}", "default") for n in range(200)))
        assert (
            not (await pods.list("default")).items or await watched(client, lambda p: not p) == {}
        )


async def test_pods_end_and_wait_their_turn(client: Client) -> None:
    pods = client.resource(Pod)
    async with cluster(client, nodes=1, capacity={"cpu": "1", "memory": "1Gi", "pods": "10"}):
        first = pod("first", "800m", **{RUN_SECONDS: "0"})
        first.spec.restartPolicy = "Never"
        failing = pod("failing", "100m", **{RUN_SECONDS: "0", EXIT_CODE: "3"})
        failing.spec.restartPolicy = "Never"
        await pods.create(pod("blocker", "900m"))
        await watched(client, lambda pods: "blocker" in pods and ready(pods["blocker"]))
        await pods.create(first)
        await pods.create(failing)
        found = await watched(
            client,
            lambda pods: (
                len(pods) == 3
                and bool(pods["first"].status.conditions)
                and pods["failing"].status.phase == "Failed"
            ),
        )
        waiting = found["first"].status.conditions[0]
        assert (waiting.type, waiting.status, waiting.reason) == (
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        assert waiting.message.startswith("0/1 nodes are available: 1 Insufficient cpu.")
        terminated = found["failing"].status.containerStatuses[0].state.terminated
        assert terminated is not None and terminated.exitCode == 3
        # Room is made, and the pod that waited gets it at once.
        await pods.delete("blocker", "default")
        found = await watched(
            client, lambda pods: "first" in pods and pods["first"].status.phase == "Succeeded"
        )
        assert not ready(found["first"])


async def test_three_hundred_nodes_get_ranges_of_their_own(client: Client) -> None:
    manager = ManagerOptions("", ("nodelifecycle", "nodeipam"), cluster_cidr="10.128.0.0/9")
    async with (
        running(
            run_controllers(client, manager), run_nodes(client, SimulatedOptions("", nodes=300))
        ),
        asyncio.timeout(180),
    ):
        ranges: dict[str, str] = {}
        async for event in client.resource(Node).watch():
            node = event.object
            if node.spec.podCIDR and not node.spec.taints:
                ranges[node.metadata.name] = node.spec.podCIDR
            if len(ranges) == 300:
                break
    assert len({*ranges.values()}) == 300
