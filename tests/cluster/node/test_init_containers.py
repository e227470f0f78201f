"""Init containers, and what holds at every moment of a pod's life that somebody can see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, pod, shell
from tests.cluster.node.test_pod_life import FOREVER

from navarch.api.types.core_v1 import Pod, PodCondition

pytestmark = pytest.mark.cluster

INIT = "InitContainer [NodeConformance] should"
INCOMPLETE = "containers with incomplete status"


def initialized(each: Pod) -> PodCondition | None:
    found = [one for one in each.status.conditions if one.type == "Initialized"]
    return found[0] if found else None


def is_initialized(each: Pod) -> bool:
    """Whether all init containers have ended well; one after the other, the others wait."""
    all_done = True
    for status in each.status.initContainerStatuses:
        end = status.state.terminated
        assert all_done or status.state.waiting is not None, f"{status.name} is out of turn"
        if end is None or end.exitCode != 0:
            all_done = False
        else:
            assert status.ready, status.name
    return all_done


def check(each: Pod) -> None:
    """What holds at each moment since the node has seen the pod."""
    condition = initialized(each)
    if not each.status.initContainerStatuses:
        return
    assert condition is not None and condition.lastTransitionTime
    assert condition.status == str(is_initialized(each))
    for status in each.status.containerStatuses if condition.status == "False" else ():
        assert status.restartCount == 0, "an application began before its init containers ended"
        assert status.state.waiting is not None
        assert status.state.waiting.reason == "PodInitializing"


async def observed(cluster: Cluster, document: dict[str, Any], until: Callable[[Pod], bool]) -> Pod:
    """The pod's last version of all that a watcher sees; each is checked."""
    made = await cluster.create(document)
    pods = cluster.client.resource(Pod)
    seen: list[Pod] = []
    async with asyncio.timeout(60):
        async for event in pods.watch(
            "default",
            field_selector=f"metadata.name={made.metadata.name}",
            resource_version=made.metadata.resourceVersion,
        ):
            seen.append(event.object)
            if until(event.object):
                break
    for each in seen:
        check(each)
    states = [condition.status for each in seen if (condition := initialized(each)) is not None]
    assert ("True", "False") not in pairwise(states), "no way back"
    restarts = [sum(one.restartCount for one in each.status.initContainerStatuses) for each in seen]
    assert restarts == sorted(restarts)
    return seen[-1]


def phase(*wanted: str) -> Callable[[Pod], bool]:
    return lambda each: each.status.phase in wanted


def failed_often(each: Pod) -> bool:
    statuses = each.status.initContainerStatuses
    return bool(statuses) and statuses[0].restartCount >= 3


@pytest.mark.conformance(
    f"{INIT} invoke init containers on a RestartNever pod",
    f"{INIT} invoke init containers on a RestartAlways pod",
    f"{INIT} not start app containers and fail the pod if init containers fail on a RestartNever "
    "pod",
    f"{INIT} not start app containers if init containers fail on a RestartAlways pod",
)
async def test_init_containers_come_first(cluster: Cluster) -> None:
    await cluster.stop_agent()
    cluster.start_agent(crash_loop_back_off_max_container_restart_period=1.0)

    def begins(one: str, two: str) -> dict[str, Any]:
        return {"initContainers": [shell("init1", one), shell("init2", two)]}

    limits = {"resources": {"limits": {"cpu": "100m"}}}
    once, stays = shell("run1", "true"), shell("run1", FOREVER, **limits)
    well, first, second = begins("true", "true"), begins("false", "true"), begins("true", "false")
    never = {"restartPolicy": "Never"}
    ended, running, stopped, failing = await asyncio.gather(
        observed(cluster, pod("once", once, **well, **never), phase("Succeeded", "Failed")),
        observed(cluster, pod("stays", stays, **well), phase("Running", "Failed")),
        observed(cluster, pod("stops", once, **second, **never), phase("Succeeded", "Failed")),
        observed(cluster, pod("fails", stays, **first), failed_often),
    )
    found = [(each.status.phase, condition.status, condition.reason, condition.message)
             for each in (ended, running, stopped, failing)
             if (condition := initialized(each)) is not None]  # fmt: skip
    assert found == [
        ("Succeeded", "True", "PodCompleted", ""),
        ("Running", "True", "", ""),
        ("Failed", "False", "ContainersNotInitialized", f"{INCOMPLETE}: [init2]"),
        ("Pending", "False", "ContainersNotInitialized", f"{INCOMPLETE}: [init1 init2]"),
    ]
    for each in (ended, running):
        ends = [one.state.terminated for one in each.status.initContainerStatuses]
        assert [end.exitCode for end in ends if end is not None] == [0, 0]
    for each in (stopped, failing):
        assert each.status.containerStatuses[0].state.waiting is not None
        assert len(each.status.initContainerStatuses) == 2
    assert failing.status.initContainerStatuses[0].lastState.terminated is not None
    second_one = failing.status.initContainerStatuses[1]
    assert second_one.state.waiting is not None
    assert second_one.state.waiting.reason == "PodInitializing" and second_one.restartCount == 0
