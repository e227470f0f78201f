"""Node affinity: pods choose nodes by their labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Mask, Numbers
from navarch.scheduler.framework import Cycle, Plugin, PodRejected, Verdict, normalised
from navarch.scheduler.node_selection import is_selected, matches_term, matching_nodes
from navarch.scheduler.podinfo import PodInfo


class NodeAffinity(Plugin):
    """Filters by nodeSelector and required affinity; scores by the weights of preferred terms."""

    name: ClassVar[str] = "NodeAffinity"
    weight: ClassVar[int] = 2
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        {(Subject.NODE, Action.ADD), (Subject.NODE, Action.UPDATE)}
    )

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        names = _pinned_names(cycle.pod)
        if names is None:
            return None
        if not names:
            raise PodRejected(self.name, "pod affinity terms conflict")
        wanted = np.zeros(cycle.cluster.size, np.bool_)
        wanted[[slot for name in names if (slot := cycle.cluster.slots.get(name)) is not None]] = 1
        return wanted

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        pod = cycle.pod
        if not pod.pod.spec.nodeSelector and pod.required_nodes is None:
            return None
        rejected = ~matching_nodes(cycle.cluster, pod)
        return [Verdict(rejected, "node(s) didn't match Pod's node affinity/selector")]

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod = cycle.cluster, cycle.pod
        if not pod.preferred_nodes:
            return None

        def compute() -> Numbers:
            raw = np.zeros(cluster.size, np.int64)
            for term in pod.preferred_nodes:
                raw += term.weight * matches_term(cluster, term.preference)
            return raw

        raw = cluster.cached((self.name, pod.node_affinity_key), compute)
        return normalised(raw[cycle.nodes])

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        was_out = change.old is None or not is_selected(change.old, pod)
        return was_out and is_selected(change.new, pod)


def _pinned_names(pod: PodInfo) -> set[str] | None:
    """The only nodes that a pod can go to, if every term names some (as the pods of DaemonSets
    do); None when there is a term that does not."""
    required = pod.required_nodes
    if required is None or not required.nodeSelectorTerms:
        return None
    names: set[str] = set()
    for term in required.nodeSelectorTerms:
        pinned = [
            set(item.values)
            for item in term.matchFields
            if item.key == "metadata.name" and item.operator == "In"
        ]
        if not pinned:
            return None
        names |= set.intersection(*pinned)
    return names
