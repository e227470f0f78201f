"""The cycle: PreFilter, Filter, Score, and if no node is left, preemption and the message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Pod

from . import scores
from .affinity import InterPodAffinity
from .filters import (
    NodeAffinity,
    NodeDeclaredFeatures,
    NodeName,
    NodePorts,
    NodeResourcesFit,
    NodeUnschedulable,
    TaintToleration,
)
from .plugin import Facts, FilterPlugin, NodeState, Rejection
from .preemption import preempt
from .spread import PodTopologySpread
from .turns import NodeOrder, nodes_wanted, top_of_heap
from .volumes import NodeVolumeLimits, VolumeBinding, VolumeRestrictions, VolumeZone
from .world import World

IN_ORDER: tuple[type[FilterPlugin], ...] = (
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    NodeDeclaredFeatures,
)


@dataclass(frozen=True)
class Placed:
    """The nodes that are equally good, and the one of them whose turn it is; "" when upstream
    leaves that to chance."""

    best: frozenset[str]
    chosen: str
    scores: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """`nominated`: the nodes of which any may be chosen to make room on, with the victims there;
    empty when none is. `is_cleared`: a nomination that the pod has is taken back."""

    message: str
    plugins: frozenset[str] = frozenset()
    nominated: dict[str, frozenset[str]] = field(default_factory=dict)
    is_cleared: bool = False


class Reference:
    """Keeps nothing but what decides whose turn it is: the order in which nodes came, and where the
    last round stopped. Nominations are those that pods show."""

    def __init__(self) -> None:
        self.order = NodeOrder()
        self.start = 0

    def decide(self, world: World, pod: Pod) -> Placed | Refused:
        self.order.follow(world.nodes)
        names = self.order.names()
        if not names:
            plugins = frozenset(["NodeResourcesFit"])
            return Refused("no nodes available to schedule pods", plugins, is_cleared=True)
        nodes = {node.metadata.name: node for node in world.nodes}
        states = {name: NodeState(nodes[name], world.pods_on(name)) for name in names}
        attempt = Attempt(Facts(world, states, pod), self.start)
        decision = attempt.decide()
        self.start = (self.start + attempt.processed) % len(names)
        return decision


class Attempt:
    """One attempt. `plugins` are those that have not said Skip, with what they have counted;
    `processed` is how many nodes were looked at."""

    def __init__(self, facts: Facts, start: int) -> None:
        self.facts = facts
        self.start = start
        self.processed = 0
        self.plugins: list[FilterPlugin] = []
        self.statuses: dict[str, Rejection] = {}

    def decide(self) -> Placed | Refused:
        facts = self.facts
        allowed: set[str] | None = None
        limiting: list[str] = []
        for kind in IN_ORDER:
            plugin = kind(facts)
            found = plugin.pre_filter()
            if found == "skip":
                continue
            if isinstance(found, Rejection):
                return self._rejected_early(found)
            if isinstance(found, set):
                limiting.append(plugin.name)
                allowed = found if allowed is None else allowed & found
            self.plugins.append(plugin)
        nominated = facts.pod.status.nominatedNodeName
        if nominated in facts.nodes and self.check(facts.nodes[nominated]) is None:
            return Placed(frozenset([nominated]), nominated)
        names = [name for name in facts.nodes if allowed is None or name in allowed]
        feasible = self._find(names)
        if len(feasible) == 1:
            return Placed(frozenset([feasible[0].name]), feasible[0].name)
        if feasible:
            return self._best(feasible, is_ordered=allowed is None)
        text = f"node(s) didn't satisfy plugin(s) [{' '.join(sorted(limiting))}]"
        for name in facts.nodes.keys() - set(names):
            self.statuses[name] = Rejection("UU", (text,))
        return self._refused(limiting)

    def _find(self, names: list[str]) -> list[NodeState]:
        """Walks round until one more node is found than is wanted."""
        feasible: list[NodeState] = []
        for number in range(len(names)):
            name = names[(self.start + number) % len(names)]
            rejection = self.check(self.facts.nodes[name])
            if rejection is not None:
                self.statuses[name] = rejection
            elif len(feasible) == nodes_wanted(len(names)):
                break
            else:
                feasible.append(self.facts.nodes[name])
        self.processed = len(feasible) + len(self.statuses)
        return feasible

    def _best(self, feasible: list[NodeState], is_ordered: bool) -> Placed:
        total = scores.total(self.facts, feasible)
        highest = max(total.values())
        best = frozenset(name for name, score in total.items() if score == highest)
        chosen = feasible[top_of_heap([total[state.name] for state in feasible])].name
        return Placed(best, chosen if is_ordered else "", total)

    def check(
        self, state: NodeState, plugins: list[FilterPlugin] | None = None
    ) -> Rejection | None:
        """With the pods that the node is kept for, and if that is well, without them."""
        plugins = self.plugins if plugins is None else plugins
        coming = self._coming(state.name)
        if coming:
            there = state.copy()
            copies = [plugin.clone() for plugin in plugins]
            for pod in coming:
                there.pods.append(pod)
                for plugin in copies:
                    plugin.add_pod(pod, there)
            rejection = first_rejection(copies, there)
            if rejection is not None:
                return rejection
        return first_rejection(plugins, state)

    def _coming(self, node: str) -> list[Pod]:
        pod = self.facts.pod
        return [
            other
            for other in self.facts.world.pods
            if other.status.nominatedNodeName == node
            and not other.spec.nodeName
            and other.metadata.uid != pod.metadata.uid
            and priority(other) >= priority(pod)
        ]

    def _rejected_early(self, found: Rejection) -> Refused:
        count = len(self.facts.nodes)
        text = f"0/{count} nodes are available: {', '.join(found.reasons)}. not found"
        return Refused(text, frozenset([found.plugin]))

    def _refused(self, limiting: Iterable[str]) -> Refused:
        plugins = {status.plugin for status in self.statuses.values()} | set(limiting)
        message = fit_error(len(self.facts.nodes), self.statuses)
        outcome = preempt(self)
        if outcome.nominated:
            text = message
        else:
            text = f"{message} no new claims to deallocate, preemption: {outcome.message}"
        return Refused(text, frozenset(plugins - {""}), outcome.nominated, outcome.is_cleared)


def first_rejection(plugins: list[FilterPlugin], state: NodeState) -> Rejection | None:
    for plugin in plugins:
        rejection = plugin.filter(state)
        if rejection is not None:
            return rejection
    return None


def fit_error(count: int, statuses: dict[str, Rejection]) -> str:
    counts = Counter(reason for status in statuses.values() for reason in status.reasons)
    body = ", ".join(sorted(f"{number} {reason}" for reason, number in counts.items()))
    return f"0/{count} nodes are available: {body}."


def priority(pod: Pod) -> int:
    return pod.spec.priority or 0
