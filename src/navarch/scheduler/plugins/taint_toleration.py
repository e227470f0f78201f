"""Taints: nodes that push pods away, unless these tolerate it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import Node
from navarch.scheduler.changes import ADD, UPDATE, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.framework import Cycle, NodePlugin, Verdict, normalised
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.tolerations import tolerates


class TaintToleration(NodePlugin):
    """Filters by NoSchedule and NoExecute taints; scores by how few PreferNoSchedule taints are
    not tolerated. Both are decided once per distinct set of taints, of which there are few."""

    name: ClassVar[str] = "TaintToleration"
    weight: ClassVar[int] = 3
    interests = Subject.NODE.when(ADD, UPDATE) | Subject.OWN_POD.when(UPDATE)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        cluster = cycle.cluster
        if len(cluster.taint_sets) == 1:
            return None
        return [Verdict(untolerated(cluster, cycle.pod), "node(s) had untolerated taint(s)")]

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod = cycle.cluster, cycle.pod

        def compute() -> Numbers | None:
            counts = _count(cluster, pod, ("PreferNoSchedule",))
            return counts[cluster.taints] if counts.any() else None

        raw = cluster.cached((self.name, "score", pod.tolerations_key), compute)
        if raw is None:
            return None
        return normalised(raw[cycle.nodes], reverse=True)

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.OWN_POD:
            return bool(change.old.tolerations_key != change.new.tolerations_key)
        was_out = change.old is None or not _tolerated(pod, change.old)
        return was_out and _tolerated(pod, change.new)


def _tolerated(pod: PodInfo, node: Node) -> bool:
    tolerations = pod.pod.spec.tolerations
    return all(
        tolerates(tolerations, taint.key, taint.value, taint.effect)
        for taint in node.spec.taints
        if taint.effect in ("NoSchedule", "NoExecute")
    )


def untolerated(cluster: Cluster, pod: PodInfo) -> Mask:
    """Nodes with a NoSchedule or NoExecute taint that the pod does not tolerate."""

    def compute() -> Mask:
        return (_count(cluster, pod, ("NoSchedule", "NoExecute")) > 0)[cluster.taints]

    return cluster.cached((TaintToleration.name, pod.tolerations_key), compute)


def _count(cluster: Cluster, pod: PodInfo, effects: tuple[str, ...]) -> Numbers:
    """For each set of taints, how many taints of these effects are not tolerated."""
    tolerations = pod.pod.spec.tolerations
    return np.array(
        [
            sum(
                effect in effects and not tolerates(tolerations, key, value, effect)
                for key, value, effect in taints
            )
            for taints in cluster.taint_sets
        ],
        np.int64,
    )
