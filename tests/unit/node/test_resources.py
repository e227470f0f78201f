"""Quality of service, cgroup settings and out-of-memory scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.node.cgroups import Cgroups
from navarch.node.podspec import compute_qos_class
from navarch.node.resources import (
    CgroupLimits,
    NodeResources,
    container_resources,
    cpu_quota,
    cpu_shares,
    cpu_weight,
    oom_score,
    pod_cgroup_limits,
    pod_requests,
)

GIB, MIB = 1 << 30, 1 << 20
NODE = NodeResources(4000, 8 * GIB)


def res(cpu: str = "", memory: str = "", /, **limits: str) -> dict[str, Any]:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    return {"resources": {"requests": requests, "limits": limits}}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param([{}], "BestEffort", id="nothing"),
        pytest.param([res("0", "0")], "BestEffort", id="zeros"),
        pytest.param([res("1", "1Gi", cpu="1", memory="1Gi")], "Guaranteed", id="equal"),
        pytest.param([res("1000m", "1024Mi", cpu="1", memory="1Gi")], "Guaranteed", id="spelt"),
        pytest.param([res()], "BestEffort", id="empty"),
        pytest.param([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}], "Guaranteed",
                     id="limits alone"),
        pytest.param([res("1", "1Gi", cpu="2", memory="1Gi")], "Burstable", id="more cpu"),
        pytest.param([res("1")], "Burstable", id="a request"),
        pytest.param([res("1", "1Gi", cpu="1", memory="1Gi"), {}], "Burstable", id="one without"),
    ],
)  # fmt: skip
def test_qos_class(containers: list[dict[str, Any]], expected: str) -> None:
    named = [{"name": f"c{number}", **each} for number, each in enumerate(containers)]
    assert compute_qos_class(make_pod(*named)) == expected


@pytest.mark.parametrize(("milli", "shares"), [(0, 2), (1, 2), (250, 256), (1000, 1024),
                                               (10**9, 262144)])  # fmt: skip
def test_shares(milli: int, shares: int) -> None:
    assert cpu_shares(milli) == shares


@pytest.mark.parametrize(("milli", "quota"), [(0, 0), (5, 1000), (10, 1000), (500, 50000)])
def test_quota(milli: int, quota: int) -> None:
    assert cpu_quota(milli) == quota


def test_weights_span_the_kernel_s_range() -> None:
    assert (cpu_weight(2), cpu_weight(1024), cpu_weight(262144)) == (1, 39, 10000)


@pytest.mark.parametrize(
    ("container", "spec", "expected"),
    [
        pytest.param({}, {}, 1000, id="best effort"),
        pytest.param(res("1", "1Gi", cpu="1", memory="1Gi"), {}, -997, id="guaranteed"),
        pytest.param({}, {"priority": 2_000_001_000, "priorityClassName": "system-node-critical"},
                     -997, id="critical for the node"),
        pytest.param({}, {"priority": 2_000_000_000}, 1000, id="critical for the cluster"),
        pytest.param(res("1", "2Gi"), {"resources": {"requests": {"memory": "4Gi"}}}, 500,
                     id="what the pod has beyond its containers"),
        pytest.param(res("1", "4Gi"), {}, 500, id="half the memory"),
        pytest.param(res("1"), {}, 999, id="no memory request"),
        pytest.param(res("1", "8Gi"), {}, 3, id="all of it"),
    ],
)  # fmt: skip
def test_oom_score(container: dict[str, Any], spec: dict[str, Any], expected: int) -> None:
    pod = make_pod({"name": "main", **container}, **spec)
    assert oom_score(pod, pod.spec.containers[0], 8 * GIB) == expected


def test_container_resources() -> None:
    pod = make_pod({"name": "main", **res("250m", "", cpu="500m", memory="64Mi")})
    result = container_resources(pod, pod.spec.containers[0], NODE)
    assert (result.cpu_shares, result.cpu_quota, result.cpu_period) == (256, 50000, 100000)
    assert result.memory_limit_in_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("containers", "init", "expected"),
    [
        pytest.param([res("1"), res("500m")], [], 1500, id="sum"),
        pytest.param([res("1")], [res("3")], 3000, id="a larger init container"),
        pytest.param(
            [res("1")], [{**res("500m"), "restartPolicy": "Always"}], 1500, id="a sidecar"
        ),
        pytest.param(
            [res("1")], [{**res("500m"), "restartPolicy": "Always"}, res("2")], 2500,
            id="init beside a sidecar",
        ),
    ],
)  # fmt: skip
def test_pod_requests(
    containers: list[dict[str, Any]], init: list[dict[str, Any]], expected: int
) -> None:
    named = [{"name": f"c{number}", **each} for number, each in enumerate(containers)]
    listed = [{"name": f"i{number}", "image": "x", **each} for number, each in enumerate(init)]
    pod = make_pod(*named, initContainers=listed, overhead={"cpu": "0"})
    assert pod_requests(pod)["cpu"] == expected


def test_a_pod_is_limited_only_if_all_its_containers_are() -> None:
    one = {"name": "a", **res("1", "1Gi", cpu="1", memory="1Gi")}
    both = make_pod(one, {**one, "name": "b"})
    assert pod_cgroup_limits(both) == CgroupLimits(2048, 200_000, 2 * GIB)
    partly = make_pod(one, {"name": "b"})
    assert pod_cgroup_limits(partly) == CgroupLimits(1024, 0, 0)
    assert pod_cgroup_limits(make_pod()) == CgroupLimits(2)


def test_cgroup_version_1(tmp_path: Path) -> None:
    groups = Cgroups("/own", tmp_path)
    for controller in ("cpu", "memory", "pids"):
        (tmp_path / controller).mkdir()
    groups.ensure_classes()
    pod = make_pod({"name": "main", **res("1", "1Gi")})
    assert groups.ensure_pod(pod) == "/own/kubepods/burstable/podu-1"
    base = tmp_path / "cpu/own/kubepods/burstable/podu-1"
    assert (base / "cpu.shares").read_text() == "1024"
    assert groups.pods() == {"u-1"}
    memory = tmp_path / "memory/own/kubepods/burstable/podu-1"
    assert (memory / "memory.limit_in_bytes").read_text() == "-1"


def test_cgroup_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    groups = Cgroups("", tmp_path)
    groups.ensure_classes()
    pod = make_pod({"name": "main", **res("1", "1Gi", cpu="2", memory="2Gi")})
    path = groups.ensure_pod(pod)
    base = Path(f"{tmp_path}{path}")
    assert (base / "cpu.weight").read_text() == "39"
    assert (base / "cpu.max").read_text() == "200000 100000"
    assert (base / "memory.max").read_text() == str(2 * GIB)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"
