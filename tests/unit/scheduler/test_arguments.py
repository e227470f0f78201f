"""Arguments of plugins change what is decided: each as a configuration gives it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from navarch.api.selectors import label_selector_from_map
from navarch.scheduler.configuration.arguments import Arguments, ShapePoint
from navarch.scheduler.configuration.files import parse
from navarch.scheduler.framework import Plugin, Profile
from navarch.scheduler.plugins.resource_strategies import curve_of
from navarch.scheduler.plugins.volume_binding import VolumeBinding
from navarch.scheduler.profiles import make_profile

from .conftest import HOSTNAME, ZONE, FakeObjects, cluster_of, node, pod, reasons, scores


def profile_with(plugin: str, **args: Any) -> Profile:
    document = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "profiles": [{"pluginConfig": [{"name": plugin, "args": args}]}],
    }
    return make_profile(parse(yaml.safe_dump(document).encode()).profiles[0])


def plugin_with(plugin: str, **args: Any) -> Plugin:
    found = profile_with(plugin, **args).plugins
    return next(each for each in found if each.name == plugin)


PEAK = {
    "shape": [
        {"utilization": 0, "score": 0},
        {"utilization": 40, "score": 10},
        {"utilization": 100, "score": 0},
    ]
}
STRATEGIES = [
    # a is empty but for the pod: 1 of 4 CPUs, 2 of 8 Gi; b has twice that.
    pytest.param({"type": "LeastAllocated"}, {"a": 75, "b": 50}, id="least"),
    pytest.param({"type": "MostAllocated"}, {"a": 25, "b": 50}, id="most"),
    # 25 of 40 per cent of the way up: 62; 10 of 60 on the way down: 100 - 16 = 84.
    pytest.param(
        {"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": PEAK},
        {"a": 62, "b": 84},
        id="ratio",
    ),
    # Three parts of the devices (1 of 2, 2 of 2), one of CPU.
    pytest.param(
        {
            "type": "LeastAllocated",
            "resources": [{"name": "x.io/d", "weight": 3}, {"name": "cpu"}],
        },
        {"a": 56, "b": 12},
        id="weights",
    ),
    # Nobody asked for it.
    pytest.param(
        {"type": "MostAllocated", "resources": [{"name": "y.io/e"}, {"name": "cpu"}]},
        {"a": 25, "b": 50},
        id="not asked for",
    ),
]


@pytest.mark.parametrize(("strategy", "expected"), STRATEGIES)
def test_scoring_strategies(strategy: dict[str, Any], expected: dict[str, int]) -> None:
    requests = {"cpu": "1", "memory": "2Gi", "x.io/d": "1"}
    amounts: dict[str, Any] = {"x.io__d": "2", "y.io__e": "9"}
    placed = {"b": [pod("there", requests=requests)]}
    cluster = cluster_of([node("a", **amounts), node("b", **amounts)], placed)
    plugin = plugin_with("NodeResourcesFit", scoringStrategy=strategy)
    assert scores(plugin, pod(requests=requests), cluster) == expected


def test_a_ratio_counts_only_what_is_worth_something() -> None:
    """CPU is worth 100; memory, which is worth nothing, does not pull it down."""
    shape = [{"utilization": 0, "score": 0}, {"utilization": 50, "score": 0}]
    shape.append({"utilization": 51, "score": 10})
    strategy = {
        "type": "RequestedToCapacityRatio",
        "requestedToCapacityRatio": {"shape": shape},
    }
    plugin = plugin_with("NodeResourcesFit", scoringStrategy=strategy)
    info = pod(requests={"cpu": "3", "memory": "1Gi"})
    assert scores(plugin, info, cluster_of([node("a")])) == {"a": 100}


def test_a_curve_is_level_beyond_its_points() -> None:
    curve = curve_of((ShapePoint(20, 3), ShapePoint(50, 1)))
    # 30 - 20 * 10 / 30 = 23.3; Go cuts off towards 30.
    assert (curve[0], curve[20], curve[30], curve[50], curve[100]) == (30, 30, 24, 10, 10)


@pytest.mark.parametrize(
    "args", [{"ignoredResources": ["x.io/d"]}, {"ignoredResourceGroups": ["x.io"]}]
)
def test_ignored_resources(args: dict[str, Any]) -> None:
    info, cluster = pod(requests={"x.io/d": "1", "cpu": "9"}), cluster_of([node("a")])
    found = reasons(plugin_with("NodeResourcesFit"), info, cluster)
    assert found == {"a": ["Insufficient x.io/d", "Insufficient cpu"]} or found == {
        "a": ["Insufficient cpu", "Insufficient x.io/d"]
    }
    found = reasons(plugin_with("NodeResourcesFit", **args), info, cluster)
    assert found == {"a": ["Insufficient cpu"]}


DEVICES: dict[str, Any] = {"x.io__d": "2"}


def test_balance_of_other_resources() -> None:
    """Of three: 1/4, 2/8 and 2/2 deviate by 0.354 (64), none before (100): 50 + (50 - 36) / 2."""
    args = {"resources": [{"name": name} for name in ("cpu", "memory", "x.io/d")]}
    plugin = plugin_with("NodeResourcesBalancedAllocation", **args)
    info = pod(requests={"cpu": "1", "memory": "2Gi", "x.io/d": "2"})
    cluster = cluster_of([node("a"), node("b", **DEVICES)])
    assert scores(plugin, info, cluster) == {"a": 75, "b": 57}


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def test_added_affinity() -> None:
    on_ssd = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
    in_a = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["a"]}]}
    added = {
        REQUIRED: {"nodeSelectorTerms": [on_ssd]},
        PREFERRED: [{"weight": 5, "preference": in_a}],
    }
    plugin = plugin_with("NodeAffinity", addedAffinity=added)
    nodes = [
        node("plain"),
        node("far", {"disk": "ssd"}),
        node("near", {"disk": "ssd", ZONE: "a"}),
    ]
    cluster = cluster_of(nodes)
    enforced = ["node(s) didn't match scheduler-enforced node affinity"]
    assert reasons(plugin, pod(), cluster) == {"plain": enforced}
    assert scores(plugin, pod(), cluster) == {"plain": 0, "far": 0, "near": 100}
    chosen = pod(nodeSelector={ZONE: "a"})
    assert reasons(plugin, chosen, cluster) == {
        "plain": enforced,
        "far": ["node(s) didn't match Pod's node affinity/selector"],
    }


X = {"app": "x"}


def test_default_constraints() -> None:
    """Hard ones filter pods that say nothing, and a pod's own replace them all."""
    constraint = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"}
    plugin = plugin_with(
        "PodTopologySpread", defaultingType="List", defaultConstraints=[constraint]
    )
    nodes = [node("a", {ZONE: "a"}), node("b", {ZONE: "b"})]
    cluster = cluster_of(nodes, {"a": [pod("1", X)]})
    objects = FakeObjects(selector=label_selector_from_map(X))
    skewed = "node(s) didn't match pod topology spread constraints"
    assert reasons(plugin, pod(labels=X), cluster, objects) == {"a": [skewed]}
    own = {"maxSkew": 9, "topologyKey": HOSTNAME, "whenUnsatisfiable": "ScheduleAnyway"}
    info = pod(labels=X, topologySpreadConstraints=[{**own, "labelSelector": {}}])
    assert reasons(plugin, info, cluster, objects) == {}
    assert reasons(plugin_with("PodTopologySpread"), pod(labels=X), cluster, objects) == {}


def test_no_default_constraints() -> None:
    plugin = plugin_with("PodTopologySpread", defaultingType="List")
    cluster = cluster_of([node("a"), node("b")], {"a": [pod("1", X)]})
    objects = FakeObjects(selector=label_selector_from_map(X))
    assert scores(plugin, pod(labels=X), cluster, objects) is None
    assert scores(plugin_with("PodTopologySpread"), pod(labels=X), cluster, objects) is not None


def near(kind: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": X}, "topologyKey": HOSTNAME}
    terms = [term] if kind == REQUIRED else [{"weight": 1, "podAffinityTerm": term}]
    return {"podAffinity": {kind: terms}}


def test_weight_of_what_pods_there_require() -> None:
    """Two that prefer the pod near them outweigh one that requires it, unless that counts more."""
    liking = [pod(name, affinity=near(PREFERRED)) for name in ("1", "2")]
    requiring = {"b": [pod("3", affinity=near(REQUIRED))]}
    cluster = cluster_of([node("a"), node("b")], {"a": liking, **requiring})
    plain = plugin_with("InterPodAffinity")
    assert scores(plain, pod(labels=X), cluster) == {"a": 100, "b": 0}
    heavy = plugin_with("InterPodAffinity", hardPodAffinityWeight=3)
    assert scores(heavy, pod(labels=X), cluster) == {"a": 0, "b": 100}
    none = plugin_with("InterPodAffinity", hardPodAffinityWeight=0)
    assert scores(none, pod(labels=X), cluster_of([node("a"), node("b")], requiring)) is None


def test_preferences_of_others_are_ignored() -> None:
    """Only for pods without any of their own."""
    cluster = cluster_of([node("a"), node("b")], {"a": [pod("1", X, affinity=near(PREFERRED))]})
    plugin = plugin_with("InterPodAffinity", ignorePreferredTermsOfExistingPods=True)
    assert scores(plugin, pod(labels=X), cluster) is None
    assert scores(plugin_with("InterPodAffinity"), pod(labels=X), cluster) == {"a": 100, "b": 0}
    assert scores(plugin, pod(labels=X, affinity=near(PREFERRED)), cluster) == {"a": 100, "b": 0}


def test_what_is_passed_on() -> None:
    profile = profile_with("DefaultPreemption", minCandidateNodesAbsolute=7)
    assert profile.preemption.minCandidateNodesAbsolute == 7
    assert isinstance(profile.preemption, Arguments)
    plugin = plugin_with("VolumeBinding", bindTimeoutSeconds=5)
    assert isinstance(plugin, VolumeBinding)
    assert plugin.seconds == 5.0
