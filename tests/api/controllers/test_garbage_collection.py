"""Owners and dependents against the API server: background, foreground, orphan, circles, liars."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.apps_v1 import Deployment, DeploymentSpec, ReplicaSet
from navarch.api.types.core_v1 import ConfigMap, Event, PersistentVolume, Pod
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client import Client, KubernetesObject, owner_reference

from .conftest import Kubelet, add_node, eventually, running, selector, template


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
