"""Volumes of CSI drivers are attached where pods need them. The test plays the driver's attacher,
the binder and the kubelets."""

from __future__ import annotations

import pytest

from navarch.api.csi import attachment_name, unique_name
from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import (
    Container,
    CSIPersistentVolumeSource,
    Event,
    Node,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeClaimStatus,
    PersistentVolumeClaimVolumeSource,
    PersistentVolumeSpec,
    Pod,
    PodSpec,
    Volume,
    VolumeResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSIDriverSpec,
    VolumeAttachment,
    VolumeAttachmentSource,
    VolumeAttachmentSpec,
)
from navarch.client import Client
from navarch.controllers import attach_detach
from navarch.controllers.attach_detach_plan import MANAGED, OUT_OF_SERVICE

from .conftest import eventually, make_namespace, running

DRIVER, HANDLE = "csi.example.com", "handle-1"
UNIQUE = unique_name(DRIVER, HANDLE)


class World:
    """One volume, its claim and two nodes."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.nodes = client.resource(Node)
        self.attachments = client.resource(VolumeAttachment)

    async def build(self, mode: str = "ReadWriteOnce") -> None:
        await make_namespace(self.client, "ns")
        for name in ("n1", "n2"):
            meta = ObjectMeta(name=name, annotations={MANAGED: "true"})
            await self.nodes.create(Node(metadata=meta))
            condition = {"type": "Ready", "status": "True", "reason": "x", "message": "x"}
            await self.nodes.patch(name, "", {"status": {"conditions": [condition]}},
                                   subresource="status")  # fmt: skip
        claims = self.client.resource(PersistentVolumeClaim)
        resources = VolumeResourceRequirements(requests={"storage": "1Gi"})
        claim = await claims.create(
            PersistentVolumeClaim(
                metadata=ObjectMeta(name="claim", namespace="ns"),
                spec=PersistentVolumeClaimSpec(
                    accessModes=[mode], resources=resources, volumeName="pv", storageClassName=""
                ),
            )
        )
        await self.client.resource(PersistentVolume).create(
            PersistentVolume(
                metadata=ObjectMeta(name="pv"),
                spec=PersistentVolumeSpec(
                    accessModes=[mode],
                    capacity={"storage": "1Gi"},
                    csi=CSIPersistentVolumeSource(driver=DRIVER, volumeHandle=HANDLE),
                    claimRef=ObjectReference(namespace="ns", name="claim", uid=claim.metadata.uid),
                ),
            )
        )
        claim.status = PersistentVolumeClaimStatus(phase="Bound", accessModes=[mode])
        await claims.update_status(claim)

    async def pod(self, name: str, node: str) -> None:
        source = PersistentVolumeClaimVolumeSource(claimName="claim")
        await self.client.resource(Pod).create(
            Pod(
                metadata=ObjectMeta(name=name, namespace="ns"),
                spec=PodSpec(
                    nodeName=node,
                    containers=[Container(name="main", image="registry.example/x")],
                    volumes=[Volume(name="data", persistentVolumeClaim=source)],
                ),
            )
        )

    async def remove_pod(self, name: str) -> None:
        await self.client.resource(Pod).delete(name, "ns", grace_period=0)

    async def attachment(self, node: str) -> VolumeAttachment:
        """The attachment for a node, once the controller has made it."""
        name = attachment_name(HANDLE, DRIVER, node)

        async def found() -> VolumeAttachment:
            return await self.attachments.get(name)

        return await eventually(found, f"the attachment to {node}")

    async def answer(self, node: str, **status: object) -> None:
        """What the attacher says of the attachment."""
        name = (await self.attachment(node)).metadata.name
        await self.attachments.patch(name, "", {"status": status}, subresource="status")

    async def gone(self, node: str) -> None:
        async def check() -> bool:
            try:
                await self.attachments.get(attachment_name(HANDLE, DRIVER, node))
            except ApiError as error:
                return error.is_not_found
            return False

        await eventually(check, f"the end of the attachment to {node}")

    async def in_use(self, node: str, *names: str) -> None:
        """What the kubelet says it has mounted."""
        status = {"volumesInUse": list(names)}
        await self.nodes.patch(node, "", {"status": status}, subresource="status")

    async def listed(self, node: str, *names: str) -> None:
        async def check() -> bool:
            found = (await self.nodes.get(node)).status.volumesAttached
            return [each.name for each in found] == list(names)

        await eventually(check, f"{names} in the status of {node}")

    async def told(self, reason: str, text: str) -> Event:
        async def found() -> Event | None:
            page = await self.client.resource(Event).list("ns")
            return next(
                (each for each in page.items if each.reason == reason and text in each.message),
                None,
            )

        return await eventually(found, f"{reason}: {text}")


@pytest.fixture
async def world(client: Client) -> World:
    return World(client)


async def test_a_volume_follows_its_pod(client: Client, world: World) -> None:
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.in_use("n1", UNIQUE)
        await world.pod("first", "n1")
        made = await world.attachment("n1")
        assert (made.spec.attacher, made.spec.nodeName) == (DRIVER, "n1")
        assert made.spec.source.persistentVolumeName == "pv"
        assert not (await world.nodes.get("n1")).status.volumesAttached
        await world.answer("n1", attached=True)
        await world.listed("n1", UNIQUE)
        await world.told("SuccessfulAttachVolume", 'AttachVolume.Attach succeeded for volume "pv"')
        # It is wanted elsewhere, but the first node has it.
        await world.pod("second", "n2")
        await world.told(
            "FailedAttachVolume",
            'Multi-Attach error for volume "pv" Volume is already used by pod(s) first',
        )
        await world.remove_pod("first")
        # Mounted still: it stays. Somebody else's change shows that the controller has looked.
        await world.listed("n1", UNIQUE)
        assert (await world.attachment("n1")).metadata.uid == made.metadata.uid
        await world.in_use("n1")
        await world.gone("n1")
        await world.listed("n1")
        await world.answer("n2", attached=True)
        await world.listed("n2", UNIQUE)


async def test_failures_of_the_attacher_are_told(client: Client, world: World) -> None:
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.pod("first", "n1")
        error = {"message": "no such disk", "time": "2026-01-01T00:00:00Z"}
        await world.answer("n1", attached=False, attachError=error)
        event = await world.told("FailedAttachVolume", "no such disk")
        assert event.message == 'AttachVolume.Attach failed for volume "pv" : no such disk'
        assert event.type == "Warning"
        await world.answer("n1", attached=True, attachError=None)
        await world.listed("n1", UNIQUE)


async def test_an_attacher_that_is_not_there_is_told(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach_detach, "ATTACH_SECONDS", 0.3)
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.pod("first", "n1")
        await world.told(
            "FailedAttachVolume",
            f"timed out waiting for external-attacher of {DRIVER} CSI driver to attach volume "
            f"{HANDLE}",
        )


async def test_a_node_out_of_service_loses_its_volumes(client: Client, world: World) -> None:
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.in_use("n1", UNIQUE)
        await world.pod("first", "n1")
        await world.answer("n1", attached=True)
        await world.listed("n1", UNIQUE)
        await world.remove_pod("first")
        taint = {"key": OUT_OF_SERVICE, "effect": "NoExecute"}
        await world.nodes.patch("n1", "", {"spec": {"taints": [taint]}})
        await world.gone("n1")
        await world.listed("n1")


async def test_drivers_without_attachment_and_the_attachments_of_others(
    client: Client, world: World
) -> None:
    spec = CSIDriverSpec(attachRequired=False)
    await client.resource(CSIDriver).create(CSIDriver(metadata=ObjectMeta(name=DRIVER), spec=spec))
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.in_use("n1")
        foreign = VolumeAttachment(
            metadata=ObjectMeta(name="mine"),
            spec=VolumeAttachmentSpec(
                attacher=DRIVER,
                nodeName="n1",
                source=VolumeAttachmentSource(persistentVolumeName="pv"),
            ),
        )
        await world.attachments.create(foreign)
        await world.pod("first", "n1")
        # A volume of a driver that does attach shows that the controller has seen all of these.
        other = PersistentVolume(
            metadata=ObjectMeta(name="left"),
            spec=PersistentVolumeSpec(
                accessModes=["ReadWriteOnce"],
                capacity={"storage": "1Gi"},
                csi=CSIPersistentVolumeSource(driver="other", volumeHandle="h"),
            ),
        )
        await client.resource(PersistentVolume).create(other)
        left = attachment_name("h", "other", "n1")
        foreign.metadata = ObjectMeta(name=left)
        foreign.spec.attacher, foreign.spec.source.persistentVolumeName = "other", "left"
        await world.attachments.create(foreign)

        async def is_gone() -> bool:
            return [e.metadata.name for e in (await world.attachments.list()).items] == ["mine"]

        await eventually(is_gone, "the end of a dangling attachment")


async def test_a_new_controller_goes_on(client: Client, world: World) -> None:
    async with running(client, "attachdetach", "serviceaccount"):
        await world.build()
        await world.in_use("n1", UNIQUE)
        await world.pod("first", "n1")
        await world.answer("n1", attached=True)
        await world.listed("n1", UNIQUE)
    await world.remove_pod("first")
    await world.in_use("n1")
    async with running(client, "attachdetach"):
        await world.gone("n1")
        await world.listed("n1")
