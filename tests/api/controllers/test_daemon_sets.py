"""DaemonSets; the test plays scheduler and kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import (
    ControllerRevision,
    DaemonSet,
    DaemonSetSpec,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
)
from navarch.api.types.core_v1 import Node, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, PatchType
from navarch.controllers.daemonset_plan import target_node
from navarch.controllers.history import HASH

from .conftest import Kubelet, add_node, eventually, running, selector, template

LABELS = {"daemonset-name": "d"}
NODES = ("n1", "n2", "n3")


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"Daemon set [Serial] should {what}")


class Machines(Kubelet):
    """Also binds pods to the node that they are pinned to."""

    async def start(self, pod: Pod, ready: bool = True) -> None:
        if not pod.spec.nodeName:
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace},
                "target": {"kind": "Node", "name": target_node(pod)},
            }
            meta = pod.metadata
            await self.pods.post_subresource(meta.name, meta.namespace, "binding", binding)
        await super().start(pod, ready)


@pytest.fixture
async def machines(client: Client) -> AsyncIterator[Machines]:
    for name in NODES:
        await add_node(client, name)
    machines = Machines(client)
    async with running(client, "daemonset"), machines:
        yield machines


async def make(client: Client, **spec: Any) -> DaemonSet:
    made = DaemonSetSpec(selector=selector(LABELS), template=template(LABELS), **spec)
    metadata = ObjectMeta(name="d", namespace="default", labels=LABELS)
    return await client.resource(DaemonSet).create(DaemonSet(metadata=metadata, spec=made))


async def pods(client: Client) -> list[Pod]:
    found = (await client.resource(Pod).list("default")).items
    return [pod for pod in found if not pod.metadata.deletionTimestamp]


async def until_on(client: Client, *nodes: str, image: str = "") -> list[Pod]:
    """Until there is one ready pod on each of these nodes, and none elsewhere."""

    async def are_there() -> tuple[list[Pod]]:
        found = await pods(client)
        assert sorted(pod.spec.nodeName for pod in found) == sorted(nodes)
        assert all(pod.status.phase == "Running" for pod in found)
        assert not image or all(pod.spec.containers[0].image == image for pod in found)
        status = (await client.resource(DaemonSet).get("d", "default")).status
        assert status.numberReady == status.desiredNumberScheduled == len(nodes)
        return (found,)

    return (await eventually(are_there, f"daemons on {nodes}"))[0]


async def change(client: Client, **spec: Any) -> DaemonSet:
    resource = client.resource(DaemonSet)
    return await resource.patch("d", "default", {"spec": spec}, patch_type=PatchType.STRATEGIC)


@covers("run and stop simple daemon")
async def test_one_on_each_node(client: Client, machines: Machines) -> None:
    await make(client)
    found = await until_on(client, *NODES)
    await client.resource(Pod).delete(found[0].metadata.name, "default")

    async def is_revived() -> bool:
        return found[0].metadata.uid not in {p.metadata.uid for p in await pods(client)}

    await eventually(is_revived, "the end of the pod")
    await until_on(client, *NODES)
    await add_node(client, "n4")
    await until_on(client, *NODES, "n4")


@covers("run and stop complex daemon")
async def test_only_on_nodes_of_a_colour(client: Client, machines: Machines) -> None:
    spec = {"nodeSelector": {"colour": "blue"}}
    daemons = template(LABELS)
    daemons.spec.nodeSelector = spec["nodeSelector"]
    metadata = ObjectMeta(name="d", namespace="default")
    wanted = DaemonSetSpec(selector=selector(LABELS), template=daemons)
    await client.resource(DaemonSet).create(DaemonSet(metadata=metadata, spec=wanted))
    await until_on(client)

    async def paint(node: str, colour: str) -> None:
        patch = {"metadata": {"labels": {"colour": colour}}}
        await client.resource(Node).patch(node, "", patch)

    await paint("n2", "blue")
    await until_on(client, "n2")
    await paint("n2", "green")
    await until_on(client)
    await change(
        client,
        template={"spec": {"nodeSelector": {"colour": "green"}}},
        updateStrategy={"type": "RollingUpdate"},
    )
    await until_on(client, "n2")


@covers("retry creating failed daemon pods")
async def test_failed_pods_are_replaced(client: Client, machines: Machines) -> None:
    await make(client)
    found = (await until_on(client, *NODES))[0]
    found.status.phase = "Failed"
    await client.resource(Pod).update_status(found)

    async def is_replaced() -> bool:
        return found.metadata.uid not in {p.metadata.uid for p in await pods(client)}

    await eventually(is_replaced, "the end of the failed pod")
    await until_on(client, *NODES)
    events = await client.dynamic("", "v1", "events").list("default")
    assert "FailedDaemonPod" in {event["reason"] for event in events.items}


@covers("update pod when spec was updated and update strategy is RollingUpdate")
async def test_a_new_template_rolls_out(client: Client, machines: Machines) -> None:
    await make(client)
    before = await until_on(client, *NODES)
    machines.least_ready = len(NODES)
    patch = {"spec": {"containers": [{"name": "main", "image": "better"}]}}
    await change(client, template=patch)
    after = await until_on(client, *NODES, image="better")
    assert not {p.metadata.uid for p in before} & {p.metadata.uid for p in after}
    revisions = (await client.resource(ControllerRevision).list("default")).items
    assert sorted(revision.revision for revision in revisions) == [1, 2]
    hashes = {p.metadata.labels["controller-revision-hash"] for p in after}
    newest = max(revisions, key=lambda revision: revision.revision)
    assert hashes == {newest.metadata.labels["controller-revision-hash"]}
    assert newest.metadata.name == f"d-{hashes.pop()}"
    status = (await client.resource(DaemonSet).get("d", "default")).status
    assert status.updatedNumberScheduled == len(NODES)


@covers("rollback without unnecessary restarts")
async def test_going_back_leaves_what_was_not_touched(client: Client, machines: Machines) -> None:
    await make(client)
    before = {p.metadata.uid for p in await until_on(client, *NODES)}
    patch = {"spec": {"containers": [{"name": "main", "image": "broken"}]}}
    await change(client, template=patch)

    async def is_stuck() -> bool:
        images = sorted(p.spec.containers[0].image for p in await pods(client))
        assert images == ["broken", "good", "good"]
        return True

    await eventually(is_stuck, "the broken pod")
    patch = {"spec": {"containers": [{"name": "main", "image": "good"}]}}
    await change(client, template=patch)
    after = {p.metadata.uid for p in await until_on(client, *NODES, image="good")}
    assert len(before & after) == 2
    revisions = (await client.resource(ControllerRevision).list("default")).items
    assert sorted(revision.revision for revision in revisions) == [2, 3]


async def test_a_surge_never_leaves_a_node_alone(client: Client, machines: Machines) -> None:
    rolling = RollingUpdateDaemonSet(maxSurge=1, maxUnavailable=0)
    strategy = DaemonSetUpdateStrategy(type="RollingUpdate", rollingUpdate=rolling)
    await make(client, updateStrategy=strategy)
    await until_on(client, *NODES)
    seen = len(NODES)

    def count(*_: Pod) -> None:
        nonlocal seen
        living = machines.informer.cache.list()
        seen = min(seen, sum(not pod.metadata.deletionTimestamp for pod in living))

    machines.informer.add_handler(count, count, count)
    patch = {"spec": {"containers": [{"name": "main", "image": "better"}]}}
    await change(client, template=patch)
    await until_on(client, *NODES, image="better")
    assert seen == len(NODES)


async def test_on_delete_waits_for_deletions(client: Client, machines: Machines) -> None:
    await make(client, updateStrategy=DaemonSetUpdateStrategy(type="OnDelete"))
    found = await until_on(client, *NODES)
    patch = {"spec": {"containers": [{"name": "main", "image": "better"}]}}
    updated = await change(client, template=patch)

    async def is_observed() -> bool:
        status = (await client.resource(DaemonSet).get("d", "default")).status
        return status.observedGeneration == updated.metadata.generation

    await eventually(is_observed, "the change")
    await client.resource(Pod).delete(found[0].metadata.name, "default")

    async def is_mixed() -> bool:
        images = sorted(p.spec.containers[0].image for p in await pods(client))
        return images == ["better", "good", "good"]

    await eventually(is_mixed, "the one new pod")


@pytest.mark.conformance(
    "ControllerRevision [Serial] should manage the lifecycle of a ControllerRevision"
)
async def test_revisions_are_objects_like_others(client: Client, machines: Machines) -> None:
    owner = await make(client)
    await until_on(client, *NODES)
    revisions = client.resource(ControllerRevision)

    async def count(number: int) -> list[ControllerRevision]:
        async def are_there() -> list[ControllerRevision]:
            found = await revisions.list("default", label_selector="daemonset-name=d")
            assert len(found.items) == number, [each.metadata.name for each in found.items]
            return found.items

        return await eventually(are_there, f"{number} revisions")

    (first,) = await count(1)
    assert [each.uid for each in first.metadata.ownerReferences] == [owner.metadata.uid]
    name = first.metadata.name
    patched = await revisions.patch(name, "default", {"metadata": {"labels": {name: "patched"}}})
    assert patched.metadata.labels[name] == "patched"
    second = copy_object(first)
    second.metadata = ObjectMeta(
        name="d-another",
        namespace="default",
        labels={**LABELS, "controller-revision-hash": "another"},
        ownerReferences=first.metadata.ownerReferences,
    )
    second.revision = first.revision + 1
    await revisions.create(second)
    await count(2)
    await revisions.delete(name, "default")
    (left,) = await count(1)
    assert left.metadata.name == "d-another"
    left.metadata.labels["d-another"] = "updated"
    await revisions.update(left)
    await change(client, template={"spec": {"terminationGracePeriodSeconds": 2}})
    await count(2)
    await revisions.delete_collection("default", label_selector="d-another=updated")
    (last,) = await count(1)
    assert last.revision == 3


async def test_of_two_revisions_of_a_template_the_last_stays(
    client: Client, machines: Machines
) -> None:
    await make(client)
    before = {p.metadata.uid for p in await until_on(client, *NODES)}
    revisions = client.resource(ControllerRevision)
    (first,) = (await revisions.list("default")).items
    twin = copy_object(first)
    twin.metadata = ObjectMeta(name="twin", namespace="default", labels={**LABELS, HASH: "twin"})
    twin.revision = 5
    await revisions.create(twin)

    async def is_alone() -> bool:
        found = (await revisions.list("default")).items
        assert [each.metadata.name for each in found] == ["twin"]
        assert {p.metadata.labels[HASH] for p in await pods(client)} == {"twin"}
        return True

    await eventually(is_alone, "one revision, adopted, and pods of it")
    assert {p.metadata.uid for p in await until_on(client, *NODES)} == before


async def test_a_hash_that_another_template_has_is_not_used(
    client: Client, machines: Machines
) -> None:
    await make(client)
    await until_on(client, *NODES)
    revisions = client.resource(ControllerRevision)
    await change(client, template={"spec": {"hostname": "x"}})
    await until_on(client, *NODES)
    found = {each.revision: each for each in (await revisions.list("default")).items}
    taken = copy_object(found[2])
    await client.resource(DaemonSet).delete("d", "default")

    async def are_gone() -> bool:
        for each in await pods(client):
            await client.resource(Pod).delete(each.metadata.name, "default")
        for old in (await revisions.list("default")).items:
            await revisions.delete(old.metadata.name, "default")
        return not await pods(client)

    await eventually(are_gone, "the end of the first set")
    taken.metadata = ObjectMeta(name=taken.metadata.name, namespace="default")
    taken.data = {"spec": {"template": {"somebody": "else's"}}}
    await revisions.create(taken)
    await make(client)
    await until_on(client, *NODES)
    await change(client, template={"spec": {"hostname": "x"}})

    async def is_counted() -> bool:
        status = (await client.resource(DaemonSet).get("d", "default")).status
        return status.collisionCount == 1 and status.updatedNumberScheduled == len(NODES)

    await eventually(is_counted, "the collision")


async def test_pods_that_fail_again_are_replaced_less_and_less_often(
    client: Client, machines: Machines
) -> None:
    await make(client)
    await until_on(client, *NODES)
    times: list[float] = []

    async def fail() -> None:
        (found,) = [p for p in await pods(client) if p.spec.nodeName == "n1"]
        await machines.finish(found, "Failed", 1)

        async def is_replaced() -> bool:
            on_node = [p for p in await pods(client) if p.spec.nodeName == "n1"]
            assert found.metadata.uid not in {p.metadata.uid for p in on_node}
            assert [p.status.phase for p in on_node] == ["Running"]
            return True

        started = asyncio.get_running_loop().time()
        await eventually(is_replaced, "the successor")
        times.append(asyncio.get_running_loop().time() - started)

    await fail()
    await fail()
    assert sum(times) > 0.9, "the second waits until a second after the first"


@covers("verify changes to a daemon set status")
async def test_foreign_conditions_are_kept(client: Client, machines: Machines) -> None:
    await make(client)
    await until_on(client, *NODES)
    resource = client.resource(DaemonSet)
    condition = {"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "test"}

    async def is_written() -> bool:
        body = {"status": {"conditions": [condition]}}
        patched = await resource.patch("d", "default", body, subresource="status")
        return [c.type for c in patched.status.conditions] == ["StatusUpdate"]

    await eventually(is_written, "the condition")
    await add_node(client, "n4")
    await until_on(client, *NODES, "n4")
    found = await resource.get("d", "default")
    assert [c.type for c in found.status.conditions] == ["StatusUpdate"]


@covers("list and delete a collection of DaemonSets")
async def test_collections(client: Client, machines: Machines) -> None:
    await make(client)
    await until_on(client, *NODES)
    resource = client.resource(DaemonSet)
    listed = await resource.list(label_selector="daemonset-name=d")
    assert [item.metadata.name for item in listed.items] == ["d"]
    await resource.delete_collection("default", label_selector="daemonset-name=d")
    with pytest.raises(ApiError) as caught:
        await resource.get("d", "default")
    assert caught.value.is_not_found
