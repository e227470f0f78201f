"""The Node object."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from navarch.api.types.core_v1 import Node, Taint
from navarch.node.cri.values import ImageRecord, RuntimeInfo
from navarch.node.machine import (
    MachineFacts,
    memory_total_and_available,
    process_limits,
    read_facts,
)
from navarch.node.node_object import (
    NodeFacts,
    NodeReport,
    allocatable,
    capacity,
    merged_labels,
    new_node,
    node_resources,
    node_status,
    without_heartbeat,
)
from navarch.node.settings import NodeOptions

GIB = 1 << 30
OPTIONS = NodeOptions(kubeconfig=Path("k"), node_name="node-1", labels={"disk": "ssd"},
                      taints=(Taint(key="t", effect="NoSchedule"),))  # fmt: skip
MACHINE = MachineFacts(4, 8 * GIB, 100 * GIB, {"hugepages-2Mi": 0}, kernel="6.1",
                       architecture="amd64")  # fmt: skip
FACTS = NodeFacts(
    OPTIONS, MACHINE, RuntimeInfo("containerd", "1.6"),
    [ImageRecord("a", ("a:1",), (), 10), ImageRecord("b", ("b:1",), ("b@sha256:1",), 20),
     ImageRecord("c")],
    ["192.168.49.2"],
)  # fmt: skip
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def condition(node: Node, kind: str) -> tuple[str, str, str]:
    found = next(each for each in node.status.conditions if each.type == kind)
    return found.status, found.reason, found.message


def test_a_new_node() -> None:
    node = new_node(FACTS, NOW)
    assert node.metadata.labels == {
        "kubernetes.io/hostname": "node-1",
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
        "disk": "ssd",
    }
    assert [taint.key for taint in node.spec.taints] == ["t", "node.kubernetes.io/not-ready"]
    assert node.status.capacity["memory"] == "8388608Ki"
    assert node.status.allocatable["memory"] == "8286208Ki"
    assert node.status.nodeInfo.containerRuntimeVersion == "containerd://1.6"
    assert node.status.nodeInfo.kubeletVersion.startswith("v1.36.")
    assert [image.names for image in node.status.images] == [["b@sha256:1", "b:1"], ["a:1"]]
    assert [(each.type, each.address) for each in node.status.addresses] == [
        ("InternalIP", "192.168.49.2"),
        ("Hostname", "node-1"),
    ]
    assert condition(node, "Ready") == (
        "True", "KubeletReady", "kubelet is posting ready status",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({"runtime": None}, "Ready", ("False", "KubeletNotReady", "container runtime is down")),
        (
            {"runtime": RuntimeInfo("c", "1", network_ready=False, network_message="no cni")},
            "Ready",
            (
                "False",
                "KubeletNotReady",
                "container runtime network not ready: NetworkReady=false reason:no cni",
            ),
        ),
        (
            {"report": NodeReport(frozenset({"MemoryPressure"}))},
            "MemoryPressure",
            ("True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ),
        (
            {"report": NodeReport(frozenset({"DiskPressure"}))},
            "DiskPressure",
            ("True", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        ),
        (
            {"report": NodeReport(frozenset({"PIDPressure"}))},
            "PIDPressure",
            ("True", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ),
        ({}, "DiskPressure", ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")),
    ],
)
def test_conditions(changes: dict[str, Any], kind: str, expected: tuple[str, str, str]) -> None:
    assert condition(new_node(replace(FACTS, **changes), NOW), kind) == expected


def test_times_of_conditions() -> None:
    node = new_node(FACTS, NOW)
    status = node_status(node, FACTS, LATER)
    ready = next(each for each in status.conditions if each.type == "Ready")
    assert ready.lastTransitionTime == "2026-01-01T00:00:00Z"
    assert ready.lastHeartbeatTime == "2026-01-02T00:00:00Z"
    assert without_heartbeat(status) == without_heartbeat(node.status)
    changed = node_status(node, replace(FACTS, runtime=None), LATER)
    assert without_heartbeat(changed) != without_heartbeat(node.status)


def test_what_others_have_put_there_stays() -> None:
    node = new_node(FACTS, NOW)
    node.status.capacity["example.com/gpu"] = "2"
    status = node_status(node, FACTS, LATER)
    assert status.capacity["example.com/gpu"] == "2"
    assert status.allocatable["example.com/gpu"] == "2"


def test_reservations_are_kept_back() -> None:
    options = replace(
        OPTIONS,
        kube_reserved={"cpu": "300m"},
        system_reserved={"cpu": "200m", "memory": "1Gi"},
        cpu="2",
        memory="4Gi",
    )
    free = allocatable(options, capacity(options, MACHINE))
    assert free["cpu"] == "1500m"
    numbers = node_resources(options, MACHINE)
    assert (numbers.cpu_millis, numbers.memory_bytes) == (1500, 3 * GIB - (100 << 20))


def test_labels_are_merged() -> None:
    assert merged_labels({"a": "1", "x": "y"}, {"a": "1"}) is None
    assert merged_labels({"a": "1"}, {"a": "2", "b": "3"}) == {"a": "2", "b": "3"}


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    facts = read_facts(tmp_path)
    total, available = memory_total_and_available()
    assert facts.cpus > 0 and facts.memory_bytes == total and facts.boot_id
    assert 0 < available <= total
    limit, used = process_limits()
    assert 0 < used < limit
