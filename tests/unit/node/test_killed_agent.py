"""The agent is killed at every moment of a pod's life, and another one goes on.

A moment is before or after each call to the runtime, the API or (by a thread) the disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.doom import Doom
from tests.unit.node.builders import make_pod
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.fakes import Machine, stage

from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Pod
from navarch.node.cri.values import ExecResult

PATIENCE = 90
"""Virtual seconds until what is wanted must have happened."""


def doomed(at: int) -> Doom:
    """Dies before or after the n-th call; never, if that is 0."""
    return Doom(lambda step, name, when: step == at and when != "during")


class Life:
    """A machine, the agent on it, and everything that is done to its containers."""

    def __init__(self, directory: Path, at: int) -> None:
        self._directory = directory
        self.machine, self.doom = Machine(), doomed(at)
        self.deaths: list[str] = []
        self.started: Counter[str] = Counter()
        self.executed: Counter[str] = Counter()
        self.sick = ""
        """The container (by id) whose probes fail."""
        runtime = self.machine.runtime
        runtime.registry["new:1"] = replace(runtime.image_table["busybox:1.36"], id="sha256:new")
        self._watch(runtime)

    def _watch(self, runtime: FakeRuntime) -> None:
        """Init containers end by themselves at once."""
        start, execute = runtime.start_container, runtime.exec_sync

        async def start_container(container_id: str) -> None:
            await start(container_id)
            name = runtime._record(container_id).name
            self.started[name] += 1
            if name == "init":
                asyncio.get_running_loop().call_soon(runtime.finish, container_id)

        async def exec_sync(container_id: str, command: Any, timeout: float) -> Any:
            self.executed[command[0]] += 1
            if container_id == self.sick:
                return ExecResult(1)
            return await execute(container_id, command, timeout)

        runtime.start_container = start_container  # type: ignore[method-assign]
        runtime.exec_sync = exec_sync  # type: ignore[method-assign]

    async def begin(self) -> None:
        self._agent = asyncio.create_task(self._run(self.doom))

    async def _run(self, doom: Doom) -> None:
        async with stage(self._directory, self.machine, doom.through):
            await asyncio.Event().wait()

    async def end(self) -> None:
        self.doom.bury()
        self._agent.cancel()
        await asyncio.gather(self._agent, return_exceptions=True)

    def left(self) -> list[Path]:
        """What pods have on the disk."""
        places = (self._directory / "kubelet/pods", self._directory / "logs")
        return [each for place in places if place.exists() for each in place.iterdir()]

    async def until(self, check: Callable[[], bool]) -> None:
        clock = self.machine.clock
        for _ in range(PATIENCE):
            if self.doom.is_dead:
                self.deaths.append(self.doom.died_at)
                await self.end()
                self.doom = doomed(0)
                await self.begin()
            await clock.advance(0)
            if not self.doom.is_dead:
                if check():
                    return
                await clock.advance(1.0)
        raise AssertionError(f"{self.machine.runtime}\n{self.machine.api.pods}")


Script = Callable[[Life], Awaitable[None]]
POD: dict[str, Any] = {
    "initContainers": [
        {"name": "init", "image": "busybox:1.36"},
        {"name": "side", "image": "busybox:1.36", "restartPolicy": "Always",
         "startupProbe": {"exec": {"command": ["up"]}, "periodSeconds": 1}},
    ],
    "volumes": [
        {"name": "work", "emptyDir": {}},
        {"name": "labels", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ],
}  # fmt: skip
MAIN: dict[str, Any] = {
    "name": "main",
    "image": "new:1",
    "lifecycle": {
        "postStart": {"exec": {"command": ["begun"]}},
        "preStop": {"exec": {"command": ["ending"]}},
    },
    "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
    "volumeMounts": [{"name": "work", "mountPath": "/work", "subPath": "part"}],
}


async def live(life: Life) -> None:
    """A pod's whole life: its start, a crash, the next instance, its deletion."""
    api, runtime = life.machine.api, life.machine.runtime
    api.put(make_pod(MAIN, **POD))
    await life.until(lambda: is_ready(api.pods["web"], 0))
    runtime.finish(runtime.container("main").id, 3)
    await life.until(lambda: is_ready(api.pods["web"], 1))
    api.mark_deleted("web")
    await life.until(lambda: not api.pods and not str(runtime) and not life.left())


WORK: dict[str, Any] = {
    "name": "main",
    "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}},
    "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1},
}


async def change(life: Life) -> None:
    """It grows in place, its probe fails, its sandbox is lost; in the end its work is done."""
    api, runtime = life.machine.api, life.machine.runtime
    api.put(make_pod(WORK, **POD, restartPolicy="OnFailure"))
    await life.until(lambda: is_ready(api.pods["web"], 0))
    bigger = copy_object(api.pods["web"])
    bigger.metadata.generation += 1
    bigger.spec.containers[0].resources.limits["cpu"] = "200m"
    bigger.spec.containers[0].resources.requests["cpu"] = "200m"
    api.put(bigger)
    await life.until(lambda: shown_limit(api.pods["web"]) == "200m")
    life.sick = runtime.container("main").id
    await life.until(lambda: is_ready(api.pods["web"], 1))
    runtime.end_sandbox(runtime._pod("u-1").sandboxes[0].id)
    await life.until(lambda: is_ready(api.pods["web"], 2))
    assert shown_limit(api.pods["web"]) == "200m"
    runtime.finish(runtime.container("main").id, 0)
    await life.until(lambda: api.pods["web"].status.phase == "Succeeded")
    await life.until(lambda: not runtime._pod("u-1").sandboxes[0].ready)


def shown_limit(pod: Pod) -> str:
    resources = pod.status.containerStatuses[0].resources
    return str(resources.limits["cpu"]) if resources is not None else ""


def is_ready(pod: Pod, restarts: int) -> bool:
    return (
        any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)
        and pod.status.containerStatuses[0].restartCount == restarts
    )


def told_ends(life: Life) -> set[tuple[str, int]]:
    """How containers ended, as clients were told."""
    return {
        (each.name, end.exitCode)
        for status in life.machine.api.statuses
        for each in (*status.initContainerStatuses, *status.containerStatuses)
        for end in (each.state.terminated, each.lastState.terminated)
        if end is not None
    }


async def alive(directory: Path, script: Script, at: int = 0) -> Life:
    life = Life(directory, at)
    await life.begin()
    try:
        await script(life)
    finally:
        await life.end()
    return life


SHARES = 4
"""The moments are divided, for tests that run at the same time."""


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize(
    ("script", "starts"),
    [
        pytest.param(live, {"init": 1, "side": 1, "main": 2}, id="live"),
        pytest.param(change, {"init": 2, "side": 2, "main": 3}, id="change"),
    ],
)
async def test_nothing_is_done_twice_and_nothing_is_forgotten(
    tmp_path: Path, script: Script, starts: dict[str, int], share: int
) -> None:
    whole = await alive(tmp_path / "whole", script)
    assert whole.started == starts
    for at in range(1 + share, whole.doom.steps + 1, SHARES):
        life = await alive(tmp_path / str(at), script, at)
        where = f"killed at step {at}: {life.deaths}"
        assert life.started == starts, where
        assert life.executed["begun"] <= whole.executed["begun"], where
        assert life.executed["ending"] >= whole.executed["ending"], where
        assert told_ends(life) == told_ends(whole), where
