"""What is kept from one decision to the next is what would be computed anew, whatever happened in
between: nodes, labels, taints, pods, claims, Services and namespaces come, change and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.api.selectors import EVERYTHING, label_selector_from_map
from navarch.api.types.core_v1 import Node
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.filtering import placed
from navarch.scheduler.following import ENTRIES_KEPT, FEW, LOG_LIMIT, Following
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

from .conftest import HOSTNAME, ZONE, FakeObjects, cluster_of, node, pod, reasons, scores
from .test_filters import affinity, near, spread

APPS = ("x", "y")
PLUGINS = default_profile().plugins
SAME = {"matchLabels": {"app": "x"}}
SOFT = spread(ZONE, 1, labelSelector=SAME, whenUnsatisfiable="ScheduleAnyway")
TAINTED = spread(HOSTNAME, 2, labelSelector=SAME, nodeTaintsPolicy="Honor")
EVERYWHERE = {**near("x", ZONE), "namespaceSelector": {"matchLabels": {"team": "a"}}}
PREFERRED = {
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 7, "podAffinityTerm": near("y", ZONE)}
    ]
}
SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"topologySpreadConstraints": [spread(ZONE, 1, labelSelector=SAME), TAINTED]},
    {"topologySpreadConstraints": [SOFT]},
    {"affinity": affinity("podAffinity", near("x", ZONE))},
    {"affinity": affinity("podAntiAffinity", EVERYWHERE)},
    {"affinity": {"podAffinity": PREFERRED, "podAntiAffinity": PREFERRED}},
    {"nodeSelector": {ZONE: "1"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
    {"containers": [{"name": "c", "image": "i", "ports": [{"hostPort": 80}]}]},
)


def some_pod(rng: random.Random, name: str) -> PodInfo:
    """Its name tells what it asks of other pods, which never changes."""
    spec = dict(SPECS[sum(name.encode()) % len(SPECS)])
    if "containers" not in spec:
        spec["requests"] = {"cpu": f"{rng.randrange(3)}", "memory": f"{rng.randrange(2)}Gi"}
    return pod(
        name,
        {"app": rng.choice(APPS)},
        namespace=rng.choice(["default", "other"]),
        deleting=rng.random() < 0.1,
        **spec,
    )


def some_node(rng: random.Random) -> Node:
    labels = {ZONE: rng.choice("123")} if rng.random() < 0.8 else {}
    taints = rng.choice([[], [], ["k:NoSchedule"], ["k:PreferNoSchedule"]])
    return node(
        f"n{rng.randrange(5)}",
        labels,
        taints=taints,
        images={"i:latest": 2**28} if rng.random() < 0.3 else None,
        unschedulable=rng.random() < 0.1,
        cpu=str(rng.randrange(6)),
        pods=str(rng.randrange(1, 6)),
    )


class World:
    """A cluster that has been asked all along, and what a new one has to be made of."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.objects = FakeObjects(namespaces={"default": {"team": "a"}, "other": {}})
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, tuple[PodInfo, str]] = {}

    def step(self, rng: random.Random) -> None:
        match rng.randrange(10):
            case 0 | 1 | 2:
                made = some_node(rng)
                self.cluster.set_node(made)
                self.nodes[made.metadata.name] = made
            case 3:
                name = f"n{rng.randrange(5)}"
                self.cluster.remove_node(name)
                self.nodes.pop(name, None)
            case 4 | 5 | 6:
                info, where = some_pod(rng, f"p{rng.randrange(8)}"), f"n{rng.randrange(5)}"
                self.cluster.set_pod(info, where)
                self.pods[info.uid] = (info, where)
            case 7:
                uid = f"{rng.choice(['default', 'other'])}-p{rng.randrange(8)}"
                self.cluster.remove_pod(uid)
                self.pods.pop(uid, None)
            case 8:
                app = rng.choice(APPS)
                services = rng.random() < 0.7
                selector = label_selector_from_map({"app": app}) if services else EVERYTHING
                self.objects.selector = selector
            case 9:
                teams = ({"team": rng.choice("ab")} for _ in range(2))
                self.objects.namespaces = dict(zip(("default", "other"), teams, strict=True))

    def anew(self) -> Cluster:
        made = cluster_of(self.nodes.values())
        for info, where in self.pods.values():
            made.set_pod(info, where)
        return made


def answers(info: PodInfo, cluster: Cluster, objects: FakeObjects) -> list[object]:
    found: list[object] = []
    for plugin in PLUGINS:
        found.append((plugin.name, reasons(plugin, info, cluster, objects)))
        points = scores(plugin, info, cluster, objects) if cluster.count else None
        # The same for all nodes is as good as nothing.
        is_telling = points is not None and len({*points.values()}) > 1
        found.append((plugin.name, points if is_telling else None))
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_kept_answers_are_those_of_a_new_cluster(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    asking = [some_pod(rng, f"asking{number}") for number in range(4)]
    for _ in range(20):
        for _ in range(rng.randrange(1, 4)):
            world.step(rng)
        new = world.anew()
        # Not all ask each time: what is kept for the others must catch up later.
        for info in rng.sample(asking, 2):
            assert answers(info, world.cluster, world.objects) == answers(info, new, world.objects)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_only_supposed_leaves_no_trace(seed: int) -> None:
    """Pods thought to be on a node for one question are gone for the next."""
    rng = random.Random(seed)
    world = World()
    for _ in range(20):
        world.step(rng)
    world.cluster.set_node(node("n0", {ZONE: "1"}))
    asking = [some_pod(rng, f"asking{number}") for number in range(3)]
    before = [answers(info, world.cluster, world.objects) for info in asking]
    with placed(world.cluster, [some_pod(rng, "supposed")], "n0"):
        for info in asking:
            answers(info, world.cluster, world.objects)
    assert [answers(info, world.cluster, world.objects) for info in asking] == before


CHANGES: dict[str, Callable[[World], None]] = {
    "label": lambda world: world.cluster.set_node(node("a", {ZONE: "2"})),
    "taint": lambda world: world.cluster.set_node(node("a", {ZONE: "1"}, taints=["k:NoSchedule"])),
    "allocatable": lambda world: world.cluster.set_node(node("a", {ZONE: "1"}, cpu="1")),
    "node gone": lambda world: world.cluster.remove_node("b"),
    "node new": lambda world: world.cluster.set_node(node("c", {ZONE: "3"})),
    "pod new": lambda world: world.cluster.set_pod(pod("more", {"app": "x"}), "b"),
    "pod gone": lambda world: world.cluster.remove_pod("default-there"),
    "pod relabelled": lambda world: world.cluster.set_pod(pod("there", {"app": "y"}), "a"),
    "pod resized": lambda world: world.cluster.set_pod(
        pod("there", {"app": "x"}, requests={"cpu": "4"}), "a"
    ),
    "pod on its way out": lambda world: world.cluster.set_pod(
        pod("there", {"app": "x"}, deleting=True), "a"
    ),
    "Service": lambda world: setattr(
        world.objects, "selector", label_selector_from_map({"app": "x"})
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_noticed(name: str) -> None:
    """By at least one plugin, for at least one kind of pod."""
    world = World()
    world.cluster = cluster_of(
        [node("a", {ZONE: "1"}), node("b", {ZONE: "2"})], {"a": [pod("there", {"app": "x"})]}
    )
    asking = [pod(f"p{n}", {"app": "x"}, **spec) for n, spec in enumerate(SPECS)]
    asking.append(pod("large", requests={"cpu": "2"}))
    before = [answers(info, world.cluster, world.objects) for info in asking]
    CHANGES[name](world)
    assert [answers(info, world.cluster, world.objects) for info in asking] != before


def test_labels_of_a_placed_pod_do_not_fill_its_node_anew() -> None:
    """A binding puts the node's zone on the pod, after the pod was assumed there."""
    before = {"app": "x"}
    cluster = cluster_of([node("a", {ZONE: "1"})], {"a": [pod("there", before)]})
    slot, amount = cluster.slots["a"], {"cpu": "1"}
    asked: list[object] = []

    def room(slots: Any) -> Any:
        asked.append(slots)
        return cluster.requested[0, slots]

    cluster.following.all("room", room)
    asked.clear()
    zoned = pod("there", {**before, ZONE: "1"})
    cluster.set_pod(zoned, "a")
    cluster.following.all("room", room)
    assert not asked
    assert cluster.pods_at[slot][zoned.uid] is zoned
    cluster.set_pod(pod("there", zoned.labels, requests=amount), "a")
    cluster.following.all("room", room)
    assert len(asked) == 1


def test_following_survives_its_limits() -> None:
    """More changes than the log holds, and more questions than are kept."""
    values = np.zeros(50, np.int64)
    following = Following()
    calls: list[object] = []

    def compute(slots: Any) -> Any:
        calls.append(slots)
        return values[slots] * 2

    def one(slot: int) -> int:
        calls.append(slot)
        return int(values[slot]) * 2

    rng = random.Random(1)
    for _ in range(40):
        for _ in range(rng.choice([0, 1, 5, LOG_LIMIT + 10])):
            slot = rng.randrange(50)
            values[slot] += 1
            following.changed(slot)
        some = np.array(rng.sample(range(50), 10))
        assert following.at(some, "key", compute, one).tolist() == (values[some] * 2).tolist()
        if rng.random() < 0.5:
            assert following.all("key", compute, one).tolist() == (values * 2).tolist()
    values[7] += 1
    following.changed(7)
    calls.clear()
    kept = following.all("key", compute, one)
    assert calls == [7]
    calls.clear()
    for slot in range(FEW):
        following.changed(slot)
    following.all("key", compute, one)
    assert calls == [*range(FEW)], "few slots are asked about one by one"
    values[7] += 1
    following.changed(7)
    following.all("key", compute, one)
    assert kept[7] == 2 * (values[7] - 1)
    for number in range(ENTRIES_KEPT):
        following.all(number, compute)
    calls.clear()
    following.all("key", compute, one)
    assert calls == [slice(None)]
