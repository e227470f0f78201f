"""An agent that is killed before, during and after what it asks of a real containerd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell, text_of
from tests.cluster.node.environment import RuntimeEnvironment, run
from tests.cluster.node.leftovers import leftovers, networks, until_clean
from tests.doom import Doom

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"
MOMENTS = (("before", 0.0), ("during", 0.003), ("after", 0.0), ("during", 0.04))
STARTS = ("run_sandbox", "create_container", "start_container", "create_container",
          "start_container", "exec_sync")  # fmt: skip
ENDS = ("exec_sync", "stop_container", "stop_sandbox", "remove_container", "remove_sandbox")


def is_ready(each: Pod) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in each.status.conditions)


async def killed_agents(
    cluster: Cluster, calls: Sequence[str], over: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    """Agents that are killed, each at the next of the moments of these calls (or at the next call,
    if it has no such moment any more); where they were killed."""
    for number, call in enumerate(calls):
        later = {each for each in calls[number + 1 :] if each != call}
        for when, seconds in MOMENTS:
            ends = {(call, when), *((each, "before") for each in later)}
            died_at = await _killed(cluster, Doom(_one_of(ends), seconds), over)
            yield died_at
            if not died_at.startswith(call):
                break


def _one_of(ends: set[tuple[str, str]]) -> Callable[[int, str, str], bool]:
    return lambda step, name, when: (name, when) in ends


async def _killed(cluster: Cluster, doom: Doom, over: Callable[[], Awaitable[bool]]) -> str:
    runtime = cluster.runtime
    cluster.runtime = doom.through(runtime)
    cluster.start_agent()
    cluster.runtime = runtime

    async def done() -> bool:
        return doom.is_dead or await over()

    await eventually(done)
    died_at = doom.died_at
    doom.bury()
    await cluster.stop_agent()
    return died_at


async def running(cluster: Cluster, environment: RuntimeEnvironment) -> set[str]:
    """The containers that run, when whatever was asked of the runtime has come to an end: it goes
    on with a call whose caller is gone, for which nobody tells the end, and a start takes 0.1 s. So
    two looks must be alike; the processes that look are slow where the runtime is. An agent that is
    really killed is not back so soon."""
    ctr = ("ctr", "-a", str(environment.socket), "-n", "k8s.io")
    last, now = "", "?"
    while last != now:
        await asyncio.sleep(0.2)
        last, lists = now, (f"{what} ls".split() for what in ("containers", "tasks"))
        told = [await asyncio.to_thread(run, *ctr, *each) for each in lists]
        states = await cluster.runtime.pods()
        now = f"{told} {states}"
    return {
        each.id for state in states for each in state.containers
        if each.running and each.name == "main"
    }  # fmt: skip


async def test_every_step_of_a_pod_kills_its_agent(
    cluster: Cluster, runtime_environment: RuntimeEnvironment, tmp_path: Path
) -> None:
    """One pod, and at each of its steps another agent: nothing that runs is ended, no container
    begins twice, and in the end nothing is left. Only a start that was cut off leaves it open: the
    runtime ends what it has begun by then, and calls it never started."""
    await cluster.stop_agent()
    before = leftovers(runtime_environment)
    mount = {"volumeMounts": [
        {"name": "out", "mountPath": "/out"},
        {"name": "work", "mountPath": "/work", "subPath": "part"},
        {"name": "memory", "mountPath": "/memory"},
    ]}  # fmt: skip
    hooks = {name: {"exec": {"command": ["sh", "-c", f"echo x >> /out/{name}; sleep 0.1"]}}
             for name in ("postStart", "preStop")}  # fmt: skip
    await cluster.create(
        pod(
            "survivor",
            shell("main", f"echo x >> /out/main; {FOREVER}", lifecycle=hooks, **mount),
            initContainers=[shell("init", "echo x >> /out/init", **mount)],
            volumes=[
                {"name": "out", "hostPath": {"path": str(tmp_path)}},
                {"name": "work", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
            ],
        )
    )

    async def is_up() -> bool:
        return is_ready(await cluster.get("survivor"))

    deaths, seen = [], set()
    async for died_at in killed_agents(cluster, STARTS, is_up):
        deaths.append(died_at)
        seen |= await running(cluster, runtime_environment)
        networks(runtime_environment)
    cluster.start_agent()
    ready = await cluster.wait("survivor", is_ready)
    statuses = [*ready.status.initContainerStatuses, *ready.status.containerStatuses]
    assert [each.restartCount for each in statuses] == [0, 0], deaths
    assert seen == {ready.status.containerStatuses[0].containerID.removeprefix("containerd://")}
    assert len(set(deaths)) >= 8, deaths
    await cluster.stop_agent()

    await cluster.delete("survivor")

    async def is_over() -> bool:
        return not await cluster.runtime.pods()

    async for died_at in killed_agents(cluster, ENDS, is_over):
        deaths.append(died_at)
    cluster.start_agent()
    await until_clean(runtime_environment, before)
    cut_off = deaths.count("start_container during")
    assert 1 <= counted(tmp_path, "init") <= 1 + cut_off, deaths
    assert 1 <= counted(tmp_path, "main") <= 1 + cut_off, deaths
    assert counted(tmp_path, "preStop") >= 1


def counted(directory: Path, name: str) -> int:
    return text_of(directory / name).count("x")
