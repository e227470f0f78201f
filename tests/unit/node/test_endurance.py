"""What an agent remembers of pods that crash without end, and what a clock that is set does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.node.agent import RELIST_SECONDS
from navarch.node.backoff import BackoffTable

HOUR = 3600.0


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


async def sizes(node: Stage) -> dict[str, int]:
    """How much there is in everything that could grow, after a look at the whole runtime."""
    await node.clock.advance(RELIST_SECONDS + 1)
    (worker,) = node.agent.workers()
    places: dict[str, Any] = {**vars(worker._memory), **vars(node.agent), **vars(worker._actor)}
    places |= vars(node.agent._probes) | {"backoff": worker._actor.backoff._waits}
    found = {name: len(each) for name, each in places.items()
             if isinstance(each, dict | set | list | frozenset | tuple)}  # fmt: skip
    logs = node.options.pod_logs_directory
    return found | {
        "containers": len(worker.state.containers),
        "logs": sum(1 for each in logs.rglob("*") if each.is_file()),
        "files": sum(1 for _ in (node.options.root_directory / "pods").rglob("*")),
    }


async def test_a_container_that_ends_at_once_for_ever(node: Stage) -> None:
    await node.create(make_pod())
    (worker,) = node.agent.workers()
    worker._actor.backoff = BackoffTable(maximum=1.0)
    small: dict[str, int] = {}
    for number in range(200):
        node.runtime.finish(node.runtime.container("main").id, 1)
        await node.clock.advance(1.1)
        if number == 20:
            small = await sizes(node)
    assert node.status().containerStatuses[0].restartCount == 200
    assert {name: size for name, size in (await sizes(node)).items() if size > small[name]} == {}
    assert small["containers"] <= 3


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, 10 * 365 * 24 * HOUR, -30 * 24 * HOUR])
async def test_the_clock_is_set(node: Stage, seconds: float) -> None:
    """No probe, no wait and no back-off takes that for time that has passed (or has yet to)."""
    probe = {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    await node.create(make_pod({"name": "main", "livenessProbe": probe,
                                "readinessProbe": probe}))  # fmt: skip
    await node.create(
        make_pod(metadata={"name": "crashing", "uid": "u-2"}, terminationGracePeriodSeconds=1)
    )
    await node.rest(2)
    crashing = node.runtime.container("main")
    for _ in range(2):
        node.runtime.finish(node.runtime.container("main").id, 1)
        await node.rest(1)
    assert node.status("crashing").containerStatuses[0].state.waiting is not None
    node.runtime.fail_next("run_sandbox", "no room")
    await node.create(make_pod(metadata={"name": "late", "uid": "u-3"}))
    node.clock.jump_wall_clock(seconds)
    await node.rest(11)
    assert node.status("web").containerStatuses[0].restartCount == 0
    assert node.status("web").phase == "Running"
    assert node.status("late").phase == "Running"
    again = node.status("crashing").containerStatuses[0]
    assert (again.restartCount, again.state.running is not None) == (2, True)
    assert crashing.id != again.containerID
