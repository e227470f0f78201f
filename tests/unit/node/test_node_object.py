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
    check_reservations,
    condition_events,
    merged_labels,
    new_node,
    node_addresses,
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("192.0.2.7",)),
        ("10.0.0.1", ("10.0.0.1",)),
        ("10.0.0.1,fd00::1", ("10.0.0.1", "fd00::1")),
        ("fd00::1, 10.0.0.1", ("fd00::1", "10.0.0.1")),
        ("0.0.0.0", ("192.0.2.7",)),
        ("here", "not an IP address: here"),
        ("10.0.0.1,10.0.0.2", "must contain one IPv4 and one IPv6 address"),
        ("10.0.0.1,fd00::1,fd00::2", "must contain one IPv4 and one IPv6 address"),
        ("224.0.0.1", "multicast"),
    ],
)
def test_addresses(text: str, expected: tuple[str, ...] | str) -> None:
    if isinstance(expected, tuple):
        assert node_addresses(text, lambda: "192.0.2.7") == expected
        return
    with pytest.raises(ValueError, match=expected):
        node_addresses(text, lambda: "192.0.2.7")


def test_more_cannot_be_reserved_than_there_is() -> None:
    check_reservations(replace(OPTIONS, kube_reserved={"cpu": "3900m"}), MACHINE)
    options = replace(OPTIONS, kube_reserved={"cpu": "3"}, system_reserved={"cpu": "1500m"})
    with pytest.raises(ValueError, match='Resource "cpu" has a reservation of 4500m but capacity'):
        check_reservations(options, MACHINE)


@pytest.mark.parametrize(
    ("hard", "memory", "disk"),
    [
        ({}, "8388608Ki", "107374182400"),
        ({"memory.available": "1Gi"}, "7340032Ki", "107374182400"),
        ({"memory.available": "50%", "nodefs.available": "25%"}, "4194304Ki", "80530636800"),
    ],
)
def test_what_eviction_keeps_free_is_not_allocatable(
    hard: dict[str, str], memory: str, disk: str
) -> None:
    options = replace(OPTIONS, eviction_hard=hard)
    free = allocatable(options, capacity(options, MACHINE))
    assert (free["memory"], free["ephemeral-storage"]) == (memory, disk)


def test_huge_pages_are_not_memory_for_others() -> None:
    machine = replace(MACHINE, huge_pages={"hugepages-2Mi": GIB})
    free = allocatable(replace(OPTIONS, eviction_hard={}), capacity(OPTIONS, machine))
    assert free["memory"] == "7340032Ki"
    assert free["hugepages-2Mi"] == str(GIB)


def test_pods_by_core() -> None:
    assert capacity(replace(OPTIONS, pods_per_core=5), MACHINE)["pods"] == "20"
    assert capacity(replace(OPTIONS, pods_per_core=100), MACHINE)["pods"] == "110"


def test_images_are_the_largest_and_have_few_names() -> None:
    images = [
        ImageRecord("big", tuple(f"big:{each}" for each in range(9)), ("big@sha256:1",), 30),
        ImageRecord("small", ("small:1",), (), 1),
        ImageRecord("medium", ("medium:1",), (), 2),
    ]
    facts = replace(FACTS, images=images)
    for most, expected in ((-1, 3), (0, 0), (2, 2)):
        options = replace(OPTIONS, node_status_max_images=most)
        node = new_node(replace(facts, options=options), NOW)
        assert len(node.status.images) == expected
    shown = new_node(facts, NOW).status.images
    assert [each.sizeBytes for each in shown] == [30, 2, 1]
    assert shown[0].names == ["big@sha256:1", "big:0", "big:1", "big:2", "big:3"]


def test_features_are_declared_by_their_gates() -> None:
    declared = new_node(FACTS, NOW).status.declaredFeatures
    assert "RestartAllContainersOnContainerExits" in declared and declared == sorted(declared)
    off = {"RestartAllContainersOnContainerExits": False}
    facts = replace(FACTS, options=replace(OPTIONS, feature_gates=off))
    assert (
        "RestartAllContainersOnContainerExits" not in new_node(facts, NOW).status.declaredFeatures
    )
    none = replace(FACTS, options=replace(OPTIONS, feature_gates={"NodeDeclaredFeatures": False}))
    assert new_node(none, NOW).status.declaredFeatures == []


def test_events_for_changed_conditions() -> None:
    node = new_node(FACTS, NOW)
    low = replace(FACTS, report=NodeReport(pressures=frozenset({"DiskPressure"})), runtime=None)
    after = node_status(node, low, LATER).conditions
    assert condition_events(node.status.conditions, after) == [
        "NodeHasDiskPressure",
        "NodeNotReady",
    ]
    assert condition_events(after, after) == []


def test_swap_and_provider() -> None:
    facts = replace(FACTS, options=replace(OPTIONS, provider_id="here://n1"))
    node = new_node(replace(facts, machine=replace(MACHINE, swap_bytes=GIB)), NOW)
    assert node.spec.providerID == "here://n1"
    assert node.status.nodeInfo.swap is not None and node.status.nodeInfo.swap.capacity == GIB
    assert new_node(FACTS, NOW).status.nodeInfo.swap is None
