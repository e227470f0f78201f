"""Who has to go for whom: the decision, and the cluster left as it was."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.api.objects import from_object
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Failure, schedule
from navarch.scheduler.nominations import Nominations
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.preemption import NODES_AT_ONCE, candidates, disruption
from navarch.scheduler.profiles import default_profile
from navarch.scheduler.victims import Budgets

from .conftest import ZONE, FakeObjects, choose, cluster_of, cycle_of, node, pod
from .test_filters import affinity, near, spread
from .test_safety import some_nodes, some_pods, state


def low(
    name: str,
    priority: int = 0,
    cpu: str = "1",
    started: str = "",
    labels: Mapping[str, str] | None = None,
    **more: Any,
) -> PodInfo:
    status = {"startTime": f"2026-01-01T00:{started}:00Z"} if started else {}
    status |= more.pop("status", {})
    return pod(name, labels, requests={"cpu": cpu}, priority=priority, status=status, **more)


def budget(labels: Mapping[str, str], allowed: int, **status: Any) -> PodDisruptionBudget:
    return from_object(
        PodDisruptionBudget,
        {
            "metadata": {"name": "-".join(labels) or "all", "namespace": "default"},
            "spec": {"selector": {"matchLabels": dict(labels)}},
            "status": {"disruptionsAllowed": allowed, **status},
        },
    )


def wanting(cpu: str = "2", priority: int = 10, **spec: Any) -> PodInfo:
    return pod("new", requests={"cpu": cpu}, priority=priority, **spec)


def outcome(found: object) -> tuple[str | None, list[str]]:
    assert isinstance(found, Failure)
    return found.nominated, [each.name for each in found.victims]


def test_the_cluster_goes_on_while_room_is_looked_for() -> None:
    """Between two looks all nodes are replaced: those that have gone are nobody's candidates, and
    those that came take their places and more."""
    names = [f"n{number}" for number in range(50)]
    cluster = cluster_of(
        [node(name, cpu="2") for name in names], {name: [low(f"on-{name}")] for name in names}
    )
    cycle = cycle_of(wanting(), cluster)
    steps = candidates(cycle, default_profile(), cluster.alive.copy())
    next(steps)
    for name in names:
        cluster.remove_pod(f"on-{name}")
        cluster.remove_node(name)
    for number in range(2 * cluster.size):
        cluster.set_node(node(f"new{number}", cpu="1"))
        cluster.set_pod(low(f"on-new{number}"), f"new{number}")
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    found = end.value.value
    assert {each.node for each in found} < {*names}
    assert len(found) == NODES_AT_ONCE - 1


BOTH = {"a": "1"}
ON_ONE_NODE = [
    pytest.param([low("a", 1), low("b", 2)], [], ["a"], id="the least important goes"),
    pytest.param([low("a", 2), low("b", 10)], [], ["a"], id="equals stay"),
    pytest.param([low("a", started="01"), low("b", started="02")], [], ["b"], id="the newer goes"),
    pytest.param([low("a", started="01"), low("b")], [], ["b"], id="not started is newest"),
    pytest.param([low("a", 1, "1500m"), low("b", 2, "500m")], [], ["a"], id="one is enough"),
    pytest.param(
        [low("a", 1, "500m"), low("b", 2, "500m"), low("c", 3, "1")], [], ["b", "a"], id="two"
    ),
    pytest.param([low("a", 1), low("b", 2)], ["a"], ["b"], id="a budget protects the lower"),
    pytest.param([low("a", 1), low("b", 2)], ["a", "b"], ["a"], id="budgets give way"),
]


@pytest.mark.parametrize(("there", "protected", "victims"), ON_ONE_NODE)
def test_victims_on_a_node(there: list[PodInfo], protected: list[str], victims: list[str]) -> None:
    for each in there:
        each.pod.metadata.labels["who"] = each.name
    objects = FakeObjects(pdbs=[budget({"who": name}, 0) for name in protected])
    cluster = cluster_of([node("n", cpu="2")], {"n": there})
    assert outcome(choose(wanting("1"), cluster, objects)) == ("n", victims)


CHOICES = [
    pytest.param([low("a", 5)], [low("b", 1, labels=BOTH)], "n1", id="fewest budget violations"),
    pytest.param([low("a", 5)], [low("b", 4)], "n2", id="lowest of the highest"),
    pytest.param(
        [low("a", 5), low("x", 4, "3")], [low("b", 5), low("y", 3, "3")], "n2", id="lowest sum"
    ),
    pytest.param([low("a", 5, "2"), low("x", 4, "2")], [low("b", 5, "4")], "n2", id="fewest"),
    pytest.param(
        [low("a", 5, started="01")], [low("b", 5, started="02")], "n2", id="latest to start"
    ),
    pytest.param([low("a", 5, started="01")], [low("b", 5)], "n2", id="not started"),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("one", "other", "chosen"), CHOICES)
def test_which_node(one: list[PodInfo], other: list[PodInfo], chosen: str, seed: int) -> None:
    """Wherever the search begins."""
    cluster = cluster_of([node("n1", cpu="4"), node("n2", cpu="4")], {"n1": one, "n2": other})
    objects = FakeObjects(pdbs=[budget(BOTH, 0)])
    assert outcome(choose(wanting("4"), cluster, objects, seed))[0] == chosen


BUDGETS = [
    pytest.param([budget(BOTH, 1)], {"q", "r"}, id="one may go"),
    pytest.param([budget(BOTH, 3)], set(), id="all may go"),
    pytest.param([budget({}, 0)], set(), id="an empty selector protects nobody"),
    pytest.param([budget({"b": "1"}, 0)], {"q"}, id="only those it selects"),
    pytest.param([budget({"b": "1"}, 0), budget(BOTH, 1)], {"q", "r"}, id="every budget counts"),
    pytest.param(
        [budget(BOTH, 0, disruptedPods={"p": "2026-01-01T00:00:00Z"})], {"q", "r"}, id="counted"
    ),
]


@pytest.mark.parametrize(("budgets", "violating"), BUDGETS)
def test_budgets(budgets: list[PodDisruptionBudget], violating: set[str]) -> None:
    pods = [
        low("p", labels=BOTH),
        low("q", labels={**BOTH, "b": "1"}),
        low("r", labels=BOTH),
        low("bare"),
        low("s", labels=BOTH, namespace="elsewhere"),
    ]
    found = Budgets(FakeObjects(pdbs=budgets)).violated_by(pods)
    assert found == {f"default-{name}" for name in violating}


MESSAGES = [
    pytest.param(
        wanting(preemptionPolicy="Never"),
        [node("n", cpu="2")],
        {"n": [low("a")]},
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
        "not eligible due to preemptionPolicy=Never.",
        None,
        id="never",
    ),
    pytest.param(
        wanting(),
        [node("n1", cpu="2"), node("n2", taints=["k:NoSchedule"]), node("n3", cpu="1")],
        {"n1": [low("a", 10)], "n2": [low("b", 0)], "n3": [low("c")]},
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new "
        "claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found "
        "for incoming pod, 2 Preemption is not helpful for scheduling.",
        "",
        id="no victims",
    ),
    pytest.param(
        wanting(),
        [node("n1", cpu="2")],
        {"n1": [low("a", 0), low("b", 20)]},
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 Insufficient cpu.",
        "",
        id="not enough",
    ),
    pytest.param(
        wanting(),
        [node("n1", cpu="2")],
        {"n1": [low("a")]},
        "0/1 nodes are available: 1 Insufficient cpu.",
        "n1",
        id="room can be made",
    ),
]


@pytest.mark.parametrize(("info", "nodes", "placed", "message", "nominated"), MESSAGES)
def test_what_is_told(
    info: PodInfo, nodes: Any, placed: Any, message: str, nominated: str | None
) -> None:
    found = choose(info, cluster_of(nodes, placed))
    assert isinstance(found, Failure)
    assert (found.message, found.nominated) == (message, nominated)


def leaving(name: str, reason: str, priority: int = 0) -> PodInfo:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    return low(name, priority, deleting=True, status={"conditions": [condition]})


WAITING = [
    pytest.param([leaving("a", "PreemptionByScheduler")], "n1", True, id="waits"),
    pytest.param([leaving("a", "EvictionByEvictionAPI")], "n1", False, id="leaves for others"),
    pytest.param([leaving("a", "PreemptionByScheduler", 50)], "n1", False, id="of more importance"),
    pytest.param([leaving("a", "PreemptionByScheduler")], "n2", False, id="useless node"),
    pytest.param([leaving("a", "PreemptionByScheduler")], "", False, id="not nominated"),
]


@pytest.mark.parametrize(("there", "nominated", "waits"), WAITING)
def test_one_preemption_at_a_time(there: list[PodInfo], nominated: str, waits: bool) -> None:
    nodes = [node("n1", cpu="2"), node("n2", taints=["k:NoExecute"])]
    cluster = cluster_of(nodes, {"n1": [*there, low("b")]})
    info = wanting("1")
    cluster.nominations.set(info, nominated)
    found = choose(info, cluster)
    assert isinstance(found, Failure)
    assert found.nominated == (None if waits else "n1")
    assert bool(found.victims) is not waits
    assert ("terminating pod on the nominated node." in found.message) is waits


def test_room_is_kept_from_lower_and_given_to_higher() -> None:
    cluster = cluster_of([node("n1", cpu="2")])
    cluster.nominations.set(wanting("2", priority=10), "n1")
    refused = choose(low("equal", 10), cluster)
    assert isinstance(refused, Failure) and "1 Insufficient cpu" in refused.message
    assert choose(low("higher", 11), cluster) == "n1"
    assert choose(wanting("2", priority=10), cluster) == "n1"  # the one it is kept for
    assert not cluster.pods


def test_the_nominated_node_comes_first() -> None:
    nodes = [node("n1", cpu="4"), node("n2", cpu="64")]
    info = wanting()
    assert choose(info, cluster_of(nodes)) == "n2"
    cluster = cluster_of(nodes)
    cluster.nominations.set(info, "n1")
    assert choose(info, cluster) == "n1"
    cluster.set_node(node("n1", cpu="1"))
    assert choose(info, cluster) == "n2"


def test_victims_are_more_where_others_wait() -> None:
    """Room that is kept for an equal is not to be had again."""
    cluster = cluster_of([node("n", cpu="4")], {"n": [low("a", cpu="2"), low("b", cpu="2")]})
    cluster.nominations.set(pod("first", requests={"cpu": "2"}, priority=10), "n")
    assert sorted(outcome(choose(wanting("2"), cluster))[1]) == ["a", "b"]


def test_foes_and_crowds_are_victims_too() -> None:
    far = affinity("podAntiAffinity", near("x", ZONE))
    nodes = [node("n1", {ZONE: "a"})]
    foe = pod("foe", {"app": "x"}, priority=1)
    info = pod("new", priority=5, affinity=far)
    assert outcome(choose(info, cluster_of(nodes, {"n1": [foe, low("b")]}))) == ("n1", ["foe"])
    selector = {"matchLabels": {"app": "x"}}
    info = pod(
        "new",
        {"app": "x"},
        priority=5,
        topologySpreadConstraints=[spread(ZONE, 1, labelSelector=selector)],
    )
    crowd = [pod(f"x{n}", {"app": "x"}, priority=n) for n in range(2)]
    nodes = [node("n1", {ZONE: "a"}), node("n2", {ZONE: "b"}, unschedulable=True)]
    assert outcome(choose(info, cluster_of(nodes, {"n1": crowd}))) == ("n1", ["x1", "x0"])


def test_host_ports() -> None:
    def serving(name: str, priority: int) -> PodInfo:
        ports = [{"containerPort": 80, "hostPort": 80}]
        containers = [{"name": "c", "image": "i", "ports": ports}]
        return pod(name, containers=containers, priority=priority)

    cluster = cluster_of([node("n")], {"n": [serving("a", 1), low("b")]})
    assert outcome(choose(serving("new", 5), cluster)) == ("n", ["a"])


@settings(deadline=None, max_examples=60)
@given(some_nodes(), some_pods(), some_pods(), st.randoms(use_true_random=False))
def test_thinking_changes_nothing(
    nodes: Any, there: list[PodInfo], coming: list[PodInfo], rng: random.Random
) -> None:
    cluster = cluster_of(nodes)
    for each in there:
        each.priority = rng.randrange(3)
        cluster.set_pod(each, rng.choice(nodes).metadata.name)
    plugins = default_profile()
    for each in coming:
        each.uid = f"new-{each.uid}"
        each.priority = rng.randrange(4)
        before = state(cluster), placed(cluster)
        found = schedule(each, cluster, FakeObjects(), plugins, rng)
        assert (state(cluster), placed(cluster)) == before
        if not isinstance(found, Failure) or not found.victims:
            continue
        assert all(victim.priority < each.priority for victim in found.victims)
        # Once they are gone it gets that very node.
        for victim in found.victims:
            cluster.remove_pod(victim.uid)
        cluster.nominations.set(each, found.nominated or "")
        again = schedule(each, cluster, FakeObjects(), plugins, rng)
        assert not isinstance(again, Failure) and again.node == found.nominated
        cluster.nominations.remove(each.uid)
        cluster.set_pod(each, again.node)


def placed(cluster: Cluster) -> dict[str, int]:
    return {uid: slot for uid, (_, slot) in cluster.pods.items()}


def test_nominations_and_what_is_written_of_them() -> None:
    def told(node: str) -> PodInfo:
        return pod("p", status={"nominatedNodeName": node})

    nominations = Nominations()
    nominations.set(told(""), "n1")
    uid = told("").uid
    for old, new, expected in (
        ("", "", "n1"),
        ("", "n2", "n2"),
        ("n2", "n2", "n2"),
        ("n2", "", ""),
    ):
        nominations.update(told(old), told(new))
        assert nominations.node_of(uid) == expected
    assert not nominations.remove(uid) and not [*nominations.nodes]


def test_the_condition_is_written_once() -> None:
    victim = low("v").pod
    made = disruption(victim, "mine", "2026-01-01T00:00:00Z")
    assert made is not None
    assert made.message == "mine: preempting to accommodate a higher priority pod"
    victim.status.conditions = [made]
    assert disruption(victim, "mine", "2026-01-02T00:00:00Z") is None
    other = disruption(victim, "other", "2026-01-02T00:00:00Z")
    assert other is not None and other.lastTransitionTime == "2026-01-01T00:00:00Z"
