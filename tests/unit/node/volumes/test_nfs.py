"""NFS volumes: what mount.nfs is asked for, and servers that do not answer."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import FakeEvents, FakeObjects
from tests.unit.node.volumes.test_claims import make_volume

from navarch.client.clock import FakeClock
from navarch.node.resources import NodeResources
from navarch.node.volumes import nfs
from navarch.node.volumes.nfs import NfsPlugin
from navarch.node.volumes.plugin import VolumeHost, VolumeSpec, VolumeUsage


@pytest.fixture
def plugin(tmp_path: Path) -> NfsPlugin:
    node = NodeResources(1, 1)
    return NfsPlugin(VolumeHost(tmp_path, FakeObjects(), node, FakeClock(), FakeEvents()))


def inline(**source: Any) -> VolumeSpec:
    pod = make_pod(volumes=[{"name": "v", "nfs": {"path": "/data", **source}}])
    return VolumeSpec(pod, pod.spec.volumes[0])


def claimed(**spec: Any) -> VolumeSpec:
    reference = {"claimName": "data", "readOnly": True}
    pod = make_pod(volumes=[{"name": "v", "persistentVolumeClaim": reference}])
    volume = make_volume(hostPath=None, nfs={"server": "files.example", "path": "/data"}, **spec)
    return VolumeSpec(pod, pod.spec.volumes[0], volume)


@pytest.mark.parametrize(
    ("spec", "source", "options"),
    [
        (inline(server="files.example"), "files.example:/data", []),
        (inline(server="fd00::1", readOnly=True), "[fd00::1]:/data", ["-o", "ro"]),
        (claimed(mountOptions=["vers=4.2", "soft"]), "files.example:/data",
         ["-o", "vers=4.2,soft,ro"]),
    ],
)  # fmt: skip
async def test_what_is_mounted(
    plugin: NfsPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: VolumeSpec,
    source: str, options: list[str],
) -> None:  # fmt: skip
    commands: list[list[str]] = []
    monkeypatch.setattr(nfs, "run_command", lambda *command: commands.append(list(command)))
    target = tmp_path / "pods/u-1/volumes/kubernetes.io~nfs/v"
    prepared = await plugin.set_up(spec, target)
    assert commands == [["mount.nfs", source, str(target), *options]]
    assert prepared.path == target and prepared.read_only is bool(options)


async def test_a_machine_without_nfs(
    plugin: NfsPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r'executable file "mount\.nfs" not found'):
        await plugin.set_up(inline(server="files.example"), tmp_path / "target")
    assert os.listdir(tmp_path) == []


async def test_a_server_that_does_not_answer_is_not_waited_for(
    plugin: NfsPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer, asked = threading.Event(), threading.Semaphore(0)
    clock = plugin.host.clock
    assert isinstance(clock, FakeClock)

    def look(target: Path) -> VolumeUsage:
        asked.release()
        answer.wait(60)
        return VolumeUsage(7)

    monkeypatch.setattr(nfs, "file_system", look)
    monkeypatch.setattr(nfs, "run_command", lambda *command: "")
    places = [tmp_path / f"v{number}" for number in range(nfs.THREADS)]
    for place in places:
        first = asyncio.create_task(plugin.usage(place))
        await asyncio.to_thread(asked.acquire)
        assert await plugin.usage(place) is None
        await clock.advance(nfs.ANSWER_SECONDS)
        assert await first is None
    # Mounts of other servers do not wait behind it either.
    await plugin.set_up(inline(server="files.example"), tmp_path / "other")
    answer.set()
    async with asyncio.timeout(60):
        while await plugin.usage(places[0]) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_dead_server_is_let_go_by_force(
    plugin: NfsPlugin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced, began = threading.Event(), threading.Event()
    clock = plugin.host.clock
    assert isinstance(clock, FakeClock)

    def unmount(target: Path, *, lazily: bool = True, by_force: bool = False) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if by_force:
            forced.set()
        else:
            began.set()
            assert forced.wait(60)

    monkeypatch.setattr(nfs, "mounts_under", lambda target: [target])
    monkeypatch.setattr(nfs, "unmount", unmount)
    done = asyncio.create_task(plugin.tear_down("u-1", "v", tmp_path))
    assert await asyncio.to_thread(began.wait, 60)
    assert not forced.is_set()
    await clock.advance(nfs.UNMOUNT_SECONDS)
    await done
    assert forced.is_set()
