"""Images as volumes: who mounts them, how, and what is left afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod, record
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.fakes import FakeEvents, FakeObjects, FakeSnapshots

from navarch.client.clock import FakeClock
from navarch.node.cri.snapshots import MountStep
from navarch.node.cri.values import IMAGE_VOLUMES, ImageRecord, RuntimeFailure, RuntimeInfo
from navarch.node.images.puller import ImageProblem, ImagePuller
from navarch.node.images.records import PullRecords
from navarch.node.podspec import find_container
from navarch.node.resources import NodeResources
from navarch.node.status import image_volumes
from navarch.node.volumes import image as module
from navarch.node.volumes import kernel
from navarch.node.volumes.image import ImagePlugin, mount_image, mounts_images
from navarch.node.volumes.manager import VolumeManager
from navarch.node.volumes.mounting import volume_mounts
from navarch.node.volumes.plugin import PreparedVolume, VolumeHost

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("runtime", "version", "does"),
    [
        ("containerd", "1.6.20~ds1", False),
        ("containerd", "2.0.5", False),
        ("containerd", "v2.1.0", False),
        ("cri-o", "1.30.9", False),
        ("cri-o", "1.31.0", True),
        ("other", "9.9", False),
        ("cri-o", "unknown", False),
    ],
)
def test_which_runtimes_mount_images(runtime: str, version: str, does: bool) -> None:
    assert mounts_images(runtime, version) == does


Calls = list[tuple[str, str, int, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls of mount(2), which are not made."""
    made: Calls = []

    def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
        made.append((source, kind, flags, options))

    monkeypatch.setattr(kernel, "mount", mount)
    monkeypatch.setattr(kernel, "unmount", lambda target, **how: None)
    return made


FLAGS = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


def test_layers_are_laid_over_each_other_and_one_over_nothing(calls: Calls, tmp_path: Path) -> None:
    mount_image([MountStep("bind", "/layer", ("ro", "rbind"))], tmp_path)
    assert calls == [("overlay", "overlay", FLAGS, f"lowerdir=/layer:{tmp_path}")]
    calls.clear()
    mount_image([MountStep("overlay", "overlay", ("ro", "index=off", "lowerdir=/b:/a"))], tmp_path)
    assert calls == [("overlay", "overlay", FLAGS, "index=off,lowerdir=/b:/a")]


def test_many_layers_fit_into_a_page(calls: Calls, tmp_path: Path) -> None:
    layers = [tmp_path / f"{'long-name-' * 10}{number}" for number in range(100)]
    for layer in layers:
        layer.mkdir()
    option = "lowerdir=" + ":".join(map(str, layers))
    mount_image([MountStep("overlay", "overlay", ("ro", option))], tmp_path)
    ((_, _, _, options),) = calls
    assert len(options) < 4096
    assert options.count("/proc/self/fd/") == 100


def test_a_view_of_several_mounts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="takes 2 mounts"):
        mount_image([MountStep("bind", "/a", ()), MountStep("bind", "/b", ())], tmp_path)


def mounting(**mount: Any) -> Any:
    return make_pod(
        {"name": "main", "volumeMounts": [{"name": "files", "mountPath": "/files", **mount}]},
        {"name": "other"},
        volumes=[{"name": "files", "image": {"reference": "files:1"}}],
    )


@dataclass
class Node:
    """The volumes of a node without an agent, which would clear away what it does not know."""

    runtime: FakeRuntime
    volumes: VolumeManager
    plugin: ImagePlugin
    snapshots: FakeSnapshots
    events: FakeEvents


async def node(directory: Path) -> Node:
    runtime, events, clock, objects = FakeRuntime(), FakeEvents(), FakeClock(), FakeObjects()
    records = PullRecords(directory)
    await records.load([])
    host = VolumeHost(directory, objects, NodeResources(1, 1, 1), clock, events, "node-1")
    volumes, snapshots = VolumeManager(host), FakeSnapshots()
    puller = ImagePuller(runtime, records, events, clock)
    plugin = ImagePlugin(host, runtime, snapshots, puller)
    volumes.add(plugin)
    return Node(runtime, volumes, plugin, snapshots, events)


async def test_mounted_here_and_taken_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = await node(tmp_path)
    here.runtime.image_table["files:1"] = ImageRecord(f"sha256:{HEX}", ("files:1",))
    mounted: list[Path] = []
    monkeypatch.setattr(module, "mount_image", lambda steps, place: mounted.append(place))
    plugin, volumes = here.plugin, here.volumes
    pod = mounting()
    prepared = await volumes.prepare(pod)
    assert mounted == []  # nothing is pulled before a container starts
    other = find_container(pod, "other")
    main = find_container(pod, "main")
    assert other is not None and main is not None
    assert await plugin.provide(pod, other, [], prepared) == {}
    found = await plugin.provide(pod, main, [], prepared)
    assert found["files"].image_id == f"sha256:{HEX}"
    assert mounted == [found["files"].path]
    assert plugin.images_in_use() == {f"sha256:{HEX}"}
    # Its own flags hold: "readonly" would make the runtime mount it anew, without noexec.
    (mount,) = volume_mounts(main.container, found, {}, recursive_read_only=False)
    assert mount.host_path == str(found["files"].path) and not mount.readonly
    await volumes.take_down("u-1")
    assert plugin.images_in_use() == set()
    assert here.snapshots.views == {}
    assert volumes.known_pods() == []


async def test_mounted_by_a_runtime_that_can(tmp_path: Path) -> None:
    here = await node(tmp_path)
    here.runtime.image_table["files:1"] = ImageRecord(f"sha256:{HEX}", ("files:1",))

    async def info() -> RuntimeInfo:
        return RuntimeInfo("cri-o", "1.34.2")

    here.runtime.info = info  # type: ignore[method-assign]
    pod = mounting(subPath="part")
    main = find_container(pod, "main")
    assert main is not None
    prepared = await here.volumes.prepare(pod)
    found = await here.plugin.provide(pod, main, [], prepared)
    part = await here.volumes.bind_subpath(pod, found["files"], "files", "part", "main/0")
    (mount,) = volume_mounts(main.container, found, {0: part}, recursive_read_only=False)
    assert (mount.image.image, mount.image_sub_path) == (f"sha256:{HEX}", "part")
    assert mount.host_path == "" and mount.readonly
    assert here.plugin.images_in_use() == {f"sha256:{HEX}"}
    await here.volumes.take_down("u-1")
    assert here.plugin.images_in_use() == set()


async def test_failures_are_the_containers(tmp_path: Path) -> None:
    here = await node(tmp_path)
    pod = mounting()
    main = find_container(pod, "main")
    assert main is not None
    prepared = await here.volumes.prepare(pod)
    provide = here.plugin.provide
    with pytest.raises(ImageProblem) as caught:
        await provide(pod, main, [], prepared)
    assert caught.value.reason == "ErrImagePull"
    assert "main Failed: Error: ErrImagePull" in here.events.told
    here.runtime.image_table["files:1"] = ImageRecord(f"sha256:{HEX}", ("files:1",))
    here.snapshots.failure = RuntimeFailure("this container runtime cannot mount images")
    with pytest.raises(ImageProblem) as caught:
        await provide(pod, main, [], prepared)
    assert caught.value.reason == "ImageVolumeMountFailed"
    assert "cannot mount images" in caught.value.message
    await here.volumes.take_down("u-1")
    assert here.volumes.known_pods() == []


def test_the_status_names_the_image_that_was_mounted() -> None:
    pod = mounting()
    noted = record(pod, annotations={IMAGE_VOLUMES: f'{{"files": "sha256:{HEX}"}}'})
    assert image_volumes(noted) == {"files": f"sha256:{HEX}"}
    assert image_volumes(record(pod)) == {}
    assert PreparedVolume(Path("/x")).image_id == ""
