"""What befalls a simulated node because somebody says so on its Node object.

Any client can do it: an annotation (or label) `simulated.navarch.dev/fault`, and
`simulated.navarch.dev/conditions` for what the node reports of itself. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from navarch.api.numbers import natural
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Node, NodeCondition, Pod

from ..admission import Refusal
from ..podspec import compute_qos_class, is_critical
from .timetable import PREFIX

FAULT = f"{PREFIX}/fault"
CONDITIONS = f"{PREFIX}/conditions"


class Fault(Enum):
    """Both are the same to the cluster, until the node comes back."""

    DEAD = "dead"
    """The machine has no power: what ran there has ended."""
    HUNG = "hung"
    """The agent does nothing and is not heard of; containers run on."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a condition's status goes with."""

    reason: str
    message: str


CONDITION_FACTS: Mapping[tuple[str, str], Fact] = {
    ("MemoryPressure", "False"): Fact("KubeletHasSufficientMemory", "memory is simulated"),
    ("MemoryPressure", "True"): Fact("KubeletHasInsufficientMemory", "memory is simulated"),
    ("DiskPressure", "False"): Fact("KubeletHasNoDiskPressure", "the disk is simulated"),
    ("DiskPressure", "True"): Fact("KubeletHasDiskPressure", "the disk is simulated"),
    ("PIDPressure", "False"): Fact("KubeletHasSufficientPID", "processes are simulated"),
    ("PIDPressure", "True"): Fact("KubeletHasInsufficientPID", "processes are simulated"),
    ("Ready", "True"): Fact("KubeletReady", "the node is simulated"),
    ("Ready", "False"): Fact("KubeletNotReady", "the node is simulated, and told to be so"),
}
HEALTHY = {
    "MemoryPressure": "False",
    "DiskPressure": "False",
    "PIDPressure": "False",
    "Ready": "True",
}


FAR_FUTURE = 1 << 36
"""Seconds; what a node bears can be written by others, and dates end with the year 9999."""


def boot_id(name: str, booted: datetime | None) -> str:
    """A node that has come back from the dead bears the moment."""
    return name if booted is None else f"{name}-{int(booted.timestamp())}"


def boot_id_of_the_dead(name: str) -> str:
    """What a dead node bears, so that it is known to have died also by a process that was not there
    then."""
    return f"{name}-off"


def booted_at(node: Node) -> datetime | None:
    """When the node came back from the dead, by what it bears."""
    _, _, text = node.status.nodeInfo.bootID.partition(f"{node.metadata.name}-")
    since = natural(text)
    return datetime.fromtimestamp(since, UTC) if since is not None and since < FAR_FUTURE else None


def fault_of(node: Node) -> Fault | None:
    """What was done to the node. An unknown word does nothing."""
    meta = node.metadata
    try:
        return Fault(meta.annotations.get(FAULT) or meta.labels.get(FAULT))
    except ValueError:
        return None


def parse_conditions(text: str) -> dict[str, str]:
    """`MemoryPressure,Ready=False` as conditions and their statuses. Raises ValueError."""
    found = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        kind, _, status = part.partition("=")
        status = status or "True"
        if (kind, status) not in CONDITION_FACTS:
            known = ", ".join(sorted({f"{k}={s}" for k, s in CONDITION_FACTS}))
            raise ValueError(f"{part!r} is no condition of a node; known are {known}")
        found[kind] = status
    return found


def wanted_statuses(node: Node) -> dict[str, str]:
    """The status of each condition that the node reports."""
    try:
        return {**HEALTHY, **parse_conditions(node.metadata.annotations.get(CONDITIONS, ""))}
    except ValueError:
        return dict(HEALTHY)


def reports_rightly(node: Node) -> bool:
    """Whether the Node says of itself what it should."""
    actual = {condition.type: condition.status for condition in node.status.conditions}
    return wanted_statuses(node).items() <= actual.items()


def conditions(node: Node, now: datetime) -> list[NodeCondition]:
    """The node's report; the moment a condition turned is kept while it stays as it is."""
    known = {condition.type: condition for condition in node.status.conditions}
    stamp = format_time(now)
    result = []
    for kind, status in wanted_statuses(node).items():
        fact, old = CONDITION_FACTS[kind, status], known.get(kind)
        same = old is not None and old.status == status
        result.append(
            NodeCondition(
                type=kind,
                status=status,
                reason=fact.reason,
                message=fact.message,
                lastHeartbeatTime=stamp,
                lastTransitionTime=old.lastTransitionTime if old is not None and same else stamp,
            )
        )
    return result


def pressure_refusal(pod: Pod, node: Node) -> Refusal | None:
    """A node under pressure takes no pods that would make it worse (the kubelet's eviction
    manager): none at all without disk, and without memory none that asks for nothing."""
    statuses = wanted_statuses(node)
    under = [kind for kind in HEALTHY if kind != "Ready" and statuses[kind] == "True"]
    if not under or is_critical(pod):
        return None
    if under == ["MemoryPressure"] and (
        compute_qos_class(pod) != "BestEffort" or _tolerates_memory_pressure(pod)
    ):
        return None
    return Refusal("Evicted", f"The node had condition: [{' '.join(under)}]. ")


def _tolerates_memory_pressure(pod: Pod) -> bool:
    return any(
        each.key in ("", "node.kubernetes.io/memory-pressure")
        and each.effect in ("", "NoSchedule")
        and (each.operator == "Exists" or not each.value)
        for each in pod.spec.tolerations
    )
