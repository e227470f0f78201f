"""Claims and volumes stay while they are used, and go afterwards."""

from __future__ import annotations

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import (
    Container,
    HostPathVolumeSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource,
    PersistentVolumeSpec,
    Pod,
    PodSpec,
    Volume,
    VolumeResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import VolumeAttributesClass
from navarch.client import Client, KubernetesObject

from .conftest import NODE, add_node, eventually, make_namespace, running


def claim(name: str) -> PersistentVolumeClaim:
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name=name, namespace="ns"),
        spec=PersistentVolumeClaimSpec(
            accessModes=["ReadWriteOnce"],
            resources=VolumeResourceRequirements(requests={"storage": "1Gi"}),
        ),
    )


def pod(name: str, of_claim: str, node: str) -> Pod:
    source = PersistentVolumeClaimVolumeSource(claimName=of_claim)
    return Pod(
        metadata=ObjectMeta(name=name, namespace="ns"),
        spec=PodSpec(
            nodeName=node,
            containers=[Container(name="main", image="registry.example/x")],
            volumes=[Volume(name="data", persistentVolumeClaim=source)],
        ),
    )


async def until_gone(client: Client, obj: KubernetesObject) -> None:
    async def is_gone() -> bool:
        try:
            await client.resource(type(obj)).get(obj.metadata.name, obj.metadata.namespace)
        except ApiError as error:
            return error.is_not_found
        return False

    await eventually(is_gone, f"the end of {obj.metadata.name}")


async def test_a_claim_goes_when_no_pod_on_a_node_uses_it(client: Client) -> None:
    claims, pods = client.resource(PersistentVolumeClaim), client.resource(Pod)
    async with running(client, "pvc-protection", "serviceaccount"):
        await make_namespace(client, "ns")
        await add_node(client)
        for name in ("used", "awaited", "free"):
            await claims.create(claim(name))
        await pods.create(pod("on-node", "used", NODE))
        await pods.create(pod("pending", "awaited", ""))
        for name in ("used", "awaited", "free"):
            await claims.delete(name, "ns")
        await until_gone(client, claim("free"))
        await until_gone(client, claim("awaited"))
        kept = await claims.get("used", "ns")
        assert kept.metadata.deletionTimestamp
        assert kept.metadata.finalizers == ["kubernetes.io/pvc-protection"]
        await pods.delete("on-node", "ns", grace_period=0)
        await until_gone(client, kept)


async def test_a_claim_from_before_protection_gets_it(client: Client) -> None:
    claims = client.resource(PersistentVolumeClaim)
    async with running(client, "pvc-protection", "serviceaccount"):
        await make_namespace(client, "ns")
        await claims.create(claim("old"))
        await claims.patch("old", "ns", {"metadata": {"finalizers": None}})

        async def has_it() -> bool:
            found = await claims.get("old", "ns")
            return found.metadata.finalizers == ["kubernetes.io/pvc-protection"]

        await eventually(has_it, "the finalizer")


@pytest.mark.conformance(
    "PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC"
)
async def test_a_volume_goes_unless_it_is_bound(client: Client) -> None:
    volumes = client.resource(PersistentVolume)
    spec = PersistentVolumeSpec(
        capacity={"storage": "1Gi"},
        accessModes=["ReadWriteOnce"],
        hostPath=HostPathVolumeSource(path="/tmp/volume"),
    )
    async with running(client, "pv-protection"):
        free, bound = (
            PersistentVolume(metadata=ObjectMeta(name=name), spec=spec)
            for name in ("free", "bound")
        )
        for each in (free, bound):
            await volumes.create(each)

        async def are_protected() -> bool:
            return all(each.metadata.finalizers for each in (await volumes.list()).items)

        await eventually(are_protected, "the finalizers")
        status = {"status": {"phase": "Bound"}}
        await volumes.patch("bound", "", status, subresource="status")
        for each in (bound, free):
            await volumes.delete(each.metadata.name)
        await until_gone(client, free)
        assert (await volumes.get("bound")).metadata.deletionTimestamp
        status = {"status": {"phase": "Released"}}
        await volumes.patch("bound", "", status, subresource="status")
        await until_gone(client, bound)


async def test_a_class_of_attributes_goes_when_no_claim_names_it(client: Client) -> None:
    classes, claims = client.resource(VolumeAttributesClass), client.resource(PersistentVolumeClaim)
    async with running(client, "vac-protection", "serviceaccount"):
        await make_namespace(client, "ns")
        named, free = (
            VolumeAttributesClass(
                metadata=ObjectMeta(name=name), driverName="csi.example", parameters={"speed": name}
            )
            for name in ("gold", "silver")
        )
        for each in (named, free):
            await classes.create(each)
        user = claim("user")
        user.spec.volumeAttributesClassName = "gold"
        await claims.create(user)

        async def is_protected() -> bool:
            found = await classes.list()
            return all(each.metadata.finalizers for each in found.items)

        await eventually(is_protected, "the finalizers")
        for each in (named, free):
            await classes.delete(each.metadata.name)
        await until_gone(client, free)
        assert (await classes.get("gold")).metadata.deletionTimestamp
        await claims.delete("user", "ns")
        await until_gone(client, named)
