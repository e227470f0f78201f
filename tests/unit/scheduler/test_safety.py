"""What holds whatever happens: no node is overcommitted, the arrays agree with the objects, and
the vectorised rules agree with rules spelled out node by node."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.api.selectors import label_selector_from_map
from navarch.api.types.core_v1 import Node
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Failure
from navarch.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from navarch.scheduler.plugins.pod_topology_spread import PodTopologySpread
from navarch.scheduler.podinfo import PodInfo

from .conftest import ZONE, choose, cluster_of, node, pod, reasons
from .test_filters import affinity, near, spread

APPS = ("x", "y", "z")
apps = st.sampled_from(APPS)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """What a pod asks of its place, sometimes nothing."""
    spec: dict[str, Any] = {}
    kind = draw(st.sampled_from(["", "", "near", "far", "spread"]))
    key = draw(st.sampled_from([ZONE, "rack"]))
    if kind == "near":
        spec["affinity"] = affinity("podAffinity", near(draw(apps), key))
    elif kind == "far":
        spec["affinity"] = affinity("podAntiAffinity", near(draw(apps), key))
    elif kind == "spread":
        selector = {"matchLabels": {"app": draw(apps)}}
        constraint = spread(key, draw(st.integers(1, 2)), labelSelector=selector)
        spec["topologySpreadConstraints"] = [constraint]
    return spec


@st.composite
def some_nodes(draw: st.DrawFn) -> list[Node]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        labels = {}
        for key in (ZONE, "rack"):
            if value := draw(st.sampled_from(["", "1", "2", "3"])):
                labels[key] = value
        taints = draw(st.sampled_from([[], [], ["k:NoSchedule"], ["k:PreferNoSchedule"]]))
        cpu = str(draw(st.integers(0, 4)))
        pods = str(draw(st.integers(1, 5)))
        made.append(node(f"n{number}", labels, taints=taints, cpu=cpu, pods=pods))
    return made


@st.composite
def some_pods(draw: st.DrawFn) -> list[PodInfo]:
    return [
        pod(
            f"p{number}",
            {"app": draw(apps)},
            requests={"cpu": f"{draw(st.integers(0, 20)) * 100}m"},
            **draw(rules()),
        )
        for number in range(draw(st.integers(1, 12)))
    ]


def state(cluster: Cluster) -> object:
    """What the arrays say, by name."""
    rows = {}
    for name, slot in cluster.slots.items():
        amounts = {r: int(cluster.requested[row, slot]) for r, row in cluster.resources.items()}
        scored = cluster.scored[:, slot].tolist()
        rows[name] = (bool(cluster.alive[slot]), amounts, scored, sorted(cluster.pods_at[slot]))
    groups = sorted(
        (str(kind.kind), kind.total, str(kind.term.selector), kind.term.topology_key)
        for kind in cluster.counts.groups(*_kinds())
    )
    return rows, groups, cluster.count


def _kinds() -> Any:
    from navarch.scheduler.terms import Kind

    return Kind


@settings(max_examples=150, deadline=None)
@given(nodes=some_nodes(), pods=some_pods(), seed=st.integers(0, 2**16))
def test_nothing_is_overcommitted(nodes: list[Node], pods: list[PodInfo], seed: int) -> None:
    rng = random.Random(seed)
    cluster = cluster_of(nodes)
    placed: dict[str, tuple[PodInfo, str]] = {}
    for info in pods:
        chosen = choose(info, cluster, seed=rng.randrange(1000))
        if isinstance(chosen, Failure):
            continue
        cluster.set_pod(info, chosen)
        placed[info.uid] = (info, chosen)
        if rng.random() < 0.2:
            gone = rng.choice(sorted(placed))
            cluster.remove_pod(gone)
            del placed[gone]
    taken = Counter(name for _, name in placed.values())
    for each in nodes:
        name = each.metadata.name
        wanted = sum(
            dict(info.requests.amounts).get("cpu", 0)
            for info, where in placed.values()
            if where == name
        )
        assert wanted <= 1000 * int(each.status.allocatable["cpu"])
        assert taken[name] <= int(each.status.allocatable["pods"])
        if any(taint.effect == "NoSchedule" for taint in each.spec.taints):
            assert not taken[name]
    again = cluster_of(nodes)
    for info, where in placed.values():
        again.set_pod(info, where)
    assert state(cluster) == state(again)


@settings(max_examples=100, deadline=None)
@given(nodes=some_nodes(), pods=some_pods(), seed=st.integers(0, 2**16))
def test_any_history_leads_to_the_same_state(
    nodes: list[Node], pods: list[PodInfo], seed: int
) -> None:
    """Nodes and pods come, change, move and go in any order."""
    rng = random.Random(seed)
    cluster = Cluster()
    present: dict[str, Node] = {}
    placed: dict[str, tuple[PodInfo, str]] = {}
    for _ in range(40):
        each, info = rng.choice(nodes[:3]), rng.choice(pods[:4])
        match rng.randrange(5):
            case 0 | 1:
                cluster.set_node(each)
                present[each.metadata.name] = each
            case 2:
                cluster.remove_node(each.metadata.name)
                present.pop(each.metadata.name, None)
            case 3:
                changed = pod(info.name, {"app": rng.choice(APPS)}, deleting=rng.random() < 0.3)
                where = each.metadata.name
                cluster.set_pod(changed, where)
                placed[changed.uid] = (changed, where)
            case 4:
                cluster.remove_pod(info.uid)
                placed.pop(info.uid, None)
        # Asking makes the cluster keep counts, which must then follow.
        counts(cluster)
    again = cluster_of(present.values())
    for info, where in placed.values():
        again.set_pod(info, where)
    assert state(cluster) == state(again)
    assert counts(cluster) == counts(again)


def counts(cluster: Cluster) -> dict[str, list[int]]:
    """The pods of each app per node, those on their way out counted and not."""
    found = [
        cluster.tally(
            ((frozenset(["default"]), label_selector_from_map({"app": app})),), skip
        ).counts
        for app in APPS
        for skip in (False, True)
    ]
    return {name: [int(numbers[slot]) for numbers in found] for name, slot in cluster.slots.items()}


def domain(each: Node, key: str) -> str | None:
    return each.metadata.labels.get(key)


def rejected_by_affinity(
    info: PodInfo, each: Node, nodes: list[Node], there: list[tuple[PodInfo, str]]
) -> bool:
    """Required affinity and anti-affinity in both directions, for one node, spelled out."""
    by_name = {n.metadata.name: n for n in nodes}

    def terms(of: PodInfo, kind: str) -> list[tuple[str, str]]:
        source = of.pod.spec.affinity and getattr(of.pod.spec.affinity, kind)
        found = source.requiredDuringSchedulingIgnoredDuringExecution if source else []
        return [(t.labelSelector.matchLabels["app"], t.topologyKey) for t in found]

    def together(where: str, key: str) -> bool:
        value = domain(each, key)
        return value is not None and domain(by_name[where], key) == value

    for app, key in terms(info, "podAffinity"):
        if domain(each, key) is None:
            return True
        friends = [w for p, w in there if p.labels["app"] == app and domain(by_name[w], key)]
        alone = not friends and info.labels["app"] == app
        if not alone and not any(together(where, key) for where in friends):
            return True
    for app, key in terms(info, "podAntiAffinity"):
        if any(p.labels["app"] == app and together(where, key) for p, where in there):
            return True
    return any(
        info.labels["app"] == app and together(where, key)
        for other, where in there
        for app, key in terms(other, "podAntiAffinity")
    )


def rejected_by_spreading(
    info: PodInfo, each: Node, nodes: list[Node], there: list[tuple[PodInfo, str]]
) -> bool:
    for constraint in info.pod.spec.topologySpreadConstraints:
        key, app = constraint.topologyKey, constraint.labelSelector.matchLabels["app"]  # type: ignore[union-attr]
        counts = {value: 0 for n in nodes if (value := domain(n, key)) is not None}
        for other, where in there:
            value = next(domain(n, key) for n in nodes if n.metadata.name == where)
            if value is not None and other.labels["app"] == app:
                counts[value] += 1
        mine = domain(each, key)
        if mine is None:
            return True
        itself = int(info.labels["app"] == app)
        if counts[mine] + itself - min(counts.values()) > constraint.maxSkew:
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(nodes=some_nodes(), pods=some_pods(), seed=st.integers(0, 2**16))
def test_the_rules_agree_with_their_plain_form(
    nodes: list[Node], pods: list[PodInfo], seed: int
) -> None:
    rng = random.Random(seed)
    *others, info = pods
    there = [(other, rng.choice(nodes).metadata.name) for other in others]
    cluster = cluster_of(nodes)
    for other, where in there:
        cluster.set_pod(other, where)
    for plugin, rule in (
        (InterPodAffinity(), rejected_by_affinity),
        (PodTopologySpread(), rejected_by_spreading),
    ):
        found = reasons(plugin, info, cluster)
        expected = {n.metadata.name for n in nodes if rule(info, n, nodes, there)}
        assert found.keys() == expected
        assert all(len(texts) == 1 for texts in found.values())


def test_many_nodes_come_and_go() -> None:
    """Slots and label values are used again."""
    cluster = Cluster()
    for generation in range(5):
        for number in range(200):
            cluster.set_node(node(f"g{generation}-{number}", {ZONE: str(number % 3)}))
        assert cluster.count == 200
        column = cluster.label("kubernetes.io/hostname")
        slots = np.flatnonzero(cluster.alive)
        names = {column.values[column.column[slot]] for slot in slots}
        assert names == {f"g{generation}-{number}" for number in range(200)}
        for number in range(200):
            cluster.remove_node(f"g{generation}-{number}")
    assert cluster.size == 256
    assert len(cluster.label("kubernetes.io/hostname").values) <= 2 * 256 + 64 + 1
    assert not cluster.slots
