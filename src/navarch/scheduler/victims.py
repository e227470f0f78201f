"""Which pods would have to leave a node for another to fit there.

All pods of lower priority are thought away; if the pod fits then, as many of them as possible are
brought back, those first whose budget forbids to disrupt them, and the more important before the
less. Who cannot stay is a victim.

Mostly it is only room that is lacking: then sums of requests tell, and no filter is asked. If what
pods are on the node matters in other ways (affinity, ports, volumes), the filters judge the cluster
as it would be; since more pods hardly ever make a node better, all that can stay are first brought
back at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from navarch.api.selectors import LabelSelector
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.scheduler.cluster import PODS, Mask
from navarch.scheduler.filtering import rejections
from navarch.scheduler.framework import Cycle, PodRejected, Profile
from navarch.scheduler.objects import Objects
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.requests import Requests
from navarch.scheduler.terms import parse_selector

NO_VICTIMS = "No preemption victims found for incoming pod"
LATER_THAN_ALL = "9999"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could take the pod if the victims went."""

    node: str
    victims: tuple[PodInfo, ...]
    """The most important first."""
    violations: int = 0
    """How many of them their budgets forbid to disrupt."""


class DryRun:
    """Looks for victims of one pod, on one node after the other."""

    def __init__(self, cycle: Cycle, profile: Profile, resolvable: Mask) -> None:
        self._cycle, self._profile = cycle, profile
        self._budgets = Budgets(cycle.objects)
        fit = next((each for each in profile.filters if isinstance(each, NodeResourcesFit)), None)
        self._plain: Mask | None = None
        """Nodes where nothing but room is lacking; None: there may be other things everywhere."""
        self._has_sums = fit is not None and fit.is_all_about_room(cycle)
        if fit is None or not self._has_sums:
            return
        others = [each for each in profile.filters if each is not fit]
        if not any(each.looks_at_pods(cycle) for each in others):
            self._plain = _passing(cycle, profile, resolvable)
        self._names = [name for name, _ in fit.counted(cycle.pod)]
        rows = [PODS, *(cycle.cluster.resource(name) for name in self._names)]
        wanted = np.array([1, *(value for _, value in fit.counted(cycle.pod))], np.int64)
        cluster = cycle.cluster
        left = cluster.allocatable[rows] - cluster.requested[rows] - wanted[:, None]
        self._left: list[list[int]] = left.T.tolist()
        """By slot, what would be left of the pods and the resources asked for."""
        self._shares: dict[int, tuple[Requests, tuple[int, ...]]] = {}

    def victims(self, slot: int) -> Candidate | list[str]:
        """The fewest pods that have to leave this node, or why that would not do."""
        cluster, pod = self._cycle.cluster, self._cycle.pod
        lower = [each for each in cluster.pods_at[slot].values() if each.priority < pod.priority]
        if not lower:
            return [NO_VICTIMS]
        name = cluster.names[slot]
        lower.sort(key=_importance)
        is_plain = self._plain is not None and self._plain[slot]
        if is_plain and not cluster.nominations.ahead_of(pod, name):
            leaving = self._lacking_room(slot, lower)
        else:
            leaving = self._judged_by_filters(slot, lower)
        if isinstance(leaving, list):
            return leaving
        if not leaving:
            return [f'expected at least one victim pod on node "{name}"']
        victims = tuple(each for each in lower if each.uid in leaving)
        violating = self._budgets.violated_by(lower) if self._budgets else frozenset()
        return Candidate(name, victims, len(violating & leaving))

    def _order(self, lower: list[PodInfo]) -> list[PodInfo]:
        violating = self._budgets.violated_by(lower)
        if not violating:
            return lower
        return sorted(lower, key=lambda info: info.uid not in violating)

    def _lacking_room(self, slot: int, lower: list[PodInfo]) -> set[str] | list[str]:
        """By sums of requests alone."""
        shares = [*map(self._share, lower)]
        freed = map(sum, zip(*shares, strict=True))
        left = [had + more for had, more in zip(self._left[slot], freed, strict=True)]
        if min(left) < 0:
            lacking = [name for name, value in zip(self._names, left[1:], strict=True) if value < 0]
            reasons = [f"Insufficient {name}" for name in lacking]
            return ["Too many pods", *reasons] if left[0] < 0 else reasons
        leaving = set()
        for each in self._order(lower):
            after = [had - share for had, share in zip(left, self._share(each), strict=True)]
            if min(after) < 0:
                leaving.add(each.uid)
            else:
                left = after
        return leaving

    def _share(self, info: PodInfo) -> tuple[int, ...]:
        """What a pod takes of the pods and the resources asked for. Pods of a kind have their
        requests in common."""
        requests = info.requests
        known = self._shares.get(id(requests))
        if known is None:
            amounts = dict(requests.amounts)
            share = (1, *(amounts.get(name, 0) for name in self._names))
            known = self._shares[id(requests)] = (requests, share)
        return known[1]

    def _judged_by_filters(self, slot: int, lower: list[PodInfo]) -> set[str] | list[str]:
        """By the filters, with the cluster as it would be; it is left as it was."""
        cluster, node = self._cycle.cluster, self._cycle.cluster.names[slot]
        away: dict[str, PodInfo] = {}

        def leave(pods: Iterable[PodInfo]) -> None:
            for each in pods:
                cluster.remove_pod(each.uid)
                away[each.uid] = each

        def come_back(pods: Iterable[PodInfo]) -> None:
            for each in pods:
                cluster.set_pod(away.pop(each.uid), node)

        def why_not() -> list[str]:
            found = rejections(self._cycle, self._profile, slot)
            return [verdict.reason for verdict in found]

        try:
            leave(lower)
            if reasons := why_not():
                return reasons
            if self._has_sums and not isinstance(found := self._lacking_room(slot, lower), list):
                come_back([each for each in lower if each.uid not in found])
                if not why_not():
                    return {*away}
                leave([each for each in lower if each.uid not in away])
            for each in self._order(lower):
                come_back([each])
                if why_not():
                    leave([each])
            return {*away}
        finally:
            come_back([*away.values()])


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
            for budget, selector in self._of(pod.namespace) if pod.labels else ():
                if pod.name in budget.status.disruptedPods or not selector.matches(pod.labels):
                    continue
                key = f"{pod.namespace}/{budget.metadata.name}"
                left[key] = left.get(key, budget.status.disruptionsAllowed) - 1
                if left[key] < 0:
                    result.add(pod.uid)
                    break
        return frozenset(result)

    def _of(self, namespace: str) -> list[tuple[PodDisruptionBudget, LabelSelector]]:
        found = self._found.get(namespace)
        if found is None:
            pairs = ((b, parse_selector(b.spec.selector)) for b in self._objects.budgets(namespace))
            found = self._found[namespace] = [pair for pair in pairs if not pair[1].empty]
        return found


def _passing(cycle: Cycle, profile: Profile, among: Mask) -> Mask:
    """Nodes that all filters but that for room let pass. None of them looks at pods."""
    attempt = Cycle(cycle.pod, cycle.cluster, cycle.objects, cycle.rng, among)
    try:
        for plugin in profile.pre_filters:
            plugin.pre_filter(attempt)
    except PodRejected:
        return np.zeros_like(among)
    for plugin in profile.filters:
        if not isinstance(plugin, NodeResourcesFit):
            for verdict in plugin.filter(attempt) or ():
                attempt.feasible = attempt.feasible & ~verdict.rejected
    return attempt.feasible


def start(info: PodInfo) -> str:
    """RFC 3339 in UTC sorts as text. What has not started is as new as can be."""
    return info.pod.status.startTime or LATER_THAN_ALL


def _importance(info: PodInfo) -> tuple[int, str]:
    """Sorts the most important first: of equals, that which runs longest."""
    return -info.priority, start(info)
