"""The numbers behind a verdict: by how much a node misses, which taint, which label, which pod.

Each rule that has something to add divides its nodes by what there is to say of them. The same
look-ups are used as by the plug-in itself, so both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from navarch.api.persistent_volumes import claim_class, is_fully_bound, requested
from navarch.api.types.core_v1 import NodeSelectorRequirement, NodeSelectorTerm
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.explanation_devices import missing_devices
from navarch.scheduler.framework import Cycle, Profile
from navarch.scheduler.node_selection import has_labels, matches_term, selected
from navarch.scheduler.plugins import inter_pod_affinity as affinity
from navarch.scheduler.plugins.node_ports import collide
from navarch.scheduler.plugins.pod_topology_spread import (
    HARD,
    LookedAt,
    constraints_of,
    without_label,
)
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import Kind, Term
from navarch.scheduler.tolerations import tolerates

GROUPS = 4
"""More different things than this are told as one."""
BINARY = ((2**40, "Ti"), (2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))
IN_BYTES = ("memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Detail:
    """Nodes of which the same is to be said."""

    nodes: Mask
    text: str
    remedy: str = ""


def details_of(
    cycle: Cycle, profile: Profile, plugin: str, reason: str, nodes: Mask
) -> Iterator[Detail]:
    """Together these cover the nodes, each once."""
    teller = TELLERS.get(plugin)
    yield from teller(cycle, reason, nodes) if teller else [Detail(nodes, "")]


def amount(name: str, value: int) -> str:
    """An amount of a resource as people write it."""
    if name == "cpu":
        return f"{value / 1000:g}"
    if name in IN_BYTES or name.startswith("hugepages-"):
        for size, unit in BINARY:
            if value >= size:
                return f"{value / size:.4g}{unit}"
    return str(value)


def _grouped(codes: Numbers, nodes: Mask, text: Callable[[int], str], remedy: str) -> list[Detail]:
    """One detail for each number that nodes have; the rare ones together if there are many."""
    numbers, counts = np.unique(codes[nodes], return_counts=True)
    order = [int(numbers[n]) for n in np.argsort(-counts, kind="stable")]
    told = order if len(order) <= GROUPS else order[: GROUPS - 1]
    found = [Detail(nodes & (codes == number), text(number), remedy) for number in told]
    if len(told) < len(order):
        rest = nodes & ~np.isin(codes, told)
        found.append(Detail(rest, f"{len(order) - len(told)} further, such as "
                                  f"{text(order[len(told)])}", remedy))  # fmt: skip
    return found


def _unschedulable(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    return [Detail(nodes, "cordoned", "kubectl uncordon NODE")]


def _room(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    """Not enough of a resource: what is asked, and where there is most."""
    cluster = cycle.cluster
    name = reason.removeprefix("Insufficient ")
    if name == reason:
        most = int(cluster.allocatable[cluster.resources["pods"]][nodes].max())
        return [Detail(nodes, f"no room for a further pod (nodes take up to {most})")]
    wanted = dict(cycle.pod.requests.amounts)[name]
    row = cluster.resource(name)
    allocatable = cluster.allocatable[row]
    free = np.where(nodes, allocatable - cluster.requested[row], np.iinfo(np.int64).min)
    best = int(np.argmax(np.where(nodes, allocatable, -1)))
    if allocatable[best] == 0:
        text = f"asks {amount(name, wanted)}, and there is none of it"
        return [Detail(nodes, text, f"nodes that offer {name}, or another resource name")]
    if wanted > allocatable[best]:
        text = (
            f"asks {amount(name, wanted)}, more than these have in all "
            f"(at most {amount(name, int(allocatable[best]))}, {cluster.names[best]})"
        )
        return [Detail(nodes, text, f"ask for less {name}, or add larger nodes")]
    best = int(np.argmax(free))
    left = max(0, int(free[best]))
    text = (
        f"short by {amount(name, wanted - left)}: asks {amount(name, wanted)}, most free is "
        f"{amount(name, left)} of {amount(name, int(allocatable[best]))} on {cluster.names[best]}"
    )
    return [Detail(nodes, text, f"ask for less {name}, remove other pods, or add nodes")]


def _taints(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    tolerations = cycle.pod.pod.spec.tolerations
    texts = {}
    for taints, number in cycle.cluster.taint_sets.items():
        left = [
            f"{key}={value}:{effect}" if value else f"{key}:{effect}"
            for key, value, effect in taints
            if effect in ("NoSchedule", "NoExecute")
            if not tolerates(tolerations, key, value, effect)
        ]
        texts[number] = ", ".join(left)
    # Sets that differ in what is tolerated are the same here.
    distinct = {text: n for n, text in enumerate(dict.fromkeys(texts.values()))}
    codes = np.zeros(max(texts) + 1, np.int64)
    for number, text in texts.items():
        codes[number] = distinct[text]
    told = [*distinct]
    remedy = "tolerate the taint in the pod, or remove it from the nodes"
    return _grouped(
        codes[cycle.cluster.taints],
        nodes,
        lambda number: f"taint {told[number]} is not tolerated",
        remedy,
    )


def _affinity(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    """Which labels are missing. Of several terms, of which one would do, none is singled out."""
    cluster, spec = cycle.cluster, cycle.pod.pod.spec
    asked = [
        (f"{key}={value}", key, has_labels(cluster, {key: value}))
        for key, value in spec.nodeSelector.items()
    ]
    required = cycle.pod.required_nodes
    terms = required.nodeSelectorTerms if required is not None else []
    if required is not None and len(terms) == 1:
        for fields, given in ((False, terms[0].matchExpressions), (True, terms[0].matchFields)):
            for each in given:
                one = NodeSelectorTerm(
                    matchFields=[each] if fields else [], matchExpressions=[] if fields else [each]
                )
                key = "" if fields else each.key
                asked.append((requirement_text(each), key, matches_term(cluster, one)))
    elif required is not None:
        texts = (" and ".join(map(requirement_text, _all(term))) or "nothing" for term in terms)
        asked.append((" or ".join(texts), "", selected(cluster, required)))
    codes = np.zeros(cluster.size, np.int64)
    for number, (_, _, matching) in enumerate(asked[:60]):
        codes |= (~matching).astype(np.int64) << number

    def text(code: int) -> str:
        missing = [(t, k) for n, (t, k, _) in enumerate(asked[:60]) if code >> n & 1]
        there = nodes & (codes == code)
        return "wants " + ", ".join(t + _instead(cluster, k, there) for t, k in missing)

    return _grouped(codes, nodes, text, "change the pod's node selector, or label nodes")


def _instead(cluster: Cluster, key: str, nodes: Mask) -> str:
    """What nodes have in place of the label that is wanted."""
    if not key:
        return ""
    column = cluster.label(key)
    numbers = np.unique(column.column[nodes])
    values = [column.values[n] for n in numbers.tolist() if n >= 0]
    if len(values) > GROUPS:
        return f" (has {len(values)} other values)"
    return f" (has {'|'.join(values)})" if values else " (has no such label)"


def _all(term: NodeSelectorTerm) -> list[NodeSelectorRequirement]:
    return [*term.matchExpressions, *term.matchFields]


def requirement_text(each: NodeSelectorRequirement) -> str:
    """A requirement as `kubectl get -l` would have it."""
    match each.operator:
        case "In" if len(each.values) == 1:
            return f"{each.key}={each.values[0]}"
        case "In" | "NotIn":
            return f"{each.key} {each.operator.lower()} ({', '.join(each.values[:GROUPS])})"
        case "Exists":
            return f"label {each.key}"
        case "DoesNotExist":
            return f"no label {each.key}"
        case "Gt" | "Lt":
            return f"{each.key} {'>' if each.operator == 'Gt' else '<'} {each.values[0]}"
    return f"{each.key} {each.operator}"


def _ports(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    cluster = cycle.cluster
    slot = int(np.flatnonzero(nodes)[0])
    taken = next(
        (
            f"{mine[2]}/{mine[1]} is used by {other.key} on {cluster.names[slot]}"
            for other in cluster.pods_at[slot].values()
            for theirs in other.ports
            for mine in cycle.pod.ports
            if collide(mine, theirs)
        ),
        "",
    )
    return [Detail(nodes, f"host port {taken}", "drop hostPort, or let fewer pods have it")]


def _spread(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    """How many matching pods the domains have. A node counts for the first rule that it breaks."""
    cluster, pod = cycle.cluster, cycle.pod
    constraints = constraints_of(pod, HARD)
    keys = tuple(each.key for each in constraints)
    found: list[Detail] = []
    for each in constraints:
        lacks = nodes & without_label(cluster, each.key)
        if "missing" in reason:
            if lacks.any():
                found.append(Detail(lacks, f"no label {each.key}", "label the nodes"))
            nodes = nodes & ~lacks
            continue
        looked_at = LookedAt(cluster, pod, each, keys)
        counts, domains = looked_at.pods(), looked_at.domains()
        column = cluster.label(each.key)
        least = int(counts[domains].min(initial=2**31 - 1))
        where = [column.values[int(n)] for n in domains if counts[n] == least][:1]
        if len(domains) < each.min_domains:
            least, where = 0, [f"only {len(domains)} of minDomains {each.min_domains} exist"]
        itself = int(each.selector.matches(pod.labels))
        breaks = counts > each.max_skew + least - itself
        breaks[-1] = False
        mine = nodes & breaks[column.column]
        nodes = nodes & ~mine
        rule = f"the fewest is {least} ({', '.join(where)}), maxSkew {each.max_skew}"

        def text(
            number: int,
            each: object = each.key,
            values: Sequence[str] = column.values,
            counts: Numbers = counts,
            rule: str = rule,
        ) -> str:
            return f"{each}={values[number]} has {int(counts[number])} such pod(s), {rule}"

        remedy = "room in the domains with the fewest pods, a larger maxSkew, or ScheduleAnyway"
        if mine.any():
            found += _grouped(column.column, mine, text, remedy)
    return [*found, *([Detail(nodes, "")] if nodes.any() else [])]


def _near_others(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    """Which term of pod affinity, of this pod or of one there, rules nodes out."""
    told: list[tuple[str, Mask, str]] = []
    pod, cluster = cycle.pod, cycle.cluster
    if reason == affinity.AFFINITY:
        for _, term in pod.terms_of_kind(Kind.REQUIRED):
            lacking = ~_domain_has(cycle, term)
            text = f"no pod with {term.selector} in the same {term.topology_key}"
            told.append((text, lacking, "start those pods first, or relax the pod affinity"))
    elif reason == affinity.ANTI_AFFINITY:
        for _, term in pod.terms_of_kind(Kind.REQUIRED_ANTI):
            text = f"must be apart from pods with {term.selector} per {term.topology_key}"
            told.append((text, _domain_has(cycle, term), "more nodes, or a softer anti-affinity"))
    else:
        for group in cluster.counts.groups_about(pod, cycle.objects.namespaces):
            if group.kind is Kind.REQUIRED_ANTI:
                column = cluster.label(group.term.topology_key).column
                sums = cluster.domains(
                    group, group.term.topology_key, "alive", lambda: cluster.alive
                )
                text = (
                    f"pods there must be apart from {group.term.selector} "
                    f"per {group.term.topology_key}"
                )
                told.append((text, (sums > 0)[column], "other labels, or more nodes"))
    found = []
    for text, where, remedy in told:
        mine = nodes & where
        nodes = nodes & ~mine
        if mine.any():
            found.append(Detail(mine, text + _example(cycle, reason, mine), remedy))
    return [*found, *([Detail(nodes, "")] if nodes.any() else [])]


def _example(cycle: Cycle, reason: str, nodes: Mask) -> str:
    """A pod on one of the nodes that this one is to be apart from."""
    terms = [term for _, term in cycle.pod.terms_of_kind(Kind.REQUIRED_ANTI)]
    if reason != affinity.ANTI_AFFINITY:
        return ""
    slot = int(np.flatnonzero(nodes)[0])
    namespaces = cycle.objects.namespaces
    others: list[PodInfo] = [*cycle.cluster.pods_at[slot].values()]
    found = (o for o in others if any(term.matches(o, namespaces) for term in terms))
    other = next(found, None)
    return f", such as {other.key} on {cycle.cluster.names[slot]}" if other else ""


def _domain_has(cycle: Cycle, term: Term) -> Mask:
    """Nodes in whose domain there are pods that the term means."""
    cluster = cycle.cluster
    tally = cluster.tally(((term.resolved(cycle.objects.namespaces), term.selector),))
    sums = cluster.domains(tally, term.topology_key, "alive", lambda: cluster.alive)
    return (sums > 0)[cluster.label(term.topology_key).column]


def _volumes(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    """The claims that the reason is about."""
    texts, remedy = [], ""
    for use in cycle.pod.claims:
        claim = cycle.objects.claim(cycle.pod.namespace, use.name)
        if claim is None:
            continue
        volume = cycle.objects.volume(claim.spec.volumeName) if claim.spec.volumeName else None
        if not is_fully_bound(claim):
            name = claim_class(claim)
            texts.append(
                f"claim {use.name} wants {amount('memory', requested(claim).value())} "
                f"of class {name or '(none)'}"
            )
            remedy = f"navarch why pvc/{use.name}"
        elif volume is not None:
            required = volume.spec.nodeAffinity and volume.spec.nodeAffinity.required
            terms = required.nodeSelectorTerms if required else []
            wants = " or ".join(" and ".join(map(requirement_text, _all(t))) for t in terms)
            zones = [
                f"{key}={value}"
                for key, value in volume.metadata.labels.items()
                if key.endswith(("/zone", "/region"))
            ]
            where = wants or ", ".join(zones)
            if where:
                texts.append(
                    f"volume {volume.metadata.name} of claim {use.name} is only at {where}"
                )
                remedy = "make room there; if that node is gone for good, so are the data: "
                remedy += f"kubectl delete pvc {use.name}, and make the pod anew"
    return [Detail(nodes, "; ".join(texts), remedy)]


def _devices(cycle: Cycle, reason: str, nodes: Mask) -> list[Detail]:
    return [Detail(*each) for each in missing_devices(cycle, reason, nodes)]


TELLERS: dict[str, Callable[[Cycle, str, Mask], list[Detail]]] = {
    "NodeUnschedulable": _unschedulable,
    "NodeResourcesFit": _room,
    "TaintToleration": _taints,
    "NodeAffinity": _affinity,
    "NodePorts": _ports,
    "PodTopologySpread": _spread,
    "InterPodAffinity": _near_others,
    "VolumeBinding": _volumes,
    "VolumeZone": _volumes,
    "NodeVolumeLimits": _volumes,
    "VolumeRestrictions": _volumes,
    "DynamicResources": _devices,
}
"""By the plug-in's name."""
