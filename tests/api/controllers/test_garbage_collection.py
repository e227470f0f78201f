"""Owners and dependents against the API server: background, foreground, orphan, circles, liars."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.apps_v1 import Deployment, DeploymentSpec, ReplicaSet
from navarch.api.types.core_v1 import (
    ConfigMap,
    Event,
    PersistentVolume,
    Pod,
    ReplicationController,
    ReplicationControllerSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client import Client, KubernetesObject, PatchType, owner_reference

from .conftest import Kubelet, add_node, eventually, pod, running, selector, template

COLLECTING = ("garbagecollector", "replicationcontroller", "replicaset", "deployment", "podgc")


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"Garbage collector should {what}")


async def make(client: Client, name: str, *owners: OwnerReference, **meta: Any) -> ConfigMap:
    metadata = ObjectMeta(name=name, namespace="default", ownerReferences=[*owners], **meta)
    return await client.resource(ConfigMap).create(ConfigMap(metadata=metadata))


async def find(client: Client, obj: KubernetesObject) -> Any:
    try:
        return await client.resource(type(obj)).get(obj.metadata.name, obj.metadata.namespace)
    except ApiError as error:
        if error.is_not_found:
            return None
        raise


async def until_gone(client: Client, *objects: KubernetesObject) -> None:
    async def gone() -> bool:
        return not [obj for obj in objects if await find(client, obj)]

    await eventually(gone, f"the end of {[obj.metadata.name for obj in objects]}")


def ref(owner: KubernetesObject, blocks: bool = False) -> OwnerReference:
    made = owner_reference(owner, controller=False)
    made.blockOwnerDeletion = blocks or None
    return made


async def delete(client: Client, obj: KubernetesObject, policy: str) -> None:
    meta = obj.metadata
    await client.resource(type(obj)).delete(meta.name, meta.namespace, propagation=policy)


async def test_background_takes_dependents_of_dependents(client: Client) -> None:
    owner = await make(client, "owner")
    child = await make(client, "child", ref(owner))
    grandchild = await make(client, "grandchild", ref(child))
    bystander = await make(client, "bystander")
    async with running(client, "garbagecollector"):
        await delete(client, owner, "Background")
        await until_gone(client, child, grandchild)
        assert await find(client, bystander)


async def test_dependents_born_after_their_owner_died(client: Client) -> None:
    owner = await make(client, "owner")
    await delete(client, owner, "Background")
    late = await make(client, "late", ref(owner))
    async with running(client, "garbagecollector"):
        await until_gone(client, late)


async def test_another_object_of_the_same_name_is_no_owner(client: Client) -> None:
    first = await make(client, "owner")
    await delete(client, first, "Background")
    second = await make(client, "owner")
    of_first = await make(client, "of-first", ref(first))
    of_second = await make(client, "of-second", ref(second))
    async with running(client, "garbagecollector"):
        await until_gone(client, of_first)
        assert await find(client, of_second)


async def test_foreground_waits_for_those_who_block(client: Client) -> None:
    owner = await make(client, "owner")
    blocking = await make(client, "blocking", ref(owner, True), finalizers=["example.com/hold"])
    free = await make(client, "free", ref(owner))
    async with running(client, "garbagecollector"):
        await delete(client, owner, "Foreground")

        async def dependents_are_deleted() -> bool:
            found = await find(client, blocking)
            return bool(found.metadata.deletionTimestamp) and await find(client, free) is None

        await eventually(dependents_are_deleted, "the dependents' deletion")
        held = await find(client, owner)
        assert held.metadata.finalizers == ["foregroundDeletion"]
        assert held.metadata.deletionTimestamp
        patch = {"metadata": {"finalizers": None}}
        await client.resource(ConfigMap).patch("blocking", "default", patch)
        await until_gone(client, owner, blocking)


async def test_foreground_goes_through_generations(client: Client) -> None:
    owner = await make(client, "owner")
    child = await make(client, "child", ref(owner, True))
    grandchild = await make(client, "grandchild", ref(child, True), finalizers=["example.com/hold"])
    async with running(client, "garbagecollector"):
        await delete(client, owner, "Foreground")

        async def reached() -> bool:
            return bool((await find(client, grandchild)).metadata.deletionTimestamp)

        await eventually(reached, "the grandchild's deletion")
        assert (await find(client, child)).metadata.finalizers == ["foregroundDeletion"]
        assert await find(client, owner)
        patch = {"metadata": {"finalizers": None}}
        await client.resource(ConfigMap).patch("grandchild", "default", patch)
        await until_gone(client, owner, child, grandchild)


async def test_orphans_stay_without_their_reference(client: Client) -> None:
    owner = await make(client, "owner")
    other = await make(client, "other")
    children = [await make(client, f"child-{n}", ref(owner), ref(other)) for n in range(3)]
    async with running(client, "garbagecollector"):
        await delete(client, owner, "Orphan")
        await until_gone(client, owner)
        for child in children:
            found = await find(client, child)
            assert [r.name for r in found.metadata.ownerReferences] == ["other"]


async def test_one_owner_left_is_enough(client: Client) -> None:
    leaving = await make(client, "leaving")
    staying = await make(client, "staying")
    child = await make(client, "child", ref(leaving, True), ref(staying, True))
    async with running(client, "garbagecollector"):
        await delete(client, leaving, "Foreground")
        await until_gone(client, leaving)
        found = await find(client, child)
        assert [r.name for r in found.metadata.ownerReferences] == ["staying"]
        assert not found.metadata.deletionTimestamp


@pytest.mark.parametrize("policy", ["Foreground", "Background"])
async def test_circles_do_not_block(client: Client, policy: str) -> None:
    one = await make(client, "one")
    two = await make(client, "two", ref(one, True))
    three = await make(client, "three", ref(two, True))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "blockOwnerDeletion": True}
    owner = {**reference, "name": "three", "uid": three.metadata.uid}
    patch = {"metadata": {"ownerReferences": [owner]}}
    await client.resource(ConfigMap).patch("one", "default", patch)
    async with running(client, "garbagecollector"):
        await delete(client, one, policy)
        await until_gone(client, one, two, three)


async def test_an_owner_in_another_namespace_is_reported_and_does_not_count(
    client: Client,
) -> None:
    elsewhere = ConfigMap(metadata=ObjectMeta(name="owner", namespace="kube-system"))
    owner = await client.resource(ConfigMap).create(elsewhere)
    async with running(client, "garbagecollector"):
        child = await make(client, "child", ref(owner))
        await until_gone(client, child)

        async def reported() -> bool:
            events = (await client.resource(Event).list("default")).items
            return any(
                e.reason == "OwnerRefInvalidNamespace"
                and e.involvedObject.name == "child"
                and f"uid: {owner.metadata.uid}] does not exist in namespace" in e.message
                for e in events
            )

        await eventually(reported, "the event")


async def test_a_cluster_scoped_object_with_a_namespaced_owner_is_left_alone(
    client: Client,
) -> None:
    owner = await make(client, "owner")
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/tmp"},
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": "pv",
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": "owner",
                    "uid": owner.metadata.uid,
                }
            ],
        },
        "spec": spec,
    }
    await client.dynamic("", "v1", "persistentvolumes", False).create(volume)
    witness = await make(client, "witness", ref(owner))
    async with running(client, "garbagecollector"):
        await delete(client, owner, "Background")
        await until_gone(client, owner, witness)
        found = await client.resource(PersistentVolume).get("pv")
        assert not found.metadata.deletionTimestamp


async def test_custom_resources_are_owners_and_dependents(client: Client) -> None:
    group = "example.com"
    async with running(client, "garbagecollector"):
        await client.dynamic(
            "apiextensions.k8s.io", "v1", "customresourcedefinitions", False
        ).create(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": "widgets.example.com"},
                "spec": {
                    "group": group,
                    "names": {"plural": "widgets", "kind": "Widget"},
                    "scope": "Namespaced",
                    "versions": [
                        {
                            "name": "v1",
                            "served": True,
                            "storage": True,
                            "schema": {
                                "openAPIV3Schema": {
                                    "type": "object",
                                    "x-kubernetes-preserve-unknown-fields": True,
                                }
                            },
                        }
                    ],
                },
            }
        )
        widgets = client.dynamic(group, "v1", "widgets")
        body = {"apiVersion": f"{group}/v1", "kind": "Widget"}

        async def create(name: str, owners: list[Any]) -> Any:
            meta = {"name": name, "namespace": "default", "ownerReferences": owners}
            return await widgets.create({**body, "metadata": meta})

        async def first() -> Any:
            return await create("owner", [])

        owner = await eventually(first, "the first widget")
        reference = {**body, "name": "owner", "uid": owner["metadata"]["uid"]}
        await create("child", [{**reference, "blockOwnerDeletion": True}])
        config = await make(client, "config", OwnerReference(**reference))
        await widgets.delete("owner", "default", propagation="Foreground")
        await until_gone(client, config)

        async def all_gone() -> bool:
            return not (await widgets.list("default")).items

        await eventually(all_gone, "the widgets' end")


async def test_a_deployment_takes_its_sets_and_pods_with_it(client: Client) -> None:
    await add_node(client)
    labels = {"app": "web"}
    deployment = Deployment(
        metadata=ObjectMeta(name="web", namespace="default"),
        spec=DeploymentSpec(replicas=3, selector=selector(labels), template=template(labels)),
    )
    names = ("garbagecollector", "deployment", "replicaset", "podgc")
    async with running(client, *names), Kubelet(client):
        await client.resource(Deployment).create(deployment)

        async def is_ready() -> bool:
            found = await client.resource(Deployment).get("web", "default")
            return found.status.readyReplicas == 3

        await eventually(is_ready, "the Deployment")
        await delete(client, deployment, "Foreground")
        await until_gone(client, deployment)
        assert not (await client.resource(ReplicaSet).list("default")).items
        assert not (await client.resource(Pod).list("default")).items


async def make_controller(client: Client, name: str, replicas: int) -> ReplicationController:
    """A ReplicationController with all its pods."""
    labels = {"name": name}
    spec = ReplicationControllerSpec(replicas=replicas, selector=labels, template=template(labels))
    metadata = ObjectMeta(name=name, namespace="default")
    made = await client.resource(ReplicationController).create(
        ReplicationController(metadata=metadata, spec=spec)
    )

    async def has_pods() -> bool:
        found = await client.resource(ReplicationController).get(name, "default")
        return found.status.replicas == replicas

    await eventually(has_pods, "the controller's pods")
    return made


async def make_deployment(client: Client) -> tuple[Deployment, ReplicaSet]:
    labels = {"app": "web"}
    spec = DeploymentSpec(replicas=2, selector=selector(labels), template=template(labels))
    metadata = ObjectMeta(name="web", namespace="default")
    made = await client.resource(Deployment).create(Deployment(metadata=metadata, spec=spec))

    async def has_set() -> ReplicaSet:
        return (await client.resource(ReplicaSet).list("default")).items[0]

    return made, await eventually(has_set, "the ReplicaSet")


async def pods(client: Client) -> list[Pod]:
    return (await client.resource(Pod).list("default")).items


async def until_no_pods(client: Client) -> None:
    async def are_gone() -> bool:
        return not await pods(client)

    await eventually(are_gone, "the pods' end")


@covers("delete pods created by rc when not orphaning")
async def test_a_controller_takes_its_pods_along(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        controller = await make_controller(client, "gone", 10)
        await delete(client, controller, "Background")
        await until_gone(client, controller)
        await until_no_pods(client)


@covers("orphan pods created by rc if delete options say so [Serial]")
async def test_a_controller_leaves_its_pods_if_told_so(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        controller = await make_controller(client, "gone", 10)
        await delete(client, controller, "Orphan")
        await until_gone(client, controller)
        # Whoever mistakes the orphans for garbage now also takes this away.
        doomed = await make(client, "doomed", ref(controller))
        await until_gone(client, doomed)
        left = await pods(client)
        assert len(left) == 10
        assert not [p for p in left if p.metadata.deletionTimestamp or p.metadata.ownerReferences]


@covers("delete RS created by deployment when not orphaning")
async def test_a_deployment_takes_its_set_along(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        deployment, owned = await make_deployment(client)
        await delete(client, deployment, "Background")
        await until_gone(client, deployment, owned)
        await until_no_pods(client)


@covers("orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan")
async def test_a_deployment_leaves_its_set_if_told_so(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        deployment, owned = await make_deployment(client)
        await delete(client, deployment, "Orphan")
        await until_gone(client, deployment)
        doomed = await make(client, "doomed", ref(deployment))
        await until_gone(client, doomed)
        left = await find(client, owned)
        assert left.metadata.uid == owned.metadata.uid
        assert not left.metadata.ownerReferences
        assert not left.metadata.deletionTimestamp


@covers("keep the rc around until all its pods are deleted if the deleteOptions says so [Serial]")
async def test_a_controller_waits_for_its_pods_if_told_so(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        controller = await make_controller(client, "gone", 5)
        hold = {"metadata": {"finalizers": ["example.com/hold"]}}
        held = (await pods(client))[0].metadata.name
        await client.resource(Pod).patch(held, "default", hold)
        await delete(client, controller, "Foreground")

        async def is_one_left() -> bool:
            return [p.metadata.name for p in await pods(client)] == [held]

        await eventually(is_one_left, "the end of the other pods")
        waiting = await find(client, controller)
        assert waiting.metadata.deletionTimestamp
        assert waiting.metadata.finalizers == ["foregroundDeletion"]
        await client.resource(Pod).patch(held, "default", {"metadata": {"finalizers": None}})
        await until_gone(client, controller)
        assert not await pods(client)


@covers(
    "not delete dependents that have both valid owner and owner that's waiting for dependents "
    "to be deleted [Serial]"
)
async def test_pods_of_two_controllers_survive_one(client: Client) -> None:
    await add_node(client)
    async with running(client, *COLLECTING), Kubelet(client):
        leaving = await make_controller(client, "leaving", 6)
        staying = await make_controller(client, "staying", 0)
        shared = [p.metadata.name for p in await pods(client)][:3]
        reference = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "name": "staying",
            "uid": staying.metadata.uid,
        }
        patch = {"metadata": {"ownerReferences": [reference]}}
        for name in shared:
            await client.resource(Pod).patch(name, "default", patch, patch_type=PatchType.STRATEGIC)
        await delete(client, leaving, "Foreground")
        await until_gone(client, leaving)
        left = await pods(client)
        assert sorted(p.metadata.name for p in left) == sorted(shared)
        for each in left:
            assert [r.name for r in each.metadata.ownerReferences] == ["staying"]
            assert not each.metadata.deletionTimestamp


@covers("not be blocked by dependency circle")
async def test_pods_that_own_each_other_go(client: Client) -> None:
    made = [await client.resource(Pod).create(pod(f"p{n}")) for n in range(3)]
    for number, owner in enumerate((made[2], made[0], made[1])):
        reference: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "controller": True}
        reference |= {"name": owner.metadata.name, "uid": owner.metadata.uid}
        reference["blockOwnerDeletion"] = True
        patch = {"metadata": {"ownerReferences": [reference]}}
        await client.resource(Pod).patch(f"p{number}", "default", patch)
    async with running(client, "garbagecollector"), Kubelet(client):
        await client.resource(Pod).delete("p0", "default")
        await until_no_pods(client)
