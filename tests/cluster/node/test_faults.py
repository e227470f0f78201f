"""What goes wrong around an agent: its runtime dies or hangs, the machine reboots."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import NODE, Cluster, eventually, pod, shell, text_of, written
from tests.cluster.node.environment import RuntimeEnvironment, run
from tests.cluster.node.leftovers import leftovers, networks, shims, until_clean

from navarch.api.types.core_v1 import Node, Pod
from navarch.node import registration

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"
OUT = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}


def is_ready(each: Pod) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in each.status.conditions)


def restarts(each: Pod) -> list[int]:
    status = each.status
    return [one.restartCount for one in (*status.initContainerStatuses, *status.containerStatuses)]


def out(directory: Path) -> dict[str, Any]:
    return {"name": "out", "hostPath": {"path": str(directory)}}


async def node_until(cluster: Cluster, ready: str) -> str:
    """Waits until the node is (not) ready; returns what it says then."""
    async with asyncio.timeout(60):
        async for event in cluster.client.resource(Node).watch():
            for each in event.object.status.conditions:
                if event.object.metadata.name == NODE and (each.type, each.status) == (
                    "Ready", ready,
                ):  # fmt: skip
                    return each.message
    raise AssertionError


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node says soon that its runtime is silent."""
    monkeypatch.setattr(registration, "RUNTIME_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(registration, "RUNTIME_DOWN_SECONDS", 1.5)


@pytest.fixture
def served(runtime_environment: RuntimeEnvironment) -> Iterator[RuntimeEnvironment]:
    """A containerd that other tests can use afterwards, whatever has happened."""
    yield runtime_environment
    if runtime_environment.process.poll() is not None:
        runtime_environment.start()
    runtime_environment.process.send_signal(signal.SIGCONT)
    runtime_environment.wait_until_serving()


def containers_of(each: Pod) -> list[str]:
    return [one.containerID.removeprefix("containerd://") for one in each.status.containerStatuses]


def first_process(environment: RuntimeEnvironment, container_id: str) -> int:
    listed = run("ctr", "-a", str(environment.socket), "-n", "k8s.io", "tasks", "ls")
    return next(int(line.split()[1]) for line in listed.splitlines() if container_id in line)


async def test_the_runtime_is_killed(
    impatient: None, cluster: Cluster, served: RuntimeEnvironment, tmp_path: Path
) -> None:
    """Containers run on, the node says what it lacks, and what ended or was begun meanwhile is
    found when the runtime is back."""
    before = leftovers(served)
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 1,
             "timeoutSeconds": 20}  # fmt: skip
    always = shell("main", f"echo x >> /out/steady; {FOREVER}", livenessProbe=probe,
                   readinessProbe=probe, **OUT)  # fmt: skip
    fragile = shell("main", f"echo x >> /out/fragile; {FOREVER}", **OUT)
    hooks = {"preStop": {"exec": {"command": ["sh", "-c", "echo x >> /out/stopping; sleep 2"]}}}
    leaving = shell("main", FOREVER, lifecycle=hooks, **OUT)
    for name, container in (("steady", always), ("fragile", fragile), ("leaving", leaving)):
        await cluster.create(pod(name, container, volumes=[out(tmp_path)]))
    steady = await cluster.wait("steady", is_ready)
    victim = (await cluster.wait("fragile", is_ready)).status.containerStatuses[0].containerID
    await cluster.wait("leaving", is_ready)
    pids = {
        name: first_process(served, containers_of(await cluster.get(name))[0])
        for name in ("steady", "fragile")
    }
    networks(served)
    await cluster.delete("leaving")
    await eventually(lambda: asyncio.to_thread((tmp_path / "stopping").exists))
    for number in range(4):
        await cluster.create(pod(f"new-{number}", shell("main", FOREVER)))
    await asyncio.sleep(0.15)  # they are being made
    await asyncio.to_thread(served.kill)
    os.kill(pids["fragile"], signal.SIGKILL)
    await cluster.create(pod("late", shell("main", FOREVER)))
    assert await node_until(cluster, "False") == "container runtime is down"
    os.kill(pids["steady"], 0)
    served.start()
    await node_until(cluster, "True")
    for name in ("late", *(f"new-{number}" for number in range(4))):
        each = await cluster.wait(name, is_ready)
        assert restarts(each) == [0], name
    again = await cluster.wait("fragile", lambda each: is_ready(each) and restarts(each) == [1])
    ended = again.status.containerStatuses[0].lastState.terminated
    assert ended is not None and ended.containerID == victim and ended.exitCode in (137, 255)
    await eventually(lambda: gone(cluster, "leaving"))
    same = await cluster.wait("steady", is_ready)
    assert (containers_of(same), restarts(same)) == (containers_of(steady), [0])
    await written(tmp_path / "fragile", "x\nx\n")
    await written(tmp_path / "steady", "x\n")
    networks(served)
    for name in ("steady", "fragile", "late", *(f"new-{number}" for number in range(4))):
        await cluster.delete(name, grace=1)
    # A shim that was about to start when containerd was killed is known to nobody.
    lost = {int(pid) for pid in leftovers(served)["shims"]}
    await until_clean(served, before, without="shims")
    for pid in lost.intersection(shims(served)):
        os.kill(pid, signal.SIGKILL)


async def gone(cluster: Cluster, name: str) -> bool:
    listed = await cluster.client.resource(Pod).list("default")
    return name not in {each.metadata.name for each in listed.items}


async def test_the_runtime_hangs(
    impatient: None, cluster: Cluster, served: RuntimeEnvironment, tmp_path: Path
) -> None:
    """Nobody waits for it for ever, no probe fails because of it, and afterwards all goes on."""
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 2,
             "timeoutSeconds": 2}  # fmt: skip
    probed = shell("main", f"echo x >> /out/steady; {FOREVER}", livenessProbe=probe, **OUT)
    await cluster.create(pod("steady", probed, volumes=[out(tmp_path)]))
    await cluster.create(pod("leaving", shell("main", FOREVER)))
    await cluster.wait("steady", is_ready)
    await cluster.wait("leaving", is_ready)
    served.process.send_signal(signal.SIGSTOP)
    await cluster.create(pod("late", shell("main", FOREVER)))
    await cluster.delete("leaving")
    assert await node_until(cluster, "False") == "container runtime is down"
    await asyncio.sleep(8)  # longer than two probes take
    served.process.send_signal(signal.SIGCONT)
    await node_until(cluster, "True")
    late = await cluster.wait("late", is_ready)
    await eventually(lambda: gone(cluster, "leaving"))
    steady = await cluster.wait("steady", is_ready)
    assert (restarts(steady), restarts(late)) == ([0], [0])
    assert text_of(tmp_path / "steady") == "x\n"


def reboot(environment: RuntimeEnvironment) -> None:
    """What is left of a machine's memory after a reboot: nothing. Its disk is as it was."""
    spaces = networks(environment)
    directory = environment.directory
    environment.kill()
    inside = {
        int(pid)
        for tree in Path("/sys/fs/cgroup").iterdir()
        for path, _, files in os.walk(f"{tree}{environment.cgroup_root}")
        if "cgroup.procs" in files
        for pid in Path(path, "cgroup.procs").read_text().split()
    }
    for pid in [*shims(environment), *inside]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for each in reversed([each for each in mounts if each.startswith(f"{directory}/")]):
        subprocess.run(["umount", "-l", each], check=False)
    for space in spaces:
        subprocess.run(["umount", "-l", space], capture_output=True, check=False)
        Path(space).unlink(missing_ok=True)
    shutil.rmtree(directory / "state")
    subprocess.run(["ip", "-n", environment.namespace, "link", "del", "nvt0"], check=True)


async def test_the_machine_reboots(
    cluster: Cluster, served: RuntimeEnvironment, tmp_path: Path
) -> None:
    """Pods are the same and count one restart, also when the agent is killed again while it brings
    them up; init containers run again; the disk keeps what is on it, memory does not."""
    before = leftovers(served)
    mounts = {"volumeMounts": [
        *OUT["volumeMounts"],
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "map", "mountPath": "/map", "subPath": "part"},
    ]}  # fmt: skip
    volumes = [
        out(tmp_path),
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "map", "emptyDir": {}},
    ]
    script = "ls /disk /memory | tr '\\n' ' ' >> /out/main; touch /disk/d /memory/m; "
    await cluster.create(
        pod("web", shell("main", script + FOREVER, **mounts), volumes=volumes,
            initContainers=[shell("init", "echo -n x >> /out/init", **mounts),
                            shell("side", FOREVER, restartPolicy="Always")])
    )  # fmt: skip
    await cluster.create(
        pod("done", shell("main", "echo x >> /out/done", **OUT), volumes=[out(tmp_path)],
            restartPolicy="Never")
    )  # fmt: skip
    await cluster.create(pod("job", shell("main", FOREVER), restartPolicy="Never"))
    await cluster.create(pod("leaving", shell("main", FOREVER)))
    first = await cluster.wait("web", is_ready)
    await cluster.wait("leaving", is_ready)
    await cluster.wait("job", is_ready)
    done = await cluster.wait("done", lambda each: each.status.phase == "Succeeded")
    await cluster.stop_agent()
    await cluster.delete("leaving")
    await asyncio.to_thread(reboot, served)
    served.start()
    await asyncio.to_thread(served.wait_until_serving)
    cluster.start_agent()
    await asyncio.sleep(0.3)
    await cluster.stop_agent()
    cluster.start_agent()
    again = await cluster.wait("web", lambda each: is_ready(each) and all(restarts(each)))
    assert restarts(again) == [1, 1, 1]
    assert again.metadata.uid == first.metadata.uid
    last = again.status.containerStatuses[0].lastState.terminated
    assert last is not None and [last.containerID] == [
        first.status.containerStatuses[0].containerID
    ]
    # What it had begun when it was killed may begin once more.
    assert text_of(tmp_path / "init") in ("xx", "xxx")
    listed = ["/disk:", "/memory:", "/disk:", "d", "/memory:"]

    async def has_listed() -> bool:
        return text_of(tmp_path / "main").split()[: len(listed)] == listed

    await eventually(has_listed)
    failed = await cluster.wait("job", lambda each: each.status.phase == "Failed")
    ended = failed.status.containerStatuses[0].state.terminated
    assert ended is not None and ended.exitCode in (137, 255) and restarts(failed) == [0]
    assert (await cluster.get("done")).status.containerStatuses == done.status.containerStatuses
    assert text_of(tmp_path / "done") == "x\n"
    await eventually(lambda: gone(cluster, "leaving"))
    networks(served)
    for name in ("web", "done", "job"):
        await cluster.delete(name, grace=1)
    await until_clean(served, before)
