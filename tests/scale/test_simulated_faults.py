"""Pods and nodes that fail on demand, seen through the API by those who have to deal with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.scale.test_simulated import client as client
from tests.scale.test_simulated import pod, ready, watched
from tests.tasks import running

from navarch.api.errors import ApiError, service_unavailable
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.batch_v1 import Job, JobSpec
from navarch.api.types.coordination_v1 import Lease
from navarch.api.types.core_v1 import (
    Container,
    Event,
    Node,
    Pod,
    PodTemplateSpec,
    Toleration,
)
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client import Client
from navarch.client.resource import ResourceClient
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes
from navarch.node.simulated.faults import CONDITIONS, FAULT
from navarch.node.simulated.timetable import EXIT_CODE, PREFIX
from navarch.scheduler.main import run_scheduler
from navarch.scheduler.scheduler import Settings

CONTROLLERS = ("nodelifecycle", "nodeipam", "taint-eviction", "replicaset", "job")
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


@asynccontextmanager
async def cluster(client: Client, **options: Any) -> AsyncIterator[None]:
    manager = ManagerOptions(
        "",
        CONTROLLERS,
        cluster_cidr="10.244.0.0/16",
        node_monitor_grace_seconds=4.0,
        node_eviction_rate=10.0,
    )
    async with running(
        run_controllers(client, manager),
        run_scheduler(client, Settings(), 1),
        run_nodes(client, SimulatedOptions("", heartbeat_seconds=0.5, **options)),
    ):
        yield


def impatient(template: Pod) -> Pod:
    """A pod that leaves a node as soon as it is lost."""
    template.spec.tolerations = [
        Toleration(key=key, operator="Exists", effect="NoExecute", tolerationSeconds=0)
        for key in LOST
    ]
    return template


def replicas(count: int) -> ReplicaSet:
    labels = {"app": "web"}
    template = impatient(pod(""))
    return ReplicaSet(
        metadata=ObjectMeta(name="web", namespace="default"),
        spec=ReplicaSetSpec(
            replicas=count,
            selector=LabelSelector(matchLabels=labels),
            template=PodTemplateSpec(metadata=ObjectMeta(labels=labels), spec=template.spec),
        ),
    )


async def annotate(client: Client, nodes: list[str], **values: str | None) -> None:
    keys = {"fault": FAULT, "conditions": CONDITIONS}
    annotations = {keys[name]: value for name, value in values.items()}
    patch = {"metadata": {"annotations": annotations}}
    for name in nodes:
        await client.resource(Node).patch(name, "", patch)


async def nodes_are(client: Client, done: Callable[[dict[str, Node]], bool]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    async with asyncio.timeout(60):
        async for event in client.resource(Node).watch():
            found[event.object.metadata.name] = event.object
            if done(found):
                return found
    raise AssertionError("the watch ended")


def all_ready(count: int) -> Callable[[dict[str, Pod]], bool]:
    return lambda pods: len(pods) == count and all(map(ready, pods.values()))


def status_of(node: Node, kind: str = "Ready") -> str:
    return next((c.status for c in node.status.conditions if c.type == kind), "")


async def test_a_dead_node_loses_its_pods_and_comes_back(client: Client) -> None:
    async with cluster(client, nodes=3):
        await client.resource(ReplicaSet).create(replicas(6))
        await watched(client, all_ready(6))
        stays = pod("stays")
        stays.spec.nodeName = "sim-0"
        stays.spec.tolerations = [Toleration(operator="Exists")]
        await client.resource(Pod).create(stays)
        before = await watched(
            client, lambda pods: len(pods) == 7 and all(map(ready, pods.values()))
        )
        there = {n for n, p in before.items() if p.spec.nodeName == "sim-0"} - {"stays"}
        assert there
        await annotate(client, ["sim-0"], fault="dead")
        await nodes_are(client, lambda nodes: status_of(nodes.get("sim-0", Node())) == "Unknown")

        def replaced(pods: dict[str, Pod]) -> bool:
            """Nobody there confirms the deletions; others do the work."""
            lost = [p for n, p in pods.items() if n in there]
            others = [p for n, p in pods.items() if n not in there and n != "stays"]
            return (
                all(p.metadata.deletionTimestamp for p in lost)
                and len(lost) == len(there)
                and len(others) == 6
                and all(map(ready, others))
                and not ready(pods["stays"])
            )

        found = await watched(client, replaced)
        assert all(p.spec.nodeName != "sim-0" for n, p in found.items() if n not in before)
        await annotate(client, ["sim-0"], fault=None)
        await nodes_are(client, lambda nodes: status_of(nodes.get("sim-0", Node())) == "True")
        found = await watched(
            client, lambda pods: not there & {*pods} and ready(pods.get("stays", Pod()))
        )
        assert found["stays"].status.containerStatuses[0].restartCount == 1


async def test_a_node_has_died_also_for_a_process_that_did_not_see_it_return(
    client: Client,
) -> None:
    async with cluster(client, nodes=1):
        await client.resource(Pod).create(pod("p"))
        await watched(client, lambda pods: "p" in pods and ready(pods["p"]))
        await annotate(client, ["sim-0"], fault="dead")
        dead = await nodes_are(
            client, lambda nodes: nodes["sim-0"].status.nodeInfo.bootID != "sim-0"
        )
    await annotate(client, ["sim-0"], fault=None)
    for _ in range(2):  # It is not forgotten by yet another one, nor counted again.
        async with cluster(client, nodes=1):
            found = await watched(
                client, lambda pods: pods["p"].status.containerStatuses[0].restartCount > 0
            )
            back = await nodes_are(
                client,
                lambda nodes: (
                    nodes["sim-0"].status.nodeInfo.bootID != dead["sim-0"].status.nodeInfo.bootID
                ),
            )
            await watched(client, lambda pods: ready(pods["p"]))
        assert found["p"].status.containerStatuses[0].restartCount == 1
        assert back["sim-0"].status.nodeInfo.bootID != "sim-0"


async def test_a_hung_node_goes_on_as_if_nothing_had_been(client: Client) -> None:
    async with cluster(client, nodes=1):
        await client.resource(Pod).create(pod("p"))
        await watched(client, lambda pods: "p" in pods and ready(pods["p"]))
        await annotate(client, ["sim-0"], fault="hung")
        await nodes_are(client, lambda nodes: status_of(nodes.get("sim-0", Node())) == "Unknown")
        await watched(client, lambda pods: not ready(pods["p"]))
        await annotate(client, ["sim-0"], fault=None)
        found = await watched(client, lambda pods: ready(pods["p"]))
        assert found["p"].status.containerStatuses[0].restartCount == 0


async def test_a_zone_dies(client: Client) -> None:
    async with cluster(client, nodes=6, zones=("a", "b")):
        await nodes_are(
            client, lambda nodes: len(nodes) == 6 and all(not n.spec.taints for n in nodes.values())
        )
        zone = [f"sim-{number}" for number in (0, 2, 4)]
        await annotate(client, zone, fault="dead")
        found = await nodes_are(
            client,
            lambda nodes: all(
                status_of(nodes.get(name, Node())) == "Unknown"
                and len(nodes[name].spec.taints) == 2
                for name in zone
            ),
        )
        assert {n.metadata.labels["topology.kubernetes.io/zone"] for n in found.values()} == {
            *("a", "b"),
        }
        await client.resource(ReplicaSet).create(replicas(6))
        pods = await watched(client, all_ready(6))
        assert not {p.spec.nodeName for p in pods.values()} & {*zone}


def taints_of(node: Node) -> set[tuple[str, str]]:
    return {(taint.key, taint.effect) for taint in node.spec.taints}


async def test_nothing_is_evicted_while_no_node_is_heard_of(client: Client) -> None:
    """More likely nobody can be heard than all have died."""
    names = [f"sim-{number}" for number in range(4)]
    async with cluster(client, nodes=4, zones=("a", "b")):
        await nodes_are(
            client, lambda nodes: len(nodes) == 4 and all(not n.spec.taints for n in nodes.values())
        )
        await annotate(client, names, fault="hung")
        lost = {(LOST[1], "NoSchedule")}
        await nodes_are(
            client,
            lambda nodes: len(nodes) == 4 and all(taints_of(n) == lost for n in nodes.values()),
        )
        await annotate(client, names[:1], fault=None)

        def is_back(nodes: dict[str, Node]) -> bool:
            return (
                len(nodes) == 4
                and not nodes[names[0]].spec.taints
                and all(taints_of(nodes[n]) == {*lost, (LOST[1], "NoExecute")} for n in names[1:])
            )

        await nodes_are(client, is_back)
        wanted = {
            ("RegisteredNode", "Node sim-1 event: Registered Node sim-1 in Controller"),
            ("NodeNotReady", "Node sim-1 status is now: NodeNotReady"),
        }
        async with asyncio.timeout(60):
            async for event in client.resource(Event).watch("default"):
                wanted.discard((event.object.reason, event.object.message))
                if not wanted:
                    break


async def test_conditions_on_demand(client: Client) -> None:
    async with cluster(client, nodes=2):
        await nodes_are(
            client, lambda nodes: len(nodes) == 2 and {*map(status_of, nodes.values())} == {"True"}
        )
        await annotate(client, ["sim-0"], conditions="MemoryPressure,Ready=False")
        found = await nodes_are(client, lambda nodes: len(nodes["sim-0"].spec.taints) == 3)
        assert status_of(found["sim-0"], "MemoryPressure") == "True"
        assert {taint.key.rpartition("/")[2] for taint in found["sim-0"].spec.taints} == {
            *("memory-pressure", "not-ready"),
        }
        await annotate(client, ["sim-0"], conditions=None)
        await nodes_are(client, lambda nodes: not nodes["sim-0"].spec.taints)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cpu": "9"}, "OutOfcpu"),
        ({"selector": {"disk": "ssd"}}, "NodeAffinity"),
        ({f"{PREFIX}/reject": "UnexpectedAdmissionError"}, "UnexpectedAdmissionError"),
        ({f"{PREFIX}/run": "soon"}, "InvalidTimetable"),
    ],
    ids=["resources", "node selector", "on demand", "nonsense"],
)
async def test_the_node_refuses_pods(client: Client, change: dict[str, Any], reason: str) -> None:
    """Those that passed no scheduler."""
    annotations = {key: value for key, value in change.items() if "/" in key}
    refused = pod("p", change.get("cpu", "1"), **annotations)
    refused.spec.nodeName = "sim-0"
    refused.spec.nodeSelector = change.get("selector", {})
    async with cluster(client, nodes=1):
        await nodes_are(client, lambda nodes: "sim-0" in nodes and not nodes["sim-0"].spec.taints)
        await client.resource(Pod).create(refused)
        found = await watched(
            client, lambda pods: "p" in pods and pods["p"].status.phase == "Failed"
        )
    status = found["p"].status
    assert (status.reason, status.containerStatuses) == (reason, [])
    assert status.message.startswith("Pod was rejected: ")


async def test_a_job_on_failing_pods(client: Client) -> None:
    """Job's own retries, one pod after the other, until its limit."""
    template = pod("", **{f"{PREFIX}/run": "0", EXIT_CODE: "7"})
    template.spec.restartPolicy = "Never"
    meta = ObjectMeta(annotations=template.metadata.annotations)
    spec = JobSpec(backoffLimit=0, template=PodTemplateSpec(metadata=meta, spec=template.spec))
    async with cluster(client, nodes=1):
        job = Job(metadata=ObjectMeta(name="j", namespace="default"), spec=spec)
        await client.resource(Job).create(job)
        async with asyncio.timeout(60):
            async for event in client.resource(Job).watch("default"):
                if any(c.type == "Failed" for c in event.object.status.conditions):
                    break
        assert event.object.status.failed == 1
        [one] = (await client.resource(Pod).list("default")).items
        ended = one.status.containerStatuses[0].state.terminated
        assert ended is not None and ended.exitCode == 7


FILE = """
apiVersion: navarch.dev/v1alpha1
kind: SimulatedNodes
nodes:
- {name: fast, count: 2, labels: {disk: ssd}}
- {name: slow, capacity: {cpu: 1}, taints: ["slow=yes:NoSchedule"]}
pods:
- match: {labels: {matchLabels: {app: web}}}
  waiting: ImagePullBackOff
- match: {nodes: [slow]}
  run: 1s
  exitCode: 3
"""


async def test_a_file_of_groups_and_rules(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(FILE)
    stuck, failing = pod("stuck"), pod("failing")
    stuck.metadata.labels = {"app": "web"}
    stuck.spec.nodeSelector = {"disk": "ssd"}
    failing.spec.nodeName, failing.spec.restartPolicy = "slow-0", "Never"
    async with cluster(client, config=str(file)):
        found = await nodes_are(client, lambda nodes: len(nodes) == 3)
        assert sorted(found) == ["fast-0", "fast-1", "slow-0"]
        assert found["slow-0"].status.capacity["cpu"] == "1"
        for each in (stuck, failing):
            await client.resource(Pod).create(each)
        pods = await watched(
            client,
            lambda pods: (
                len(pods) == 2
                and pods["failing"].status.phase == "Failed"
                and bool(pods["stuck"].status.containerStatuses)
            ),
        )
    waiting = pods["stuck"].status.containerStatuses[0].state.waiting
    assert waiting is not None and waiting.reason == "ImagePullBackOff"
    assert pods["stuck"].spec.nodeName.startswith("fast-")


async def test_another_process_takes_over(client: Client) -> None:
    """Nodes and pods keep their addresses, and what is finished while nobody looked is finished."""
    pods = client.resource(Pod)
    nodes = SimulatedOptions("", nodes=2, timetable={"stop-exit-code": "0"})
    manager = ManagerOptions("", ("nodelifecycle", "nodeipam"), cluster_cidr="10.244.0.0/16")
    async with running(run_controllers(client, manager), run_scheduler(client, Settings(), 1)):
        async with running(run_nodes(client, nodes)):
            for name in ("stays", "goes"):
                await pods.create(pod(name))
            before = await watched(client, all_ready(2))
            addresses = {n.metadata.name: n.status.addresses for n in await _nodes(client)}
        await pods.delete("goes", "default")
        async with running(run_nodes(client, nodes)):
            await watched(client, lambda pods: [*pods] == ["stays"])
            await pods.create(pod("new"))
            after = await watched(client, all_ready(2))
            assert {n.metadata.name: n.status.addresses for n in await _nodes(client)} == addresses
    assert after["stays"].status == before["stays"].status
    assert after["new"].status.podIP != after["stays"].status.podIP


async def test_a_node_lives_while_others_are_still_made(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them never will be: the server has no room for it."""
    create = ResourceClient.create

    async def create_others(self: ResourceClient[Any], obj: Any, **more: Any) -> Any:
        if obj.metadata.name == "unwanted":
            raise service_unavailable("no room")
        return await create(self, obj, **more)

    monkeypatch.setattr(ResourceClient, "create", create_others)
    options = SimulatedOptions("", names=("good", "unwanted"), heartbeat_seconds=0.1)
    seen = set[str]()
    async with running(run_nodes(client, options)), asyncio.timeout(60):
        async for event in client.resource(Lease).watch("kube-node-lease"):
            assert event.object.metadata.name == "good"
            seen.add(event.object.spec.renewTime or "")
            if len(seen) == 3:
                break


async def test_a_node_keeps_its_address_when_others_before_it_are_gone(client: Client) -> None:
    manager = ManagerOptions("", ("nodelifecycle", "nodeipam"), cluster_cidr="10.244.0.0/16")
    async with running(run_controllers(client, manager), run_scheduler(client, Settings(), 1)):
        async with running(run_nodes(client, SimulatedOptions("", names=("a", "b")))):
            await nodes_are(client, lambda nodes: len(nodes) == 2)
        await client.resource(Node).delete("a")
        async with running(run_nodes(client, SimulatedOptions("", names=("b", "c")))):
            nodes = await nodes_are(client, lambda nodes: {"b", "c"} <= {*nodes})
            addresses = {name: nodes[name].status.addresses[0].address for name in ("b", "c")}
            for number in range(4):
                await client.resource(Pod).create(pod(f"p{number}"))
            pods = await watched(client, all_ready(4))
    assert len({*addresses.values()}) == 2
    assert {(p.spec.nodeName, p.status.hostIP) for p in pods.values()} == {*addresses.items()}


async def _nodes(client: Client) -> list[Node]:
    return (await client.resource(Node).list()).items


async def test_deletion_waits_for_the_containers(client: Client) -> None:
    pods = client.resource(Pod)
    slow = pod("slow", **{f"{PREFIX}/stop": "60s"})
    slow.spec.containers.append(Container(name="other", image="i"))
    async with cluster(client, nodes=1):
        await pods.create(slow)
        await watched(client, lambda pods: "slow" in pods and ready(pods["slow"]))
        await pods.delete("slow", "default", grace_period=1)
        ended: list[Pod] = []

        def gone(found: dict[str, Pod]) -> bool:
            ended.extend(p for p in found.values() if p.status.phase == "Failed")
            return not found

        await watched(client, gone)
    states = [each.state.terminated for each in ended[0].status.containerStatuses]
    assert [state.exitCode for state in states if state is not None] == [137, 137]
    with pytest.raises(ApiError):
        await pods.get("slow", "default")
