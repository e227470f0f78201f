"""What the scheduler would say of a pod, with the numbers behind it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.scheduler.explanation import Explanation, explain
from navarch.scheduler.explanation_details import amount, requirement_text
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile

from .conftest import HOSTNAME, ZONE, FakeObjects, cluster_of, node, pod

PROFILE = default_profile()


def explained(
    info: PodInfo,
    nodes: list[Any],
    placed: dict[str, list[PodInfo]] | None = None,
    objects: FakeObjects | None = None,
) -> Explanation:
    return explain(info.pod, cluster_of(nodes, placed or {}), objects or FakeObjects(), PROFILE)


def told(found: Explanation) -> list[tuple[str, int, str]]:
    return [(rule.plugin, rule.nodes, rule.detail) for rule in found.ruled_out]


def apart(kind: str, key: str = HOSTNAME, **labels: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": key}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def spread(skew: int = 1, **further: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    return {"topologyKey": ZONE, "maxSkew": skew, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": selector, **further}  # fmt: skip


ZONED = [node("a", {ZONE: "x"}), node("b", {ZONE: "y"}, taints=["k=v:NoSchedule"])]
WEB = {"app": "web"}


@pytest.mark.parametrize(
    ("info", "nodes", "placed", "expected"),
    [
        pytest.param(
            pod(requests={"cpu": "3"}),
            [node("a"), node("b")],
            {"a": [pod("q", requests={"cpu": "2500m"})], "b": [pod("r", requests={"cpu": "2"})]},
            [("NodeResourcesFit", 2,
              "short by 1: asks 3, most free is 2 of 4 on b")],
            id="short of a resource",
        ),
        pytest.param(
            pod(requests={"memory": "20Gi"}),
            [node("a"), node("b", memory="16Gi")],
            {},
            [("NodeResourcesFit", 2, "asks 20Gi, more than these have in all (at most 16Gi, b)")],
            id="too large for any node",
        ),
        pytest.param(
            pod(requests={"example.com/gpu": "1"}),
            [node("a")],
            {},
            [("NodeResourcesFit", 1, "asks 1, and there is none of it")],
            id="nobody offers it",
        ),
        pytest.param(
            pod(),
            [node("a", pods="1")],
            {"a": [pod("q")]},
            [("NodeResourcesFit", 1, "no room for a further pod (nodes take up to 1)")],
            id="too many pods",
        ),
        pytest.param(
            pod(),
            [node("a", unschedulable=True), node("b", taints=["k=v:NoSchedule", "s:PreferNoS"]),
             node("c", taints=["k=v:NoSchedule"]), node("d", taints=["gone:NoExecute"])],
            {},
            [("NodeUnschedulable", 1, "cordoned"),
             ("TaintToleration", 2, "taint k=v:NoSchedule is not tolerated"),
             ("TaintToleration", 1, "taint gone:NoExecute is not tolerated")],
            id="closed and tainted, grouped by taint",
        ),
        pytest.param(
            pod(nodeSelector={"disk": "ssd", "cpu": "fast"}),
            [node("a", {"disk": "hdd", "cpu": "fast"}), node("b", {"disk": "hdd", "cpu": "fast"}),
             node("c", {"cpu": "slow"})],
            {},
            [("NodeAffinity", 2, "wants disk=ssd (has hdd)"),
             ("NodeAffinity", 1, "wants disk=ssd (has no such label), cpu=fast (has slow)")],
            id="labels that are missing",
        ),
        pytest.param(
            pod(containers=[{"name": "c", "image": "i",
                             "ports": [{"containerPort": 80, "hostPort": 80}]}]),
            [node("a")],
            {"a": [pod("q", containers=[{"name": "c", "image": "i",
                                         "ports": [{"containerPort": 80, "hostPort": 80}]}])]},
            [("NodePorts", 1, "host port 80/TCP is used by default/q on a")],
            id="a port that is taken",
        ),
        pytest.param(
            pod(labels=WEB, topologySpreadConstraints=[spread()]),
            [*ZONED, node("c")],
            {"a": [pod("q", WEB)]},
            [("TaintToleration", 1, "taint k=v:NoSchedule is not tolerated"),
             ("PodTopologySpread", 1, f"no label {ZONE}"),
             ("PodTopologySpread", 1,
              f"{ZONE}=x has 1 such pod(s), the fewest is 0 (y), maxSkew 1")],
            id="domains that have too many already",
        ),
        pytest.param(
            pod(labels=WEB, topologySpreadConstraints=[spread(minDomains=3)]),
            [node("a", {ZONE: "x"})],
            {"a": [pod("q", WEB)]},
            [("PodTopologySpread", 1, f"{ZONE}=x has 1 such pod(s), the fewest is 0 "
              "(only 1 of minDomains 3 exist), maxSkew 1")],
            id="too few domains",
        ),
        pytest.param(
            pod(affinity=apart("podAffinity", app="db")),
            [node("a")],
            {"a": [pod("q", WEB)]},
            [("InterPodAffinity", 1, f"no pod with app=db in the same {HOSTNAME}")],
            id="nobody to be near to",
        ),
        pytest.param(
            pod(affinity=apart("podAntiAffinity", app="web")),
            [node("a"), node("b")],
            {"a": [pod("q", WEB)], "b": [pod("r", WEB)]},
            [("InterPodAffinity", 2, f"must be apart from pods with app=web per {HOSTNAME}, "
              "such as default/q on a")],
            id="somebody to be apart from",
        ),
        pytest.param(
            pod(labels=WEB),
            [node("a")],
            {"a": [pod("q", affinity=apart("podAntiAffinity", app="web"))]},
            [("InterPodAffinity", 1, f"pods there must be apart from app=web per {HOSTNAME}")],
            id="somebody who wants to be apart",
        ),
    ],
)  # fmt: skip
def test_rules(
    info: PodInfo,
    nodes: list[Any],
    placed: dict[str, list[PodInfo]],
    expected: list[tuple[str, int, str]],
) -> None:
    found = explained(info, nodes, placed)
    assert told(found) == expected
    assert found.feasible == 0 and found.nodes == len(nodes)
    assert found.message.startswith(f"0/{len(nodes)} nodes are available: ")


def test_terms_of_affinity() -> None:
    """One term is taken apart; of several none is singled out."""
    one = [{"key": "disk", "operator": "In", "values": ["ssd"]},
           {"key": "old", "operator": "DoesNotExist"}]  # fmt: skip

    def with_terms(*terms: Any) -> PodInfo:
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        return pod(affinity={"nodeAffinity": {key: {"nodeSelectorTerms": [*terms]}}})

    nodes = [node("a", {"disk": "ssd", "old": "yes"}), node("b")]
    found = explained(with_terms({"matchExpressions": one}), nodes)
    assert told(found) == [
        ("NodeAffinity", 1, "wants disk=ssd (has no such label)"),
        ("NodeAffinity", 1, "wants no label old (has yes)"),
    ] or told(found) == [
        ("NodeAffinity", 1, "wants no label old (has yes)"),
        ("NodeAffinity", 1, "wants disk=ssd (has no such label)"),
    ]
    several = [{"matchExpressions": [each]} for each in
               ({"key": "n", "operator": "Gt", "values": ["4"]},
                {"key": "z", "operator": "NotIn", "values": ["1", "2"]})]  # fmt: skip
    found = explained(with_terms(*several), [node("a", {"z": "1"})])
    assert told(found) == [("NodeAffinity", 1, "wants n > 4 or z notin (1, 2)")]


def test_a_node_that_is_kept_for_another() -> None:
    cluster = cluster_of([node("a")])
    cluster.nominations.set(pod("vip", requests={"cpu": "4"}, priority=9), "a")
    found = explain(pod(requests={"cpu": "1"}).pod, cluster, FakeObjects(), PROFILE)
    assert told(found) == [("NodeResourcesFit", 1, "its room is kept for default/vip")]


def test_who_would_be_pushed_aside() -> None:
    important = pod(requests={"cpu": "4"}, priority=10)
    found = explained(important, [node("a")], {"a": [pod("q", requests={"cpu": "1"})]})
    assert (found.victims, found.victims_on) == (("default/q",), "a")
    assert found.ruled_out[0].could_make_room
    polite = pod(requests={"cpu": "4"}, priority=10, preemptionPolicy="Never")
    found = explained(polite, [node("a")], {"a": [pod("q", requests={"cpu": "1"})]})
    assert not found.victims and "preemptionPolicy=Never" in found.message


def test_a_pod_that_is_rejected_for_good() -> None:
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    found = explained(pod(volumes=[volume]), [node("a")])
    assert found.rejected_by == "VolumeRestrictions"
    assert found.rejection == 'persistentvolumeclaim "data" not found'


def test_a_volume_that_is_elsewhere() -> None:
    claim = {"metadata": {"name": "data", "namespace": "default",
                          "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
             "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}  # fmt: skip
    terms = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["y"]}]}]
    volume = {"metadata": {"name": "pv"},
              "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}  # fmt: skip
    objects = FakeObjects(
        claims={"default/data": from_object(PersistentVolumeClaim, claim)},
        volumes={"pv": from_object(PersistentVolume, volume)},
    )
    user = pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])
    found = explained(user, [node("a", {ZONE: "x"})], objects=objects)
    assert told(found) == [("VolumeBinding", 1, f"volume pv of claim data is only at {ZONE}=y")]
    assert "kubectl delete pvc data" in found.ruled_out[0].remedy


def test_a_volume_that_nobody_offers() -> None:
    claim = {"metadata": {"name": "data", "namespace": "default"}, "spec": {
        "storageClassName": "slow", "resources": {"requests": {"storage": "5Gi"}}}}  # fmt: skip
    slow = {"metadata": {"name": "slow"}, "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer"}  # fmt: skip
    objects = FakeObjects(
        claims={"default/data": from_object(PersistentVolumeClaim, claim)},
        classes={"slow": from_object(StorageClass, slow)},
    )
    user = pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}])
    found = explained(user, [node("a")], objects=objects)
    assert told(found) == [("VolumeBinding", 1, "claim data wants 5Gi of class slow")]
    assert found.ruled_out[0].remedy == "navarch why pvc/data"


def test_a_pod_that_has_a_node_is_no_obstacle_to_itself() -> None:
    mine = pod("mine", requests={"cpu": "3"}, nodeName="a")
    placed = {"a": [mine], "b": [pod("q", requests={"cpu": "2"})]}
    found = explained(mine, [node("a"), node("b"), node("c")], placed)
    assert found.feasible == 2
    assert [each.node for each in found.ranking] == ["a", "c"]
    assert (found.place_of("a"), found.place_of("c"), found.place_of("b")) == (1, 1, 0)
    assert all(each.total == sum(each.scores.values()) for each in found.ranking)
    assert told(found) == [("NodeResourcesFit", 1, "short by 1: asks 3, most free is 2 of 4 on b")]


def test_a_node_that_would_not_do_any_more() -> None:
    mine = pod("mine", nodeName="n7")
    nodes = [node(f"n{n}", unschedulable=n != 9) for n in range(10)]
    found = explained(mine, nodes, {"n7": [mine]})
    assert found.place_of("n7") == 0
    assert [rule.is_own for rule in found.ruled_out] == [True]


def test_no_nodes() -> None:
    assert explained(pod(), []).message == "no nodes available to schedule pods"


def test_many_different_reasons_are_told_as_few() -> None:
    nodes = [node(f"n{n:04}", taints=[f"own=n{n}:NoSchedule"]) for n in range(3000)]
    began = time.process_time()
    found = explained(pod(), nodes)
    assert sum(rule.nodes for rule in found.ruled_out) == 3000
    assert len(found.ruled_out) == 4
    assert found.ruled_out[-1].detail.startswith("2997 further, such as taint own=")
    assert len(found.ruled_out[-1].examples) == 3
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cpu", 1500, "1.5"), ("cpu", 2000, "2"), ("memory", 512 * 2**20, "512Mi"),
        ("memory", 3 * 2**29, "1.5Gi"), ("memory", 100, "100"), ("example.com/gpu", 3, "3"),
        ("hugepages-2Mi", 2**21, "2Mi"),
    ],
)  # fmt: skip
def test_amounts(name: str, value: int, text: str) -> None:
    assert amount(name, value) == text


def test_requirements_without_a_form_of_their_own() -> None:
    from navarch.api.types.core_v1 import NodeSelectorRequirement

    exists = NodeSelectorRequirement(key="k", operator="Exists")
    assert requirement_text(exists) == "label k"
    assert requirement_text(NodeSelectorRequirement(key="k", operator="In", values=["a", "b"])) == (
        "k in (a, b)"
    )
