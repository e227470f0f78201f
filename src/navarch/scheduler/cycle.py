"""Choosing a node for a pod: filter all nodes, score those that are left, take the best.

Pure: reads the cluster, changes nothing, and draws from the random generator handed in only to
choose among equally good nodes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.explain import NO_NODES, rejected, rejected_early
from navarch.scheduler.framework import Code, Cycle, Plugin, PodRejected, Verdict, VolumePlan
from navarch.scheduler.objects import Objects
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.podinfo import PodInfo


class Choice(NamedTuple):
    """The node for a pod."""

    node: str
    volumes: VolumePlan | None = None
    """What comes before the pod is bound to it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no node was found."""

    message: str
    plugins: frozenset[str] = frozenset()
    """Those that rejected the pod; empty when there was nothing to reject it on."""


@dataclass(slots=True)
class _Filtered:
    """What one plugin (or several together) made of the nodes that were left then."""

    plugins: tuple[str, ...]
    asked: Mask
    verdicts: list[Verdict]


def schedule(
    pod: PodInfo,
    cluster: Cluster,
    objects: Objects,
    plugins: Sequence[Plugin],
    rng: random.Random,
) -> Choice | Failure:
    """The best node, or why there is none."""
    if not cluster.count:
        # Whatever the first node is like, what decides is whether the pod fits there.
        return Failure(NO_NODES, frozenset([NodeResourcesFit.name]))
    cycle = Cycle(pod, cluster, objects, rng, cluster.alive)
    try:
        filtered = _narrow(cycle, plugins)
    except PodRejected as rejection:
        message = rejected_early(cluster, rejection.reasons)
        return Failure(message, frozenset([rejection.plugin]))
    filtered += _filter(cycle, plugins)
    cycle.nodes = np.flatnonzero(cycle.feasible)
    if not len(cycle.nodes):
        return _explain(cycle, filtered)
    slot = int(cycle.nodes[0]) if len(cycle.nodes) == 1 else _best(cycle, plugins)
    plans = (plugin.reserve(cycle, slot) for plugin in plugins)
    return Choice(cluster.names[slot], next((plan for plan in plans if plan), None))


def _narrow(cycle: Cycle, plugins: Sequence[Plugin]) -> list[_Filtered]:
    """Leave out the nodes that the pod rules out by itself."""
    before = cycle.feasible
    names = []
    for plugin in plugins:
        wanted = plugin.pre_filter(cycle)
        if wanted is not None:
            names.append(plugin.name)
            cycle.feasible = cycle.feasible & wanted
    if not names:
        return []
    reason = f"node(s) didn't satisfy plugin(s) [{' '.join(sorted(names))}]"
    return [_Filtered(tuple(names), before, [Verdict(~cycle.feasible, reason)])]


def _filter(cycle: Cycle, plugins: Sequence[Plugin]) -> list[_Filtered]:
    filtered = []
    for plugin in plugins:
        verdicts = plugin.filter(cycle)
        if not verdicts:
            continue
        filtered.append(_Filtered((plugin.name,), cycle.feasible, verdicts))
        rejected = verdicts[0].rejected
        for verdict in verdicts[1:]:
            rejected = rejected | verdict.rejected
        cycle.feasible = cycle.feasible & ~rejected
    return filtered


def _explain(cycle: Cycle, filtered: Sequence[_Filtered]) -> Failure:
    """Count the nodes behind every reason; each node was judged by the first plugin to reject
    it."""
    counts: Counter[str] = Counter()
    plugins: set[str] = set()
    resolvable = cycle.cluster.alive.copy()
    for entry in filtered:
        for verdict in entry.verdicts:
            mine = verdict.rejected & entry.asked
            count = int(np.count_nonzero(mine))
            if count:
                if verdict.code is Code.UNRESOLVABLE:
                    resolvable &= ~mine
                counts[verdict.reason] += count
                plugins.update(entry.plugins)
    message = rejected(cycle.pod, cycle.cluster, counts, resolvable)
    return Failure(message, frozenset(plugins))


def _best(cycle: Cycle, plugins: Sequence[Plugin]) -> int:
    total = np.zeros(len(cycle.nodes), np.int64)
    for plugin in plugins:
        scores = plugin.score(cycle)
        if scores is not None:
            total += plugin.weight * scores
    best = np.flatnonzero(total == total.max())
    choice = best[0] if len(best) == 1 else best[cycle.rng.randrange(len(best))]
    return int(cycle.nodes[choice])
