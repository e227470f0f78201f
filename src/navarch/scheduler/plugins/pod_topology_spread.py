"""Spreading: pods that belong together go to different nodes, zones or other parts of a cluster.

A constraint names a label of nodes (the topology), whose values are its domains, and how far the
number of matching pods may differ between domains. Hard constraints filter, soft ones score. Pods
without constraints are spread softly over nodes and zones with those of their Services and owner.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import ClassVar

import msgspec
import numpy as np

from navarch.api.objects import encode
from navarch.api.selectors import LabelSelector, Operator, Requirement
from navarch.api.types.core_v1 import Node, TopologySpreadConstraint
from navarch.scheduler.changes import UPDATE, Action, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.configuration.arguments import LIST, PodTopologySpreadArgs
from navarch.scheduler.counts import Counts, Tally
from navarch.scheduler.framework import MAX_SCORE, Code, Cycle, Plugin, Verdict
from navarch.scheduler.node_selection import matching_nodes
from navarch.scheduler.plugins.taint_toleration import untolerated
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import parse_selector

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
HARD, SOFT = "DoNotSchedule", "ScheduleAnyway"
SKEWED = "node(s) didn't match pod topology spread constraints"
MISSING = f"{SKEWED} (missing required label)"
LARGE = 2**31 - 1


SYSTEM_DEFAULTS = tuple(
    TopologySpreadConstraint(topologyKey=key, maxSkew=skew, whenUnsatisfiable=SOFT)
    for key, skew in ((HOSTNAME, 3), (ZONE, 5))
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint as it applies to one pod."""

    key: str
    max_skew: int
    selector: LabelSelector
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


DEFAULTS = PodTopologySpreadArgs()


class PodTopologySpread(Plugin):
    """Filters by hard constraints and scores by soft ones."""

    name: ClassVar[str] = "PodTopologySpread"
    weight: ClassVar[int] = 2
    interests = (
        Subject.ASSIGNED_POD.when(*Action)
        | Subject.NODE.when(*Action)
        | Subject.OWN_POD.when(UPDATE)
    )

    def __init__(self, arguments: PodTopologySpreadArgs = DEFAULTS) -> None:
        self.is_listed = arguments.defaultingType == LIST
        self.defaults = arguments.defaultConstraints if self.is_listed else SYSTEM_DEFAULTS
        """What holds for pods that say nothing."""

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return bool(self._constraints(cycle, HARD))

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        constraints = self._constraints(cycle, HARD)
        if not constraints:
            return None
        cluster, pod = cycle.cluster, cycle.pod
        keys = tuple(constraint.key for constraint in constraints)
        missing = skewed = None
        for constraint in constraints:
            column = cluster.label(constraint.key).column
            looked_at = LookedAt(cluster, pod, constraint, keys)
            found, domains = looked_at.pods(), looked_at.domains()
            if (further := _further(cycle, constraint)) and looked_at.nodes()[cycle.slot]:
                found = found.copy()
                found[column[cycle.slot]] += further
            least = int(found[domains].min(initial=LARGE))
            if len(domains) < constraint.min_domains:
                least = 0
            itself = int(constraint.selector.matches(pod.labels))
            too_many = found > constraint.max_skew + least - itself
            too_many[-1] = False
            lacks, breaks = without_label(cluster, constraint.key), too_many[column]
            # A node is judged by the first constraint that it breaks.
            if missing is None or skewed is None:
                missing, skewed = lacks, breaks
            else:
                missing, skewed = missing | (lacks & ~skewed), skewed | (breaks & ~missing)
        assert missing is not None and skewed is not None
        return [Verdict(missing, MISSING), Verdict(skewed, SKEWED, Code.UNSCHEDULABLE)]

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod, nodes = cycle.cluster, cycle.pod, cycle.nodes
        constraints = self._constraints(cycle, SOFT)
        if not constraints:
            return None
        # Labels that somebody asked for must be there; those of the system's defaults may lack.
        given = self.is_listed or bool(pod.pod.spec.topologySpreadConstraints)
        keys = tuple(constraint.key for constraint in constraints) if given else ()
        scored = with_labels(cluster, keys)[nodes] if _lack_any(cluster, keys) else None
        raw = np.zeros(len(nodes), np.float64)
        for constraint in constraints:
            column = cluster.label(constraint.key).column[nodes]
            if constraint.key == HOSTNAME:
                size = len(nodes) if scored is None else int(np.count_nonzero(scored))
                here = matching_pods(cluster, pod, constraint).counts[nodes]
            else:
                # Without the label counts as one more value.
                values = column if scored is None else column[scored]
                size = int(np.count_nonzero(np.bincount(values + 1)))
                here = LookedAt(cluster, pod, constraint, keys).pods()[column]
            value = here * math.log(size + 2) + (constraint.max_skew - 1)
            if _lack_any(cluster, (constraint.key,)):
                value[column < 0] = 0.0
            raw += value
        return _normalised(np.floor(raw + 0.5).astype(np.int64), scored)

    def _constraints(self, cycle: Cycle, kind: str) -> list[Constraint]:
        """The pod's own; if it has none at all, the default ones for it."""
        if cycle.pod.pod.spec.topologySpreadConstraints:
            return constraints_of(cycle.pod, kind)
        wanted = [each for each in self.defaults if each.whenUnsatisfiable == kind]
        if not wanted:
            return []
        selector = cycle.objects.default_selector(cycle.pod)
        if selector.empty:
            return []
        return [_constraint(each, selector) for each in wanted]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if not pod.pod.spec.topologySpreadConstraints:
            return True  # the default ones held, and whom they count takes long to find out
        constraints = constraints_of(pod, HARD)
        if change.subject is Subject.NODE:
            return _helped_by_node(constraints, change)
        if change.subject is Subject.OWN_POD:
            if any(c.honor_taints for c in constraints) and (
                change.old.tolerations_key != change.new.tolerations_key
            ):
                return True
            return _flips(constraints, change.old, change.new)
        other: PodInfo = change.new or change.old
        if other.namespace != pod.namespace:
            return False
        if change.action is Action.UPDATE:
            return _flips(constraints, change.old, change.new) or (
                change.old.deleting != change.new.deleting
            )
        return any(c.selector.matches(other.labels) for c in constraints)


def constraints_of(pod: PodInfo, kind: str) -> list[Constraint]:
    """The constraints that the pod itself has, hard or soft."""
    given = pod.pod.spec.topologySpreadConstraints
    if not given:
        return []
    own = {key: pod.labels.get(key) for each in given for key in each.matchLabelKeys}
    return [c for when, c in _parsed_all(encode(given), (*own.items(),)) if when == kind]


@lru_cache(maxsize=2048)
def _parsed_all(
    data: bytes, labels: tuple[tuple[str, str | None], ...]
) -> list[tuple[str, Constraint]]:
    """Pods of one owner have the same constraints."""
    own = {key: value for key, value in labels if value is not None}
    constraints = msgspec.json.decode(data, type=list[TopologySpreadConstraint])
    return [(each.whenUnsatisfiable, _parsed(own, each)) for each in constraints]


def _parsed(labels: Mapping[str, str], constraint: TopologySpreadConstraint) -> Constraint:
    """`labels` are those of the pod that constraints want others to have too."""
    selector = parse_selector(constraint.labelSelector)
    own = tuple(
        Requirement(key, Operator.IN, (labels[key],))
        for key in constraint.matchLabelKeys
        if key in labels
    )
    if own and not selector.nothing:
        selector = LabelSelector(tuple(dict.fromkeys((*selector.requirements, *own))))
    return _constraint(constraint, selector)


def _constraint(constraint: TopologySpreadConstraint, selector: LabelSelector) -> Constraint:
    return Constraint(
        constraint.topologyKey,
        constraint.maxSkew,
        selector,
        constraint.minDomains or 1,
        constraint.nodeAffinityPolicy != "Ignore",
        constraint.nodeTaintsPolicy == "Honor",
    )


@dataclass(eq=False, slots=True)
class LookedAt:
    """The nodes that a constraint of a pod looks at: those with all these labels that, as far as
    its policies say so, the pod could go to."""

    cluster: Cluster
    pod: PodInfo
    constraint: Constraint
    keys: tuple[str, ...]

    def pods(self) -> Counts:
        """How many matching pods there are in each domain."""
        found = matching_pods(self.cluster, self.pod, self.constraint)
        return self.cluster.domains(found, self.constraint.key, self._which(), self.nodes)

    def domains(self) -> Numbers:
        """The numbers of the domains."""
        key = self.constraint.key

        def compute() -> Numbers:
            return np.unique(self.cluster.label(key).column[self.nodes()])

        return self.cluster.cached(("domains", key, self._which()), compute)

    def _which(self) -> Hashable:
        return (
            self.keys,
            self.constraint.honor_affinity and self.pod.node_affinity_key,
            self.constraint.honor_taints and self.pod.tolerations_key,
        )

    def nodes(self) -> Mask:
        result = with_labels(self.cluster, self.keys)
        if self.constraint.honor_affinity:
            result = result & matching_nodes(self.cluster, self.pod)
        if self.constraint.honor_taints:
            result = result & ~untolerated(self.cluster, self.pod)
        return result


def without_label(cluster: Cluster, key: str) -> Mask:
    return cluster.cached(("without", key), lambda: cluster.label(key).column < 0)


def _further(cycle: Cycle, constraint: Constraint) -> int:
    """How many more matching pods there are on the one slot that is asked about, by upstream's way
    to count those that come or go for the moment of the question: it counts them also where the
    selector is empty, or they are on their way out, for which it would not have counted them."""
    namespace, selector = cycle.pod.namespace, constraint.selector
    return sum(
        sign
        for pods, sign in ((cycle.coming, 1), (cycle.away, -1))
        for pod in pods
        if pod.namespace == namespace and (selector.empty or pod.deleting)
        if selector.matches(pod.labels)
    )


def with_labels(cluster: Cluster, keys: tuple[str, ...]) -> Mask:
    """Nodes that have all these labels."""

    def compute() -> Mask:
        masks = (cluster.label(key).column >= 0 for key in keys)
        return reduce(np.logical_and, masks, cluster.alive.copy())

    return cluster.cached(("with", keys), compute)


def matching_pods(cluster: Cluster, pod: PodInfo, constraint: Constraint) -> Tally:
    """Pods of the same namespace per node that match and are there to stay."""
    selector = constraint.selector
    names = [] if selector.empty or selector.nothing else [pod.namespace]
    return cluster.tally(((frozenset(names), selector),), skip_deleting=True)


def _lack_any(cluster: Cluster, keys: tuple[str, ...]) -> bool:
    """Whether there are nodes without some of these labels."""
    there = cluster.alive
    return cluster.cached(("lack any", keys), lambda: not with_labels(cluster, keys)[there].all())


def _normalised(raw: Numbers, scored: Mask | None) -> Numbers:
    """Fewer is better; nodes that are not scored get nothing. None: all are."""
    if scored is None or scored.all():
        lowest, highest = int(raw.min()), int(raw.max())
        if highest == 0:
            return np.full_like(raw, MAX_SCORE)
        result: Numbers = MAX_SCORE * (highest + lowest - raw) // highest
        return result
    seen = raw[scored]
    lowest, highest = int(seen.min(initial=2**62)), int(seen.max(initial=0))
    if highest == 0:
        return np.where(scored, MAX_SCORE, 0)
    return np.where(scored, MAX_SCORE * (highest + lowest - raw) // highest, 0)


def _flips(constraints: Iterable[Constraint], old: PodInfo, new: PodInfo) -> bool:
    return any(
        c.selector.matches(old.labels) != c.selector.matches(new.labels) for c in constraints
    )


def _helped_by_node(constraints: list[Constraint], change: Change) -> bool:
    old, new = _has_all(change.old, constraints), _has_all(change.new, constraints)
    if change.action is not Action.UPDATE:
        return old or new
    if old != new:
        return True
    relabelled = any(
        change.old.metadata.labels.get(c.key) != change.new.metadata.labels.get(c.key)
        for c in constraints
    )
    return new and (relabelled or change.old.spec.taints != change.new.spec.taints)


def _has_all(node: Node | None, constraints: Iterable[Constraint]) -> bool:
    return node is not None and all(c.key in node.metadata.labels for c in constraints)
