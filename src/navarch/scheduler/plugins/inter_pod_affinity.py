"""Affinity between pods: near to some, far from others, within a topology of nodes.

Three things reject a node: a required affinity of the pod that nobody there satisfies, a required
anti-affinity of the pod against somebody there, and one of somebody there against the pod. The
score counts preferences in both directions, and required affinities of pods that are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import ClassVar

import numpy as np

from navarch.api.types.core_v1 import Node
from navarch.scheduler.changes import ADD, UPDATE, Action, Change, Subject
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.configuration.arguments import InterPodAffinityArgs
from navarch.scheduler.counts import Counts, Tally
from navarch.scheduler.framework import MAX_SCORE, Code, Cycle, Plugin, Verdict
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import Kind, Term

AFFINITY = "node(s) didn't match pod affinity rules"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"

DEFAULTS = InterPodAffinityArgs()


class InterPodAffinity(Plugin):
    """Filters and scores by what pods say of each other."""

    name: ClassVar[str] = "InterPodAffinity"
    weight: ClassVar[int] = 2
    interests = (
        Subject.ASSIGNED_POD.when(*Action)
        | Subject.NODE.when(ADD, UPDATE)
        | Subject.OWN_POD.when(UPDATE)
    )

    def __init__(self, arguments: InterPodAffinityArgs = DEFAULTS) -> None:
        self.hard_weight = arguments.hardPodAffinityWeight
        """What a required affinity of a pod that is there is worth."""
        self.own_only = arguments.ignorePreferredTermsOfExistingPods
        """Pods without preferences of their own are not scored by those of others."""

    def looks_at_pods(self, cycle: Cycle) -> bool:
        pod, namespaces = cycle.pod, cycle.objects.namespaces
        kinds = {kind for kind, _, _ in pod.terms}
        kinds |= {group.kind for group in cycle.cluster.counts.groups_about(pod, namespaces)} - {
            Kind.REQUIRED
        }
        return not kinds.isdisjoint((Kind.REQUIRED, Kind.REQUIRED_ANTI))

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        unwanted = _unwanted(cycle)
        if unwanted is not None and not unwanted.any():
            unwanted = None
        reasons = (
            (_without_friends(cycle), AFFINITY, Code.UNRESOLVABLE),
            (_beside_foes(cycle), ANTI_AFFINITY, Code.UNSCHEDULABLE),
            (unwanted, EXISTING, Code.UNSCHEDULABLE),
        )
        verdicts: list[Verdict] = []
        judged: Mask | None = None
        # A node has one reason, the first of these that holds.
        for rejected, reason, code in reasons:
            if rejected is not None:
                mine = rejected if judged is None else rejected > judged
                verdicts.append(Verdict(mine, reason, code))
                judged = rejected if judged is None else judged | rejected
        if not verdicts:
            cycle.skipped.add(self.name)
            return None
        return verdicts

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod, nodes = cycle.cluster, cycle.pod, cycle.nodes
        namespaces = cycle.objects.namespaces
        parts: list[tuple[int, Term, Tally]] = []
        for kind, sign in ((Kind.PREFERRED, 1), (Kind.PREFERRED_ANTI, -1)):
            for weight, term in pod.terms_of_kind(kind):
                parts.append((sign * weight, term, _matching(cycle, [term])))
        if self.own_only and not parts:
            return None
        for group in cluster.counts.groups_about(pod, namespaces):
            if group.kind is Kind.REQUIRED:
                if self.hard_weight:
                    parts.append((self.hard_weight, group.term, group))
            elif group.kind is not Kind.REQUIRED_ANTI:
                sign = -1 if group.kind is Kind.PREFERRED_ANTI else 1
                parts.append((sign * group.weight, group.term, group))
        if not parts:
            return None
        raw = np.zeros(len(nodes), np.int64)
        for weight, term, found in parts:
            column = cluster.label(term.topology_key).column
            raw += weight * _sums(cluster, term, found)[column[nodes]]
        lowest, spread = raw.min(), raw.max() - raw.min()
        if spread == 0:
            return None
        scores: Numbers = (MAX_SCORE * ((raw - lowest) / spread)).astype(np.int64)
        return scores

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.NODE:
            return _helped_by_node(pod, change)
        if change.subject is Subject.OWN_POD:
            return bool(change.old.labels != change.new.labels)
        return _helped_by_pod(pod, change)


def _matching(cycle: Cycle, terms: list[Term]) -> Tally:
    """Pods per node that match every one of the terms."""
    namespaces = cycle.objects.namespaces
    wanted = tuple((term.resolved(namespaces), term.selector) for term in terms)
    return cycle.cluster.tally(wanted)


def _sums(cluster: Cluster, term: Term, found: Tally) -> Counts:
    """The pods in each domain of the term's topology."""
    return cluster.domains(found, term.topology_key, "alive", lambda: cluster.alive)


def _where_any(cluster: Cluster, term: Term, found: Tally) -> Mask:
    """Nodes in whose domain there are any of these pods."""
    column = cluster.label(term.topology_key).column
    return (_sums(cluster, term, found) > 0)[column]


def _without_friends(cycle: Cycle) -> Mask | None:
    """Nodes where a required affinity is not satisfied. Only a pod that matches all terms counts
    as a friend. The first of a group of friends may go anywhere."""
    cluster, pod = cycle.cluster, cycle.pod
    terms = [term for _, term in pod.terms_of_kind(Kind.REQUIRED)]
    if not terms:
        return None
    friends = _matching(cycle, terms)
    sums = [_sums(cluster, term, friends) for term in terms]
    columns = [cluster.label(term.topology_key).column for term in terms]
    if not any(each.any() for each in sums) and all(
        term.matches(pod, cycle.objects.namespaces) for term in terms
    ):
        return _any_of(column < 0 for column in columns)
    # Without the label a node is in the last place, which stays zero.
    return _any_of((each == 0)[column] for each, column in zip(sums, columns, strict=True))


def _beside_foes(cycle: Cycle) -> Mask | None:
    """Nodes in a domain with a pod that this one must be apart from."""
    terms = [term for _, term in cycle.pod.terms_of_kind(Kind.REQUIRED_ANTI)]
    if not terms:
        return None
    cluster = cycle.cluster
    return _any_of(_where_any(cluster, term, _matching(cycle, [term])) for term in terms)


def _unwanted(cycle: Cycle) -> Mask | None:
    """Nodes in a domain with a pod that must be apart from this one."""
    about = cycle.cluster.counts.groups_about(cycle.pod, cycle.objects.namespaces)
    groups = [group for group in about if group.kind is Kind.REQUIRED_ANTI]
    if not groups:
        return None
    return _any_of(_where_any(cycle.cluster, group.term, group) for group in groups)


def _any_of(masks: Iterable[Mask]) -> Mask:
    together: Mask = reduce(or_, masks)
    return together


def _helped_by_pod(pod: PodInfo, change: Change) -> bool:
    """A friend came or became one, or a foe went. Selectors of namespaces are taken to match:
    a try too many is better than one too few."""
    old, new = change.old, change.new
    friends = [term for _, term in pod.terms_of_kind(Kind.REQUIRED)]
    if friends and _all_match(friends, new) and not _all_match(friends, old):
        return True
    # The last friend may have gone, and then the pod may be the first of its own kind.
    if friends and new is None and _all_match(friends, old) and _all_match(friends, pod):
        return True
    return old is not None and _apart(pod, old) and not (new is not None and _apart(pod, new))


def _apart(pod: PodInfo, other: PodInfo) -> bool:
    """Whether one of the two keeps the other away."""
    return any(
        _may_match(term, second)
        for first, second in ((pod, other), (other, pod))
        for _, term in first.terms_of_kind(Kind.REQUIRED_ANTI)
    )


def _all_match(terms: list[Term], pod: PodInfo | None) -> bool:
    return pod is not None and all(_may_match(term, pod) for term in terms)


def _may_match(term: Term, pod: PodInfo) -> bool:
    known = term.namespace_selector is not None or pod.namespace in term.namespaces
    return known and term.selector.matches(pod.labels)


def _helped_by_node(pod: PodInfo, change: Change) -> bool:
    """A node came, or moved between domains, that matters to the pod."""
    if change.action is Action.ADD:
        return True
    old: Node = change.old
    new: Node = change.new
    return old.metadata.labels != new.metadata.labels
