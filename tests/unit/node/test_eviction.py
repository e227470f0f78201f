"""Who must go, and what the node says of itself meanwhile."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.types.core_v1 import Pod
from navarch.node import evicting
from navarch.node.eviction import (
    ContainerUse,
    Disk,
    Judgement,
    Observation,
    PodUse,
    explain,
    has_disk_limits,
    judge,
    over_disk_limit,
    rank,
    reclaims,
    refuses,
)
from navarch.node.measuring import measure_path
from navarch.node.settings import NodeOptions
from navarch.node.thresholds import (
    InvalidThreshold,
    Threshold,
    parse_thresholds,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SCRATCH: dict[str, Any] = {"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]}
LIMITED = {"name": "main", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}
OPTIONS = NodeOptions(kubeconfig=Path("k"), node_name="node-1")


def use(root: int = 0, logs: int = 0, **volumes: int) -> PodUse:
    return PodUse(
        {"main": ContainerUse(root=Disk(root, 1), logs=Disk(logs, 1))},
        {name: Disk(size, 1) for name, size in volumes.items()},
    )


@pytest.mark.parametrize(
    ("container", "spec", "usage", "expected"),
    [
        pytest.param({}, {}, use(scratch=9 * MIB), "", id="no limits"),
        pytest.param({}, SCRATCH, use(scratch=MIB), "", id="just within"),
        pytest.param({}, SCRATCH, use(scratch=MIB + 1),
                     'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ', id="volume"),
        pytest.param(LIMITED, {}, use(root=3 * MIB),
                     "Pod ephemeral local storage usage exceeds the total limit of containers "
                     "2Mi. ", id="writable layer"),
        pytest.param(LIMITED, {}, use(logs=3 * MIB),
                     "Pod ephemeral local storage usage exceeds the total limit of containers "
                     "2Mi. ", id="logs"),
        pytest.param(LIMITED, {}, PodUse(other=Disk(3 * MIB)),
                     "Pod ephemeral local storage usage exceeds the total limit of containers "
                     "2Mi. ", id="files of the node"),
    ],
)  # fmt: skip
def test_disk(
    container: dict[str, Any], spec: dict[str, Any], usage: PodUse, expected: str
) -> None:
    found = over_disk_limit(make_pod({"name": "main", **container}, **spec), usage)
    assert (found.message if found else "") == expected


def test_one_container_of_two() -> None:
    other = {"name": "other", "resources": {"limits": {"ephemeral-storage": "20Mi"}}}
    pod = make_pod(LIMITED, other)
    found = over_disk_limit(pod, use(root=3 * MIB))
    assert found is not None and found.message == (
        'Container main exceeded its local ephemeral storage limit "2Mi". '
    )
    assert over_disk_limit(pod, use(root=3 * MIB), image_filesystem=True) is None
    assert has_disk_limits(pod) and not has_disk_limits(make_pod())


# Thresholds


def thresholds(**changes: Any) -> list[Threshold]:
    return parse_thresholds(replace(OPTIONS, **changes))


def test_the_default_thresholds() -> None:
    found = {each.signal: each for each in thresholds()}
    assert set(found) == {
        "memory.available", "allocatableMemory.available", "nodefs.available",
        "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
    }  # fmt: skip
    assert str(found["memory.available"].value.of(GIB)) == "100Mi"
    assert found["nodefs.available"].value.of(1000).value() == 100
    assert "allocatableMemory.available" not in {
        each.signal for each in thresholds(enforce_node_allocatable=("none",))
    }


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"eviction_hard": {"tape.available": "1"}}, "unsupported eviction signal tape.available"),
        ({"eviction_hard": {"memory.available": "-1"}}, "must be positive"),
        ({"eviction_hard": {"memory.available": "101%"}}, "must be <= 100%"),
        ({"eviction_hard": {"memory.available": "much"}}, "quantities must match"),
        ({"eviction_hard": {"memory.available": "x%"}}, "x%"),
        ({"eviction_soft": {"memory.available": "1Gi"}}, "grace period must be specified for the "
         "soft eviction threshold memory.available"),
        ({"eviction_soft_grace_period": {"memory.available": -1.0}}, "must be a positive value"),
        ({"eviction_minimum_reclaim": {"nodefs.available": "0%"}}, "must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidThreshold, match=complaint):
        thresholds(**changes)


def test_a_threshold_can_be_switched_off() -> None:
    assert thresholds(eviction_hard={"nodefs.available": "0%", "imagefs.available": "100%"}) == []


def test_the_writable_layers_have_no_thresholds_of_their_own() -> None:
    found = thresholds(eviction_hard={"imagefs.available": "15%", "containerfs.available": "9%"})
    assert [each.signal for each in found] == ["imagefs.available"]


# Judgement


def seen(**available: int) -> dict[str, Observation]:
    """Thousandths of each: of 10 000 MiB of memory, of a thousand of the others."""
    names = {"memory": "memory.available", "disk": "nodefs.available", "pids": "pid.available"}
    unit = {"memory": 10 * MIB}
    return {
        names[name]: Observation(value * unit.get(name, 1), 1000 * unit.get(name, 1))
        for name, value in available.items()
    }


def test_hard_soft_reclaim_and_transition() -> None:
    configured = thresholds(
        eviction_hard={"nodefs.available": "100"},
        eviction_soft={"memory.available": "50%"},
        eviction_soft_grace_period={"memory.available": 30.0},
        eviction_minimum_reclaim={"nodefs.available": "50"},
        enforce_node_allocatable=(),
    )
    state = Judgement()

    def at(now: float, **available: int) -> tuple[list[str], list[str]]:
        nonlocal state
        state = judge(state, configured, seen(**available), now, transition_seconds=60)
        return [each.signal for each in state.due], sorted(state.conditions)

    assert at(0, disk=101, memory=501) == ([], [])
    assert at(10, disk=101, memory=499) == ([], ["MemoryPressure"])  # the condition is at once
    assert at(39, disk=99, memory=499) == (["nodefs.available"], ["DiskPressure", "MemoryPressure"])
    assert at(40, disk=99, memory=499) == (
        ["memory.available", "nodefs.available"], ["DiskPressure", "MemoryPressure"],
    )  # fmt: skip
    # Above the threshold, but not by the minimum that was to be won back.
    assert at(50, disk=149, memory=501) == (
        ["nodefs.available"],
        ["DiskPressure", "MemoryPressure"],
    )
    assert at(60, disk=150, memory=499) == ([], ["DiskPressure", "MemoryPressure"])
    # The soft threshold's grace has begun anew; disk pressure is over a minute after its last look.
    assert at(111, disk=150, memory=501) == ([], ["MemoryPressure"])
    assert at(121, disk=150, memory=501) == ([], [])


def test_what_cannot_be_observed_is_no_pressure() -> None:
    assert judge(Judgement(), thresholds(), {}, 0, 60).conditions == frozenset()


# The order of victims


def named(uid: str, priority: int = 0, **requests: str) -> Pod:
    resources = {name.replace("_", "-"): value for name, value in requests.items()}
    return make_pod({"name": "main", "resources": {"requests": resources}},
                    metadata={"uid": uid, "name": uid}, priority=priority)  # fmt: skip


def order(
    pods: list[Pod], uses: Mapping[str, PodUse], signal: str, image_filesystem: bool = False
) -> str:
    found = rank(pods, uses, signal, image_filesystem=image_filesystem)
    return " ".join(pod.metadata.name for pod in found)


def test_memory_order() -> None:
    pods = [named("modest", memory="100Mi"), named("greedy", memory="10Mi"), named("vip", 100),
            named("greedier"), named("unseen", 100, memory="1Gi")]  # fmt: skip
    uses = {
        name: PodUse({"main": ContainerUse(memory=50 * MIB)})
        for name in ("modest", "greedy", "vip", "greedier")
    }
    assert order(pods, uses, "memory.available") == ("unseen greedier greedy vip modest")


def test_disk_order_by_file_system() -> None:
    pods = [named("layers"), named("volumes"), named("asked", ephemeral_storage="1Gi")]
    uses = {"layers": use(root=9 * MIB), "volumes": use(scratch=8 * MIB), "asked": use(20 * MIB)}
    assert order(pods, uses, "nodefs.available") == "layers volumes asked"
    assert order(pods, uses, "nodefs.available", True) == "volumes layers asked"
    assert order(pods, uses, "imagefs.available", True) == "layers volumes asked"
    assert reclaims("nodefs.available", True) == ()
    assert reclaims("imagefs.inodesFree", True) == ("containers", "images")
    assert reclaims("memory.available", False) == reclaims("pid.available", False) == ()


def test_inodes_and_processes() -> None:
    pods = [named("few"), named("many"), named("vip", 9)]
    uses = {
        "few": PodUse({}, {"a": Disk(9 * GIB, 3)}, processes=3),
        "many": PodUse({}, {"a": Disk(1, 900)}, processes=900),
        "vip": PodUse({}, {"a": Disk(1, 5000)}, processes=5000),
    }
    assert order(pods, uses, "nodefs.inodesFree") == "many few vip"
    assert order(pods, uses, "pid.available") == "many few vip"


def test_the_explanation() -> None:
    pod = named("greedy", memory="10Mi")
    found = explain(
        pod,
        PodUse({"main": ContainerUse(memory=50 * MIB)}),
        "memory",
        thresholds(),
        {"memory.available": Observation(90 * MIB, GIB)},
    )
    assert found.message == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. "
        "Container main was using 50Mi, request is 10Mi, has larger consumption of memory. "
    )
    assert found.annotations == {
        "offending_containers": "main",
        "offending_containers_usage": "50Mi",
        "starved_resource": "memory",
    }
    assert explain(pod, None, "pids", [], {}).message == "The node was low on resource: pids. "


@pytest.mark.parametrize(
    ("spec", "conditions", "taken"),
    [
        ({}, (), True),
        ({}, ("MemoryPressure",), False),
        ({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]},
         ("MemoryPressure",), True),
        ({"priority": 2_000_000_000}, ("DiskPressure",), True),
        ({"tolerations": [{"operator": "Exists"}]}, ("DiskPressure",), False),
        ({"tolerations": [{"operator": "Exists"}]}, ("PIDPressure", "MemoryPressure"), False),
    ],
)  # fmt: skip
def test_new_pods(spec: dict[str, Any], conditions: tuple[str, ...], taken: bool) -> None:
    message = refuses(make_pod(**spec), conditions)
    assert message == ("" if taken else f"The node had condition: "
                       f"[{' '.join(sorted(conditions))}]. ")  # fmt: skip
    assert not refuses(named("burstable", memory="1Mi"), ("MemoryPressure",))


def test_directories_are_measured(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100 * KIB)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c").write_bytes(b"x" * 50 * KIB)
    (tmp_path / "link").symlink_to("/")
    found = measure_path(tmp_path)
    assert 150 * KIB <= found.bytes < 200 * KIB and found.inodes == 5
    assert measure_path(tmp_path / "a").inodes == 1
    assert measure_path(tmp_path / "missing") == Disk()


# The manager


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


Observe = Callable[..., None]


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Observe:
    """Sets what the node has left, of a thousand of each."""
    current = seen(memory=1000, disk=1000, pids=1000)
    monkeypatch.setattr(evicting, "observe", lambda *places: current)

    def change(**available: int) -> None:
        current.update(seen(**available))

    return change


async def test_a_pod_that_fills_its_volume_is_evicted(node: Stage, observed: Observe) -> None:
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    await node.create(make_pod({"name": "main", "volumeMounts": mounts}, **SCRATCH))
    evictions = node.agent.evictions
    await evictions.look()
    await node.rest()
    assert node.status().phase == "Running"
    volume = Path(node.runtime.configs["c2"].mounts[0].host_path)
    (volume / "big").write_bytes(b"x" * 2 * MIB)
    await evictions.look()
    await node.rest()
    assert (node.status().phase, node.status().reason) == ("Failed", "Evicted")
    assert "running" not in str(node.runtime)
    # Its own limit is its own fault, not a disruption.
    assert "DisruptionTarget" not in {each.type for each in node.status().conditions}


async def test_disk_pressure_clears_away_first_and_then_evicts(
    node: Stage, observed: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[str] = []

    async def clear(kind: str) -> int:
        cleared.append(kind)
        if len(cleared) <= 2:
            observed(disk=900)
        return 0

    evictions = node.agent.evictions
    evictions.remove_dead = lambda: clear("containers")
    monkeypatch.setattr(node.services.collector, "free", lambda: clear("images"))
    changes: list[frozenset[str]] = []
    evictions.on_change = lambda: changes.append(evictions.conditions)
    await node.create(make_pod())
    observed(disk=50)
    assert not await evictions.look()
    assert cleared == ["containers", "images"] and changes == [{"DiskPressure"}]
    observed(disk=50)
    assert await evictions.look()
    await node.rest()
    status = node.status()
    assert (status.phase, status.reason) == ("Failed", "Evicted")
    assert status.message.startswith("The node was low on resource: ephemeral-storage. "
                                     "Threshold quantity: 100, available: 50. ")  # fmt: skip
    (condition,) = [each for each in status.conditions if each.type == "DisruptionTarget"]
    assert (condition.status, condition.reason, condition.message) == (
        "True", "TerminationByKubelet", status.message,
    )  # fmt: skip
    assert "EvictionThresholdMet: Attempting to reclaim ephemeral-storage" in node.events.of_node


async def test_critical_pods_stay(node: Stage, observed: Observe) -> None:
    await node.create(make_pod(priority=2_000_000_000))
    observed(pids=0, memory=0)
    assert not await node.agent.evictions.look()
    await node.rest()
    assert node.status().phase == "Running"
    assert node.agent.evictions.conditions == {"MemoryPressure"}  # pids have no default threshold


async def test_what_pods_that_are_over_have_left_is_cleared_away(node: Stage) -> None:
    await node.create(make_pod(restartPolicy="Never"))
    node.runtime.finish(node.runtime.container("main").id, 0)
    await node.rest()
    await node.create(make_pod(metadata={"name": "busy", "uid": "busy"}))
    states = {state.uid: state for state in await node.runtime.pods()}
    (ended,) = [uid for uid, state in states.items() if not state.containers[0].running]
    log_file = Path(states[ended].containers[0].log_path)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    for name in (log_file.name, f"{log_file.name}.20260101-000000.gz"):
        (log_file.parent / name).write_text("line")
    await node.agent.remove_dead()
    await node.rest()
    assert [state.uid for state in await node.runtime.pods()] == [
        uid for uid in states if uid != ended
    ]
    assert not list(log_file.parent.iterdir())
    # Its status stays as it was: people read how it ended there.
    phases = {name: pod.status.phase for name, pod in node.api.pods.items()}
    assert sorted(phases.values()) == ["Running", "Succeeded"]
