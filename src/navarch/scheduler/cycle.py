"""Choosing a node for a pod: filter all nodes, score those that are left, take the best.

Pure: reads the cluster, changes nothing, and draws from the random generator handed in only to
choose among equally good nodes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.framework import Code, Cycle, Plugin, PodRejected, Verdict
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo

NO_NODES = "no nodes available to schedule pods"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no node was found."""

    message: str
    plugins: frozenset[str] = frozenset()
    """Those that rejected the pod; empty when there was nothing to reject it on."""


@dataclass(slots=True)
class _Filtered:
    """What one plugin made of the nodes that were left when it was asked."""

    plugin: Plugin
    asked: Mask
    verdicts: list[Verdict]


def schedule(
    pod: PodInfo,
    cluster: Cluster,
    objects: Objects,
    plugins: Sequence[Plugin],
    rng: random.Random,
) -> str | Failure:
    """The name of the best node, or why there is none."""
    if not cluster.count:
        return Failure(NO_NODES)
    cycle = Cycle(pod, cluster, objects, rng, cluster.alive)
    try:
        _pre_filter(cycle, plugins)
    except PodRejected as rejection:
        return Failure(
            f"0/{cluster.count} nodes are available: {', '.join(rejection.reasons)}.",
            frozenset([rejection.plugin]),
        )
    filtered = _filter(cycle, plugins)
    cycle.nodes = np.flatnonzero(cycle.feasible)
    if not len(cycle.nodes):
        return _explain(cluster, filtered)
    if len(cycle.nodes) == 1:
        return cluster.names[int(cycle.nodes[0])]
    return cluster.names[_best(cycle, plugins)]


def _pre_filter(cycle: Cycle, plugins: Sequence[Plugin]) -> None:
    """An outright rejection ends the attempt; a lesser one is kept while the rest is asked."""
    kept: PodRejected | None = None
    for plugin in plugins:
        try:
            plugin.pre_filter(cycle)
        except PodRejected as rejection:
            if rejection.code is Code.UNRESOLVABLE:
                raise
            kept = kept or rejection
    if kept is not None:
        raise kept


def _filter(cycle: Cycle, plugins: Sequence[Plugin]) -> list[_Filtered]:
    filtered = []
    for plugin in plugins:
        verdicts = plugin.filter(cycle)
        if not verdicts:
            continue
        filtered.append(_Filtered(plugin, cycle.feasible, verdicts))
        rejected = verdicts[0].rejected
        for verdict in verdicts[1:]:
            rejected = rejected | verdict.rejected
        cycle.feasible = cycle.feasible & ~rejected
    return filtered


def _explain(cluster: Cluster, filtered: Sequence[_Filtered]) -> Failure:
    """Count the nodes behind every reason; each node was judged by the first plugin to reject
    it."""
    counts: Counter[str] = Counter()
    plugins = set()
    for entry in filtered:
        for verdict in entry.verdicts:
            count = int(np.count_nonzero(verdict.rejected & entry.asked))
            if count:
                counts[verdict.reason] += count
                plugins.add(entry.plugin.name)
    histogram = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    return Failure(f"0/{cluster.count} nodes are available: {histogram}.", frozenset(plugins))


def _best(cycle: Cycle, plugins: Sequence[Plugin]) -> int:
    total = np.zeros(len(cycle.nodes), np.int64)
    for plugin in plugins:
        scores = plugin.score(cycle)
        if scores is not None:
            total += plugin.weight * scores
    best = np.flatnonzero(total == total.max())
    choice = best[0] if len(best) == 1 else best[cycle.rng.randrange(len(best))]
    return int(cycle.nodes[choice])
