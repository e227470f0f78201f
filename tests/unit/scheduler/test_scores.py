"""Scores, worked out by hand from upstream's formulas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from navarch.api.selectors import label_selector_from_map
from navarch.scheduler.plugins.balanced_allocation import NodeResourcesBalancedAllocation
from navarch.scheduler.plugins.image_locality import MIB, ImageLocality
from navarch.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from navarch.scheduler.plugins.node_affinity import NodeAffinity
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.plugins.pod_topology_spread import PodTopologySpread
from navarch.scheduler.plugins.taint_toleration import TaintToleration
from navarch.scheduler.requests import DEFAULT_CPU, DEFAULT_MEMORY

from .conftest import HOSTNAME, ZONE, FakeObjects, choose, cluster_of, node, pod, scores

X = {"app": "x"}


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        # a: (3000 of 4000 cpu = 75, 6 of 8 Gi = 75); b has half: (50, 50) -> less each.
        ({"cpu": "1", "memory": "2Gi"}, {"a": 75, "b": 50}),
        # a: cpu 0, memory 50; b: cpu over -> 0, memory 25.
        ({"cpu": "4", "memory": "4Gi"}, {"a": 25, "b": 12}),
        # Said to be nothing: stays nothing.
        ({"cpu": "0", "memory": "0"}, {"a": 100, "b": 75}),
        # Not said: 100m (97) and 200 MiB (97); b: 2900 of 4000 (72), 5944 of 8192 Mi (72).
        ({}, {"a": 97, "b": 72}),
    ],
)
def test_least_allocated(requests: dict[str, str], expected: dict[str, int]) -> None:
    placed = {"b": [pod("there", requests={"cpu": "1", "memory": "2Gi"})]}
    cluster = cluster_of([node("a"), node("b")], placed)
    assert scores(NodeResourcesFit(), pod(requests=requests), cluster) == expected


def test_a_resource_that_a_node_lacks_does_not_count() -> None:
    cluster = cluster_of([node("a", memory="0"), node("b", cpu="0", memory="0")])
    info = pod(requests={"cpu": "1", "memory": "0"})
    assert scores(NodeResourcesFit(), info, cluster) == {"a": 75, "b": 0}


@pytest.mark.parametrize(
    ("spec", "scored", "held"),
    [
        ({}, (DEFAULT_CPU, DEFAULT_MEMORY), (DEFAULT_CPU, DEFAULT_MEMORY)),
        # For the whole pod: heeded on nodes, not where the pod looks for one.
        (
            {"resources": {"requests": {"cpu": "2"}}},
            (DEFAULT_CPU, DEFAULT_MEMORY),
            (2000, DEFAULT_MEMORY),
        ),
        (
            {"initContainers": [{"name": "i", "restartPolicy": "Always"}]},
            (2 * DEFAULT_CPU, 2 * DEFAULT_MEMORY),
            (2 * DEFAULT_CPU, 2 * DEFAULT_MEMORY),
        ),
        (
            {"overhead": {"cpu": "50m"}},
            (DEFAULT_CPU + 50, DEFAULT_MEMORY),
            (DEFAULT_CPU + 50, DEFAULT_MEMORY),
        ),
    ],
)
def test_what_pods_that_say_nothing_count(
    spec: dict[str, Any], scored: tuple[int, int], held: tuple[int, int]
) -> None:
    requests = pod(**spec).requests
    assert (requests.scored, requests.held) == (scored, held)


def test_a_resize_counts_the_larger() -> None:
    def resized(reason: str) -> int:
        status = {
            "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
            "containerStatuses": [
                {
                    "name": "c",
                    "resources": {"requests": {"cpu": "2"}},
                    "allocatedResources": {"cpu": "1"},
                }
            ],
        }
        return dict(pod(requests={"cpu": "3"}, status=status).requests.amounts)["cpu"]

    assert resized("Deferred") == 3000
    assert resized("Infeasible") == 2000


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        # Empty a: before |0-0|/2 -> 100, after (25 %, 25 %) -> 100: neutral, 75.
        # b has cpu 50 %, memory 0 (B = 75), after (75, 25) the same: 75.
        ({"cpu": "1", "memory": "2Gi"}, {"a": 75, "b": 75}),
        # a: (0, 50 %) -> B 75, 50 + (50 - 25) // 2 = 62; b: (50, 50) -> 100: 50 + 75 // 2 = 87.
        ({"memory": "4Gi"}, {"a": 62, "b": 87}),
        # a: (50, 0) -> 75: 62; b: (100, 0) -> 50: 50 + 25 // 2 = 62.
        ({"cpu": "2"}, {"a": 62, "b": 62}),
    ],
)
def test_balance(requests: dict[str, str], expected: dict[str, int]) -> None:
    placed = {"b": [pod("there", requests={"cpu": "2"})]}
    cluster = cluster_of([node("a"), node("b")], placed)
    plugin = NodeResourcesBalancedAllocation()
    assert scores(plugin, pod(requests=requests), cluster) == expected


def test_balance_says_nothing_of_pods_without_requests() -> None:
    plugin = NodeResourcesBalancedAllocation()
    assert scores(plugin, pod(requests={"example.com/x": "1"}), cluster_of([node("a")])) is None


def test_soft_taints() -> None:
    nodes = [
        node("none"),
        node("one", taints=["a:PreferNoSchedule"]),
        node("three", taints=["a:PreferNoSchedule", "b:PreferNoSchedule", "c:PreferNoSchedule"]),
    ]
    cluster = cluster_of(nodes)
    # 100 - 100 * 1 // 3 = 67
    assert scores(TaintToleration(), pod(), cluster) == {"none": 100, "one": 67, "three": 0}
    tolerant = pod(
        tolerations=[
            {"key": "a", "operator": "Exists", "effect": "PreferNoSchedule"},
            {"key": "b", "operator": "Exists", "effect": "NoSchedule"},
        ]
    )
    assert scores(TaintToleration(), tolerant, cluster) == {"none": 100, "one": 100, "three": 0}


def test_preferred_nodes() -> None:
    def preference(weight: int, value: str) -> dict[str, Any]:
        expression = {"key": "disk", "operator": "In", "values": [value]}
        return {"weight": weight, "preference": {"matchExpressions": [expression]}}

    key = "preferredDuringSchedulingIgnoredDuringExecution"
    terms = [preference(30, "ssd"), preference(10, "hdd"), {"weight": 50, "preference": {}}]
    info = pod(affinity={"nodeAffinity": {key: terms}})
    cluster = cluster_of([node("a", {"disk": "ssd"}), node("b", {"disk": "hdd"}), node("c")])
    # 100 * 10 // 30
    assert scores(NodeAffinity(), info, cluster) == {"a": 100, "b": 33, "c": 0}
    # What is best is so among the nodes that are left.
    assert scores(NodeAffinity(), info, cluster, feasible=["b", "c"]) == {"b": 100, "c": 0}
    assert scores(NodeAffinity(), pod(), cluster) is None


def test_images() -> None:
    # One container: from 23 to 1000 MiB. Half of the nodes have it: half its size counts.
    nodes = [node("a", images={"app:latest": 1000 * MIB}), node("b", images={"small:1": 10 * MIB})]
    cluster = cluster_of(nodes)
    expected = 100 * (500 - 23) // (1000 - 23)
    found = scores(ImageLocality(), pod(containers=[{"name": "c", "image": "app"}]), cluster)
    assert found == {"a": expected, "b": 0}
    small = pod(containers=[{"name": "c", "image": "small:1"}])
    assert scores(ImageLocality(), small, cluster) == {"a": 0, "b": 0}
    assert scores(ImageLocality(), pod(), cluster) is None
    # A port is no tag.
    elsewhere = pod(containers=[{"name": "c", "image": "host:5000/app"}])
    assert elsewhere.images == ("host:5000/app:latest",)
    # The image goes away with the node.
    cluster.remove_node("a")
    assert not cluster.images.get("app:latest")


def soft(key: str, skew: int = 1) -> dict[str, Any]:
    return {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": X},
    }


ZONES = [node("a", {ZONE: "a"}), node("b", {ZONE: "b"}), node("c", {ZONE: "b"})]


def test_soft_spreading() -> None:
    placed = {"a": [pod("1", X), pod("2", X)], "b": [pod("3", X)], "c": []}
    cluster = cluster_of([*ZONES, node("none")], placed)
    info = pod(labels=X, topologySpreadConstraints=[soft(ZONE)])
    # Two zones: weight ln 4. Raw a: round(2 * 1.386) = 3, b and c: round(1.386) = 1.
    # 100 * (3 + 1 - raw) // 3.
    expected = {"a": 33, "b": 100, "c": 100, "none": 0}
    assert scores(PodTopologySpread(), info, cluster) == expected
    # Three nodes with the label: ln 5; raw round(3.2) = 3, round(1.6) = 2, 0.
    info = pod(labels=X, topologySpreadConstraints=[soft(HOSTNAME)])
    assert scores(PodTopologySpread(), info, cluster, feasible="abc") == {
        "a": 0,
        "b": 33,
        "c": 100,
    }


def test_default_spreading() -> None:
    placed = {"a": [pod("1", X), pod("2", X)], "b": [pod("3", X)]}
    cluster = cluster_of([*ZONES, node("none")], placed)
    objects = FakeObjects(selector=label_selector_from_map(X))
    # hostname: 4 nodes, ln 6 = 1.792, + 2; zone: a, b and no zone, ln 5 = 1.609, + 4.
    # a: 2 * 1.792 + 2 + 2 * 1.609 + 4 = 12.8 -> 13; b: 1.792 + 2 + 1.609 + 4 = 9.4 -> 9
    # c: 2 + 1.609 + 4 = 7.6 -> 8; none: only its hostname: 2.
    # 100 * (13 + 2 - raw) // 13
    expected = {"a": 15, "b": 46, "c": 53, "none": 100}
    assert scores(PodTopologySpread(), pod(labels=X), cluster, objects) == expected
    assert scores(PodTopologySpread(), pod(labels=X), cluster, FakeObjects()) is None
    # A constraint of the pod's own, even a hard one, replaces the defaults.
    hard = {**soft(ZONE), "whenUnsatisfiable": "DoNotSchedule"}
    info = pod(labels=X, topologySpreadConstraints=[hard])
    assert scores(PodTopologySpread(), info, cluster, objects) is None


def prefers(kind: str, weight: int, app: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": ZONE}
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    return {kind: {key: [{"weight": weight, "podAffinityTerm": term}]}}


def requires(kind: str, app: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": ZONE}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        # Two friends in zone a, one in b: 20, 10, and nothing without a zone.
        (prefers("podAffinity", 10, "y"), {}, {"a": 100, "b": 50, "c": 50, "none": 0}),
        (prefers("podAntiAffinity", 10, "y"), {}, {"a": 0, "b": 50, "c": 50, "none": 100}),
        # What they say of me counts as much: two in a say 5, one in b.
        ({}, prefers("podAffinity", 5, "x"), {"a": 100, "b": 50, "c": 50, "none": 0}),
        ({}, prefers("podAntiAffinity", 5, "x"), {"a": 0, "b": 50, "c": 50, "none": 100}),
        # A required affinity of theirs is worth one.
        ({}, requires("podAffinity", "x"), {"a": 100, "b": 50, "c": 50, "none": 0}),
        ({}, prefers("podAffinity", 5, "z"), None),
        ({}, {}, None),
    ],
)
def test_preferred_pods(
    mine: dict[str, Any], theirs: dict[str, Any], expected: dict[str, int] | None
) -> None:
    y = {"app": "y"}
    placed = {
        "a": [pod("1", y, affinity=theirs), pod("2", y, affinity=theirs)],
        "b": [pod("3", y, affinity=theirs)],
    }
    cluster = cluster_of([*ZONES, node("none")], placed)
    info = pod("new", X, affinity=mine)
    assert scores(InterPodAffinity(), info, cluster) == expected


def test_equally_good_nodes_share_the_pods() -> None:
    cluster = cluster_of([node(f"n{number}") for number in range(4)])
    chosen: Counter[str] = Counter()
    for number in range(8):
        info = pod(f"p{number}")
        found = str(choose(info, cluster))
        cluster.set_pod(info, found)
        chosen[found] += 1
    assert chosen == dict.fromkeys(("n0", "n1", "n2", "n3"), 2)
