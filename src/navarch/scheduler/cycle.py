"""Choosing a node for a pod: filter all nodes, score those that are left, take the best.

If there is none, see what other pods would have to leave (preemption).

Pure: reads the cluster, leaves it as it was but for where the next round begins, and draws from
the random generator handed in only where to begin looking for victims.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from navarch.api.types.resource_v1 import ResourceClaim
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.dra.plans import ClaimPlan
from navarch.scheduler.explain import NO_CLAIMS, NO_NODES, NO_STATE, available, histogram
from navarch.scheduler.filtering import Filtered, filter_nodes
from navarch.scheduler.framework import Code, Cycle, PodRejected, Profile, VolumePlan
from navarch.scheduler.objects import Objects
from navarch.scheduler.plugins.dynamic_resources import DynamicResources, to_release
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.preemption import NoPreemption, preempt
from navarch.scheduler.rotation import best_of
from navarch.scheduler.victims import Candidate


class Choice(NamedTuple):
    """The node for a pod."""

    node: str
    volumes: VolumePlan | None = None
    """What comes before the pod is bound to it."""
    claims: ClaimPlan | None = None
    """The same of its claims for devices."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no node was found."""

    message: str
    plugins: frozenset[str] = frozenset()
    """Those that rejected the pod; empty when there was nothing to reject it on."""
    nominated: str | None = None
    """The node that the pod waits for from now on, "" for none; None: nothing is said of it."""
    victims: tuple[PodInfo, ...] = ()
    """The pods that have to leave that node."""
    release: ResourceClaim | None = None
    """A claim that has devices where they are of no use, and is to give them back."""


def schedule(
    pod: PodInfo,
    cluster: Cluster,
    objects: Objects,
    profile: Profile,
    rng: random.Random,
    mark: Callable[[str, bool], None] = lambda point, success: None,
) -> Choice | Failure:
    """The best node, or why there is none. `mark` is told when a point is through, and how."""
    cycle = Cycle(pod, cluster, objects, rng, cluster.alive)
    found = attempt(cycle, profile, mark)
    if not isinstance(found, Diagnosis):
        return found
    failure = found.with_preemption(lambda: preempt(cycle, profile, found.resolvable))
    mark("PostFilter", bool(failure.victims))
    return failure


def attempt(
    cycle: Cycle, profile: Profile, mark: Callable[[str, bool], None]
) -> Choice | Failure | Diagnosis:
    """As far as it goes without other pods making room."""
    filtered = feasible(cycle, profile)
    if not isinstance(filtered, list):
        return filtered
    slot = nominated(cycle)
    if slot is None:
        come_upon(cycle, profile)
        if not len(cycle.nodes):
            mark("Filter", False)
            return diagnose(cycle, profile, filtered)
        mark("Filter", True)
        if len(cycle.nodes) > 1:
            slot = best(cycle, totals(cycle, profile))
            mark("Score", True)
        else:
            slot = int(cycle.nodes[0])
    return chosen(cycle, profile, slot)


def feasible(cycle: Cycle, profile: Profile) -> list[Filtered] | Failure | Diagnosis:
    """Leaves the feasible nodes in the cycle, and tells what became of the others."""
    cluster = cycle.cluster
    cycle.percentage = profile.percentage
    if not cluster.count:
        # Whatever the first node is like, what decides is whether the pod fits there.
        return Failure(NO_NODES, frozenset([NodeResourcesFit.name]), nominated="")
    try:
        return filter_nodes(cycle, profile)
    except PodRejected as rejection:
        if rejection.plugin == DynamicResources.name:
            # The plug-in that is asked first for what else might help has looked at the pod, and
            # the next one is asked, too; where others reject before it, it knows of none.
            return _claims_rejected(cluster, profile, rejection)
        return rejected(cluster, profile, rejection)


def _claims_rejected(cluster: Cluster, profile: Profile, rejection: PodRejected) -> Diagnosis:
    return Diagnosis(
        available(cluster.count, ", ".join(rejection.reasons)),
        frozenset([rejection.plugin]),
        np.zeros_like(cluster.alive),
        (NO_CLAIMS,) if DynamicResources.name in profile.post_filters else (),
        None,
        "DefaultPreemption" in profile.post_filters,
    )


def rejected(cluster: Cluster, profile: Profile, rejection: PodRejected) -> Failure:
    """The failure of a pod that no node could take, whatever it were like."""
    message = available(cluster.count, ", ".join(rejection.reasons))
    if DynamicResources.name in profile.post_filters:
        message = f"{message} {NO_STATE}"
    return Failure(message, frozenset([rejection.plugin]))


def nominated(cycle: Cycle) -> int | None:
    """The node that room was made on, if it will do."""
    cluster = cycle.cluster
    slot = cluster.slots.get(cluster.nominations.node_of(cycle.pod.uid))
    return slot if slot is not None and cycle.feasible[slot] else None


def come_upon(cycle: Cycle, profile: Profile) -> None:
    """Take as many feasible nodes as are wanted, in their order."""
    rotation = cycle.cluster.rotation
    cycle.nodes = rotation.next_feasible(cycle.feasible, cycle.among, profile.percentage)


def totals(cycle: Cycle, profile: Profile) -> Numbers:
    """What each of the cycle's nodes is worth."""
    total = np.zeros(len(cycle.nodes), np.int64)
    for scorer in profile.scorers:
        scores = scorer.plugin.score(cycle)
        if scores is not None:
            total += scorer.weight * scores
    return total


def best(cycle: Cycle, total: Numbers) -> int:
    return int(cycle.nodes[best_of(total)])


def chosen(cycle: Cycle, profile: Profile, slot: int) -> Choice:
    """The choice of a node, with what has to be done before the pod is bound to it."""
    plans = [plugin.reserve(cycle, slot) for plugin in profile.reserves]
    return Choice(
        cycle.cluster.names[slot],
        next((plan for plan in plans if isinstance(plan, VolumePlan)), None),
        next((plan for plan in plans if isinstance(plan, ClaimPlan)), None),
    )


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why no node will do."""

    message: str
    plugins: frozenset[str]
    resolvable: Mask
    """The nodes where it would help if other pods left."""
    parts: tuple[str, ...]
    """What else was found out of no avail."""
    release: ResourceClaim | None
    may_preempt: bool

    def with_preemption(self, ask: Callable[[], Candidate | NoPreemption]) -> Failure:
        """The failure, once it is known whether other pods can make room."""
        if not self.may_preempt:
            text = ", ".join(self.parts)
            message = f"{self.message} {text}" if text else self.message
            return Failure(message, self.plugins, release=self.release)
        found = ask()
        if isinstance(found, Candidate):
            return Failure(self.message, self.plugins, found.node, found.victims, self.release)
        parts = (*self.parts, f"preemption: {found.message}")
        message = f"{self.message} {', '.join(parts)}"
        nominated = "" if found.is_hopeless else None
        return Failure(message, self.plugins, nominated, release=self.release)


def diagnose(cycle: Cycle, profile: Profile, filtered: Sequence[Filtered]) -> Diagnosis:
    """Count the nodes behind every reason; each was judged by the first plugin to reject it."""
    cluster = cycle.cluster
    counts: Counter[str] = Counter()
    # Who limits the nodes to some may let the pod in by another limit, whatever those are like.
    rejecting = {name for entry in filtered if entry.is_limit for name in entry.plugins}
    resolvable = cluster.alive.copy()
    for entry in filtered:
        for verdict in entry.verdicts:
            mine = verdict.rejected & entry.asked
            count = int(np.count_nonzero(mine))
            if count:
                if verdict.code is Code.UNRESOLVABLE:
                    resolvable &= ~mine
                if verdict.reason:
                    counts[verdict.reason] += count
                rejecting.update(entry.plugins)
    release, parts = None, []
    if DynamicResources.name in profile.post_filters:
        release, text = to_release(cycle)
        parts.append(text)
    return Diagnosis(
        available(cluster.count, histogram(counts)),
        frozenset(rejecting),
        resolvable,
        tuple(parts),
        release,
        "DefaultPreemption" in profile.post_filters,
    )
