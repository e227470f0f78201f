"""Making room for more important pods: scheduler, controllers and simulated nodes together, each as
the user it is in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import secured_server
from tests.api.controllers.conftest import client_as, eventually, running

from navarch.api.errors import ApiError
from navarch.api.objects import Object, from_object
from navarch.api.persistent_volumes import SELECTED_NODE
from navarch.api.types.apps_v1 import ReplicaSet
from navarch.api.types.core_v1 import Event, Node, PersistentVolumeClaim, Pod, ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.scheduling_v1 import PriorityClass
from navarch.api.types.storage_v1 import StorageClass
from navarch.client import Client
from navarch.node.simulated import SimulatedOptions, run_nodes

from .test_binding import scheduling

RESOURCE = "scheduling.example/foo"
PRIORITIES = {"low": 1, "medium": 100, "high": 1000}
SUITE = "SchedulerPreemption [Serial]"


@asynccontextmanager
async def cluster(
    directory: Path, nodes: int, amount: str, stop_seconds: float = 0.0
) -> AsyncIterator[Client]:
    """A client of an administrator, once the nodes are there."""
    capacity = {"cpu": "8", "memory": "32Gi", "pods": "110", RESOURCE: amount}
    async with (
        secured_server(directory) as server,
        client_as(server, "root", "system:masters") as admin,
        client_as(server, "system:kube-controller-manager") as manager,
        client_as(server, "system:kube-scheduler") as scheduler,
        running(manager, "serviceaccount", "replicaset", "disruption", "nodelifecycle"),
        scheduling(scheduler),
        asyncio.TaskGroup() as tasks,
    ):
        options = SimulatedOptions(
            "",
            nodes=nodes,
            name_prefix="n",
            capacity=capacity,
            range_seconds=0.0,
            stop_seconds=stop_seconds,
        )
        simulating = tasks.create_task(run_nodes(admin, options))
        for name, value in PRIORITIES.items():
            made = PriorityClass(metadata=ObjectMeta(name=name), value=value)
            await admin.resource(PriorityClass).create(made)

        async def is_ready() -> bool:
            for namespace in ("default", "kube-system"):
                await admin.resource(ServiceAccount).get("default", namespace)
            found = (await admin.resource(Node).list()).items
            return len(found) == nodes and not any(each.spec.taints for each in found)

        await eventually(is_ready, "the nodes")
        yield admin
        simulating.cancel()


def template(priority: str, amount: int, node: str = "") -> Object:
    resources = {"requests": {RESOURCE: str(amount)}, "limits": {RESOURCE: str(amount)}}
    spec: Object = {
        "priorityClassName": priority,
        "containers": [{"name": "c", "image": "pause", "resources": resources}],
    }
    if node:
        fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
        required = {"nodeSelectorTerms": [{"matchFields": fields}]}
        affinity = {"requiredDuringSchedulingIgnoredDuringExecution": required}
        spec["affinity"] = {"nodeAffinity": affinity}
    return spec


async def add(
    client: Client, name: str, spec: Object, namespace: str = "default", **meta: Any
) -> None:
    metadata = {"name": name, "namespace": namespace, **meta}
    await client.resource(Pod).create(from_object(Pod, {"metadata": metadata, "spec": spec}))


async def when(
    client: Client, name: str, check: Callable[[Pod], object], namespace: str = "default"
) -> Pod:
    async def found() -> Pod | None:
        pod = await client.resource(Pod).get(name, namespace)
        assert check(pod), pod
        return pod

    result = await eventually(found, f"what pod {name} is to be")
    assert result is not None
    return result


def is_running(pod: Pod) -> bool:
    return pod.status.phase == "Running"


async def events_of(client: Client, name: str, reason: str) -> list[str]:
    async def found() -> list[str]:
        events = (await client.resource(Event).list("default")).items
        about = [each for each in events if each.involvedObject.name == name]
        return [each.message for each in about if each.reason == reason]

    return await eventually(found, f"event {reason}") or []


@pytest.mark.conformance(
    f"{SUITE} validates basic preemption works",
    f"{SUITE} validates lower priority pod preemption by critical pod",
)
@pytest.mark.parametrize(
    ("namespace", "priority"), [("default", "high"), ("kube-system", "system-cluster-critical")]
)
async def test_the_least_important_goes(tmp_path: Path, namespace: str, priority: str) -> None:
    async with cluster(tmp_path, 2, "5") as client:
        names = ["low", "a", "b", "c"]
        for number, name in enumerate(names):
            spec = template("medium" if number else "low", 2, f"n{number // 2}")
            await add(client, name, spec)
        for name in names:
            await when(client, name, is_running)
        await add(client, "urgent", template(priority, 2), namespace)
        urgent = await when(client, "urgent", is_running, namespace)
        assert urgent.spec.nodeName == "n0" and not urgent.status.nominatedNodeName
        with pytest.raises(ApiError, match="not found"):
            await client.resource(Pod).get("low", "default")
        for name in names[1:]:
            left = await client.resource(Pod).get(name, "default")
            assert is_running(left) and not left.metadata.deletionTimestamp
        told = await events_of(client, "low", "Preempted")
        assert told == [f"Preempted by pod {urgent.metadata.uid} on node n0"]


@pytest.mark.conformance(
    f"{SUITE} validates pod disruption condition is added to the preempted pod"
)
async def test_victims_are_told_why(tmp_path: Path) -> None:
    """The condition is there before the deletion, and the node is kept for the pod meanwhile."""
    async with cluster(tmp_path, 1, "1") as client:
        pods = client.resource(Pod)
        await add(client, "victim", template("low", 1), finalizers=["example.com/keep"])
        victim = await when(client, "victim", is_running)
        seen: list[Pod] = []

        async def watch() -> None:
            async for event in pods.watch(
                "default", resource_version=victim.metadata.resourceVersion
            ):
                seen.append(event.object)

        watching = asyncio.create_task(watch())
        await add(client, "urgent", template("high", 1))
        await when(client, "victim", lambda p: p.metadata.deletionTimestamp)
        await when(client, "urgent", is_running)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        states = [p for p in seen if p.metadata.name == "victim"]
        [condition] = [c for c in states[0].status.conditions if c.type == "DisruptionTarget"]
        assert not states[0].metadata.deletionTimestamp
        assert (condition.status, condition.reason) == ("True", "PreemptionByScheduler")
        assert condition.message == (
            "default-scheduler: preempting to accommodate a higher priority pod"
        )
        waiting = [p.status for p in seen if p.metadata.name == "urgent" and not p.spec.nodeName]
        assert waiting[-1].nominatedNodeName == "n0"
        [told] = [c for c in waiting[-1].conditions if c.type == "PodScheduled"]
        assert told.message == f"0/1 nodes are available: 1 Insufficient {RESOURCE}."
        await pods.patch("victim", "default", {"metadata": {"finalizers": None}})


@pytest.mark.conformance(
    f"{SUITE} PreemptionExecutionPath runs ReplicaSets to verify preemption running path"
)
async def test_no_more_than_needed(tmp_path: Path) -> None:
    """The two least important make room, once each; their successors wait."""
    async with cluster(tmp_path, 1, "1000") as client:
        sizes = {"one": 200, "two": 300, "three": 450}
        for value, name in enumerate([*sizes, "four"], start=1):
            made = PriorityClass(metadata=ObjectMeta(name=name), value=value)
            await client.resource(PriorityClass).create(made)
        for name, size in sizes.items():
            await client.resource(ReplicaSet).create(replica_set(name, template(name, size)))

        async def all_run() -> bool:
            found = (await client.resource(Pod).list("default")).items
            return len(found) == 3 and all(map(is_running, found))

        await eventually(all_run, "three pods")
        before = await uids(client)
        await add(client, "urgent", template("four", 500))
        await when(client, "urgent", is_running)

        async def successors_wait() -> bool:
            found = (await client.resource(Pod).list("default")).items
            waiting = {p.metadata.labels["app"] for p in found if not p.spec.nodeName}
            told = all(p.status.conditions for p in found)
            return waiting == {"one", "two"} and len(found) == 4 and told

        await eventually(successors_wait, "successors that wait")
        after = await uids(client)
        assert after["three"] == before["three"]
        await asyncio.sleep(1.5)  # longer than the delay after which the successors try again
        assert await uids(client) == after
        events = (await client.resource(Event).list("default")).items
        assert sum(e.count or 1 for e in events if e.reason == "Preempted") == 2


async def test_the_most_important_is_served_first(tmp_path: Path) -> None:
    """A pod that waits for its victims is pushed aside by one that matters more, and waits on."""
    async with cluster(tmp_path, 1, "1", stop_seconds=5.0) as client:
        await add(client, "victim", template("low", 1))
        await when(client, "victim", is_running)
        await add(client, "first", template("medium", 1))
        await when(client, "first", lambda p: p.status.nominatedNodeName == "n0")
        await add(client, "urgent", template("high", 1))
        await when(client, "urgent", lambda p: p.status.nominatedNodeName == "n0")
        await when(client, "first", lambda p: not p.status.nominatedNodeName)
        await when(client, "urgent", is_running)
        with pytest.raises(ApiError, match="not found"):
            await client.resource(Pod).get("victim", "default")
        await client.resource(Pod).delete("urgent", "default", grace_period=0)
        await when(client, "first", is_running)


async def test_who_waits_for_volumes_need_not_be_deleted(tmp_path: Path) -> None:
    """Its node is taken away again; it stays and waits."""
    async with cluster(tmp_path, 1, "1") as client:
        late = StorageClass(metadata=ObjectMeta(name="late"), provisioner="example.com/never")
        late.volumeBindingMode = "WaitForFirstConsumer"
        await client.resource(StorageClass).create(late)
        resources = {"requests": {"storage": "1Gi"}}
        claim: Object = {
            "metadata": {"name": "data", "namespace": "default"},
            "spec": {
                "storageClassName": "late",
                "accessModes": ["ReadWriteOnce"],
                "resources": resources,
            },
        }
        claims = client.resource(PersistentVolumeClaim)
        await claims.create(from_object(PersistentVolumeClaim, claim))
        volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        await add(client, "waiting", {**template("low", 1), "volumes": volumes})

        async def is_chosen() -> bool:
            found = await claims.get("data", "default")
            return found.metadata.annotations.get(SELECTED_NODE) == "n0"

        await eventually(is_chosen, "the node of the claim")
        before = await client.resource(Pod).get("waiting", "default")
        await add(client, "urgent", template("high", 1))
        urgent = await when(client, "urgent", is_running)
        [note] = await events_of(client, "waiting", "Preempted")
        note_is = f"Preempted by pod {urgent.metadata.uid} on node n0 (in kube-scheduler memory)."
        assert note == note_is
        after = await when(client, "waiting", lambda p: p.status.conditions)
        assert (after.metadata.uid, after.spec.nodeName) == (before.metadata.uid, "")
        assert not after.metadata.deletionTimestamp


def replica_set(name: str, spec: Object) -> ReplicaSet:
    labels: Mapping[str, str] = {"app": name}
    return from_object(
        ReplicaSet,
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
    )


async def uids(client: Client) -> dict[str, str]:
    found = (await client.resource(Pod).list("default")).items
    return {p.metadata.labels.get("app", p.metadata.name): p.metadata.uid for p in found}
