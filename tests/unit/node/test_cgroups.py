"""What is written into cgroups, or told to systemd, on every kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import Pod
from navarch.node import cgroups as module
from navarch.node.cgroups import CgroupProblem, Cgroups
from navarch.node.reservations import Reservations
from navarch.node.resources import (
    CgroupLimits,
    Classes,
    NodeResources,
    ResourcePolicy,
    class_limits,
    container_resources,
)
from navarch.node.settings import NodeOptions

GIB, MIB = 1 << 30, 1 << 20
POLICY = ResourcePolicy(memory_capacity=8 * GIB)
OPTIONS = NodeOptions(kubeconfig=Path("k"), node_name="node-1")


@pytest.fixture(autouse=True)
def page_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "huge_page_sizes", lambda: [("hugepages-2Mi", "2MB")])


def asking(quality: str = "Burstable", **requests: str) -> Pod:
    resources = {name.replace("_", "-"): value for name, value in requests.items()}
    given: dict[str, Any] = {"requests": resources}
    if quality == "Guaranteed":
        given["limits"] = resources
    return make_pod({"name": "main", "resources": given}, metadata={"uid": "a-b", "name": "web"})


def unified(directory: Path, **changes: Any) -> Cgroups:
    (directory / "cgroup.controllers").write_text("cpu memory pids hugetlb")
    return replace(Cgroups("", directory), **changes)


def lines(groups: Cgroups, settings: Sequence[tuple[Path, str]]) -> list[str]:
    return [f"{file.relative_to(groups.mount)}={text}" for file, text in settings]


def test_names_of_slices(tmp_path: Path) -> None:
    groups = Cgroups("/navarch/node-1", tmp_path, systemd=True)
    assert groups.pod_path(asking(cpu="1")) == (
        "/navarch.slice/navarch-node_1.slice/navarch-node_1-kubepods.slice"
        "/navarch-node_1-kubepods-burstable.slice"
        "/navarch-node_1-kubepods-burstable-poda_b.slice"
    )
    plain = Cgroups("", tmp_path, systemd=True)
    assert plain.pod_path(asking("Guaranteed", cpu="1", memory="1Gi")) == (
        "/kubepods.slice/kubepods-poda_b.slice"
    )
    (tmp_path / "cpu/kubepods.slice/kubepods-poda_b.slice").mkdir(parents=True)
    assert plain.pods() == {"a-b"}


@pytest.mark.parametrize(
    ("is_unified", "limits", "expected"),
    [
        (True, CgroupLimits(1024, 150_000, GIB),
         "CPUWeight=39 CPUQuota=150% MemoryMax=1073741824 TasksMax=500"),
        (True, CgroupLimits(2), "CPUWeight=1 CPUQuota= MemoryMax=infinity TasksMax=500"),
        (False, CgroupLimits(1024, 1_000, GIB),
         "CPUShares=1024 CPUQuota=1% MemoryLimit=1073741824 TasksMax=500"),
    ],
)  # fmt: skip
def test_what_systemd_is_told(
    tmp_path: Path, is_unified: bool, limits: CgroupLimits, expected: str
) -> None:
    policy = replace(POLICY, pids=500)
    groups = Cgroups("", tmp_path, systemd=True, policy=policy)
    if is_unified:
        groups = unified(tmp_path, systemd=True, policy=policy)
    (command,) = groups.commands("/kubepods.slice/kubepods-poda.slice", limits)
    assert " ".join(command) == (f"systemctl --runtime set-property kubepods-poda.slice {expected}")


def test_a_pod_on_version_2(tmp_path: Path) -> None:
    policy = replace(POLICY, pids=100, period=50_000, memory_qos=True, reserves_memory=True)
    groups = unified(tmp_path, policy=policy)
    pod = asking(cpu="1", memory="1Gi", hugepages_2Mi="4Mi")
    assert lines(groups, groups.settings("/pod", CgroupLimits(1024, 200_000, GIB))) == [
        "pod/cpu.weight=39", "pod/cpu.max=100000 50000", f"pod/memory.max={GIB}",
    ]  # fmt: skip
    assert lines(groups, groups.pod_settings("/pod", pod)) == [
        "pod/pids.max=100", f"pod/hugetlb.2MB.max={4 * MIB}", f"pod/memory.low={GIB}",
    ]  # fmt: skip
    guaranteed = asking("Guaranteed", cpu="1", memory="1Gi")
    assert f"pod/memory.min={GIB}" in lines(groups, groups.pod_settings("/pod", guaranteed))
    unlimited = replace(groups, policy=replace(policy, enforces_quota=False))
    assert "pod/cpu.max=max 50000" in lines(
        groups, unlimited.settings("/pod", CgroupLimits(1024, 200_000))
    )


def test_a_pod_on_version_1(tmp_path: Path) -> None:
    groups = Cgroups("", tmp_path, policy=replace(POLICY, pids=100))
    for controller in ("cpu", "memory", "pids", "hugetlb"):
        (tmp_path / controller).mkdir()
    path = groups.ensure_pod(asking(cpu="1", memory="1Gi"))
    assert (tmp_path / f"pids{path}/pids.max").read_text() == "100"
    # Huge pages that nobody asked for are not to be had.
    assert (tmp_path / f"hugetlb{path}/hugetlb.2MB.limit_in_bytes").read_text() == "0"
    groups.set_classes(Classes(512, best_effort_memory=GIB))
    base = tmp_path / "memory/kubepods"
    (base / "besteffort").mkdir()
    groups.set_classes(Classes(512, best_effort_memory=GIB))
    assert (base / "besteffort/memory.limit_in_bytes").read_text() == str(GIB)
    assert (base / "burstable/memory.limit_in_bytes").read_text() == "-1"
    assert (tmp_path / "cpu/kubepods/burstable/cpu.shares").read_text() == "512"


def test_the_classes() -> None:
    pods = [asking("Guaranteed", cpu="2", memory="1Gi"), asking(cpu="500m", memory="512Mi"),
            asking(cpu="250m"), make_pod()]  # fmt: skip
    node = NodeResources(4000, 4 * GIB, policy=POLICY)
    assert class_limits(pods, node, {}) == Classes(768)
    half = class_limits(pods, node, {"memory": "50%"})
    assert (half.burstable_memory, half.best_effort_memory) == (3584 * MIB, 3328 * MIB)
    tiers = replace(POLICY, unified=True, memory_qos=True, reserves_memory=True)
    assert class_limits(pods, replace(node, policy=tiers), {}).kept == {
        "Guaranteed": {"memory.min": str(1536 * MIB)},
        "Burstable": {"memory.low": str(512 * MIB)},
    }


@pytest.mark.parametrize(
    ("policy", "pod", "expected"),
    [
        pytest.param({}, asking(memory="1Gi"), {}, id="version 1"),
        pytest.param({"kills_as_group": True}, asking(), {"memory.oom.group": "1"}, id="group"),
        pytest.param({"has_swap": True, "unified": True}, asking(memory="1Gi"),
                     {"memory.swap.max": "0"}, id="no swap"),
        pytest.param({"has_swap": True, "unified": True, "limited_swap": True,
                      "swap_bytes": 4 * GIB}, asking(memory="1Gi"),
                     {"memory.swap.max": str(GIB // 2)}, id="a share of swap"),
        pytest.param({"has_swap": True, "unified": True, "limited_swap": True,
                      "swap_bytes": 4 * GIB}, asking("Guaranteed", cpu="1", memory="1Gi"),
                     {"memory.swap.max": "0"}, id="no swap for guaranteed pods"),
        pytest.param({"unified": True, "memory_qos": True}, asking(memory="1Gi"),
                     {"memory.min": "0", "memory.low": "0",
                      "memory.high": str(int((GIB + 3 * GIB * 0.9) / 4096) * 4096)},
                     id="slowed down"),
        pytest.param({"unified": True, "memory_qos": True, "reserves_memory": True},
                     asking("Guaranteed", cpu="1", memory="1Gi"), {"memory.min": str(GIB)},
                     id="kept"),
    ],
)  # fmt: skip
def test_containers(policy: dict[str, Any], pod: Pod, expected: dict[str, str]) -> None:
    node = NodeResources(4000, 4 * GIB, policy=replace(POLICY, **policy))
    found = container_resources(pod, pod.spec.containers[0], node)
    assert dict(found.unified) == expected


def test_swap_on_version_1() -> None:
    pod = asking("Guaranteed", cpu="1", memory="1Gi")
    node = NodeResources(4000, 4 * GIB, policy=replace(POLICY, has_swap=True, period=10_000))
    found = container_resources(pod, pod.spec.containers[0], node)
    assert found.memory_swap_limit_in_bytes == found.memory_limit_in_bytes == GIB
    assert (found.cpu_quota, found.cpu_period) == (10_000, 10_000)


def test_the_policy_of_a_configuration() -> None:
    options = replace(OPTIONS, pod_pids_limit=64, memory_swap_behavior="LimitedSwap",
                      feature_gates={"MemoryQoS": True}, cpu_cfs_quota=False)  # fmt: skip
    found = ResourcePolicy.of(options, 8 * GIB, unified=True, swap=GIB)
    assert found.kills_as_group and found.memory_qos and found.limited_swap and found.has_swap
    assert (found.pids, found.quota(1000)) == (64, 0)
    old = ResourcePolicy.of(options, 8 * GIB, unified=False, swap=None)
    assert not (old.kills_as_group or old.memory_qos or old.limited_swap or old.has_swap)
    single = replace(options, single_process_oom_kill=True)
    assert not ResourcePolicy.of(single, 8 * GIB, unified=True, swap=0).kills_as_group


class Services:
    """What reservations need of the agent's services."""

    def __init__(self, groups: Cgroups, options: NodeOptions) -> None:
        self.cgroups, self.options, self.events = groups, options, self
        self.node = NodeResources(3000, 6 * GIB, policy=POLICY)
        self.told: list[str] = []

    def node_event(self, kind: str, reason: str, message: str) -> None:
        self.told.append(f"{reason}: {message}")


async def test_reservations(tmp_path: Path) -> None:
    groups = unified(tmp_path)
    (tmp_path / "system").mkdir()
    options = replace(
        OPTIONS, kube_reserved={"memory": "1Gi"}, system_reserved={"cpu": "500m", "memory": "1Gi"},
        enforce_node_allocatable=("pods", "system-reserved-compressible", "kube-reserved"),
        system_reserved_cgroup="/system", kube_reserved_cgroup="/missing",
    )  # fmt: skip
    services = Services(groups, options)
    services.events = type("Events", (), {"node": staticmethod(services.node_event)})()
    reservations = Reservations(services)  # type: ignore[arg-type]
    await reservations.make()
    assert (tmp_path / "kubepods/memory.max").read_text() == str(6 * GIB)
    assert (tmp_path / "system/cpu.weight").read_text() == "20"
    assert not (tmp_path / "system/memory.max").exists()
    problem = 'Failed to enforce Kube Reserved Cgroup Limits on "/missing": cgroup does not exist'
    assert reservations.problems == [problem]
    assert services.told == [
        f"FailedNodeAllocatableEnforcement: {problem}",
        "NodeAllocatableEnforced: Updated Node Allocatable limit across pods",
    ]
    await reservations.enforce()
    assert len(services.told) == 2


def test_a_limit_that_the_kernel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = unified(tmp_path)
    monkeypatch.setattr(module, "_write", lambda file, text: f"{file.name} cannot be {text}")
    with pytest.raises(CgroupProblem, match=f'^"/kubepods": .*memory.max cannot be {GIB}'):
        groups.ensure_classes(CgroupLimits(2, memory=GIB))
