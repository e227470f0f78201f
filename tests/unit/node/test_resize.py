"""In-place resize of running pods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_container, make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.objects import copy_object
from navarch.node.resize import check_resize, needs_restart
from navarch.node.resources import NodeResources

MIB = 1 << 20


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


def sized(cpu: str, memory: str, **fields: Any) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": memory}
    return {"name": "main", "resources": {"requests": amounts, "limits": amounts}, **fields}


async def resize(node: Stage, cpu: str, memory: str) -> None:
    changed = copy_object(node.api.pods["web"])
    resources = changed.spec.containers[0].resources
    resources.requests = resources.limits = {"cpu": cpu, "memory": memory}
    changed.metadata.generation += 1
    node.api.put(changed)
    await node.rest()


def pending(node: Stage) -> list[tuple[str, str]]:
    return [
        (each.type, each.reason)
        for each in node.status().conditions
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


async def test_what_the_node_never_has(node: Stage) -> None:
    await node.create(make_pod(sized("500m", "64Mi")))
    await resize(node, "100", "64Mi")
    assert pending(node) == [("PodResizePending", "Infeasible")]
    shown = node.status().containerStatuses[0]
    assert shown.resources is not None and shown.resources.limits["cpu"] == "500m"
    assert "update_resources" not in node.runtime.calls
    await resize(node, "1", "64Mi")
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


def test_later_or_never() -> None:
    machine = NodeResources(2000, 1024 * MIB)
    other, pod = make_pod(sized("1", "64Mi")), make_pod(sized("1500m", "64Mi"))
    deferred = check_resize(pod, [other], machine)
    assert deferred is not None and deferred.reason == "Deferred"
    assert check_resize(pod, [], machine) is None
    never = check_resize(make_pod(sized("3", "64Mi")), [], machine)
    assert never is not None
    assert never.message == (
        "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"
    )


def test_only_what_changed_counts_for_the_policy() -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    container = make_container(resources={"limits": {"cpu": "1"}}, resizePolicy=policy)
    assert not needs_restart(container, {"limits": {"cpu": "2"}, "requests": {}})
    assert needs_restart(container, {"limits": {"memory": "1Mi"}, "requests": {}})
