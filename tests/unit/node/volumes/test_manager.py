"""The manager: what it asks of plug-ins, in which order, and what is left when it is cut short."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import FakeEvents, FakeObjects
from tests.unit.node.volumes.test_claims import make_claim, make_volume

from navarch.api.objects import Object
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from navarch.client.clock import FakeClock
from navarch.node.resources import NodeResources
from navarch.node.volumes.empty_dir import memory_size, page_size_option
from navarch.node.volumes.manager import VolumeManager, VolumesFailed
from navarch.node.volumes.mounting import is_recursive_read_only, volume_devices, volume_mounts
from navarch.node.volumes.ownership import Ownership, apply_fs_group
from navarch.node.volumes.plugin import (
    ExpansionProblem,
    NotAttachedInTime,
    PreparedVolume,
    VolumeHost,
    VolumePlugin,
    VolumeProblem,
    VolumeSpec,
)

GIB = 1 << 30


class ClaimObjects(FakeObjects):
    """One claim, bound to one volume."""

    def __init__(self, persistent: PersistentVolume) -> None:
        super().__init__()
        self.persistent = persistent
        self.the_claim = make_claim()
        self.steps: list[str | None] = []

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        return self.the_claim

    async def volume(self, name: str) -> PersistentVolume | None:
        return self.persistent

    async def change_claim(
        self, claim: PersistentVolumeClaim, status: Object, *, checked: bool = True
    ) -> PersistentVolumeClaim:
        self.steps += status.get("allocatedResourceStatuses", {}).values()
        self.the_claim = await super().change_claim(claim, status, checked=checked)
        return self.the_claim


class Recorder(VolumePlugin):
    """Writes down what is asked of it."""

    name, field = "example/disk", "local"
    is_persistent = supports_block = may_expand = True

    def __init__(self, host: VolumeHost) -> None:
        super().__init__(host)
        self.asked: list[str] = []
        self.failures: list[Exception] = []
        self.growing: list[ExpansionProblem] = []
        self.device = host.root / "disk"

    async def _do(self, what: str) -> None:
        self.asked.append(what)
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.asked.append(f"{what} done")

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        os.makedirs(target, exist_ok=True)
        await self._do(f"set up for {spec.pod.metadata.uid}")
        return PreparedVolume(target)

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        await self._do(f"tear down for {uid}")

    async def unstage(self, name: str) -> None:
        await self._do(f"unstage {name}")

    async def expand(self, spec: VolumeSpec, prepared: PreparedVolume, size: str) -> None:
        await self._do(f"expand to {size}")
        if self.growing:
            raise self.growing.pop(0)


@dataclass
class Stage:
    manager: VolumeManager
    objects: ClaimObjects
    plugin: Recorder
    clock: FakeClock
    events: FakeEvents

    def asked(self) -> list[str]:
        result = [each for each in self.plugin.asked if not each.endswith(" done")]
        self.plugin.asked.clear()
        return result


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    objects, clock, events = ClaimObjects(persistent()), FakeClock(), FakeEvents()
    host = VolumeHost(tmp_path, objects, NodeResources(4000, GIB), clock, events, "node-1")
    manager = VolumeManager(host)
    plugin = Recorder(host)
    manager.add(plugin)
    return Stage(manager, objects, plugin, clock, events)


def persistent(**spec: Any) -> PersistentVolume:
    return make_volume(hostPath=None, local={"path": "/disk"}, **spec)


def claiming(uid: str = "u-1", **fields: Any) -> Pod:
    use = fields or {"volumeMounts": [{"name": "vol", "mountPath": "/v"}]}
    claimed = {"persistentVolumeClaim": {"claimName": "data"}}
    return make_pod({"name": "main", **use}, metadata={"uid": uid},
                    volumes=[{"name": "vol", **claimed}])  # fmt: skip


async def test_the_last_pod_takes_the_disk_away(stage: Stage) -> None:
    one, two = claiming("one"), claiming("two")
    await asyncio.gather(stage.manager.prepare(one), stage.manager.prepare(two))
    assert stage.plugin.asked == [
        "set up for one", "set up for one done", "set up for two", "set up for two done"
    ]  # fmt: skip
    stage.asked()
    await stage.manager.prepare(one, fresh=False)
    assert stage.asked() == []
    await stage.manager.release("one")
    assert stage.asked() == ["tear down for one"]
    await stage.manager.take_down("two")
    assert stage.asked() == ["tear down for two", "unstage pv-1"]
    assert not stage.manager.pod_directory("two").exists()


async def test_a_new_agent_takes_down_what_it_never_saw(stage: Stage) -> None:
    await stage.manager.prepare(claiming())
    stage.asked()
    other = VolumeManager(stage.manager.host)
    other.add(stage.plugin)
    assert other.known_pods() == ["u-1"]
    await other.take_down_orphan("u-1")
    assert stage.asked() == ["tear down for u-1", "unstage pv-1"] and other.known_pods() == []


async def test_what_is_busy_is_tried_again(stage: Stage) -> None:
    await stage.manager.prepare(claiming())
    stage.plugin.failures = [OSError(16, "busy"), VolumeProblem("the driver is away")]
    taking = asyncio.create_task(stage.manager.take_down("u-1"))
    for _ in range(40):
        await stage.clock.advance(0.2)
        await asyncio.sleep(0.005)
    await taking
    assert stage.asked()[1:] == ["tear down for u-1"] * 3 + ["unstage pv-1"]


async def test_volumes_of_one_name_are_let_go_at_once(stage: Stage) -> None:
    """Nobody waits behind another pod's volume, unless it is the same one."""
    waiting = asyncio.Barrier(2)

    class Slow(VolumePlugin):
        name, field = "example/slow", "emptyDir"

        async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
            os.makedirs(target)
            return PreparedVolume(target)

        async def tear_down(self, uid: str, name: str, target: Path) -> None:
            await waiting.wait()

    stage.manager.add(Slow(stage.manager.host))
    mount = {"name": "main", "volumeMounts": [{"name": "vol", "mountPath": "/v"}]}
    for uid in ("one", "two"):
        pod = make_pod(mount, metadata={"uid": uid}, volumes=[{"name": "vol", "emptyDir": {}}])
        await stage.manager.prepare(pod)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for uid in ("one", "two"):
            tasks.create_task(stage.manager.take_down(uid))


async def test_data_in_the_place_of_a_mount_is_not_deleted(stage: Stage) -> None:
    prepared = await stage.manager.prepare(claiming())
    (prepared["vol"].path / "precious").touch()
    with pytest.raises(OSError, match="not empty"):
        await stage.manager.take_down_orphan("u-1")
    assert (prepared["vol"].path / "precious").exists()


async def test_one_pod_at_a_time(stage: Stage) -> None:
    stage.objects.persistent = persistent(accessModes=["ReadWriteOncePod"])
    await stage.manager.prepare(claiming("one"))
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming("two"))
    assert failed.value.problems == [(
        "FailedMount",
        'MountVolume.SetUp failed for volume "pv-1" : volume uses the ReadWriteOncePod access mode '
        "and is already in use by another pod",
    )]  # fmt: skip
    await stage.manager.release("one")
    await stage.manager.prepare(claiming("two"))


async def test_a_disk_that_has_grown(stage: Stage) -> None:
    stage.objects.persistent = persistent(capacity={"storage": "2Gi"})
    stage.objects.the_claim = make_claim(status={"capacity": {"storage": "1Gi"}})
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["set up for u-1", "expand to 2Gi"]
    assert parse_quantity(stage.objects.the_claim.status.capacity["storage"]).value() == 2 * GIB
    await stage.manager.prepare(claiming())
    assert stage.asked() == []


def growing(step: str = "NodeResizePending", **changes: Any) -> PersistentVolumeClaim:
    """A claim whose volume has been made larger by a resizer, which has left the rest to nodes."""
    status = {
        "capacity": {"storage": "1Gi"},
        "allocatedResources": {"storage": "2Gi"},
        "allocatedResourceStatuses": {"storage": step} if step else {},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"},
                       {"type": "ModifyingVolume", "status": "True"}],
    }  # fmt: skip
    spec = {"resources": {"requests": {"storage": "2Gi"}}, **changes.pop("spec", {})}
    return make_claim(spec=spec, status=status | changes.pop("status", {}), **changes)


def of_claim(stage: Stage) -> tuple[str, list[str]]:
    """The step and the conditions that the claim tells of."""
    status = stage.objects.the_claim.status
    step = status.allocatedResourceStatuses.get("storage", "")
    return step, [each.type for each in status.conditions]


async def test_growing_is_told_step_by_step(stage: Stage) -> None:
    stage.objects.persistent = persistent(capacity={"storage": "3Gi"})
    stage.objects.the_claim = growing()
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["set up for u-1", "expand to 2Gi"], "what is allocated, not more"
    assert stage.objects.steps == ["NodeResizeInProgress", None]
    assert of_claim(stage) == ("", ["ModifyingVolume"])
    assert stage.objects.the_claim.status.capacity == {"storage": "2Gi"}


async def test_what_cannot_be_is_told_and_not_tried_again(stage: Stage) -> None:
    stage.objects.persistent = persistent(capacity={"storage": "2Gi"})
    stage.objects.the_claim = growing()
    stage.plugin.growing = [ExpansionProblem("too large", is_infeasible=True)]
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming())
    assert failed.value.problems == [(
        "FailedMount",
        'MountVolume.Setup failed while expanding volume for volume "pv-1" : too large',
    )]  # fmt: skip
    step, conditions = of_claim(stage)
    assert step == "NodeResizeInfeasible" and len(conditions) == 3
    by_type = {each.type: each for each in stage.objects.the_claim.status.conditions}
    assert by_type["NodeResizeError"].message == "failed to expand pvc with too large"
    stage.asked()
    await stage.manager.prepare(claiming())
    assert stage.asked() == [], "the pod runs with the size that there is"
    # The resizer has agreed with the user upon less, and the node may go on.
    stage.objects.the_claim = growing(status={"allocatedResources": {"storage": "1536Mi"}})
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["expand to 1536Mi"]


async def test_who_wishes_less_after_failures_gets_it(stage: Stage) -> None:
    stage.objects.persistent = persistent(capacity={"storage": "2Gi"})
    stage.objects.the_claim = growing("")
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["set up for u-1"], "the resizer is not done"
    stage.objects.the_claim = growing()
    stage.plugin.growing = [
        ExpansionProblem("timed out", is_final=False),
        ExpansionProblem("broken"),
        ExpansionProblem("broken"),
    ]
    for conditions, text in ((2, "timed out"), (3, "broken")):
        with pytest.raises(VolumesFailed) as failed:
            await stage.manager.prepare(claiming())
        assert failed.value.problems == [(
            "VolumeResizeFailed",
            f'NodeExpandVolume.NodeExpandVolume failed for volume "pv-1" : {text}',
        )]  # fmt: skip
        assert (step := of_claim(stage))[0] == "NodeResizeInProgress"
        assert len(step[1]) == conditions
    stage.objects.the_claim.spec.resources.requests["storage"] = "1536Mi"
    with pytest.raises(VolumesFailed):
        await stage.manager.prepare(claiming())
    assert of_claim(stage)[0] == "NodeResizeInfeasible"


async def test_drivers_that_do_not_grow_what_is_in_use(stage: Stage) -> None:
    stage.objects.persistent = persistent(capacity={"storage": "2Gi"})
    stage.objects.the_claim = growing()
    stage.plugin.growing = [ExpansionProblem("in use", is_in_use=True)]
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["set up for u-1", "expand to 2Gi"]
    await stage.manager.prepare(claiming())
    assert stage.asked() == [], "not before it has been unmounted"
    await stage.manager.release("u-1")
    stage.asked()
    await stage.manager.prepare(claiming())
    assert stage.asked() == ["set up for u-1", "expand to 2Gi"]


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        ({"spec": {"accessModes": ["ReadWriteMany"]}}, True),
        ({"spec": {"accessModes": ["ReadWriteOnce"]}}, False),
        ({"spec": {"accessModes": ["ReadWriteMany"]},
          "metadata": {"annotations": {"volume.kubernetes.io/node-expansion-not-required": ""}}},
         False),
    ],
)  # fmt: skip
async def test_what_another_node_has_told(
    stage: Stage, changes: dict[str, Any], grows: bool
) -> None:
    stage.objects.the_claim = make_claim(status={"capacity": {"storage": "1Gi"}})
    await stage.manager.prepare(claiming())
    stage.asked()
    stage.objects.persistent = persistent(capacity={"storage": "2Gi"})
    stage.objects.the_claim = growing("", status={"capacity": {"storage": "2Gi"}}, **changes)
    stage.plugin.growing = [ExpansionProblem("no such call", is_unsupported=True)]
    await stage.manager.prepare(claiming())
    assert stage.asked() == (["expand to 2Gi"] if grows else [])
    assert stage.objects.steps == []


@pytest.mark.parametrize("exhausted", [True, False])
async def test_volumes_that_are_not_attached(stage: Stage, exhausted: bool) -> None:
    late = "context deadline exceeded"
    stage.plugin.failures = [NotAttachedInTime(late, is_exhausted=exhausted)]
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming())
    text = (f"unmounted volumes=[vol], unattached volumes=[vol], failed to process volumes=[]: "
            f"{late}")  # fmt: skip
    if exhausted:
        limit = "Node has reached its volume attachment limit, rejecting pod."
        assert failed.value.rejection == f"{limit} {text}"
    else:
        said = ("FailedMount", f"Unable to attach or mount volumes: {text}")
        assert failed.value.problems == [said] and not failed.value.rejection


async def test_problems_of_claims_are_told_together(stage: Stage) -> None:
    stage.objects.the_claim = make_claim(status={"phase": "Pending"})
    pod = make_pod(
        {"name": "main", "volumeMounts": [{"name": name, "mountPath": f"/{name}"}
                                          for name in ("vol", "git", "flex")]},
        volumes=[
            {"name": "vol", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "git", "gitRepo": {"repository": "https://git.example"}},
            {"name": "flex", "flexVolume": {"driver": "example/flex"}},
            {"name": "unused", "flexVolume": {"driver": "example/flex"}},
        ],
    )  # fmt: skip
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(pod)
    texts = [text for _, text in failed.value.problems]
    assert "gitRepo volume plugin has been disabled" in texts[0]
    assert texts[1].startswith('MountVolume.SetUp failed for volume "flex" : flexVolume drivers')
    assert texts[2] == (
        "Unable to attach or mount volumes: unmounted volumes=[flex git vol], unattached volumes=[]"
        ", failed to process volumes=[vol]: error processing PVC default/data: PVC is not bound"
    )
    assert len(texts) == 3


async def test_a_device_for_each_pod(stage: Stage, tmp_path: Path) -> None:
    stage.objects.persistent = persistent(volumeMode="Block")
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming())
    assert "volumeMode Block, but is specified in volumeMounts" in str(failed.value)
    devices: Any = {"volumeDevices": [{"name": "vol", "devicePath": "/dev/x"}]}
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming(**devices))
    assert failed.value.problems == [(
        "FailedMapVolume",
        'MapVolume.MapPodDevice failed for volume "pv-1" : volumes of type local are not block '
        "devices on this node",
    )]  # fmt: skip


async def test_a_device_is_made_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def device(spec: VolumeSpec, target: Path) -> Path:
        await stage.plugin._do("map")
        return stage.plugin.device

    monkeypatch.setattr(stage.plugin, "map_device", device)
    monkeypatch.setattr(Recorder, "is_refreshed", True)
    monkeypatch.setattr("navarch.node.volumes.manager.map_device", lambda *places: None)
    stage.objects.persistent = persistent(volumeMode="Block")
    pod = claiming(volumeDevices=[{"name": "vol", "devicePath": "/dev/x"}])
    for _ in range(2):
        await stage.manager.prepare(pod)
    assert stage.asked() == ["map"]


def test_mounts_and_devices() -> None:
    pod = make_pod(
        {"name": "main",
         "volumeMounts": [{"name": "a", "mountPath": "relative", "readOnly": True},
                          {"name": "b", "mountPath": "/b", "mountPropagation": "Bidirectional"}],
         "volumeDevices": [{"name": "c", "devicePath": "/dev/c"}]},
    )  # fmt: skip
    container = pod.spec.containers[0]
    volumes = {
        "a": PreparedVolume(Path("/pods/a"), relabel=True),
        "b": PreparedVolume(Path("/pods/b"), read_only=True),
        "c": PreparedVolume(Path("/pods/c"), read_only=True, is_device=True),
    }

    def mounts() -> Any:
        return volume_mounts(container, volumes, {0: Path("/part")}, recursive_read_only=False)

    with pytest.raises(VolumeProblem, match="available only to privileged"):
        mounts()
    container.volumeMounts[1].mountPropagation = "HostToContainer"
    first, second = mounts()
    assert (first.container_path, first.host_path, first.readonly) == ("/relative", "/part", True)
    assert first.selinux_relabel and not second.selinux_relabel
    assert (second.readonly, second.propagation) == (True, 1)
    (device,) = volume_devices(container, volumes)
    assert (device.container_path, device.host_path, device.permissions) == (
        "/dev/c", "/pods/c", "r"
    )  # fmt: skip
    del volumes["c"], volumes["b"]
    with pytest.raises(VolumeProblem, match='cannot find volume "b" to mount into container'):
        mounts()
    with pytest.raises(VolumeProblem, match='cannot find volume "c" to pass into container'):
        volume_devices(container, volumes)


@pytest.mark.parametrize(
    ("mount", "supported", "expected"),
    [
        ({}, True, False),
        ({"recursiveReadOnly": "Disabled"}, True, False),
        ({"recursiveReadOnly": "IfPossible", "readOnly": True}, False, False),
        ({"recursiveReadOnly": "IfPossible", "readOnly": True}, True, True),
        ({"recursiveReadOnly": "Enabled", "readOnly": True}, True, True),
        ({"recursiveReadOnly": "Enabled", "readOnly": True}, False, "supported by the runtime"),
        ({"recursiveReadOnly": "Enabled"}, True, "it is not read-only"),
        ({"recursiveReadOnly": "Enabled", "readOnly": True,
          "mountPropagation": "HostToContainer"}, True, "compatible with propagation"),
    ],
)  # fmt: skip
def test_recursive_read_only(mount: dict[str, Any], supported: bool, expected: bool | str) -> None:
    pod = make_pod({"name": "m", "volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]})
    wanted = pod.spec.containers[0].volumeMounts[0]
    if isinstance(expected, bool):
        assert is_recursive_read_only(wanted, supported) is expected
        return
    with pytest.raises(VolumeProblem, match=f"^failed to resolve recursive .*{expected}"):
        is_recursive_read_only(wanted, supported)


@pytest.mark.parametrize(
    ("memory", "limit", "expected"),
    [
        (["512Mi", None], None, 8 * GIB),
        (["512Mi", "512Mi"], None, GIB),
        (["512Mi", "512Mi"], "1Mi", 1 << 20),
        ([None, None], "16Gi", 8 * GIB),
    ],
)
def test_how_much_memory(memory: list[str | None], limit: str | None, expected: int) -> None:
    containers = [
        {"name": str(number), "resources": {"limits": {"memory": each}} if each else {}}
        for number, each in enumerate(memory)
    ]
    assert memory_size(make_pod(*containers), NodeResources(1, 8 * GIB), limit) == expected


@pytest.mark.parametrize(
    ("medium", "asked", "expected"),
    [
        ("HugePages", ["hugepages-2Mi"], "pagesize=2097152"),
        ("HugePages-2Mi", ["hugepages-2Mi", "hugepages-1Gi"], "pagesize=2097152"),
        ("HugePages", ["hugepages-2Mi", "hugepages-1Gi"], "multiple huge page sizes"),
        ("HugePages-1Gi", ["hugepages-2Mi"], "no resource request for huge pages"),
        ("Tape", [], 'unknown storage medium "Tape"'),
    ],
)
def test_huge_pages(medium: str, asked: list[str], expected: str) -> None:
    pod = make_pod({"name": "m", "resources": {"requests": dict.fromkeys(asked, "4Mi")}})
    if expected.startswith("pagesize"):
        assert page_size_option(medium, pod) == expected
        return
    with pytest.raises(VolumeProblem, match=expected):
        page_size_option(medium, pod)


async def test_nothing_is_remembered_of_pods_that_are_gone(stage: Stage) -> None:
    await stage.manager.prepare(claiming())
    await stage.manager.take_down("u-1")
    assert not stage.manager._known and not stage.manager._locks
    assert os.listdir(stage.manager.host.root / "pods") == []


async def test_mount_options_only_where_something_is_mounted(stage: Stage) -> None:
    stage.objects.persistent = persistent(mountOptions=["noatime"])
    with pytest.raises(VolumesFailed) as failed:
        await stage.manager.prepare(claiming())
    assert str(failed.value) == (
        'MountVolume.MountOptionSupport check failed for volume "pv-1" : Mount options are not '
        "supported for this volume type"
    )


async def test_use_is_told_by_the_pods_names(stage: Stage) -> None:
    pod = make_pod(
        {"name": "m", "volumeMounts": [{"name": name, "mountPath": f"/{name}"}
                                       for name in ("scratch", "host")]},
        volumes=[{"name": "scratch", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/"}}],
    )  # fmt: skip
    assert await stage.manager.usage(pod) == {}
    prepared = await stage.manager.prepare(pod)
    (prepared["scratch"].path / "data").write_bytes(b"x" * 100_000)
    usage = await stage.manager.usage(pod)
    assert list(usage) == ["scratch"] and usage["scratch"].used >= 100_000
    assert usage["scratch"].inodes_used == 2


def test_the_agents_directory_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    host = VolumeHost(tmp_path / "link", FakeObjects(), NodeResources(1, 1), FakeClock(),
                      FakeEvents())  # fmt: skip
    assert host.pod_directory("u-1") == tmp_path.resolve() / "real/pods/u-1"


@pytest.mark.parametrize(
    ("policy", "given", "expected"),
    [(None, True, True), ("Always", True, True), ("OnRootMismatch", True, False),
     ("OnRootMismatch", False, True)],
)  # fmt: skip
async def test_whom_files_are_given_to(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, policy: str | None, given: bool, expected: bool
) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(Ownership, "is_given", lambda self, root: given)
    monkeypatch.setattr(Ownership, "give", lambda self, root: calls.append(root))
    context = {"fsGroup": 7, "fsGroupChangePolicy": policy}
    pod = make_pod(securityContext=context, volumes=[{"name": "v"}])
    spec = VolumeSpec(pod, pod.spec.volumes[0])
    await apply_fs_group(stage.manager.host, spec, Path("/v"))
    assert bool(calls) is expected
    calls.clear()
    await apply_fs_group(stage.manager.host, spec, Path("/v"), by_policy=False)
    assert calls and not stage.events.told


async def test_a_long_change_of_ownership_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def give(self: Ownership, root: Path) -> None:
        self.changed = 17
        over.wait(60)

    monkeypatch.setattr(Ownership, "give", give)
    pod = make_pod(securityContext={"fsGroup": 7}, volumes=[{"name": "v"}])
    spec, host = VolumeSpec(pod, pod.spec.volumes[0]), stage.manager.host
    root = host.pod_directory("u-1") / "volumes/x/v"
    giving = asyncio.create_task(apply_fs_group(host, spec, root))
    for seconds in (0, 29, 2, 60):
        await stage.clock.advance(seconds)
    over.set()
    await giving
    await stage.clock.advance(200)
    first, second = stage.events.told
    assert first.startswith("VolumePermissionChangeInProgress: Setting volume ownership for "
                            "u-1/volumes/x/v is taking longer than expected")  # fmt: skip
    assert second.endswith("Setting volume ownership for u-1/volumes/x/v, processed 17 files.")
