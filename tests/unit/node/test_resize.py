"""In-place resize of running pods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_container, make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.objects import copy_object, from_object
from navarch.api.types.core_v1 import PodStatus
from navarch.node.resize import (
    needs_restart,
    recorded_allocation,
    roomy,
    wanted_resources,
    with_allocation,
)
from navarch.node.resources import CgroupLimits

MIB = 1 << 20


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


def sized(cpu: str, memory: str, **fields: Any) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": memory}
    return {"name": "main", "resources": {"requests": amounts, "limits": amounts}, **fields}


async def resize(node: Stage, cpu: str, memory: str, name: str = "web") -> None:
    changed = copy_object(node.api.pods[name])
    resources = changed.spec.containers[0].resources
    resources.requests = resources.limits = {"cpu": cpu, "memory": memory}
    changed.metadata.generation += 1
    node.api.put(changed)
    await node.rest()


def pending(node: Stage, name: str = "web") -> list[tuple[str, str]]:
    return [
        (each.type, each.reason)
        for each in node.status(name).conditions
        if each.type.startswith("PodResize")
    ]


async def test_a_running_container_is_changed(node: Stage) -> None:
    await node.create(make_pod(sized("500m", "64Mi")))
    await resize(node, "1", "128Mi")
    given = node.runtime.configs["c2"].linux.resources
    assert (given.cpu_quota, given.memory_limit_in_bytes) == (100_000, 128 * MIB)
    shown = node.status().containerStatuses[0]
    assert shown.resources is not None
    assert shown.resources.limits == {"cpu": "1", "memory": "128Mi"}
    assert shown.allocatedResources == {"cpu": "1", "memory": "128Mi"}
    assert shown.restartCount == 0 and pending(node) == []
    assert node.status().observedGeneration == 2
    whole = node.runtime.sandbox_configs["s1"].linux.resources
    assert (whole.cpu_quota, whole.memory_limit_in_bytes) == (100_000, 128 * MIB)


async def test_a_runtime_may_be_against_it(node: Stage) -> None:
    await node.create(make_pod(sized("500m", "64Mi")))
    node.runtime.fail_next("update_sandbox", "no room in the machine")
    await resize(node, "1", "128Mi")
    assert "update_resources" not in node.runtime.calls
    await node.rest(3)
    assert node.runtime.configs["c2"].linux.resources.cpu_quota == 100_000


async def test_what_the_node_does_not_have_is_put_off(node: Stage) -> None:
    await node.create(make_pod(sized("500m", "64Mi")))
    await resize(node, "100", "64Mi")
    assert pending(node) == [("PodResizePending", "Deferred")]
    told = next(each for each in node.status().conditions if each.type == "PodResizePending")
    assert told.observedGeneration == 2 and told.message == (
        "Node didn't have enough resource: cpu, requested: 100000, used: 0, capacity: 4000"
    )
    shown = node.status().containerStatuses[0]
    assert shown.resources is not None and shown.resources.limits["cpu"] == "500m"
    assert shown.allocatedResources["cpu"] == "500m"
    assert "update_resources" not in node.runtime.calls
    node.runtime.finish(shown.containerID.removeprefix("containerd://"), 1)
    await node.rest()
    again = node.runtime.configs[node.runtime.container("main").id].linux.resources
    assert again.cpu_quota == 50_000, "a new instance gets what has been granted"
    await resize(node, "500m", "64Mi")
    assert pending(node) == []
    assert [each for each in node.events.told if "Resize" in each] == [
        'ResizeDeferred: Pod resize Deferred: {"containers":[{"name":"main","resources":{"limits":'
        '{"cpu":"100","memory":"64Mi"},"requests":{"cpu":"100","memory":"64Mi"}}}],"generation":2,'
        '"error":"Node didn\'t have enough resource: cpu, requested: 100000, used: 0, '
        'capacity: 4000"}'
    ]


async def test_room_that_is_given_back_goes_to_the_most_important(node: Stage) -> None:
    everyone = (("big", "3"), ("low", "400m"), ("high", "400m"))
    for name, cpu in everyone:
        priority = 5 if name == "high" else 1
        meta = {"name": name, "uid": f"u-{name}"}
        await node.create(make_pod(sized(cpu, "64Mi"), metadata=meta, priority=priority))
    for name in ("low", "high"):
        await resize(node, "1500m", "64Mi", name)
        assert pending(node, name) == [("PodResizePending", "Deferred")]
    await resize(node, "1600m", "64Mi", "big")
    assert pending(node, "big") == []
    assert (pending(node, "high"), pending(node, "low")) == (
        [], [("PodResizePending", "Deferred")]
    )  # fmt: skip
    node.api.mark_deleted("big")
    await node.rest()
    assert pending(node, "low") == []


async def test_a_limit_below_what_is_in_use_has_to_wait(node: Stage) -> None:
    await node.create(make_pod(sized("500m", "64Mi")))
    node.runtime.memory_in_use = 32 * MIB
    await resize(node, "500m", "16Mi")
    assert pending(node) == [("PodResizeInProgress", "Error")]
    problem = next(each for each in node.status().conditions if each.reason == "Error").message
    assert problem == (
        "cannot decrease memory limits: [attempting to set pod memory limit (16777216) below "
        'current usage (33554432), attempting to set container "main" memory limit (16777216) '
        "below current usage (33554432)]"
    )
    node.runtime.memory_in_use = 8 * MIB
    await node.rest(11)
    assert pending(node) == []
    assert node.runtime.configs["c2"].linux.resources.memory_limit_in_bytes == 16 * MIB
    reasons = [each.partition(":")[0] for each in node.events.told if "Resize" in each]
    assert reasons == ["ResizeStarted", "ResizeError", "ResizeCompleted"]


async def test_the_pod_as_a_whole(node: Stage) -> None:
    whole = {"limits": {"cpu": "1", "memory": "64Mi"}}
    await node.create(make_pod(resources=whole))
    given = node.runtime.configs["c2"].linux.resources
    assert (given.cpu_quota, given.memory_limit_in_bytes) == (100_000, 64 * MIB)
    changed = copy_object(node.api.pods["web"])
    assert changed.spec.resources is not None
    changed.spec.resources.limits = {"cpu": "2", "memory": "128Mi"}
    changed.metadata.generation += 1
    node.api.put(changed)
    await node.rest()
    given = node.runtime.configs["c2"].linux.resources
    assert (given.cpu_quota, given.memory_limit_in_bytes) == (200_000, 128 * MIB)
    shown = node.status().resources
    assert shown is not None and shown.limits == {"cpu": "2", "memory": "128Mi"}
    assert pending(node) == []


async def test_a_container_that_wants_a_restart(node: Stage) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    await node.create(make_pod(sized("500m", "64Mi", resizePolicy=policy)))
    await resize(node, "1", "64Mi")
    assert node.status().containerStatuses[0].restartCount == 0
    await resize(node, "1", "128Mi")
    shown = node.status().containerStatuses[0]
    assert shown.restartCount == 1
    assert shown.resources is not None and shown.resources.limits["memory"] == "128Mi"
    assert (
        "main Killing: Container main resize requires restart, will be restarted"
        in node.events.told
    )


def test_only_what_changed_counts_for_the_policy() -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    container = make_container(resources={"limits": {"cpu": "1"}}, resizePolicy=policy)
    wanted = wanted_resources(container)
    assert not needs_restart(container, wanted, {"limits": {"cpu": "2"}, "requests": {}})
    assert needs_restart(container, wanted, {"limits": {"memory": "1Mi"}, "requests": {}})


def test_a_cgroup_has_room_for_what_was_and_what_comes() -> None:
    assert roomy(CgroupLimits(10, 5, 0), CgroupLimits(4, 7, 9)) == CgroupLimits(10, 7, 0)


def test_what_an_agent_before_has_granted_is_in_the_status() -> None:
    pod = make_pod(sized("2", "64Mi"))
    held = {"limits": {"cpu": "1", "memory": "64Mi"}}
    pod.status = from_object(PodStatus, {"containerStatuses": [
        {"name": "main", "image": "x", "resources": held,
         "allocatedResources": {"cpu": "1", "memory": "64Mi"}}]})  # fmt: skip
    granted = with_allocation(pod, recorded_allocation(pod)).spec.containers[0].resources
    assert granted.limits["cpu"] == granted.requests["cpu"] == "1"
