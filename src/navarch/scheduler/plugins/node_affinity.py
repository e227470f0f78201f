"""Node affinity: pods choose nodes by their labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.api.node_selection import selects
from navarch.api.objects import encode
from navarch.api.types.core_v1 import Node
from navarch.api.types.core_v1 import NodeAffinity as NodeAffinityTerms
from navarch.scheduler.changes import ADD, UPDATE, Change, Subject
from navarch.scheduler.cluster import Mask, Numbers
from navarch.scheduler.configuration.arguments import NodeAffinityArgs
from navarch.scheduler.framework import Cycle, NodePlugin, PodRejected, Verdict, normalised
from navarch.scheduler.node_selection import is_selected, matches_term, matching_nodes, selected
from navarch.scheduler.podinfo import PodInfo

ENFORCED = "node(s) didn't match scheduler-enforced node affinity"
CHOSEN = "node(s) didn't match Pod's node affinity/selector"

DEFAULTS = NodeAffinityArgs()


class NodeAffinity(NodePlugin):
    """Filters by nodeSelector and required affinity; scores by the weights of preferred terms."""

    name: ClassVar[str] = "NodeAffinity"
    weight: ClassVar[int] = 2
    interests = Subject.NODE.when(ADD, UPDATE)

    def __init__(self, arguments: NodeAffinityArgs = DEFAULTS) -> None:
        added = arguments.addedAffinity or NodeAffinityTerms()
        self.required = added.requiredDuringSchedulingIgnoredDuringExecution
        """What holds for all pods of the profile."""
        self.preferred = added.preferredDuringSchedulingIgnoredDuringExecution
        self._key = encode(added)

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
        pod, cluster = cycle.pod, cycle.cluster
        verdicts = []
        kept = None
        if (required := self.required) is not None:
            kept = cluster.cached((self.name, self._key), lambda: selected(cluster, required))
            verdicts.append(Verdict(~kept, ENFORCED))
        if pod.pod.spec.nodeSelector or pod.required_nodes is not None:
            rejected = ~matching_nodes(cluster, pod)
            # A node has one reason, the first.
            verdicts.append(Verdict(rejected if kept is None else rejected & kept, CHOSEN))
        return verdicts or None

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod = cycle.cluster, cycle.pod
        preferred = [*self.preferred, *pod.preferred_nodes]
        if not preferred:
            return None

        def compute() -> Numbers:
            raw = np.zeros(cluster.size, np.int64)
            for term in preferred:
                raw += term.weight * matches_term(cluster, term.preference)
            return raw

        raw = cluster.cached((self.name, "score", self._key, pod.node_affinity_key), compute)
        return normalised(raw[cycle.nodes])

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        was_out = change.old is None or not self._allows(change.old, pod)
        return was_out and self._allows(change.new, pod)

    def _allows(self, node: Node, pod: PodInfo) -> bool:
        name, labels = node.metadata.name, node.metadata.labels
        is_open = self.required is None or selects(self.required, name, labels)
        return is_open and is_selected(node, pod)


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
