"""PodTopologySpread, with the state that upstream keeps between PreFilter and Filter.

Two things of that state show: a selector that is empty counts no pod in PreFilter, but every pod
that is added or removed afterwards; and pods on their way out do not count in PreFilter, but do
when they are removed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from navarch.api.types.core_v1 import Node, Pod

from .plugin import Facts, FilterPlugin, NodeState, PreFiltered, Rejection
from .selectors import Selector, exactly, has_untolerated_taint, matches, parsed, wants_node

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
SKEWED = "node(s) didn't match pod topology spread constraints"


@dataclass(frozen=True)
class Constraint:
    key: str
    max_skew: int
    selector: Selector
    min_domains: int = 1
    honors_affinity: bool = True
    honors_taints: bool = False

    def includes(self, pod: Pod, node: Node) -> bool:
        if self.honors_affinity and not wants_node(pod, node):
            return False
        return not (self.honors_taints and has_untolerated_taint(pod, node))


def constraints_of(pod: Pod, when_unsatisfiable: str) -> list[Constraint]:
    result = []
    for each in pod.spec.topologySpreadConstraints:
        if each.whenUnsatisfiable != when_unsatisfiable:
            continue
        selector = parsed(each.labelSelector)
        labels = pod.metadata.labels
        own = {key: labels[key] for key in each.matchLabelKeys if key in labels}
        if selector is not None:
            selector = exactly(own) + selector
        result.append(
            Constraint(
                each.topologyKey,
                each.maxSkew,
                selector,
                1 if each.minDomains is None else each.minDomains,
                each.nodeAffinityPolicy in (None, "Honor"),
                each.nodeTaintsPolicy == "Honor",
            )
        )
    return result


def has_all_keys(labels: dict[str, str], constraints: list[Constraint]) -> bool:
    return all(constraint.key in labels for constraint in constraints)


def count(pods: list[Pod], selector: Selector, namespace: str) -> int:
    if selector is not None and not selector:
        return 0
    found = 0
    for pod in pods:
        if pod.metadata.deletionTimestamp or pod.metadata.namespace != namespace:
            continue
        if matches(selector, pod.metadata.labels):
            found += 1
    return found


class PodTopologySpread(FilterPlugin):
    name = "PodTopologySpread"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.constraints = constraints_of(self.pod, "DoNotSchedule")

    def pre_filter(self) -> PreFiltered:
        if not self.constraints:
            return "skip"
        for state in self.facts.nodes.values():
            if not has_all_keys(state.labels, self.constraints):
                continue
            for number, each in enumerate(self.constraints):
                if not each.includes(self.pod, state.node):
                    continue
                domain = (number, state.labels[each.key])
                here = count(state.pods, each.selector, self.pod.metadata.namespace)
                self.state[domain] = self.state.get(domain, 0) + here
        return None

    def add_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, state, 1)

    def remove_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, state, -1)

    def _update(self, pod: Pod, state: NodeState, sign: int) -> None:
        if pod.metadata.namespace != self.pod.metadata.namespace:
            return
        if not has_all_keys(state.labels, self.constraints):
            return
        for number, each in enumerate(self.constraints):
            if not matches(each.selector, pod.metadata.labels):
                continue
            if each.includes(self.pod, state.node):
                domain = (number, state.labels[each.key])
                self.state[domain] = self.state.get(domain, 0) + sign

    def filter(self, state: NodeState) -> Rejection | None:
        for number, each in enumerate(self.constraints):
            if each.key not in state.labels:
                return self.unresolvable(f"{SKEWED} (missing required label)")
            domains = {
                key[1]: found
                for key, found in self.state.items()
                if isinstance(key, tuple) and key[0] == number
            }
            least = min(domains.values(), default=0)
            if len(domains) < each.min_domains:
                least = 0
            itself = 1 if matches(each.selector, self.pod.metadata.labels) else 0
            there = domains.get(state.labels[each.key], 0)
            if there + itself - least > each.max_skew:
                return self.unschedulable(SKEWED)
        return None


def default_selector(facts: Facts) -> Selector:
    """The Services of the pod, and the owner that it has."""
    world, meta = facts.world, facts.pod.metadata
    labels: dict[str, str] = {}
    for service in world.services:
        selector = service.spec.selector
        if service.metadata.namespace != meta.namespace or not selector:
            continue
        if matches(exactly(selector), meta.labels):
            labels.update(selector)
    owner = next((each for each in meta.ownerReferences if each.controller), None)
    if owner is None:
        return exactly(labels)
    which = (owner.apiVersion, owner.kind)
    if which == ("v1", "ReplicationController"):
        for controller in world.controllers:
            if (controller.metadata.namespace, controller.metadata.name) == (
                meta.namespace,
                owner.name,
            ):
                labels.update(controller.spec.selector)
        return exactly(labels)
    further: Selector = []
    if which == ("apps/v1", "ReplicaSet"):
        for replica_set in world.replica_sets:
            found = replica_set.metadata
            if (found.namespace, found.name) == (meta.namespace, owner.name):
                further = parsed(replica_set.spec.selector)
    elif which == ("apps/v1", "StatefulSet"):
        for stateful_set in world.stateful_sets:
            found = stateful_set.metadata
            if (found.namespace, found.name) == (meta.namespace, owner.name):
                further = parsed(stateful_set.spec.selector)
    return exactly(labels) + (further or [])


def scores(facts: Facts, feasible: list[NodeState]) -> dict[str, int] | None:
    """None: skipped."""
    pod = facts.pod
    given = bool(pod.spec.topologySpreadConstraints)
    if given:
        constraints = constraints_of(pod, "ScheduleAnyway")
    else:
        selector = default_selector(facts)
        constraints = [Constraint(HOSTNAME, 3, selector), Constraint(ZONE, 5, selector)]
        if not selector:
            constraints = []
    if not constraints:
        return None
    ignored = {s.name for s in feasible if given and not has_all_keys(s.labels, constraints)}
    counted = [state for state in feasible if state.name not in ignored]
    totals: list[dict[str, int]] = []
    weights = []
    for each in constraints:
        total: dict[str, int] = {}
        if each.key != HOSTNAME:
            total = {state.labels.get(each.key, ""): 0 for state in counted}
        size = len(counted) if each.key == HOSTNAME else len(total)
        weights.append(math.log(size + 2))
        for state in facts.nodes.values():
            if given and not has_all_keys(state.labels, constraints):
                continue
            value = state.labels.get(each.key, "")
            if value in total and each.includes(pod, state.node):
                total[value] += count(state.pods, each.selector, pod.metadata.namespace)
        totals.append(total)
    raw: dict[str, int] = {}
    for state in counted:
        score = 0.0
        for each, total, weight in zip(constraints, totals, weights, strict=True):
            if each.key not in state.labels:
                continue
            if each.key == HOSTNAME:
                there = count(state.pods, each.selector, pod.metadata.namespace)
            else:
                there = total[state.labels[each.key]]
            score += there * weight + (each.max_skew - 1)
        raw[state.name] = math.floor(score + 0.5)
    highest, lowest = max(raw.values(), default=0), min(raw.values(), default=0)
    result = dict.fromkeys(ignored, 0)
    for name, number in raw.items():
        result[name] = 100 if highest == 0 else 100 * (highest + lowest - number) // highest
    return result
