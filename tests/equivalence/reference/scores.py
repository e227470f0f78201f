"""The scores of the default profile, and their sum."""

from __future__ import annotations

from . import affinity, spread
from .plugin import Facts, NodeState
from .requests import Units, filled, filled_on_node, in_units, pod_requests, read
from .selectors import is_tolerated, term_selects

MIB = 1024 * 1024
Scores = dict[str, int]


def normalised(raw: Scores, reverse: bool = False) -> Scores:
    highest = max(raw.values(), default=0)
    if highest == 0:
        return dict.fromkeys(raw, 100 if reverse else 0)
    scaled = {name: 100 * value // highest for name, value in raw.items()}
    return {name: 100 - value for name, value in scaled.items()} if reverse else scaled


def taint_toleration(facts: Facts, feasible: list[NodeState]) -> Scores:
    raw = {}
    for state in feasible:
        raw[state.name] = 0
        for taint in state.node.spec.taints:
            tolerated = is_tolerated(facts.pod.spec.tolerations, taint)
            if taint.effect == "PreferNoSchedule" and not tolerated:
                raw[state.name] += 1
    return normalised(raw, reverse=True)


def node_affinity(facts: Facts, feasible: list[NodeState]) -> Scores | None:
    rules = facts.pod.spec.affinity
    if rules is None or rules.nodeAffinity is None:
        return None
    preferred = rules.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution
    if not preferred:
        return None
    raw = {}
    for state in feasible:
        raw[state.name] = 0
        for each in preferred:
            if term_selects(each.preference, state.name, state.labels):
                raw[state.name] += each.weight
    return normalised(raw)


def least_allocated(facts: Facts, feasible: list[NodeState]) -> Scores:
    own = filled(facts.pod)
    result = {}
    for state in feasible:
        allocatable = in_units(read(state.node.status.allocatable))
        score = weights = 0
        for name in ("cpu", "memory"):
            room = allocatable.get(name, 0)
            if room == 0:
                continue
            wanted = own.get(name, 0)
            for pod in state.pods:
                wanted += filled_on_node(pod).get(name, 0)
            score += 0 if wanted > room else (room - wanted) * 100 // room
            weights += 1
        result[state.name] = score // weights if weights else 0
    return result


def balanced_allocation(facts: Facts, feasible: list[NodeState]) -> Scores | None:
    own = in_units(pod_requests(facts.pod))
    if not own.get("cpu", 0) and not own.get("memory", 0):
        return None
    result = {}
    for state in feasible:
        allocatable = in_units(read(state.node.status.allocatable))
        before: Units = {"cpu": 0, "memory": 0}
        for pod in state.pods:
            amounts = in_units(pod_requests(pod))
            before = {name: value + amounts.get(name, 0) for name, value in before.items()}
        after = {name: value + own.get(name, 0) for name, value in before.items()}
        gain = _balance(after, allocatable) - _balance(before, allocatable)
        result[state.name] = 50 + (50 + gain) // 2
    return result


def _balance(used: Units, allocatable: Units) -> int:
    shares = [
        min(used[name] / allocatable[name], 1.0)
        for name in ("cpu", "memory")
        if allocatable.get(name, 0)
    ]
    deviation = abs((shares[0] - shares[1]) / 2) if len(shares) == 2 else 0.0
    return int((1 - deviation) * 100.0)


def image_locality(facts: Facts, feasible: list[NodeState]) -> Scores:
    spec = facts.pod.spec
    wanted = [c.image for c in [*spec.initContainers, *spec.containers]]
    wanted += [v.image.reference for v in spec.volumes if v.image is not None]
    count = len(spec.initContainers) + len(spec.containers)
    result = {}
    for state in feasible:
        total = 0
        for name in wanted:
            if name.rfind(":") <= name.rfind("/"):
                name += ":latest"
            size = _image_size(state, name)
            if size is not None:
                having = sum(_image_size(s, name) is not None for s in facts.nodes.values())
                total += int(size * (having / len(facts.nodes)))
        low, high = 23 * MIB, 1000 * MIB * count
        result[state.name] = 100 * (min(max(total, low), high) - low) // (high - low)
    return result


def _image_size(state: NodeState, name: str) -> int | None:
    for image in state.node.status.images:
        if name in image.names:
            return image.sizeBytes
    return None


def by_plugin(facts: Facts, feasible: list[NodeState]) -> dict[str, Scores]:
    """Weighted; those that say nothing are left out."""
    found = {
        "TaintToleration": (3, taint_toleration(facts, feasible)),
        "NodeAffinity": (2, node_affinity(facts, feasible)),
        "NodeResourcesFit": (1, least_allocated(facts, feasible)),
        "PodTopologySpread": (2, spread.scores(facts, feasible)),
        "InterPodAffinity": (2, affinity.scores(facts, feasible)),
        "NodeResourcesBalancedAllocation": (1, balanced_allocation(facts, feasible)),
        "ImageLocality": (1, image_locality(facts, feasible)),
    }
    return {
        plugin: {name: weight * score for name, score in scores.items()}
        for plugin, (weight, scores) in found.items()
        if scores is not None
    }


def total(facts: Facts, feasible: list[NodeState]) -> Scores:
    result = {state.name: 0 for state in feasible}
    for scores in by_plugin(facts, feasible).values():
        for name, score in scores.items():
            result[name] += score
    return result
