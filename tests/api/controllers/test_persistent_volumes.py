"""Claims get volumes, and volumes are let go: the binder against the API server of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from navarch.api.types.core_v1 import Event, PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.client import Client

from .conftest import eventually, make_namespace, running

Object = dict[str, Any]
ONCE = ["ReadWriteOnce"]


def volume(name: str, size: str = "1Gi", **spec: Any) -> Object:
    source = {"hostPath": {"path": f"/tmp/{name}"}}
    if "csi" in spec or "local" in spec:
        source = {}
    spec = {"accessModes": ONCE, "capacity": {"storage": size}, **source, **spec}
    labels = spec.pop("labels", {})
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def claim(name: str, size: str = "1Gi", **spec: Any) -> Object:
    resources = {"requests": {"storage": size}}
    return {
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"accessModes": ONCE, "resources": resources, "storageClassName": "", **spec},
    }


class Storage:
    """Makes volumes and claims, and waits for what becomes of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.raw_volumes = client.dynamic("", "v1", "persistentvolumes", namespaced=False)
        self.raw_claims = client.dynamic("", "v1", "persistentvolumeclaims")
        self.raw_classes = client.dynamic(
            "storage.k8s.io", "v1", "storageclasses", namespaced=False
        )
        self.volumes = client.resource(PersistentVolume)
        self.claims = client.resource(PersistentVolumeClaim)
        self.classes = client.resource(StorageClass)

    async def make(self, *objects: Object) -> None:
        for each in objects:
            if "provisioner" in each:
                await self.raw_classes.create(each)
            elif "namespace" in each["metadata"]:
                await self.raw_claims.create(each)
            else:
                await self.raw_volumes.create(each)

    async def claim(self, name: str, phase: str) -> PersistentVolumeClaim:
        async def is_there() -> PersistentVolumeClaim:
            found = await self.claims.get(name, "ns")
            assert found.status.phase == phase, found.status
            return found

        return await eventually(is_there, f"claim {name} {phase}")

    async def volume(self, name: str, phase: str) -> PersistentVolume:
        async def is_there() -> PersistentVolume:
            found = await self.volumes.get(name)
            assert found.status.phase == phase, found.status
            return found

        return await eventually(is_there, f"volume {name} {phase}")

    async def event(self, name: str, reason: str, text: str = "") -> Event:
        """An event about a claim or a volume."""

        async def is_there() -> Event:
            for each in (await self.client.resource(Event).list()).items:
                about = (each.involvedObject.name, each.reason)
                if about == (name, reason) and text in each.message:
                    return each
            raise LookupError(f"no event {reason} of {name}")

        return await eventually(is_there, f"{reason} of {name}")


@pytest.fixture
async def storage(client: Client) -> AsyncIterator[Storage]:
    async with running(
        client, "persistentvolume-binder", "pvc-protection", "pv-protection", "serviceaccount"
    ):
        await make_namespace(client, "ns")
        yield Storage(client)


async def test_the_smallest_volume_that_fits_is_bound(storage: Storage) -> None:
    await storage.make(
        volume("small", "1Gi"),
        volume("large", "5Gi"),
        volume("fitting", "3Gi"),
        volume("of-class", "2Gi", storageClassName="gold"),
        volume("shared", "2Gi", accessModes=["ReadWriteMany"]),
    )
    for name in ("small", "large", "fitting", "of-class", "shared"):
        await storage.volume(name, "Available")
    await storage.make(claim("data", "2Gi"))
    found = await storage.claim("data", "Bound")
    assert found.spec.volumeName == "fitting"
    assert found.status.capacity == {"storage": "3Gi"}
    assert found.status.accessModes == ONCE
    assert found.metadata.annotations == {
        "pv.kubernetes.io/bind-completed": "yes",
        "pv.kubernetes.io/bound-by-controller": "yes",
    }
    bound = await storage.volume("fitting", "Bound")
    ref = bound.spec.claimRef
    assert ref is not None
    assert (ref.kind, ref.apiVersion, ref.namespace, ref.name, ref.uid) == (
        "PersistentVolumeClaim",
        "v1",
        "ns",
        "data",
        found.metadata.uid,
    )
    assert bound.metadata.annotations == {"pv.kubernetes.io/bound-by-controller": "yes"}
    # A volume that comes after its claim.
    await storage.make(claim("late", "10Gi"))
    await storage.event(
        "late",
        "FailedBinding",
        "no persistent volumes available for this claim and no storage class is set",
    )
    await storage.make(volume("huge", "10Gi"))
    assert (await storage.claim("late", "Bound")).spec.volumeName == "huge"


async def test_many_claims_share_out_the_volumes(storage: Storage) -> None:
    count = 12
    await storage.make(*(claim(f"c{n}") for n in range(count)))
    await storage.make(*(volume(f"v{n}") for n in range(count)))
    found = {(await storage.claim(f"c{n}", "Bound")).spec.volumeName for n in range(count)}
    assert found == {f"v{n}" for n in range(count)}


async def test_reservations_from_either_side(storage: Storage) -> None:
    reserved = {"namespace": "ns", "name": "wanted"}
    await storage.make(
        volume("a-free"),
        volume("b-reserved", "9Gi", claimRef=reserved),
        volume("c-named", "3Gi"),
        volume("d-small", "1Gi"),
    )
    assert (await storage.volume("b-reserved", "Available")).spec.claimRef is not None
    await storage.make(
        claim("wanted"),
        claim("asks", volumeName="c-named"),
        claim("big", "2Gi", volumeName="d-small"),
    )
    found = await storage.claim("wanted", "Bound")
    assert found.spec.volumeName == "b-reserved"
    reserved_volume = await storage.volume("b-reserved", "Bound")
    assert reserved_volume.spec.claimRef is not None
    assert reserved_volume.spec.claimRef.uid == found.metadata.uid
    assert "pv.kubernetes.io/bound-by-controller" not in reserved_volume.metadata.annotations
    asks = await storage.claim("asks", "Bound")
    assert "pv.kubernetes.io/bound-by-controller" not in asks.metadata.annotations
    await storage.event(
        "big",
        "VolumeMismatch",
        'Cannot bind to requested volume "d-small": requested PV is too small',
    )
    assert (await storage.claim("big", "Pending")).spec.volumeName == "d-small"
    await storage.make(claim("second", volumeName="c-named"))
    await storage.event(
        "second", "FailedBinding", 'volume "c-named" already bound to a different claim.'
    )


@pytest.mark.parametrize(
    ("policy", "source", "phase", "reason", "message"),
    [
        pytest.param("Retain", {}, "Released", "", "", id="retain"),
        pytest.param(
            "Recycle",
            {},
            "Failed",
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!",
            id="recycle",
        ),
        pytest.param(
            "Delete",
            {},
            "Failed",
            "VolumeFailedDelete",
            'error getting deleter volume plugin for volume "v": '
            "no deletable volume plugin matched",
            id="delete without a deleter",
        ),
        pytest.param(
            "Delete",
            {"csi": {"driver": "csi.example", "volumeHandle": "h"}},
            "Released",
            "",
            "",
            id="delete by an external provisioner",
        ),
    ],
)
async def test_reclaiming(
    storage: Storage, policy: str, source: Object, phase: str, reason: str, message: str
) -> None:
    await storage.make(volume("v", persistentVolumeReclaimPolicy=policy, **source), claim("data"))
    await storage.claim("data", "Bound")
    await storage.claims.delete("data", "ns")
    found = await storage.volume("v", phase)
    assert found.status.message == message
    assert found.spec.claimRef is not None
    if reason:
        await storage.event("v", reason, message)
    # A new claim of that name is another claim.
    await storage.make(claim("data"))
    await storage.event("data", "FailedBinding")
    assert (await storage.volume("v", phase)).spec.claimRef is not None
    # The user lets the volume go by hand.
    if policy == "Retain":
        await storage.raw_volumes.patch("v", "", {"spec": {"claimRef": None}})
        assert (await storage.claim("data", "Bound")).spec.volumeName == "v"


async def test_a_claim_whose_volume_is_gone_is_lost(storage: Storage) -> None:
    await storage.make(volume("v"), claim("data"))
    await storage.claim("data", "Bound")
    await storage.raw_volumes.patch("v", "", {"metadata": {"finalizers": None}})
    await storage.volumes.delete("v")
    found = await storage.claim("data", "Lost")
    assert not found.status.capacity
    await storage.event(
        "data",
        "ClaimLost",
        "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
    )


async def test_classes_default_late_missing_and_external(storage: Storage) -> None:
    unset = claim("unset")
    del unset["spec"]["storageClassName"]
    await storage.make(unset, claim("none"), claim("missing", storageClassName="fast"))
    await storage.event(
        "missing", "ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found'
    )
    await storage.event("unset", "FailedBinding")
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    await storage.make(
        {"metadata": {"name": "main", "annotations": default}, "provisioner": "x.example/p"},
        {"metadata": {"name": "fast"}, "provisioner": "kubernetes.io/gce-pd"},
        {"metadata": {"name": "in-tree"}, "provisioner": "kubernetes.io/no-provisioner"},
        {
            "metadata": {"name": "late"},
            "provisioner": "x.example/p",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    )
    await storage.event(
        "unset",
        "ExternalProvisioning",
        "Waiting for a volume to be created either by the external provisioner 'x.example/p' or "
        "manually by the system administrator. If volume creation is delayed, please verify that "
        "the provisioner is running and correctly registered.",
    )
    found = await storage.claims.get("unset", "ns")
    assert found.spec.storageClassName == "main"
    assert found.metadata.annotations == {
        "volume.kubernetes.io/storage-provisioner": "x.example/p",
        "volume.beta.kubernetes.io/storage-provisioner": "x.example/p",
    }
    await storage.event("missing", "ExternalProvisioning", "'pd.csi.storage.gke.io'")
    moved = await storage.claims.get("missing", "ns")
    assert moved.metadata.annotations["pv.kubernetes.io/migrated-to"] == "pd.csi.storage.gke.io"
    await storage.make(
        claim("in-tree", storageClassName="in-tree"), claim("late", storageClassName="late")
    )
    await storage.event(
        "in-tree",
        "ProvisioningFailed",
        "no volume plugin matched name: kubernetes.io/no-provisioner",
    )
    await storage.event(
        "late",
        "WaitForFirstConsumer",
        "waiting for first consumer to be created before binding",
    )
    # A free volume does not change that; one the scheduler reserved does.
    await storage.make(volume("for-late", storageClassName="late"))
    await storage.volume("for-late", "Available")
    assert (await storage.claims.get("none", "ns")).spec.storageClassName == ""
    late = await storage.claim("late", "Pending")
    ref = {"namespace": "ns", "name": "late", "uid": late.metadata.uid}
    await storage.raw_volumes.patch("for-late", "", {"spec": {"claimRef": ref}})
    assert (await storage.claim("late", "Bound")).spec.volumeName == "for-late"
    # A volume of a kind that a driver acts for now is left to that driver.
    disk = volume("disk", persistentVolumeReclaimPolicy="Delete")
    disk["metadata"]["annotations"] = {"pv.kubernetes.io/provisioned-by": "kubernetes.io/gce-pd"}
    gone = {"namespace": "ns", "name": "gone", "uid": "0"}
    disk["spec"]["claimRef"] = {"kind": "PersistentVolumeClaim", **gone}
    await storage.make(disk)
    released = await storage.volume("disk", "Released")
    driver = released.metadata.annotations["pv.kubernetes.io/migrated-to"]
    assert driver == "pd.csi.storage.gke.io"


@pytest.mark.conformance(
    "PersistentVolumes CSI Conformance should apply changes to a pv/pvc status",
    "PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC",
)
async def test_what_others_write_to_a_status_stays(storage: Storage) -> None:
    csi = {"driver": "e2e-driver.example", "volumeHandle": "handle"}
    labels = {"kind": "e2e"}
    await storage.make(
        volume("v", storageClassName="e2e", csi=csi, labels=labels),
        claim("data", storageClassName="e2e"),
    )
    await storage.claim("data", "Bound")
    condition = {"type": "StatusPatched", "status": "True", "reason": "E2E patchedStatus"}
    await storage.raw_claims.patch(
        "data", "ns", {"status": {"conditions": [condition]}}, subresource="status"
    )
    changed = {"reason": "E2E patchStatus", "message": "StatusPatched"}
    await storage.raw_volumes.patch("v", "", {"status": changed}, subresource="status")
    await storage.raw_volumes.patch("v", "", {"metadata": {"labels": {"v": "patched"}}})
    found = await storage.claims.get("data", "ns")
    assert [each.type for each in found.status.conditions] == ["StatusPatched"]
    # The claim goes while they are bound, and the volume then, too.
    await storage.volumes.delete("v")
    await storage.claims.delete("data", "ns")

    async def is_gone() -> bool:
        page = await storage.volumes.list(label_selector="v=patched")
        claims = await storage.claims.list("ns")
        return not page.items and not claims.items

    await eventually(is_gone, "the end of both")
    await storage.make(volume("w", storageClassName="other", csi=csi))
    await storage.raw_volumes.patch("w", "", {"status": changed}, subresource="status")
    found_volume = await storage.volume("w", "Available")
    assert (found_volume.status.reason, found_volume.status.message) == (
        "E2E patchStatus",
        "StatusPatched",
    )
