"""CSI volumes, with a driver that speaks the real protocol; the test plays its attacher."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.cluster.node.conftest import NODE, Cluster, eventually, pod, shell, text_of, written
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.cluster.node.test_pod_surroundings import create, ended_well
from tests.csi_driver import Capability, CsiDriver

from navarch.api.csi import attachment_name, unique_name
from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node, Pod
from navarch.api.types.storage_v1 import CSINode, VolumeAttachment
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.volumes import csi_client
from navarch.node.volumes.kernel import mounts_under, unmount

pytestmark = pytest.mark.cluster

DRIVER = "csi.example.com"


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[CsiDriver]:
    made = CsiDriver(DRIVER, cluster.options.root_directory / "plugins" / DRIVER)
    yield made
    for point in mounts_under(cluster.options.root_directory):
        unmount(point)


@asynccontextmanager
async def registered(cluster: Cluster, driver: CsiDriver) -> AsyncIterator[None]:
    directory = cluster.options.root_directory / "plugins_registry"
    async with driver, driver.registrar(directory) as registrar:
        status = await registrar.status()
        assert status.plugin_registered, status.error
        yield


async def csi_driver(cluster: Cluster, **spec: Any) -> None:
    drivers = cluster.client.dynamic("storage.k8s.io", "v1", "csidrivers", namespaced=False)
    await drivers.create({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
        "spec": {"attachRequired": False, **spec},
    })  # fmt: skip


async def claim(cluster: Cluster, name: str, csi: dict[str, Any], **spec: Any) -> None:
    """A claim bound to a volume of the driver, whose handle is the name."""
    modes = spec.pop("accessModes", ["ReadWriteOnce"])
    common = {"accessModes": modes, "storageClassName": ""}
    mode = {"volumeMode": spec["volumeMode"]} if "volumeMode" in spec else {}
    claims = cluster.client.dynamic("", "v1", "persistentvolumeclaims")
    size = {"storage": "1Gi"}
    made = await claims.create({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**common, **mode, "resources": {"requests": size}, "volumeName": name},
    })  # fmt: skip
    reference = {"name": name, "namespace": "default", "uid": made["metadata"]["uid"]}
    volumes = cluster.client.dynamic("", "v1", "persistentvolumes", namespaced=False)
    await volumes.create({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {**common, "capacity": size, "claimRef": reference, **spec,
                 "csi": {"driver": DRIVER, "volumeHandle": name, **csi}},
    })  # fmt: skip
    status = {"phase": "Bound", "capacity": size, "accessModes": modes}
    await claims.patch(name, "default", {"status": status}, subresource="status")


def with_claim(name: str, of: str, script: str = FOREVER, **spec: Any) -> dict[str, Any]:
    main = shell("main", script, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": of}}
    return pod(name, main, volumes=[volume], **spec)


def with_inline(name: str, script: str = FOREVER, **source: Any) -> dict[str, Any]:
    main = shell("main", script, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    volume = {"name": "data", "csi": {"driver": DRIVER, **source}}
    return pod(name, main, volumes=[volume], serviceAccountName="default")


async def told(cluster: Cluster, name: str, reason: str, *parts: str) -> str:
    """The message of an event of that reason that holds all the parts."""
    found = ""

    async def check() -> bool:
        nonlocal found
        for each, message in await cluster.events(name):
            if each == reason and all(part in message for part in parts):
                found = message
        return bool(found)

    await eventually(check)
    return found


def left_over(cluster: Cluster) -> list[Path]:
    """What of CSI is still on disk or mounted, drivers' own directories apart."""
    root = cluster.options.root_directory
    found = [*root.glob("pods/*/volumes/kubernetes.io~csi/*")]
    found += [*root.glob("pods/*/volumeDevices/kubernetes.io~csi/*")]
    found += [*root.glob("plugins/kubernetes.io/csi/*/*/vol_data.json")]
    found += [*root.glob("plugins/kubernetes.io/csi/volumeDevices/*/*")]
    return found + [each for each in mounts_under(root) if "csi" in str(each)]


async def clean(cluster: Cluster) -> None:
    async def check() -> bool:
        return not left_over(cluster)

    try:
        await eventually(check)
    except TimeoutError:
        raise AssertionError(left_over(cluster)) from None


def text(secret: str) -> dict[str, str]:
    return {"key": base64.b64encode(secret.encode()).decode()}


@asynccontextmanager
async def attaching(cluster: Cluster) -> AsyncIterator[None]:
    """The attach-detach controller, and an attacher that attaches whatever it sees."""

    async def attach() -> None:
        attachments = cluster.client.resource(VolumeAttachment)
        async for event in attachments.watch():
            made = event.object
            if event.type == "ADDED":
                status = {"attached": True, "attachmentMetadata": {"device": "/dev/x"}}
                await attachments.patch(
                    made.metadata.name, "", {"status": status}, subresource="status"
                )

    options = ManagerOptions(kubeconfig="", controllers=("attachdetach",))
    tasks = [
        asyncio.create_task(run_controllers(cluster.client, options)),
        asyncio.create_task(attach()),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_drivers_show_in_the_api(cluster: Cluster, driver: CsiDriver) -> None:
    driver.topology, driver.limit = {"topology.example.com/zone": "z1"}, 7
    nodes, csi_nodes = cluster.client.resource(Node), cluster.client.resource(CSINode)
    async with registered(cluster, driver):
        (entry,) = (await csi_nodes.get(NODE)).spec.drivers
        assert (entry.name, entry.nodeID) == (DRIVER, "id-of-node")
        assert entry.topologyKeys == ["topology.example.com/zone"]
        assert entry.allocatable is not None and entry.allocatable.count == 7
        node = await nodes.get(NODE)
        (owner,) = (await csi_nodes.get(NODE)).metadata.ownerReferences
        assert (owner.kind, owner.name, owner.uid) == ("Node", NODE, node.metadata.uid)
        assert node.metadata.labels["topology.example.com/zone"] == "z1"
        ids = json.loads(node.metadata.annotations["csi.volume.kubernetes.io/nodeid"])
        assert ids == {DRIVER: "id-of-node"}
        # The driver says something else by now: whoever wants to know asks it every so often.
        driver.limit = 9
        await csi_driver(cluster, nodeAllocatableUpdatePeriodSeconds=10)
        # A registrar of another driver with the same name, and one whose versions nobody speaks.
        directory = cluster.options.root_directory / "plugins_registry"
        for versions, why in ((("1.0.0",), "already registered"), (("2.0.0",), "supported")):
            other = driver.registrar(directory, versions=versions)
            other.path = other.path.with_name("other.sock")
            other._server.path = other.path
            async with other:
                status = await other.status()
                assert not status.plugin_registered
                assert why in status.error
        # The agent is made anew: drivers register again by themselves.
        await cluster.stop_agent()
        cluster.start_agent()
        await driver.called("NodeGetInfo", 2)

        async def has_new_limit() -> bool:
            (entry,) = (await csi_nodes.get(NODE)).spec.drivers
            return entry.allocatable is not None and entry.allocatable.count == 9

        await eventually(has_new_limit)

    async def is_gone() -> bool:
        node = await nodes.get(NODE)
        annotated = "csi.volume.kubernetes.io/nodeid" in node.metadata.annotations
        return not (annotated or (await csi_nodes.get(NODE)).spec.drivers)

    await eventually(is_gone)


def assert_staged(cluster: Cluster, driver: CsiDriver) -> None:
    """Once, with all that the volume says."""
    (stage,) = driver.of("NodeStageVolume")
    assert stage.fields["secrets"] == {"key": "for staging"}
    assert stage.fields["volume_context"] == {"a": "b"}
    assert stage.fields["publish_context"] == {"device": "/dev/x"}
    assert stage.fields["volume_capability"] == {
        "mount": {"fs_type": "ext4", "mount_flags": ["noatime"]},
        "access_mode": {"mode": "SINGLE_NODE_WRITER"},
    }
    plugins = cluster.options.root_directory / "plugins/kubernetes.io/csi"
    assert stage.request.staging_target_path.startswith(f"{plugins}/{DRIVER}/")


def assert_published(cluster: Cluster, driver: CsiDriver, pods: Sequence[Pod]) -> None:
    """To each pod, from where it was staged, and with what the driver wants to know of the pod."""
    (stage,), publish = driver.of("NodeStageVolume"), driver.of("NodePublishVolume")
    assert len(publish) == len(pods)
    by_pod = {
        call.fields["volume_context"]["csi.storage.k8s.io/pod.name"]: call.fields
        for call in publish
    }
    for made in pods:
        fields = by_pod[made.metadata.name]
        assert fields["secrets"] == {"key": "for publishing"}
        assert fields["staging_target_path"] == stage.request.staging_target_path
        directory = cluster.options.root_directory / "pods" / made.metadata.uid
        assert fields["target_path"] == str(directory / "volumes/kubernetes.io~csi/disk/mount")
        assert fields["volume_context"] == {
            "a": "b",
            "csi.storage.k8s.io/pod.name": made.metadata.name,
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": made.metadata.uid,
            "csi.storage.k8s.io/serviceAccount.name": "default",
            "csi.storage.k8s.io/ephemeral": "false",
        }


async def test_pods_share_a_staged_volume(cluster: Cluster, driver: CsiDriver) -> None:
    await csi_driver(cluster, attachRequired=True, podInfoOnMount=True, fsGroupPolicy="File")
    await create(cluster, "secrets", "Secret", "stage", data=text("for staging"))
    await create(cluster, "secrets", "Secret", "publish", data=text("for publishing"))
    references = {
        "nodeStageSecretRef": {"name": "stage", "namespace": "default"},
        "nodePublishSecretRef": {"name": "publish", "namespace": "default"},
    }
    await claim(cluster, "disk", {"fsType": "ext4", "volumeAttributes": {"a": "b"}, **references},
                mountOptions=["noatime"])  # fmt: skip
    unique = unique_name(DRIVER, "disk")
    nodes = cluster.client.resource(Node)
    async with registered(cluster, driver), attaching(cluster):
        write = f"echo from $HOSTNAME > /data/$HOSTNAME; {FOREVER}"
        group = {"securityContext": {"fsGroup": 4321}, "serviceAccountName": "default"}
        for name in ("one", "two"):
            await cluster.create(with_claim(name, "disk", write, **group))
        pods = [await cluster.wait(name, is_ready) for name in ("one", "two")]
        for name in ("one", "two"):
            await written(driver.data("disk") / name, f"from {name}\n")
        assert (driver.data("disk") / "two").stat().st_gid == 4321
        status = (await nodes.get(NODE)).status
        assert status.volumesInUse == [unique]
        assert [each.name for each in status.volumesAttached] == [unique]
        assert_staged(cluster, driver)
        assert_published(cluster, driver, pods)
        # The first pod's end leaves the volume to the second; its end gives it back.
        gone = asyncio.create_task(cluster.wait_gone("one"))
        await cluster.delete("one")
        await gone
        assert driver.volume_calls("disk")[-1] == "Unpublish"
        assert (await nodes.get(NODE)).status.volumesInUse == [unique]
        gone = asyncio.create_task(cluster.wait_gone("two"))
        await cluster.delete("two")
        await gone
        assert driver.volume_calls("disk")[-2:] == ["Unpublish", "Unstage"]
        await clean(cluster)
        name = attachment_name("disk", DRIVER, NODE)

        async def is_detached() -> bool:
            try:
                await cluster.client.resource(VolumeAttachment).get(name)
            except ApiError as error:
                status = (await nodes.get(NODE)).status
                return error.is_not_found and not (status.volumesInUse or status.volumesAttached)
            return False

        await eventually(is_detached)
    assert text_of(driver.data("disk") / "one") == "from one\n", "the volume's data is gone"


async def test_inline_volumes(cluster: Cluster, driver: CsiDriver) -> None:
    driver.capabilities = {Capability.VOLUME_MOUNT_GROUP}
    async with registered(cluster, driver):
        await cluster.create(with_inline("inline", fsType="xfs", volumeAttributes={"a": "b"}))
        message = await told(cluster, "inline", "FailedMount", "no CSIDriver object")
        assert message == (
            'MountVolume.SetUp failed for volume "data" : kubernetes.io/csi: mounter.SetupAt failed'
            ' to check volume lifecycle mode: volume mode "Ephemeral" not supported by driver '
            f"{DRIVER} (no CSIDriver object)"
        )
        await csi_driver(
            cluster,
            volumeLifecycleModes=["Ephemeral"],
            podInfoOnMount=True,
            requiresRepublish=True,
        )
        ready = await cluster.wait("inline", is_ready)
        (call,) = driver.of("NodePublishVolume")
        context = call.fields["volume_context"]
        assert context["csi.storage.k8s.io/ephemeral"] == "true"
        assert context["csi.storage.k8s.io/pod.uid"] == ready.metadata.uid
        assert call.request.volume_id.startswith("csi-") and len(call.request.volume_id) == 68
        assert not call.request.staging_target_path
        # A driver that wants to be asked again and again is; a failure changes nothing.
        driver.failures["NodePublishVolume"] = [(grpc.StatusCode.INTERNAL, "not now")]
        pods = cluster.client.dynamic("", "v1", "pods")
        await pods.patch("inline", "default", {"metadata": {"labels": {"new": "label"}}})
        await told(cluster, "inline", "FailedMount", "not now")
        await driver.called("NodePublishVolume", 3)
        assert (driver.data(call.request.volume_id) / "context.json").exists()
        assert (await cluster.get("inline")).status.phase == "Running"
        group = {"securityContext": {"fsGroup": 4321}}
        document = with_inline("reader", "touch /data/x || exit 0; exit 1", readOnly=True)
        document["spec"] |= {**group, "restartPolicy": "Never"}
        await cluster.create(document)
        await cluster.wait("reader", ended_well)
        reader = driver.of("NodePublishVolume")[-1]
        assert reader.request.readonly
        assert reader.fields["volume_capability"]["mount"] == {"volume_mount_group": "4321"}
        for name in ("inline", "reader"):
            await cluster.delete(name)
        await clean(cluster)
        assert not driver.of("NodeStageVolume") and not driver.of("NodeUnstageVolume")


async def test_failures_and_patience(
    cluster: Cluster, driver: CsiDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csi_client, "CSI_SECONDS", 2.0)
    await csi_driver(cluster)
    for name in ("late", "failing", "hanging", "cut"):
        await claim(cluster, name, {})
    await cluster.create(with_claim("late", "late"))
    await told(
        cluster, "late", "FailedMount",
        f"driver name {DRIVER} not found in the list of registered CSI drivers",
    )  # fmt: skip
    internal = grpc.StatusCode.INTERNAL
    async with registered(cluster, driver):
        await cluster.wait("late", is_ready)
        driver.failures["NodeStageVolume"] = [(internal, "disk on fire")]
        driver.failures["NodePublishVolume"] = [(internal, "disk still hot")]
        await cluster.create(with_claim("failing", "failing"))
        message = await told(cluster, "failing", "FailedMount", "disk on fire")
        assert message == (
            'MountVolume.MountDevice failed for volume "failing" : '
            "rpc error: code = Internal desc = disk on fire"
        )
        await told(cluster, "failing", "FailedMount", "disk still hot")
        await cluster.wait("failing", is_ready)
        # A pod that is deleted while its driver ponders: nobody knows what came of it, so
        # everything is undone.
        driver.hangs["NodeStageVolume"] = asyncio.Event()
        await cluster.create(with_claim("hanging", "hanging"))
        await driver.called("NodeStageVolume", 4)
        gone = asyncio.create_task(cluster.wait_gone("hanging"))
        await cluster.delete("hanging")
        await gone
        assert driver.volume_calls("hanging")[-1] == "Unstage"
        assert "Publish" not in driver.volume_calls("hanging")
        driver.hangs.pop("NodeStageVolume").set()
        driver.hangs["NodePublishVolume"] = asyncio.Event()
        await cluster.create(with_claim("cut", "cut"))
        await driver.called("NodePublishVolume", 4)
        await cluster.stop_agent()
        driver.hangs.pop("NodePublishVolume").set()
        cluster.start_agent()
        await cluster.wait("cut", is_ready)
        for name in ("late", "failing", "cut"):
            await cluster.delete(name)
        await clean(cluster)
        for name in ("late", "failing", "cut"):
            assert driver.volume_calls(name)[-2:] == ["Unpublish", "Unstage"]


async def test_volumes_grow_under_running_pods(cluster: Cluster, driver: CsiDriver) -> None:
    """Long before the pods' next look at their volumes: a resizer's word is heard at once."""
    await csi_driver(cluster)
    driver.capabilities |= {Capability.EXPAND_VOLUME}
    claims = cluster.client.dynamic("", "v1", "persistentvolumeclaims")
    volumes = cluster.client.dynamic("", "v1", "persistentvolumes", namespaced=False)

    async def resize(name: str, size: str) -> None:
        """What a resizer does that leaves the rest to the node."""
        await volumes.patch(name, "", {"spec": {"capacity": {"storage": size}}})
        status = {
            "allocatedResources": {"storage": size},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
        }
        await claims.patch(name, "default", {"status": status}, subresource="status")

    async def status(name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await claims.get(name, "default"))["status"]
        return found

    async def is_grown() -> bool:
        found = await status("large")
        return (
            found["capacity"] == {"storage": "2Gi"}
            and not found.get("conditions")
            and not found.get("allocatedResourceStatuses")
        )

    async def is_given_up() -> bool:
        steps = (await status("small")).get("allocatedResourceStatuses")
        return steps == {"storage": "NodeResizeInfeasible"}

    names = ("large", "small")
    for name in names:
        await claim(cluster, name, {})
    async with registered(cluster, driver):
        for name in names:
            await cluster.create(with_claim(name, name))
        for name in names:
            await cluster.wait(name, is_ready)
        await resize("large", "2Gi")
        await eventually(is_grown)
        (call,) = driver.of("NodeExpandVolume")
        assert call.fields["capacity_range"] == {"required_bytes": str(2 << 30)}
        driver.failures["NodeExpandVolume"] = [(grpc.StatusCode.OUT_OF_RANGE, "too large")]
        await resize("small", "3Gi")
        await eventually(is_given_up)
        found = await status("small")
        assert found["capacity"] == {"storage": "1Gi"}
        by_type = {each["type"]: each for each in found["conditions"]}
        assert by_type["NodeResizeError"]["message"] == (
            "failed to expand pvc with Expander.NodeExpand failed to expand the volume : "
            "rpc error: code = OutOfRange desc = too large"
        )
        await told(cluster, "small", "VolumeResizeFailed", "too large")
        for name in names:
            await cluster.delete(name)
        await clean(cluster)


async def test_agents_and_drivers_come_and_go(cluster: Cluster, driver: CsiDriver) -> None:
    await csi_driver(cluster)
    for name in ("forgotten", "kept"):
        await claim(cluster, name, {})
    async with registered(cluster, driver):
        for name in ("forgotten", "kept"):
            await cluster.create(with_claim(name, name))
        pods = [await cluster.wait(name, is_ready) for name in ("forgotten", "kept")]
        await cluster.stop_agent()
        await cluster.delete("forgotten", 0)
    # The driver is away when the agent comes back: what it has mounted stays until it is there.
    started = [each.status.containerStatuses[0].containerID for each in pods]
    cluster.start_agent()
    gone = asyncio.create_task(cluster.wait_gone("kept"))
    await cluster.delete("kept")
    directory = cluster.options.root_directory / "pods"

    async def containers_end() -> bool:
        states = await cluster.runtime.pods()
        return not any(each.running for state in states for each in state.containers)

    await eventually(containers_end)
    for made in pods:
        assert (directory / made.metadata.uid / "volumes/kubernetes.io~csi").is_dir()
    assert len(set(started)) == 2 and not gone.done()
    async with registered(cluster, driver):
        await gone
        await clean(cluster)
        for name in ("forgotten", "kept"):
            assert driver.volume_calls(name)[-2:] == ["Unpublish", "Unstage"]


async def test_block_volumes(cluster: Cluster, driver: CsiDriver) -> None:
    await csi_driver(cluster)
    driver.capabilities |= {Capability.SINGLE_NODE_MULTI_WRITER}
    await claim(cluster, "disk", {"volumeAttributes": {"a": "b"}}, volumeMode="Block",
                accessModes=["ReadWriteOncePod"])  # fmt: skip
    script = "test -b /dev/disk && echo hello > /dev/disk && head -c 5 /dev/disk"
    main = shell("main", script, volumeDevices=[{"name": "data", "devicePath": "/dev/disk"}])
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}
    async with registered(cluster, driver):
        document = pod("writer", main, volumes=[volume], restartPolicy="Never")
        await cluster.create(document)
        ended = await cluster.wait("writer", ended_well)
        assert await cluster.logs(ended, "main") == "hello"
        assert driver.data("disk").read_bytes()[:5] == b"hello"
        (stage,), (publish,) = driver.of("NodeStageVolume"), driver.of("NodePublishVolume")
        assert stage.fields["volume_capability"] == {
            "block": {},
            "access_mode": {"mode": "SINGLE_NODE_SINGLE_WRITER"},
        }
        devices = cluster.options.root_directory / "plugins/kubernetes.io/csi/volumeDevices"
        assert stage.request.staging_target_path == str(devices / "staging/disk")
        assert publish.request.target_path == str(devices / "publish/disk" / ended.metadata.uid)
        await cluster.delete("writer")
        await clean(cluster)
        assert driver.volume_calls("disk")[-2:] == ["Unpublish", "Unstage"]
