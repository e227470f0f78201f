"""Choosing a node for a pod: filter all nodes, score those that are left, take the best.

If there is none, see what other pods would have to leave (preemption).

Pure: reads the cluster, leaves it as it was but for where the next round begins, and draws from
the random generator handed in only where to begin looking for victims.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from navarch.api.types.resource_v1 import ResourceClaim
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.dra.plans import ClaimPlan
from navarch.scheduler.explain import NO_NODES, available, histogram, rejected_early
from navarch.scheduler.filtering import Filtered, filter_nodes
from navarch.scheduler.framework import Code, Cycle, PodRejected, Profile, VolumePlan
from navarch.scheduler.objects import Objects
from navarch.scheduler.plugins.dynamic_resources import DynamicResources, to_release
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.preemption import Candidate, preempt
from navarch.scheduler.rotation import best_of


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
) -> Choice | Failure:
    """The best node, or why there is none."""
    if not cluster.count:
        # Whatever the first node is like, what decides is whether the pod fits there.
        return Failure(NO_NODES, frozenset([NodeResourcesFit.name]), nominated="")
    cycle = Cycle(pod, cluster, objects, rng, cluster.alive)
    try:
        filtered = filter_nodes(cycle, profile)
    except PodRejected as rejection:
        message = rejected_early(cluster, rejection.reasons)
        return Failure(message, frozenset([rejection.plugin]))
    slot = _choose(cycle, profile)
    if slot is None:
        return _explain(cycle, profile, filtered)
    plans = [plugin.reserve(cycle, slot) for plugin in profile.reserves]
    return Choice(
        cluster.names[slot],
        next((plan for plan in plans if isinstance(plan, VolumePlan)), None),
        next((plan for plan in plans if isinstance(plan, ClaimPlan)), None),
    )


def _explain(cycle: Cycle, profile: Profile, filtered: Sequence[Filtered]) -> Failure:
    """Count the nodes behind every reason (each node was judged by the first plugin to reject it),
    and see whether other pods can make room."""
    cluster = cycle.cluster
    counts: Counter[str] = Counter()
    rejecting: set[str] = set()
    resolvable = cluster.alive.copy()
    for entry in filtered:
        for verdict in entry.verdicts:
            mine = verdict.rejected & entry.asked
            count = int(np.count_nonzero(mine))
            if count:
                if verdict.code is Code.UNRESOLVABLE:
                    resolvable &= ~mine
                counts[verdict.reason] += count
                rejecting.update(entry.plugins)
    message = available(cluster.count, histogram(counts))
    release, parts = None, []
    if DynamicResources.name in profile.post_filters:
        release, text = to_release(cycle)
        parts.append(text)
    plugins = frozenset(rejecting)
    if "DefaultPreemption" not in profile.post_filters:
        return Failure(" ".join([message, *parts]), plugins, release=release)
    found = preempt(cycle, profile, resolvable)
    if isinstance(found, Candidate):
        return Failure(message, plugins, found.node, found.victims, release)
    parts.append(f"preemption: {found.message}")
    message = f"{message} {', '.join(parts)}"
    return Failure(message, plugins, "" if found.is_hopeless else None, release=release)


def _choose(cycle: Cycle, profile: Profile) -> int | None:
    """The node that room was made on, if it will do, else the best of those come upon; None if
    there is none."""
    cluster = cycle.cluster
    nominated = cluster.slots.get(cluster.nominations.node_of(cycle.pod.uid))
    if nominated is not None and cycle.feasible[nominated]:
        return nominated
    cycle.nodes = cluster.rotation.next_feasible(cycle.feasible, cycle.among, profile.percentage)
    if len(cycle.nodes) > 1:
        return _best(cycle, profile)
    return int(cycle.nodes[0]) if len(cycle.nodes) else None


def _best(cycle: Cycle, profile: Profile) -> int:
    total = np.zeros(len(cycle.nodes), np.int64)
    for scorer in profile.scorers:
        scores = scorer.plugin.score(cycle)
        if scores is not None:
            total += scorer.weight * scores
    return int(cycle.nodes[best_of(total)])
