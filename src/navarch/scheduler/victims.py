"""Which pods would have to leave a node for another to fit there.

All pods of lower priority are thought away; if the pod fits then, as many of them as possible are
brought back, those first whose budget forbids to disrupt them, and the more important before the
less. Who cannot stay is a victim.

Mostly it is only room that is lacking: then sums of requests tell, and no filter is asked. If what
pods are on the node matters in other ways (affinity, ports, volumes), the filters judge the cluster
as it would be. More pods hardly ever make a node better: so if the pod fits beside all that there
is room for, it would have fitted at every step before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from navarch.api.selectors import LabelSelector
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.scheduler.cluster import PODS, Cluster, Mask
from navarch.scheduler.filtering import rejections
from navarch.scheduler.framework import Cycle, PodRejected, Profile
from navarch.scheduler.objects import Objects
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.requests import Requests
from navarch.scheduler.terms import Kind, parse_selector

NO_VICTIMS = "No preemption victims found for incoming pod"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could take the pod if the victims went."""

    node: str
    victims: tuple[PodInfo, ...]
    """The most important first."""
    violations: int = 0
    """How many of them their budgets forbid to disrupt."""


LANE = 80
"""Bits for one amount where several stand side by side in an integer. The highest of them stays
free: it tells when a subtraction borrows, so all amounts are compared at once."""


class Sums:
    """Requests of pods and what is left on nodes, of what one pod asks for."""

    def __init__(self, cycle: Cycle, fit: NodeResourcesFit) -> None:
        cluster, amounts = cycle.cluster, fit.counted(cycle.pod)
        self.names = [name for name, _ in amounts]
        rows = [PODS, *(cluster.resource(name) for name in self.names)]
        wanted = np.array([1, *(value for _, value in amounts)], np.int64)[:, None]
        left = cluster.allocatable[rows] - cluster.requested[rows] - wanted
        self._left: list[list[int]] = left.T.tolist()
        """By slot, what would be left of pods and resources if the pod were there."""
        self._guard = _packed([1 << (LANE - 1)] * len(rows))
        self._shares: dict[int, tuple[Requests, int]] = {}

    def shares(self, pods: Iterable[PodInfo]) -> list[int]:
        """What each pod takes. Pods of a kind have their requests in common."""
        known, result = self._shares, []
        for each in pods:
            requests = each.requests
            entry = known.get(id(requests))
            if entry is None:
                amounts = dict(requests.amounts)
                share = _packed([1, *(amounts.get(name, 0) for name in self.names)])
                entry = known[id(requests)] = (requests, share)
            result.append(entry[1])
        return result

    def leaving(self, slot: int, order: list[PodInfo]) -> set[str] | None:
        """The uids of those that have to go; None: there is no room without all of them either."""
        guard, shares = self._guard, self.shares(order)
        here = self._left[slot]
        lacking = _packed([max(-value, 0) for value in here])
        left = _packed([max(value, 0) for value in here]) + sum(shares)
        after = (left | guard) - lacking
        if after & guard != guard:
            return None
        left = after ^ guard
        leaving = set()
        for each, share in zip(order, shares, strict=True):
            after = (left | guard) - share
            if after & guard == guard:
                left = after ^ guard
            else:
                leaving.add(each.uid)
        return leaving

    def reasons(self, slot: int, lower: list[PodInfo]) -> list[str]:
        """What is lacking without all of them."""
        freed = sum(self.shares(lower))
        texts = ["Too many pods", *(f"Insufficient {name}" for name in self.names)]
        mask = (1 << LANE) - 1
        return [
            text
            for number, (text, had) in enumerate(zip(texts, self._left[slot], strict=True))
            if had + (freed >> LANE * number & mask) < 0
        ]


def _packed(values: Iterable[int]) -> int:
    result = 0
    for number, value in enumerate(values):
        result |= value << LANE * number
    return result


class DryRun:
    """Looks for victims of one pod, on one node after the other."""

    def __init__(self, cycle: Cycle, profile: Profile, resolvable: Mask) -> None:
        self._cycle = cycle
        self._budgets = Budgets(cycle.objects)
        looking = [each for each in profile.filters if each.looks_at_pods(cycle)]
        self._profile = replace(
            profile,
            filters=tuple(looking),
            pre_filters=tuple(each for each in profile.pre_filters if each in looking),
        )
        """Only the plugins that may say something else once pods have gone."""
        self._whole = profile
        self._open = _passing(cycle, profile, resolvable)
        """Nodes that all others let pass."""
        fit = next((each for each in looking if isinstance(each, NodeResourcesFit)), None)
        has_sums = fit is not None and fit.is_all_about_room(cycle)
        self._sums = Sums(cycle, fit) if fit is not None and has_sums else None
        self._is_plain = has_sums and len(looking) == 1
        self._friends = [term for _, term in cycle.pod.terms_of_kind(Kind.REQUIRED)]

    def victims(self, slot: int) -> Candidate | list[str]:
        """The fewest pods that have to leave this node, or why that would not do."""
        cluster, pod = self._cycle.cluster, self._cycle.pod
        lower = [each for each in cluster.pods_at[slot].values() if each.priority < pod.priority]
        if not lower:
            return [NO_VICTIMS]
        name = cluster.names[slot]
        lower.sort(key=attrgetter("importance"))
        violating = self._budgets.violated_by(lower)
        order = sorted(lower, key=lambda info: info.uid not in violating) if violating else lower
        leaving = self._leaving(slot, order)
        if isinstance(leaving, list):
            return leaving
        if not leaving:
            return [f'expected at least one victim pod on node "{name}"']
        victims = tuple(each for each in lower if each.uid in leaving)
        return Candidate(name, victims, len(violating & leaving))

    def _leaving(self, slot: int, order: list[PodInfo]) -> set[str] | list[str]:
        if self._sums is None or not self._open[slot]:
            return self._judged(slot, order)
        leaving = self._sums.leaving(slot, order)
        cluster = self._cycle.cluster
        is_alone = not cluster.nominations.ahead_of(self._cycle.pod, cluster.names[slot])
        if self._is_plain and is_alone:
            return self._sums.reasons(slot, order) if leaving is None else leaving
        if leaving is None or not leaving or not self._is_monotone(order):
            return self._judged(slot, order)
        with without(cluster, [each for each in order if each.uid in leaving], slot):
            if not rejections(self._cycle, self._profile, slot):
                return leaving
        return self._judged(slot, order)

    def _is_monotone(self, pods: Iterable[PodInfo]) -> bool:
        """Whether the node is no better with more of these pods. A friend that stays may be what
        lets the pod in at all."""
        if self._cycle.pod.ports or not self._friends:
            return not self._cycle.pod.ports
        namespaces = self._cycle.objects.namespaces
        return not any(all(t.matches(each, namespaces) for t in self._friends) for each in pods)

    def _judged(self, slot: int, order: list[PodInfo]) -> set[str] | list[str]:
        """By the filters, one pod after the other."""
        cluster, node = self._cycle.cluster, self._cycle.cluster.names[slot]
        profile = self._profile if self._open[slot] else self._whole
        leaving = set()
        with without(cluster, order, slot):
            if verdicts := rejections(self._cycle, profile, slot):
                return [verdict.reason for verdict in verdicts]
            for each in order:
                cluster.set_pod(each, node)
                if rejections(self._cycle, profile, slot):
                    cluster.remove_pod(each.uid)
                    leaving.add(each.uid)
        return leaving


@contextmanager
def without(cluster: Cluster, pods: Iterable[PodInfo], slot: int) -> Iterator[None]:
    """As if these pods were not on their node."""
    node = cluster.names[slot]
    away = []
    try:
        for each in pods:
            cluster.remove_pod(each.uid)
            away.append(each)
        yield
    finally:
        for each in away:
            cluster.set_pod(each, node)


class Budgets:
    """The disruption budgets of namespaces, looked up once."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._found: dict[str, list[tuple[PodDisruptionBudget, LabelSelector]]] = {}

    def violated_by(self, pods: Sequence[PodInfo]) -> frozenset[str]:
        """The uids of those that some budget has no room for any more once those before them are
        gone. What the disruption controller knows to be on its way out is counted already."""
        left: dict[str, int] = {}
        result = set()
        for pod in pods:
            budgets = self._found.get(pod.namespace)
            if budgets is None:
                budgets = self._of(pod.namespace)
            if not budgets or not pod.labels:
                continue
            for budget, selector in budgets:
                if pod.name in budget.status.disruptedPods or not selector.matches(pod.labels):
                    continue
                key = f"{pod.namespace}/{budget.metadata.name}"
                left[key] = left.get(key, budget.status.disruptionsAllowed) - 1
                if left[key] < 0:
                    result.add(pod.uid)
                    break
        return frozenset(result)

    def _of(self, namespace: str) -> list[tuple[PodDisruptionBudget, LabelSelector]]:
        pairs = ((b, parse_selector(b.spec.selector)) for b in self._objects.budgets(namespace))
        found = self._found[namespace] = [pair for pair in pairs if not pair[1].empty]
        return found


def _passing(cycle: Cycle, profile: Profile, among: Mask) -> Mask:
    """Nodes that all filters let pass that do not look at pods."""
    attempt = Cycle(cycle.pod, cycle.cluster, cycle.objects, cycle.rng, among)
    try:
        for plugin in profile.pre_filters:
            plugin.pre_filter(attempt)
    except PodRejected:
        return np.zeros_like(among)
    for plugin in profile.filters:
        if not plugin.looks_at_pods(cycle):
            for verdict in plugin.filter(attempt) or ():
                attempt.feasible = attempt.feasible & ~verdict.rejected
    return attempt.feasible
