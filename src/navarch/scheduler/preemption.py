"""Which pods have to go so that a more important one finds room. Decides only.

For every node where room would help, all pods of lower priority are thought away; if the pod fits
then, as many of them as possible are brought back, those first whose budget forbids to disrupt
them, and the more important before the less. Who cannot stay is a victim. Of the nodes, that one is
taken where the least damage is done. Budgets are heeded as far as possible, not at any price.
Source: KEP-268 of priority and preemption; upstream's plug-in DefaultPreemption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from navarch.api.types.core_v1 import Pod, PodCondition
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.explain import available, histogram
from navarch.scheduler.filtering import rejections
from navarch.scheduler.framework import Cycle, Profile
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import parse_selector

NEVER = "not eligible due to preemptionPolicy=Never."
TERMINATING = "not eligible due to a terminating pod on the nominated node."
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"

DISRUPTION_TARGET = "DisruptionTarget"
BY_SCHEDULER = "PreemptionByScheduler"
LATER_THAN_ALL = "9999"
LOWEST_PRIORITY = -(2**31)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could take the pod if the victims went."""

    node: str
    victims: tuple[PodInfo, ...]
    """The most important first."""
    violations: int = 0
    """How many of them their budgets forbid to disrupt."""


@dataclass(frozen=True, slots=True)
class NoPreemption:
    """Why nobody is to go."""

    message: str
    is_hopeless: bool = False
    """Whether waiting for the nominated node makes no sense either."""


def preempt(cycle: Cycle, profile: Profile, resolvable: Mask) -> Candidate | NoPreemption:
    """The node to make room on, and how. `resolvable` are the nodes where room might help."""
    found = candidates(cycle, profile, resolvable)
    return found if isinstance(found, NoPreemption) else least_damage(found)


def candidates(cycle: Cycle, profile: Profile, resolvable: Mask) -> list[Candidate] | NoPreemption:
    """Nodes where room can be made: as many as are worth comparing, at least one."""
    cluster = cycle.cluster
    if cycle.pod.pod.spec.preemptionPolicy == "Never":
        return NoPreemption(NEVER)
    if _is_under_way(cluster, cycle.pod, resolvable):
        return NoPreemption(TERMINATING)
    slots = np.flatnonzero(resolvable)
    found: list[Candidate] = []
    reasons: Counter[str] = Counter()
    offset = cycle.rng.randrange(len(slots)) if len(slots) else 0
    arguments = profile.preemption
    share = len(slots) * arguments.minCandidateNodesPercentage // 100
    wanted = min(len(slots), max(share, arguments.minCandidateNodesAbsolute))
    for slot in map(int, np.roll(slots, -offset)):
        candidate = select_victims(cycle, profile, slot)
        if not isinstance(candidate, Candidate):
            reasons.update(candidate)
            continue
        found.append(candidate)
        if len(found) >= wanted and any(not each.violations for each in found):
            break
    if found:
        return found
    reasons[NOT_HELPFUL] = cluster.count - len(slots)
    return NoPreemption(available(cluster.count, histogram(reasons)), is_hopeless=True)


def least_damage(found: Iterable[Candidate]) -> Candidate:
    return min(found, key=_damage)


def select_victims(cycle: Cycle, profile: Profile, slot: int) -> Candidate | list[str]:
    """The fewest pods that have to leave this node, or why that would not do."""
    cluster, pod = cycle.cluster, cycle.pod
    node = cluster.names[slot]
    lower = [each for each in cluster.pods_at[slot].values() if each.priority < pod.priority]
    if not lower:
        return [NO_VICTIMS]
    lower.sort(key=_importance)
    away: dict[str, PodInfo] = {}
    cycle.away = away.values()
    try:
        for each in lower:
            cluster.remove_pod(each.uid)
            away[each.uid] = each
        if verdicts := rejections(cycle, profile, slot):
            return [verdict.reason for verdict in verdicts]
        violating = violations(lower, cycle.objects)
        for each in sorted(lower, key=lambda info: info.uid not in violating):
            cluster.set_pod(away.pop(each.uid), node)
            if rejections(cycle, profile, slot):
                cluster.remove_pod(each.uid)
                away[each.uid] = each
        victims = tuple(sorted(away.values(), key=_importance))
    finally:
        cycle.away = ()
        for each in away.values():
            cluster.set_pod(each, node)
    if not victims:
        return [f'expected at least one victim pod on node "{node}"']
    return Candidate(node, victims, sum(each.uid in violating for each in victims))


def violations(pods: Iterable[PodInfo], objects: Objects) -> set[str]:
    """The uids of those that no budget has room for any more once those before them are gone.
    What the disruption controller knows to be on its way out is counted already."""
    left: dict[str, int] = {}
    result = set()
    for pod in pods:
        for budget in objects.budgets(pod.namespace) if pod.labels else ():
            if pod.name in budget.status.disruptedPods or not _protects(budget, pod):
                continue
            key = f"{pod.namespace}/{budget.metadata.name}"
            left[key] = left.get(key, budget.status.disruptionsAllowed) - 1
            if left[key] < 0:
                result.add(pod.uid)
    return result


def disruption(pod: Pod, scheduler: str, now: str) -> PodCondition | None:
    """The condition that tells a victim's owner why it goes; None if the pod has it."""
    message = f"{scheduler}: preempting to accommodate a higher priority pod"
    old = next((c for c in pod.status.conditions if c.type == DISRUPTION_TARGET), None)
    is_same = old is not None and old.status == "True"
    if old is not None and is_same and (old.reason, old.message) == (BY_SCHEDULER, message):
        return None
    return PodCondition(
        type=DISRUPTION_TARGET,
        status="True",
        reason=BY_SCHEDULER,
        message=message,
        observedGeneration=pod.metadata.generation,
        lastTransitionTime=old.lastTransitionTime if old is not None and is_same else now,
    )


def _protects(budget: PodDisruptionBudget, pod: PodInfo) -> bool:
    selector = parse_selector(budget.spec.selector)
    return not selector.empty and selector.matches(pod.labels)


def _is_under_way(cluster: Cluster, pod: PodInfo, resolvable: Mask) -> bool:
    """Whether pods are about to leave the node that this one waits for. If they could stay away
    for good without helping, that is nothing to wait for."""
    slot = cluster.slots.get(cluster.nominations.node_of(pod.uid))
    if slot is None or not resolvable[slot]:
        return False
    there = cluster.pods_at[slot].values()
    return any(each.priority < pod.priority and _was_preempted(each) for each in there)


def _was_preempted(info: PodInfo) -> bool:
    return info.deleting and any(
        (c.type, c.status, c.reason) == (DISRUPTION_TARGET, "True", BY_SCHEDULER)
        for c in info.pod.status.conditions
    )


def _start(info: PodInfo) -> str:
    """RFC 3339 in UTC sorts as text. What has not started is as new as can be."""
    return info.pod.status.startTime or LATER_THAN_ALL


def _importance(info: PodInfo) -> tuple[int, str]:
    """Sorts the most important first: of equals, that which runs longest."""
    return -info.priority, _start(info)


def _damage(candidate: Candidate) -> tuple[int, int, int, int, int]:
    """The less of the first, the better; then the second, and so on. Last, it is better to stop
    what has just begun."""
    first = candidate.victims[0]
    return (
        candidate.violations,
        first.priority,
        sum(each.priority - LOWEST_PRIORITY for each in candidate.victims),
        len(candidate.victims),
        -int("".join(filter(str.isdigit, _start(first))).ljust(14, "9")),
    )
