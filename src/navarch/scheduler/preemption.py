"""Which pods have to go so that a more important one finds room. Decides only.

For every node where room would help, all pods of lower priority are thought away; if the pod fits
then, as many of them as possible are brought back, those first whose budget forbids to disrupt
them, and the more important before the less. Who cannot stay is a victim. Of the nodes, that one is
taken where the least damage is done. Budgets are heeded as far as possible, not at any price.
Source: KEP-268 of priority and preemption; upstream's plug-in DefaultPreemption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np

from navarch.api.types.core_v1 import Pod, PodCondition
from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.explain import available, histogram
from navarch.scheduler.framework import Cycle, Profile
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.victims import Candidate, DryRun

NEVER = "not eligible due to preemptionPolicy=Never."
TERMINATING = "not eligible due to a terminating pod on the nominated node."
NOT_HELPFUL = "Preemption is not helpful for scheduling"

DISRUPTION_TARGET = "DisruptionTarget"
BY_SCHEDULER = "PreemptionByScheduler"
LOWEST_PRIORITY = -(2**31)
NODES_AT_ONCE = 16
"""A node takes a fraction of a millisecond."""


@dataclass(frozen=True, slots=True)
class NoPreemption:
    """Why nobody is to go."""

    message: str
    is_hopeless: bool = False
    """Whether waiting for the nominated node makes no sense either."""


Candidates = Generator[None, None, list[Candidate] | NoPreemption]


def preempt(cycle: Cycle, profile: Profile, resolvable: Mask) -> Candidate | NoPreemption:
    """The node to make room on, and how. `resolvable` are the nodes where room might help."""
    steps = candidates(cycle, profile, resolvable)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: list[Candidate] | NoPreemption = end.value
            return found if isinstance(found, NoPreemption) else least_damage(found)


def candidates(cycle: Cycle, profile: Profile, resolvable: Mask) -> Candidates:
    """Nodes where room can be made: as many as are worth comparing, at least one. Where it yields,
    others may change the cluster: as upstream's, the search goes by what was there when it began,
    but for nodes that have gone."""
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
    dry_run = DryRun(cycle, profile, resolvable)
    count, names = cluster.count, [*cluster.names]
    for number, slot in enumerate(np.roll(slots, -offset).tolist(), 1):
        if number % NODES_AT_ONCE == 0:
            yield
        if cluster.names[slot] != names[slot] or cluster.nodes[slot] is None:
            continue
        candidate = dry_run.victims(slot)
        if not isinstance(candidate, Candidate):
            reasons.update(candidate)
            continue
        found.append(candidate)
        if len(found) >= wanted and any(not each.violations for each in found):
            break
    if found:
        return found
    reasons[NOT_HELPFUL] = count - len(slots)
    return NoPreemption(available(count, histogram(reasons)), is_hopeless=True)


def least_damage(found: Iterable[Candidate]) -> Candidate:
    """Where the fewest budgets are violated, the least important pods go, and so on; of equals, it
    is better to stop what has just begun."""
    graded = [(_damage(each), each) for each in found]
    least = min(damage for damage, _ in graded)
    equals = (each for damage, each in graded if damage == least)
    return max(equals, key=lambda each: each.victims[0].importance[1])


def _damage(candidate: Candidate) -> tuple[int, int, int, int]:
    victims = candidate.victims
    return (
        candidate.violations,
        victims[0].priority,
        sum(each.priority - LOWEST_PRIORITY for each in victims),
        len(victims),
    )


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
