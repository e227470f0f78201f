"""Spreading: pods that belong together go to different nodes, zones or other parts of a cluster.

A constraint names a label of nodes (the topology), whose values are its domains, and how far the
number of matching pods may differ between domains. Hard constraints filter, soft ones score. Pods
without constraints are spread softly over nodes and zones with those of their Services and owner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from navarch.api.selectors import LabelSelector, Operator, Requirement
from navarch.api.types.core_v1 import Node, TopologySpreadConstraint
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask, Numbers, per_domain
from navarch.scheduler.counts import Counts
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


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint as it applies to one pod."""

    key: str
    max_skew: int
    selector: LabelSelector
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


class PodTopologySpread(Plugin):
    """Filters by hard constraints and scores by soft ones."""

    name: ClassVar[str] = "PodTopologySpread"
    weight: ClassVar[int] = 2
    interests: ClassVar[frozenset[tuple[Subject, Action]]] = frozenset(
        {
            *((Subject.ASSIGNED_POD, action) for action in Action),
            *((Subject.NODE, action) for action in Action),
            (Subject.OWN_POD, Action.UPDATE),
        }
    )

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        constraints = constraints_of(cycle.pod, HARD)
        if not constraints:
            return None
        cluster, pod = cycle.cluster, cycle.pod
        keyed = with_labels(cluster, constraints)
        missing = np.zeros(cluster.size, np.bool_)
        skewed = np.zeros(cluster.size, np.bool_)
        for constraint in constraints:
            column = cluster.label(constraint.key)
            eligible = keyed & included(cluster, pod, constraint)
            found = per_domain(column, matching_pods(cluster, pod, constraint), eligible)
            domains = np.unique(column.column[eligible])
            least = int(found[domains].min(initial=np.iinfo(np.int64).max))
            if len(domains) < constraint.min_domains:
                least = 0
            itself = int(constraint.selector.matches(pod.labels))
            # A node is judged by the first constraint that it breaks.
            left = ~(missing | skewed)
            lacks = column.column < 0
            missing |= left & lacks
            skewed |= left & ~lacks & (found[column.column] + itself - least > constraint.max_skew)
        return [Verdict(missing, MISSING), Verdict(skewed, SKEWED, Code.UNSCHEDULABLE)]

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod, nodes = cycle.cluster, cycle.pod, cycle.nodes
        given = bool(pod.pod.spec.topologySpreadConstraints)
        constraints = constraints_of(pod, SOFT) if given else _defaults(cycle)
        if not constraints:
            return None
        # Labels that the pod's author asked for must be there; the system's own may lack.
        keyed = with_labels(cluster, constraints) if given else cluster.alive
        scored = keyed[nodes]
        raw = np.zeros(len(nodes), np.float64)
        for constraint in constraints:
            column = cluster.label(constraint.key).column[nodes]
            counts = matching_pods(cluster, pod, constraint)
            if constraint.key == HOSTNAME:
                size, here = int(np.count_nonzero(scored)), counts[nodes]
            else:
                # Without the label counts as one more value.
                size = len(np.unique(column[scored]))
                eligible = keyed & included(cluster, pod, constraint)
                here = per_domain(cluster.label(constraint.key), counts, eligible)[column]
            value = here * math.log(size + 2) + (constraint.max_skew - 1)
            raw += np.where(column >= 0, value, 0.0)
        return _normalised(np.floor(raw + 0.5).astype(np.int64), scored)

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
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
    return [
        _parsed(pod, constraint)
        for constraint in pod.pod.spec.topologySpreadConstraints
        if constraint.whenUnsatisfiable == kind
    ]


def _parsed(pod: PodInfo, constraint: TopologySpreadConstraint) -> Constraint:
    selector = parse_selector(constraint.labelSelector)
    own = tuple(
        Requirement(key, Operator.IN, (pod.labels[key],))
        for key in constraint.matchLabelKeys
        if key in pod.labels
    )
    if own and not selector.nothing:
        selector = LabelSelector(tuple(dict.fromkeys((*selector.requirements, *own))))
    return Constraint(
        constraint.topologyKey,
        constraint.maxSkew,
        selector,
        constraint.minDomains or 1,
        constraint.nodeAffinityPolicy != "Ignore",
        constraint.nodeTaintsPolicy == "Honor",
    )


def _defaults(cycle: Cycle) -> list[Constraint]:
    """What applies to pods that say nothing (upstream's system defaults)."""
    selector = cycle.objects.default_selector(cycle.pod)
    if selector.empty:
        return []
    return [Constraint(HOSTNAME, 3, selector), Constraint(ZONE, 5, selector)]


def with_labels(cluster: Cluster, constraints: Iterable[Constraint]) -> Mask:
    """Nodes that have the labels of all constraints."""
    masks = (cluster.label(constraint.key).column >= 0 for constraint in constraints)
    return reduce(np.logical_and, masks, cluster.alive)


def included(cluster: Cluster, pod: PodInfo, constraint: Constraint) -> Mask:
    """Nodes that a constraint looks at."""
    result = cluster.alive
    if constraint.honor_affinity:
        result = result & matching_nodes(cluster, pod)
    if constraint.honor_taints:
        result = result & ~untolerated(cluster, pod)
    return result


def matching_pods(cluster: Cluster, pod: PodInfo, constraint: Constraint) -> Counts:
    """Pods of the same namespace per node that match and are there to stay."""
    if constraint.selector.empty or constraint.selector.nothing:
        return np.zeros(cluster.size, np.int64)
    wanted = ((frozenset([pod.namespace]), constraint.selector),)
    return cluster.count_pods(wanted, skip_deleting=True)


def _normalised(raw: Numbers, scored: Mask) -> Numbers:
    """Fewer is better; nodes that are not scored get nothing."""
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
