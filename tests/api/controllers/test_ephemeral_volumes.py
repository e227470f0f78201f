"""Pods get the claims that their ephemeral volumes ask for."""

from __future__ import annotations

from navarch.api.types.core_v1 import (
    EphemeralVolumeSource,
    Event,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimTemplate,
    Pod,
    Volume,
    VolumeResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client

from .conftest import eventually, make_namespace, pod, running

SPEC = PersistentVolumeClaimSpec(
    accessModes=["ReadWriteOnce"],
    resources=VolumeResourceRequirements(requests={"storage": "1Gi"}),
    storageClassName="",
)


def pod_with_volume(name: str) -> Pod:
    made = pod(name)
    made.metadata.namespace = "ns"
    template = PersistentVolumeClaimTemplate(
        metadata=ObjectMeta(labels={"a": "b"}, annotations={"c": "d"}), spec=SPEC
    )
    source = EphemeralVolumeSource(volumeClaimTemplate=template)
    made.spec.volumes = [Volume(name="data", ephemeral=source)]
    return made


async def test_claims_of_pods(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(PersistentVolumeClaim)

    async def claim() -> PersistentVolumeClaim:
        return await claims.get("web-data", "ns")

    async with running(client, "ephemeral-volume", "serviceaccount"):
        await make_namespace(client, "ns")
        made = await pods.create(pod_with_volume("web"))
        found = await eventually(claim, "the claim")
        assert found.metadata.labels == {"a": "b"}
        assert found.metadata.annotations == {"c": "d"}
        assert found.spec.accessModes == ["ReadWriteOnce"]
        (owner,) = found.metadata.ownerReferences
        assert (owner.kind, owner.name, owner.uid) == ("Pod", "web", made.metadata.uid)
        assert owner.controller and owner.blockOwnerDeletion
        # Whoever deletes it gets it back, while the pod is there.
        await claims.patch("web-data", "ns", {"metadata": {"finalizers": None}})
        await claims.delete("web-data", "ns")

        async def is_new() -> bool:
            return (await claim()).metadata.uid != found.metadata.uid

        await eventually(is_new, "a new claim")


async def test_claims_of_others_are_not_used(client: Client) -> None:
    async with running(client, "ephemeral-volume", "serviceaccount"):
        await make_namespace(client, "ns")
        meta = ObjectMeta(name="web-data", namespace="ns")
        foreign = await client.resource(PersistentVolumeClaim).create(
            PersistentVolumeClaim(metadata=meta, spec=SPEC)
        )
        await client.resource(Pod).create(pod_with_volume("web"))

        async def event() -> Event | None:
            found = (await client.resource(Event).list("ns")).items
            return next((each for each in found if each.reason == "FailedBinding"), None)

        told = await eventually(event, "the event")
        assert told.message == (
            "ephemeral volume data: PVC ns/web-data was not created for pod ns/web "
            "(pod is not owner)"
        )
        same = await client.resource(PersistentVolumeClaim).get("web-data", "ns")
        assert same.metadata.uid == foreign.metadata.uid
