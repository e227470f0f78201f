"""What goes wrong with the machine and the cluster around a node: a full disk, damaged files, an
API that is away, containers that leave processes behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, remove_all_pods, shell
from tests.cluster.node.environment import RuntimeEnvironment, run
from tests.cluster.node.leftovers import leftovers, until_clean

from navarch.api.types.core_v1 import Pod
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.node.main import run_with

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def is_ready(each: Pod) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in each.status.conditions)


def container_id(each: Pod) -> str:
    return each.status.containerStatuses[0].containerID


def volumes(name: str = "note") -> dict[str, Any]:
    return {"volumes": [
        {"name": "disk", "emptyDir": {}},
        {"name": "map", "configMap": {"name": name, "optional": True}},
    ]}  # fmt: skip


MOUNTS = {"volumeMounts": [
    {"name": "disk", "mountPath": "/disk", "subPath": "part"},
    {"name": "map", "mountPath": "/map"},
]}  # fmt: skip


def fill(directory: Path) -> None:
    with suppress(OSError), open(directory / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    number = 0
    with suppress(OSError):
        while True:  # until there is no inode either
            (directory / f"filler-{number}").touch()
            number += 1


def spoil(root: Path, damage: bytes) -> int:
    """Damages the agent's files, not those of pods' volumes, and tells how many. A thread of an
    agent that has just ended may still remove some."""
    spoiled = 0
    for directory, _, names in os.walk(root):
        for path in (Path(directory, name) for name in names if "volumes" not in directory):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    with open(path, "r+b") as file:
                        file.truncate()
                        file.write(damage)
                    spoiled += 1
    return spoiled


async def test_an_agent_on_a_full_disk(cluster: Cluster) -> None:
    """Nothing can be written, not even while it starts: what runs runs on, what would begin waits
    and says why, and begins as soon as there is room."""
    await cluster.stop_agent()
    root = cluster.options.root_directory.parent / "full"
    root.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=300", "tmpfs", str(root))
    try:
        settings: dict[str, Any] = {"eviction_hard": {"memory.available": "1Mi"}}
        cluster.start_agent(root_directory=root / "kubelet", **settings)
        await cluster.create(pod("early", shell("main", FOREVER, **MOUNTS), **volumes()))
        await cluster.create(pod("leaving", shell("main", FOREVER, **MOUNTS), **volumes()))
        early = await cluster.wait("early", is_ready)
        await cluster.wait("leaving", is_ready)
        await asyncio.to_thread(fill, root)
        await cluster.create(pod("late", shell("main", FOREVER, **MOUNTS), **volumes()))

        async def is_told() -> bool:
            return any("o space left" in text for _, text in await cluster.events("late"))

        await eventually(is_told)
        await cluster.stop_agent()
        cluster.start_agent()
        cluster.kill(container_id(early).removeprefix("containerd://"))
        await cluster.delete("leaving")
        await cluster.wait_gone("leaving")
        ended = await cluster.wait(
            "early", lambda each: each.status.containerStatuses[0].restartCount == 1
            or each.status.containerStatuses[0].state.waiting is not None,
        )  # fmt: skip
        assert ended.status.phase == "Running"
        assert cluster.agent is not None and not cluster.agent.done()
        for each in root.glob("filler*"):
            each.unlink()
        await cluster.wait("late", is_ready)
        again = await cluster.wait("early", is_ready)
        assert again.status.containerStatuses[0].restartCount == 1
    finally:
        await cluster.stop_agent()
        await remove_all_pods(cluster.runtime)
        for point in reversed(mounts_below(root)):
            run("umount", "-l", point)


def mounts_below(root: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for line in lines if (path := line.split()[4]).startswith(str(root))]


async def test_every_file_of_the_agent_is_damaged(
    cluster: Cluster, runtime_environment: RuntimeEnvironment
) -> None:
    """It starts all the same, knows its pods, and cleans up after them."""
    before = leftovers(runtime_environment)
    root = cluster.options.root_directory
    await cluster.create(pod("steady", shell("main", FOREVER, **MOUNTS), **volumes()))
    steady = await cluster.wait("steady", is_ready)
    for damage in (b"", b"\0" * 100, b'{"a', b"[[[[1]]]]", os.urandom(64)):
        await cluster.stop_agent()
        assert spoil(root, damage)
        cluster.start_agent()
        await cluster.create(pod("new", shell("main", FOREVER, **MOUNTS), **volumes()))
        await cluster.wait("new", is_ready)
        await cluster.delete("new", grace=1)
        await cluster.wait_gone("new")
        assert container_id(await cluster.get("steady")) == container_id(steady)
    await cluster.delete("steady", grace=1)
    await until_clean(runtime_environment, before)


class Door:
    """The way to the API server, which can be shut: nobody comes through, and who is inside is
    thrown out."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_open = True

    async def pass_through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self._is_open:
            writer.close()
            return
        away, back = await asyncio.open_connection(self._address.hostname, self._address.port)
        pair = (writer, back)
        self._writers.update(pair)
        with suppress(OSError):
            await asyncio.gather(self._copy(reader, back), self._copy(away, writer))
        self._writers.difference_update(pair)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def shut(self) -> None:
        self._is_open = False
        for writer in self._writers:
            writer.transport.abort()

    def open(self) -> None:
        self._is_open = True


@asynccontextmanager
async def behind_a_door(cluster: Cluster) -> AsyncIterator[Door]:
    """The agent reaches the API through a door, everybody else directly."""
    await cluster.stop_agent()
    door = Door(cluster.client.config.server)
    server = await asyncio.start_server(door.pass_through, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(ClientConfig(server=f"http://127.0.0.1:{port}")) as client:
        cluster.agent = asyncio.create_task(run_with(cluster.options, client, cluster.runtime))
        try:
            yield door
        finally:
            await cluster.stop_agent()
            door.shut()


async def test_the_api_is_away(cluster: Cluster, tmp_path: Path) -> None:
    """Pods start, crash, end and are probed meanwhile, and when it is back it is told how."""
    out = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    where: dict[str, Any] = {"volumes": [{"name": "out", "hostPath": {"path": str(tmp_path)}}]}
    wait = "while ! test -e /out/go; do sleep 0.1; done; "
    probe = {"exec": {"command": ["test", "-e", "/out/go"]}, "periodSeconds": 1}
    async with behind_a_door(cluster) as door:
        scripts = {
            "crashing": shell("main", f"test -e /out/second && {{ {FOREVER}; }}; {wait} "
                                      "touch /out/second; exit 3", **out),
            "probed": shell("main", FOREVER, readinessProbe=probe, **out),
        }  # fmt: skip
        for name, container in scripts.items():
            await cluster.create(pod(name, container, **where))
        working = shell("main", f"{wait} exit 7", **out)
        await cluster.create(pod("ending", working, restartPolicy="Never", **where))
        await cluster.create(
            pod("starting", shell("main", f"touch /out/started; {FOREVER}", **out),
                initContainers=[shell("init", wait, **out)], **where)
        )  # fmt: skip
        await cluster.wait("crashing", is_ready)
        await cluster.wait("ending", is_ready)
        for name in ("probed", "starting"):
            await cluster.wait(name, is_running_in_part)
        door.shut()
        (tmp_path / "go").touch()
        await eventually(lambda: asyncio.to_thread((tmp_path / "started").exists))
        await eventually(lambda: asyncio.to_thread((tmp_path / "second").exists))
        await cluster.delete("probed", grace=1)
        # It does not know of the deletion, but the others have come to their ends.
        await asyncio.sleep(2)
        assert (await cluster.get("ending")).status.phase == "Running"
        door.open()
        ended = await cluster.wait("ending", lambda each: each.status.phase == "Failed")
        last = ended.status.containerStatuses[0].state.terminated
        assert last is not None and (last.exitCode, last.reason) == (7, "Error")
        crashed = await cluster.wait(
            "crashing",
            lambda each: is_ready(each) and each.status.containerStatuses[0].restartCount == 1,
        )
        last = crashed.status.containerStatuses[0].lastState.terminated
        assert last is not None and last.exitCode == 3
        started = await cluster.wait("starting", is_ready)
        init = started.status.initContainerStatuses[0].state.terminated
        assert init is not None and init.exitCode == 0

        async def is_gone() -> bool:
            found = await cluster.client.resource(Pod).list("default")
            return "probed" not in {each.metadata.name for each in found.items}

        await eventually(is_gone)


def is_running_in_part(each: Pod) -> bool:
    statuses = [*each.status.initContainerStatuses, *each.status.containerStatuses]
    return any(one.state.running is not None for one in statuses)


@pytest.mark.parametrize("shared", [False, True], ids=["own processes", "shared processes"])
async def test_what_a_container_leaves_behind(
    cluster: Cluster, runtime_environment: RuntimeEnvironment, tmp_path: Path, shared: bool
) -> None:
    """It closes its output, and its first process ends while others of it go on: they end too."""
    before = leftovers(runtime_environment)
    mark = f"{4000 + os.getpid() % 1000}.{int(shared)}"
    child = f"(trap '' TERM HUP; exec setsid sleep {mark}) >/dev/null 2>&1 </dev/null &"
    script = f"exec 0<&- 1>&- 2>&-; {child} {child} sleep 1; exit 5"
    await cluster.create(
        pod("parent", shell("main", script), restartPolicy="Never", shareProcessNamespace=shared)
    )
    ended = await cluster.wait("parent", lambda each: each.status.phase == "Failed")
    last = ended.status.containerStatuses[0].state.terminated
    assert last is not None and last.exitCode == 5

    async def are_gone() -> bool:
        return not _processes(mark)

    try:
        await eventually(are_gone)
    finally:
        for pid in _processes(mark):
            os.kill(pid, signal.SIGKILL)
    await cluster.delete("parent", grace=1)
    await until_clean(runtime_environment, before)


def _processes(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
