"""InterPodAffinity, with the state that upstream keeps between PreFilter and Filter."""

from __future__ import annotations

from dataclasses import dataclass

from navarch.api.types.core_v1 import Pod, PodAffinityTerm

from .plugin import Facts, FilterPlugin, NodeState, PreFiltered, Rejection
from .selectors import Selector, matches, parsed

HARD_WEIGHT = 1
AFFINITY, ANTI, EXISTING = "affinity", "anti-affinity", "anti-affinity of others"


@dataclass(frozen=True)
class Term:
    """A term of a pod. It means the pod's own namespace when it names none in any way."""

    facts: Facts
    owner: Pod
    term: PodAffinityTerm
    weight: int = 0

    @property
    def key(self) -> str:
        return self.term.topologyKey

    @property
    def selector(self) -> Selector:
        return parsed(self.term.labelSelector)

    def covers(self, namespace: str) -> bool:
        if not self.term.namespaces and self.term.namespaceSelector is None:
            return namespace == self.owner.metadata.namespace
        if namespace in self.term.namespaces:
            return True
        labels = self.facts.namespace_labels(namespace)
        return matches(parsed(self.term.namespaceSelector), labels)

    def matches(self, pod: Pod) -> bool:
        meta = pod.metadata
        return self.covers(meta.namespace) and matches(self.selector, meta.labels)


def required(facts: Facts, pod: Pod, anti: bool) -> list[Term]:
    affinity = pod.spec.affinity
    if affinity is None:
        return []
    source = affinity.podAntiAffinity if anti else affinity.podAffinity
    if source is None:
        return []
    terms = source.requiredDuringSchedulingIgnoredDuringExecution
    return [Term(facts, pod, term) for term in terms]


def preferred(facts: Facts, pod: Pod, anti: bool) -> list[Term]:
    affinity = pod.spec.affinity
    if affinity is None:
        return []
    source = affinity.podAntiAffinity if anti else affinity.podAffinity
    if source is None:
        return []
    terms = source.preferredDuringSchedulingIgnoredDuringExecution
    return [Term(facts, pod, each.podAffinityTerm, each.weight) for each in terms]


def all_match(terms: list[Term], pod: Pod) -> bool:
    return bool(terms) and all(term.matches(pod) for term in terms)


class InterPodAffinity(FilterPlugin):
    """`state` counts by (what, topology key, value). No entry stays at zero."""

    name = "InterPodAffinity"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.near = required(facts, self.pod, anti=False)
        self.far = required(facts, self.pod, anti=True)

    def pre_filter(self) -> PreFiltered:
        for state in self.facts.nodes.values():
            for pod in state.pods:
                self._update(pod, state, 1)
        if not self.near and not self.far and not self.state:
            return "skip"
        return None

    def add_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, state, 1)

    def remove_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, state, -1)

    def _update(self, pod: Pod, state: NodeState, sign: int) -> None:
        for term in required(self.facts, pod, anti=True):
            if term.matches(self.pod):
                self._count(EXISTING, term.key, state, sign)
        if all_match(self.near, pod):
            for term in self.near:
                self._count(AFFINITY, term.key, state, sign)
        for term in self.far:
            if term.matches(pod):
                self._count(ANTI, term.key, state, sign)

    def _count(self, what: str, key: str, state: NodeState, sign: int) -> None:
        if key not in state.labels:
            return
        place = (what, key, state.labels[key])
        self.state[place] = self.state.get(place, 0) + sign
        if self.state[place] == 0:
            del self.state[place]

    def _found(self, what: str, key: str, state: NodeState) -> int:
        return self.state.get((what, key, state.labels.get(key)), 0)

    def filter(self, state: NodeState) -> Rejection | None:
        if not self._has_friends(state):
            return self.unresolvable("node(s) didn't match pod affinity rules")
        for term in self.far:
            if term.key in state.labels and self._found(ANTI, term.key, state) > 0:
                return self.unschedulable("node(s) didn't match pod anti-affinity rules")
        for key in state.labels:
            if self._found(EXISTING, key, state) > 0:
                return self.unschedulable(
                    "node(s) didn't satisfy existing pods anti-affinity rules"
                )
        return None

    def _has_friends(self, state: NodeState) -> bool:
        if any(term.key not in state.labels for term in self.near):
            return False
        if all(self._found(AFFINITY, term.key, state) > 0 for term in self.near):
            return True
        nobody = not any(isinstance(key, tuple) and key[0] == AFFINITY for key in self.state)
        return nobody and all_match(self.near, self.pod)


def scores(facts: Facts, feasible: list[NodeState]) -> dict[str, int] | None:
    """None: skipped."""
    pod = facts.pod
    buckets: dict[tuple[str, str], int] = {}

    def add(term: Term, state: NodeState, weight: int) -> None:
        if term.key in state.labels:
            bucket = (term.key, state.labels[term.key])
            buckets[bucket] = buckets.get(bucket, 0) + weight

    for state in facts.nodes.values():
        for other in state.pods:
            for anti, sign in ((False, 1), (True, -1)):
                for term in preferred(facts, pod, anti):
                    if term.matches(other):
                        add(term, state, sign * term.weight)
                for term in preferred(facts, other, anti):
                    if term.matches(pod):
                        add(term, state, sign * term.weight)
            for term in required(facts, other, anti=False):
                if term.matches(pod):
                    add(term, state, HARD_WEIGHT)
    if not buckets:
        return None
    raw = {}
    for state in feasible:
        raw[state.name] = sum(buckets.get(pair, 0) for pair in state.labels.items())
    lowest, highest = min(raw.values()), max(raw.values())
    if highest == lowest:
        return dict.fromkeys(raw, 0)
    return {
        name: int(100.0 * ((value - lowest) / (highest - lowest))) for name, value in raw.items()
    }
