"""Who must go."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.types.core_v1 import Pod
from navarch.node.evicting import EvictionManager
from navarch.node.eviction import (
    PodUsage,
    has_disk_limits,
    measure_directory,
    memory_message,
    memory_victim,
    over_disk_limit,
)

KIB, MIB = 1 << 10, 1 << 20
SCRATCH: dict[str, Any] = {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]}
LIMITED = {"name": "main", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}


@pytest.mark.parametrize(
    ("container", "spec", "usage", "expected"),
    [
        pytest.param({}, {}, PodUsage({"scratch": 9 * MIB}), "", id="no limits"),
        pytest.param({}, SCRATCH, PodUsage({"scratch": MIB}), "", id="just within"),
        pytest.param({}, SCRATCH, PodUsage({"scratch": MIB + 1}),
                     'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ', id="volume"),
        pytest.param(LIMITED, {}, PodUsage({}, {"main": 3 * MIB}),
                     "Pod ephemeral local storage usage exceeds the total limit of containers "
                     "2097152. ", id="pod"),
    ],
)  # fmt: skip
def test_disk(
    container: dict[str, Any], spec: dict[str, Any], usage: PodUsage, expected: str
) -> None:
    assert over_disk_limit(make_pod({"name": "main", **container}, **spec), usage) == expected


def test_one_container_of_two() -> None:
    pod = make_pod(LIMITED, {"name": "free"})
    usage = PodUsage({}, {"main": 3 * MIB, "free": 9 * MIB})
    assert over_disk_limit(pod, usage) == (
        'Container main exceeded its local ephemeral storage limit "2Mi". '
    )
    assert has_disk_limits(pod) and not has_disk_limits(make_pod())


def named(uid: str, request: str = "", priority: int = 0) -> Pod:
    resources = {"requests": {"memory": request}} if request else {}
    return make_pod({"name": "main", "resources": resources},
                    metadata={"uid": uid, "name": uid}, priority=priority)  # fmt: skip


def test_memory() -> None:
    pods = [named("modest", "100Mi"), named("greedy", "10Mi"), named("favoured", "", 100)]
    usage = {uid: PodUsage(memory=50 * MIB) for uid in ("modest", "greedy", "favoured")}
    victim = memory_victim(pods, usage)
    assert victim is not None and victim.metadata.name == "greedy"
    assert memory_message(victim, usage["greedy"]) == (
        "The node was low on resource: memory. Pod greedy was using 51200Ki, request is 10240Ki, "
        "has larger consumption of memory. "
    )
    critical = named("critical", "", 2_000_000_000)
    assert memory_victim([critical], {}) is None
    second = memory_victim([pods[0], pods[2]], usage)
    assert second is not None and second.metadata.name == "favoured"


def test_directories_are_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100 * KIB)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c").write_bytes(b"x" * 50 * KIB)
    (tmp_path / "link").symlink_to("/")
    assert 150 * KIB <= measure_directory(tmp_path) < 200 * KIB


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


async def test_a_pod_that_fills_its_volume_is_evicted(node: Stage) -> None:
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    await node.create(make_pod({"name": "main", "volumeMounts": mounts}, **SCRATCH))
    evictions = EvictionManager(node.services, node.agent.workers)
    await evictions.look()
    await node.rest()
    assert node.status().phase == "Running"
    volume = Path(node.runtime.configs["c2"].mounts[0].host_path)
    (volume / "big").write_bytes(b"x" * 2 * MIB)
    await evictions.look()
    await node.rest()
    assert (node.status().phase, node.status().reason) == ("Failed", "Evicted")
    assert "running" not in str(node.runtime)
