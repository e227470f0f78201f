"""What the scheduler would say of a pod now, rule by rule: its own plug-ins are asked, of all nodes
at once, and what they say is told with the numbers behind it.

A pod that has a node is judged as if it looked for one: it is taken off first, so that it does not
stand in its own way. Pure, but for that the cluster handed in is changed while it looks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from navarch.api.types.core_v1 import Pod
from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.cycle import diagnose, rejected
from navarch.scheduler.explain import NO_NODES
from navarch.scheduler.explanation_details import Detail, details_of
from navarch.scheduler.filtering import Filtered, filter_nodes
from navarch.scheduler.framework import Code, Cycle, PluginFailed, PodRejected, Profile
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.preemption import preempt

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class RuledOut:
    """Nodes that one rule rules out for one reason."""

    plugin: str
    reason: str
    """In upstream's words."""
    detail: str
    """By how much, or because of what; empty when there is nothing to add."""
    nodes: int
    examples: tuple[str, ...]
    """Names of the first of them."""
    could_make_room: bool
    """Whether it might help if pods left."""
    remedy: str = ""
    is_own: bool = False
    """Whether the pod's own node is one of them."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A node that could take the pod, and what its scores are, weighted, by plug-in."""

    node: str
    total: int
    scores: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a pod can go, and why not elsewhere."""

    nodes: int
    feasible: int = 0
    message: str = ""
    """What the scheduler says when no node is left."""
    rejected_by: str = ""
    """The plug-in that rejects the pod whatever nodes are like."""
    rejection: str = ""
    ruled_out: tuple[RuledOut, ...] = ()
    """The rules in their order: a node is ruled out by the first that it breaks."""
    victims: tuple[str, ...] = ()
    """Pods that would have to leave, as far as that helps, on this node:"""
    victims_on: str = ""
    ranking: tuple[Ranked, ...] = ()
    """The nodes that are left, best first."""

    def place_of(self, node: str) -> int:
        """Where a node stands in the ranking, from 1 on; nodes as good as it are not before it.
        0: it is not there."""
        mine = next((each.total for each in self.ranking if each.node == node), None)
        if mine is None:
            return 0
        return 1 + sum(each.total > mine for each in self.ranking)


def explain(pod: Pod, cluster: Cluster, objects: Objects, profile: Profile) -> Explanation:
    info = PodInfo(pod)
    own = cluster.slots.get(info.node, -1)
    if info.node:
        cluster.remove_pod(info.uid)
        info = PodInfo(replace(pod, spec=replace(pod.spec, nodeName="")))
    if not cluster.count:
        return Explanation(0, message=NO_NODES)
    cycle = Cycle(info, cluster, objects, random.Random(0), cluster.alive)
    try:
        filtered = filter_nodes(cycle, profile)
        feasible = cycle.feasible
        if feasible.any():
            return Explanation(
                cluster.count,
                int(np.count_nonzero(feasible)),
                ruled_out=tuple(_ruled_out(cycle, profile, filtered, own)),
                ranking=_ranking(cycle, profile),
            )
        ruled_out = tuple(_ruled_out(cycle, profile, filtered, own))
        diagnosis = diagnose(cycle, profile, filtered)
        failure = diagnosis.with_preemption(lambda: preempt(cycle, profile, diagnosis.resolvable))
    except PodRejected as rejection:
        return Explanation(
            cluster.count,
            message=rejected(cluster, profile, rejection).message,
            rejected_by=rejection.plugin,
            rejection=", ".join(rejection.reasons),
        )
    except PluginFailed as error:
        return Explanation(cluster.count, message=str(error), rejection=str(error))
    return Explanation(
        cluster.count,
        message=failure.message,
        ruled_out=ruled_out,
        victims=tuple(each.key for each in failure.victims),
        victims_on=(failure.nominated or "") if failure.victims else "",
    )


def _ranking(cycle: Cycle, profile: Profile) -> tuple[Ranked, ...]:
    """All nodes that are left; the scheduler itself looks at fewer of very many."""
    cycle.nodes = np.flatnonzero(cycle.feasible)
    total = np.zeros(len(cycle.nodes), np.int64)
    parts = {}
    for scorer in profile.scorers:
        scores = scorer.plugin.score(cycle)
        if scores is not None:
            parts[scorer.plugin.name] = scorer.weight * scores
            total += parts[scorer.plugin.name]
    names = [cycle.cluster.names[slot] for slot in cycle.nodes.tolist()]
    order = sorted(range(len(names)), key=lambda n: (-int(total[n]), names[n]))
    return tuple(
        Ranked(names[n], int(total[n]), {name: int(each[n]) for name, each in parts.items()})
        for n in order
    )


def _ruled_out(
    cycle: Cycle, profile: Profile, filtered: Sequence[Filtered], own: int
) -> Iterator[RuledOut]:
    cluster = cycle.cluster
    kept = _kept_for_others(cycle)
    for entry in filtered:
        for verdict in entry.verdicts:
            mine = verdict.rejected & entry.asked & cluster.alive
            if not mine.any():
                continue
            plugin = " ".join(entry.plugins)
            could = verdict.code is Code.UNSCHEDULABLE
            for detail in _details(cycle, profile, plugin, verdict.reason, mine, kept):
                yield RuledOut(
                    plugin,
                    verdict.reason or "node(s) ruled out",
                    detail.text,
                    int(np.count_nonzero(detail.nodes)),
                    _examples(cluster, detail.nodes),
                    could,
                    detail.remedy,
                    own >= 0 and bool(detail.nodes[own]),
                )


def _details(
    cycle: Cycle, profile: Profile, plugin: str, reason: str, mine: Mask, kept: Mapping[int, str]
) -> Iterator[Detail]:
    """The nodes of one verdict, divided by what there is to say of them."""
    slots = [slot for slot in kept if mine[slot]]
    for slot in slots:
        one = np.zeros_like(mine)
        one[slot] = True
        mine = mine & ~one
        yield Detail(one, f"its room is kept for {kept[slot]}")
    if mine.any():
        yield from details_of(cycle, profile, plugin, reason, mine)


def _kept_for_others(cycle: Cycle) -> dict[int, str]:
    """Nodes that are kept for pods that this one does not push aside, and for whom."""
    cluster = cycle.cluster
    found = {}
    for node in cluster.nominations.nodes:
        slot = cluster.slots.get(node)
        ahead = [each.key for each in cluster.nominations.ahead_of(cycle.pod, node)]
        if slot is not None and ahead:
            found[slot] = ", ".join(ahead)
    return found


def _examples(cluster: Cluster, nodes: Mask) -> tuple[str, ...]:
    names = [cluster.names[slot] for slot in np.flatnonzero(nodes).tolist()]
    return tuple(sorted(names)[:EXAMPLES])
