"""What befalls simulated nodes on demand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Node, Pod
from navarch.node.admission import problems
from navarch.node.simulated.faults import (
    CONDITIONS,
    FAULT,
    Fault,
    boot_id,
    boot_id_of_the_dead,
    booted_at,
    conditions,
    fault_of,
    parse_conditions,
    pressure_refusal,
    reports_rightly,
)
from navarch.node.simulated.load import NodeLoad, node_view

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(annotations: dict[str, str] | None = None, **labels: str) -> Node:
    return from_object(
        Node,
        {
            "metadata": {"name": "n", "labels": labels, "annotations": annotations or {}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2"}},
        },
    )


def pod(uid: str, cpu: str = "", **spec: Any) -> Pod:
    requests = {"requests": {"cpu": cpu}} if cpu else {}
    container = {"name": "c", "image": "i", "resources": requests}
    return from_object(
        Pod,
        {"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [container], **spec}},
    )


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (node(), None),
        (node({FAULT: "dead"}), Fault.DEAD),
        (node(None, **{FAULT: "hung"}), Fault.HUNG),
        (node({FAULT: "tired"}), None),
    ],
)
def test_faults(found: Node, fault: Fault | None) -> None:
    assert fault_of(found) is fault


def test_conditions_on_demand() -> None:
    sick = node({CONDITIONS: "MemoryPressure, Ready=False"})
    assert not reports_rightly(sick)
    sick.status.conditions = conditions(sick, NOW)
    told = {c.type: (c.status, c.reason) for c in sick.status.conditions}
    assert told == {
        "MemoryPressure": ("True", "KubeletHasInsufficientMemory"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID"),
        "Ready": ("False", "KubeletNotReady"),
    }
    assert reports_rightly(sick)
    sick.metadata.annotations = {}
    assert not reports_rightly(sick)


@pytest.mark.parametrize("text", ["Tired", "Ready=Unknown", "MemoryPressure=1"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ValueError, match="is no condition of a node"):
        parse_conditions(text)


def test_pressure_keeps_pods_away() -> None:
    memory, disk = node({CONDITIONS: "MemoryPressure"}), node({CONDITIONS: "DiskPressure"})
    assert pressure_refusal(pod("a"), node()) is None
    refusal = pressure_refusal(pod("a"), memory)
    assert refusal is not None
    assert (refusal.reason, refusal.message) == (
        "Evicted",
        "The node had condition: [MemoryPressure]. ",
    )
    assert pressure_refusal(pod("a", "1"), memory) is None
    assert pressure_refusal(pod("a", "1"), disk) is not None
    tolerant = pod("a", tolerations=[{"operator": "Exists"}])
    assert pressure_refusal(tolerant, memory) is None


def test_sums_of_what_pods_take() -> None:
    load, view = NodeLoad(), node_view(node())
    load.add(pod("a", "600m"))
    load.add(pod("a", "600m"))
    [refusal] = problems(pod("b", "500m"), load.view(), view)
    assert refusal.reason == "OutOfcpu"
    assert problems(pod("b", "400m"), load.view(), view) == []
    load.add(pod("b", "400m"))
    assert [each.reason for each in problems(pod("c"), load.view(), view)] == ["OutOfpods"]
    load.remove("a")
    load.remove("nobody")
    assert problems(pod("c", "600m"), load.view(), view) == []
    assert [
        each.reason for each in problems(pod("d", nodeSelector={"a": "b"}), load.view(), view)
    ] == ["NodeAffinity"]


@pytest.mark.parametrize(
    ("borne", "when"),
    [
        (boot_id("n-1", NOW), NOW),
        (boot_id("n-1", None), None),
        (boot_id_of_the_dead("n-1"), None),
        ("n-1-" + "9" * 15, None),
        ("n-1-" + "9" * 5000, None),
        ("n-1-²", None),
        ("1767225600", None),
    ],
)
def test_when_a_node_came_back(borne: str, when: datetime | None) -> None:
    found = node()
    found.metadata.name, found.status.nodeInfo.bootID = "n-1", borne
    assert booted_at(found) == when
