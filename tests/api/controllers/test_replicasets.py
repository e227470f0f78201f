"""ReplicaSets and ReplicationControllers against the API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetSpec
from navarch.api.types.core_v1 import (
    Event,
    Pod,
    PodCondition,
    ReplicationController,
    ReplicationControllerSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, PatchType, controller_of
from navarch.controllers.pods import PACE_SECONDS

from .conftest import Kubelet, eventually, pod, running, selector, template

LABELS = {"app": "web"}
Kind = type[ReplicaSet] | type[ReplicationController]


def build(kind: Kind, replicas: int = 3, **spec: Any) -> Any:
    metadata = ObjectMeta(name="web", namespace="default")
    made = template(LABELS)
    if kind is ReplicaSet:
        body = ReplicaSetSpec(replicas=replicas, selector=selector(LABELS), template=made, **spec)
        return ReplicaSet(metadata=metadata, spec=body)
    old = ReplicationControllerSpec(replicas=replicas, selector=LABELS, template=made, **spec)
    return ReplicationController(metadata=metadata, spec=old)


async def make(client: Client, kind: Kind = ReplicaSet, replicas: int = 3, **spec: Any) -> Any:
    return await client.resource(kind).create(build(kind, replicas, **spec))


async def get(client: Client, kind: Kind = ReplicaSet) -> Any:
    return await client.resource(kind).get("web", "default")


async def scale(client: Client, replicas: int, kind: Kind = ReplicaSet) -> None:
    body = {"spec": {"replicas": replicas}}
    await client.resource(kind).patch("web", "default", body, subresource="scale")


async def until_ready(client: Client, replicas: int, kind: Kind = ReplicaSet) -> Any:
    async def is_ready() -> Any:
        found = await get(client, kind)
        status = found.status
        counts = (status.replicas, status.readyReplicas, status.availableReplicas)
        assert counts == (replicas,) * 3
        assert status.fullyLabeledReplicas == replicas
        assert status.observedGeneration == found.metadata.generation
        return found

    return await eventually(is_ready, f"{replicas} ready replicas")


async def pods(client: Client) -> list[Pod]:
    return (await client.resource(Pod).list("default")).items


@pytest.mark.parametrize(
    ("kind", "name"), [(ReplicaSet, "replicaset"), (ReplicationController, "replicationcontroller")]
)
async def test_scaling_up_and_down(client: Client, kind: Kind, name: str) -> None:
    async with running(client, name), Kubelet(client) as kubelet:
        owner = await make(client, kind)
        await until_ready(client, 3, kind)
        for made in await pods(client):
            reference = controller_of(made)
            assert reference is not None
            assert (reference.kind, reference.uid) == (kind.__name__, owner.metadata.uid)
            assert reference.blockOwnerDeletion
            assert made.metadata.name.startswith("web-")
        assert kubelet.most == 3
        await scale(client, 5, kind)
        await until_ready(client, 5, kind)
        await scale(client, 1, kind)
        await until_ready(client, 1, kind)
        await scale(client, 0, kind)
        await until_ready(client, 0, kind)
        assert kubelet.most == 5

        async def told() -> bool:
            events = (await client.resource(Event).list("default")).items
            return {"SuccessfulCreate", "SuccessfulDelete"} <= {e.reason for e in events}

        await eventually(told, "the events")


async def test_a_hundred_pods_and_not_one_more(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client) as kubelet:
        await make(client, replicas=100)
        await until_ready(client, 100)
        assert kubelet.most == 100


class Counting(Client):
    """Counts what is read one by one, and the statuses that are written."""

    reads = 0
    statuses = 0

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        self.reads += method == "GET" and "/pods/" in path
        self.statuses += method == "PUT" and path.endswith("/status")
        return await super().request(method, path, **options)


async def test_a_large_set_costs_few_requests(client: Client) -> None:
    """No pod is read on its own, and the status is written as often as the pace allows, not for
    each pod."""
    counting = Counting(client.config)
    async with counting, running(counting, "replicaset"), Kubelet(client):
        started = asyncio.get_running_loop().time()
        await make(client, replicas=200)
        await until_ready(client, 200)
        seconds = asyncio.get_running_loop().time() - started
        assert counting.reads == 0
        assert counting.statuses <= 5 + seconds / (200 * PACE_SECONDS)


async def test_lost_and_failed_pods_are_replaced(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client) as kubelet:
        await make(client)
        await until_ready(client, 3)
        one, two, three = await pods(client)
        await client.resource(Pod).delete(one.metadata.name, "default")
        await kubelet.finish(two, "Failed", 1)

        async def replaced() -> bool:
            found = await pods(client)
            names = {p.metadata.name for p in found if p.status.phase == "Running"}
            return len(names) == 3 and three.metadata.name in names

        await eventually(replaced, "two new pods")
        await until_ready(client, 3)


async def test_the_least_useful_pods_go_first(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client)
        await until_ready(client, 3)
        first, second, third = await pods(client)
        body = {"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}
        await client.resource(Pod).patch(second.metadata.name, "default", body)
        await scale(client, 2)
        await until_ready(client, 2)
        left = {p.metadata.name for p in await pods(client)}
        assert left == {first.metadata.name, third.metadata.name}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            ReplicaSet,
            "replicaset",
            marks=pytest.mark.conformance(
                "ReplicaSet should adopt matching pods on creation and release no longer matching "
                "pods"
            ),
        ),
        pytest.param(
            ReplicationController,
            "replicationcontroller",
            marks=pytest.mark.conformance(
                "ReplicationController should adopt matching pods on creation",
                "ReplicationController should release no longer matching pods",
            ),
        ),
    ],
)
async def test_adoption_and_release(client: Client, kind: Kind, name: str) -> None:
    stray = pod("stray", LABELS)
    await client.resource(Pod).create(stray)
    async with running(client, name), Kubelet(client):
        owner = await make(client, kind, replicas=2)
        await until_ready(client, 2, kind)
        found = await client.resource(Pod).get("stray", "default")
        assert [r.uid for r in found.metadata.ownerReferences] == [owner.metadata.uid]
        await client.resource(Pod).patch("stray", "default", {"metadata": {"labels": {"app": "x"}}})

        async def is_free() -> bool:
            meta = (await client.resource(Pod).get("stray", "default")).metadata
            return not meta.ownerReferences

        await eventually(is_free, "the release")
        await until_ready(client, 2, kind)
        assert len(await pods(client)) == 3


@pytest.mark.conformance("ReplicaSet Replace and Patch tests")
async def test_a_new_template_is_for_new_pods(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        made = await make(client, replicas=1)
        before = await until_ready(client, 1)
        (first,) = await pods(client)
        before.spec.replicas = 2
        await client.resource(ReplicaSet).update(before)
        await until_ready(client, 2)
        containers = [{"name": "main", "image": "better"}]
        body = {
            "metadata": {"labels": {"test-rs": "patched"}},
            "spec": {
                "replicas": 3,
                "template": {
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": containers}
                },
            },
        }
        patched = await client.resource(ReplicaSet).patch(
            "web", "default", body, patch_type=PatchType.STRATEGIC
        )
        assert int(patched.metadata.resourceVersion) > int(made.metadata.resourceVersion)
        found = await until_ready(client, 3)
        assert found.metadata.labels["test-rs"] == "patched"
        assert found.spec.template.spec.terminationGracePeriodSeconds == 0
        images = {p.metadata.name: p.spec.containers[0].image for p in await pods(client)}
        assert sorted(images.values()) == ["better", "good", "good"]
        assert images[first.metadata.name] == "good"


async def test_pods_on_their_way_out_are_not_let_go(client: Client) -> None:
    """Nor are they counted once they no longer match."""
    async with running(client, "replicaset"):
        await make(client, replicas=1)

        async def is_there() -> Pod:
            return (await pods(client))[0]

        only = await eventually(is_there, "the pod")
        only.metadata.finalizers = ["example.com/keep"]
        only = await client.resource(Pod).update(only)
        await client.resource(Pod).delete(only.metadata.name, "default")

        async def is_replaced() -> bool:
            status = (await get(client)).status
            return (status.replicas, status.terminatingReplicas) == (1, 1)

        await eventually(is_replaced, "its successor")
        patch = {"metadata": {"labels": {"app": "other"}}}
        await client.resource(Pod).patch(only.metadata.name, "default", patch)

        async def is_not_counted() -> bool:
            return not (await get(client)).status.terminatingReplicas

        await eventually(is_not_counted, "the count without it")
        found = await client.resource(Pod).get(only.metadata.name, "default")
        assert found.metadata.ownerReferences
        found.metadata.finalizers = []
        await client.resource(Pod).update(found)


async def test_a_selector_of_a_replication_controller_can_change(client: Client) -> None:
    kind = ReplicationController
    async with running(client, "replicationcontroller"), Kubelet(client):
        await make(client, kind, 2)
        before = {p.metadata.name for p in (await pods(client))}
        await until_ready(client, 2, kind)
        body = {
            "spec": {
                "selector": {"app": None, "role": "db"},
                "template": {"metadata": {"labels": {"role": "db"}}},
            }
        }
        await client.resource(kind).patch("web", "default", body)
        await until_ready(client, 2, kind)

        async def are_free() -> bool:
            found = await pods(client)
            assert len(found) == 4
            free = {p.metadata.name for p in found if not p.metadata.ownerReferences}
            return len(free) == 2 and before <= free

        await eventually(are_free, "the release of the old pods")


async def test_nothing_is_taken_from_another_controller(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client, replicas=2)
        await until_ready(client, 2)
        other = build(ReplicaSet, 1)
        other.metadata.name = "other"
        await client.resource(ReplicaSet).create(other)

        async def has_its_own() -> bool:
            found = await client.resource(ReplicaSet).get("other", "default")
            return found.status.readyReplicas == 1

        await eventually(has_its_own, "the other's own pod")
        assert len(await pods(client)) == 3


async def test_pods_are_available_only_after_a_while(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client, replicas=1, minReadySeconds=3)  # times have whole seconds

        async def ready_but_young() -> bool:
            status = (await get(client)).status
            return bool(status.readyReplicas == 1 and not status.availableReplicas)

        await eventually(ready_but_young, "a ready pod that is too young")
        await until_ready(client, 1)


async def test_foreign_conditions_stay(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client)
        found = await until_ready(client, 3)
        found.status.conditions = [ReplicaSetCondition(type="StatusUpdate", status="True")]
        await client.resource(ReplicaSet).update_status(found)
        await scale(client, 4)
        found = await until_ready(client, 4)
        assert [c.type for c in found.status.conditions] == ["StatusUpdate"]


async def test_a_pod_that_gets_unready_counts_no_more(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client, replicas=1)
        await until_ready(client, 1)
        (only,) = await pods(client)
        only.status.conditions = [PodCondition(type="Ready", status="False")]
        await client.resource(Pod).update_status(only)

        async def seen() -> bool:
            status = (await get(client)).status
            return bool(status.replicas == 1 and not status.readyReplicas)

        await eventually(seen, "an unready replica")


async def test_a_deleted_set_makes_no_more_pods(client: Client) -> None:
    async with running(client, "replicaset"), Kubelet(client):
        await make(client, replicas=2)
        await until_ready(client, 2)
        await client.resource(ReplicaSet).delete("web", "default", propagation="Foreground")
        (one, _) = await pods(client)
        await client.resource(Pod).delete(one.metadata.name, "default")

        async def counted() -> bool:
            return bool((await get(client)).status.replicas == 1)

        await eventually(counted, "a status without the pod")
        assert len(await pods(client)) == 1
