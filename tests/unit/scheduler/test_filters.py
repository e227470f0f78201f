"""Which nodes each plugin rejects, and in what words."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Node, PersistentVolume, PersistentVolumeClaim
from navarch.api.types.storage_v1 import StorageClass
from navarch.scheduler.framework import PodRejected
from navarch.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from navarch.scheduler.plugins.node_affinity import NodeAffinity
from navarch.scheduler.plugins.node_name import NodeName
from navarch.scheduler.plugins.node_ports import REASON as NO_PORTS
from navarch.scheduler.plugins.node_ports import NodePorts
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.plugins.node_unschedulable import NodeUnschedulable
from navarch.scheduler.plugins.pod_topology_spread import MISSING, SKEWED, PodTopologySpread
from navarch.scheduler.plugins.taint_toleration import TaintToleration
from navarch.scheduler.plugins.volume_binding import VolumeBinding
from navarch.scheduler.plugins.volume_restrictions import IN_USE, VolumeRestrictions
from navarch.scheduler.plugins.volume_zone import VolumeZone
from navarch.scheduler.podinfo import PodInfo

from .conftest import HOSTNAME, ZONE, FakeObjects, choose, cluster_of, node, pod, reasons

SELECTOR = "node(s) didn't match Pod's node affinity/selector"


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    return {"nodeAffinity": {key: {"nodeSelectorTerms": [*terms]}}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [*values]}]}


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({}, False),
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "other"}, False),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_taints(toleration: dict[str, str], tolerated: bool) -> None:
    nodes = [
        node("plain"),
        node("tainted", taints=["k=v:NoSchedule"]),
        node("soft", taints=["k=v:PreferNoSchedule"]),
    ]
    info = pod(tolerations=[toleration] if toleration else [])
    found = reasons(TaintToleration(), info, cluster_of(nodes))
    assert found == ({} if tolerated else {"tainted": ["node(s) had untolerated taint(s)"]})


def test_closed_nodes() -> None:
    cluster = cluster_of([node("a"), node("b", unschedulable=True)])
    assert reasons(NodeUnschedulable(), pod(), cluster) == {"b": ["node(s) were unschedulable"]}
    tolerant = pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert reasons(NodeUnschedulable(), tolerant, cluster) == {}


def test_a_named_node() -> None:
    cluster = cluster_of([node("a"), node("b")])
    text = "node(s) didn't match the requested node name"
    assert reasons(NodeName(), pod(nodeName="a"), cluster) == {"b": [text]}


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ({"nodeSelector": {"disk": "ssd"}}, "a"),
        ({"nodeSelector": {"disk": "ssd", "gen": "9"}}, ""),
        ({"affinity": required(expression("disk", "In", "ssd", "hdd"))}, "ab"),
        ({"affinity": required(expression("disk", "NotIn", "ssd"))}, "bc"),
        ({"affinity": required(expression("disk", "Exists"))}, "ab"),
        ({"affinity": required(expression("disk", "DoesNotExist"))}, "c"),
        ({"affinity": required(expression("gen", "Gt", "3"))}, "b"),
        ({"affinity": required(expression("gen", "Lt", "10"))}, "a"),
        ({"affinity": required(expression("disk", "Gt", "3"))}, ""),
        ({"affinity": required(expression("gen", "Gt", "x"))}, ""),
        ({"affinity": required(expression("gen", "Lt", "9" * 5000))}, ""),
        ({"affinity": required({})}, ""),
        ({"affinity": required(expression("gen", "In", "3"), expression("gen", "In", "10"))}, "ab"),
        (
            {
                "nodeSelector": {"disk": "hdd"},
                "affinity": required(expression("gen", "Exists")),
            },
            "b",
        ),
    ],
)
def test_node_affinity(spec: dict[str, Any], left: str) -> None:
    nodes = [node("a", {"disk": "ssd", "gen": "3"}), node("b", {"disk": "hdd", "gen": "10"})]
    cluster = cluster_of([*nodes, node("c")])
    found = reasons(NodeAffinity(), pod(**spec), cluster)
    assert found == {name: [SELECTOR] for name in "abc" if name not in left}


def test_pods_of_daemon_sets_look_at_their_node_only() -> None:
    def pinned(*names: str) -> dict[str, Any]:
        field = {"key": "metadata.name", "operator": "In", "values": [*names]}
        return required({"matchFields": [field]})

    cluster = cluster_of([node("a"), node("b"), node("c", cpu="1")])
    assert choose(pod(affinity=pinned("b")), cluster) == "b"
    failure = choose(pod(affinity=pinned("c"), requests={"cpu": "2"}), cluster)
    assert not isinstance(failure, str)
    assert failure.message.startswith(
        "0/3 nodes are available: 1 Insufficient cpu, "
        "2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    conflict = pod(affinity=pinned())
    with pytest.raises(PodRejected, match="pod affinity terms conflict"):
        reasons(NodeAffinity(), conflict, cluster)


@pytest.mark.parametrize(
    ("wanted", "collides"),
    [
        ({"hostPort": 80}, True),
        ({"hostPort": 81}, False),
        ({"hostPort": 80, "protocol": "UDP"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, True),
        ({"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"containerPort": 80}, False),
    ],
)
def test_ports(wanted: dict[str, Any], collides: bool) -> None:
    def with_port(name: str, port: dict[str, Any]) -> Any:
        return pod(name, containers=[{"name": "c", "ports": [port]}])

    there = with_port("there", {"hostPort": 80, "hostIP": "10.0.0.1"})
    cluster = cluster_of([node("a"), node("b")], {"a": [there]})
    found = reasons(NodePorts(), with_port("new", wanted), cluster)
    assert found == ({"a": [NO_PORTS]} if collides else {})
    cluster.remove_pod(there.uid)
    assert reasons(NodePorts(), with_port("new", wanted), cluster) == {}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"requests": {"cpu": "1"}}, {}),
        ({"requests": {"cpu": "1001m"}}, {"half": ["Insufficient cpu"]}),
        (
            {"requests": {"cpu": "3", "memory": "6Gi"}},
            {"half": ["Insufficient cpu", "Insufficient memory"]},
        ),
        (
            {"requests": {"example.com/gpu": "1"}},
            {"half": ["Insufficient example.com/gpu"], "empty": ["Insufficient example.com/gpu"]},
        ),
        ({"requests": {"example.com/gpu": "0"}}, {}),
        ({"requests": {"cpu": "1"}, "overhead": {"cpu": "1m"}}, {"half": ["Insufficient cpu"]}),
        # The largest of the init containers, and not their sum, counts.
        (
            {
                "initContainers": [
                    {"name": "a", "resources": {"requests": {"cpu": "1"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "900m"}}},
                ]
            },
            {},
        ),
        # A sidecar stays while what follows it runs.
        (
            {
                "requests": {"cpu": "600m"},
                "initContainers": [
                    {
                        "name": "sidecar",
                        "restartPolicy": "Always",
                        "resources": {"requests": {"cpu": "401m"}},
                    },
                ],
            },
            {"half": ["Insufficient cpu"]},
        ),
        # What is said of the whole pod replaces the sum.
        ({"requests": {"cpu": "500m"}, "resources": {"requests": {"cpu": "1"}}}, {}),
    ],
)
def test_room(spec: dict[str, Any], expected: dict[str, list[str]]) -> None:
    there = pod("there", requests={"cpu": "3", "memory": "4Gi"})
    cluster = cluster_of([node("half"), node("empty")], {"half": [there]})
    assert reasons(NodeResourcesFit(), pod(**spec), cluster) == expected


def test_the_number_of_pods_is_limited() -> None:
    cluster = cluster_of([node("a", pods="1"), node("b", pods="1")], {"a": [pod("there")]})
    assert reasons(NodeResourcesFit(), pod(), cluster) == {"a": ["Too many pods"]}


def spread(key: str = ZONE, skew: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
        **more,
    }


X = {"app": "x"}


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        # Zone a has two pods, zone b one, so one more is too many in a.
        ([spread()], {"a1": [SKEWED], "a2": [SKEWED], "none": [MISSING]}),
        ([spread(skew=2)], {"none": [MISSING]}),
        # With more domains wanted than there are, the least counts as zero.
        (
            [spread(minDomains=3)],
            {"a1": [SKEWED], "a2": [SKEWED], "b1": [SKEWED], "none": [MISSING]},
        ),
        ([spread(HOSTNAME)], {"a1": [SKEWED], "b1": [SKEWED]}),
        ([spread(HOSTNAME, 2)], {"a1": [SKEWED]}),
        ([spread(HOSTNAME, 3)], {}),
        # Several must all hold; nodes without all the labels do not count for any.
        (
            [spread(), spread(HOSTNAME)],
            {"a1": [SKEWED], "a2": [SKEWED], "b1": [SKEWED], "none": [MISSING]},
        ),
        ([spread(labelSelector={"matchLabels": {"app": "other"}})], {"none": [MISSING]}),
        ([spread(matchLabelKeys=["version"])], {"none": [MISSING]}),
    ],
)
def test_spreading(constraints: list[dict[str, Any]], expected: dict[str, list[str]]) -> None:
    nodes = [node("a1", {ZONE: "a"}), node("a2", {ZONE: "a"}), node("b1", {ZONE: "b"})]
    placed = {
        "a1": [pod("1", X), pod("2", X)],
        "b1": [pod("3", X), pod("4", {"app": "y"}), pod("5", X, deleting=True)],
        "a2": [pod("6", X, namespace="other")],
    }
    cluster = cluster_of([*nodes, node("none")], placed)
    info = pod(labels={"app": "x", "version": "2"}, topologySpreadConstraints=constraints)
    assert reasons(PodTopologySpread(), info, cluster) == expected


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        # The tainted node's zone counts, and has no pods.
        ({}, {"a": [SKEWED], "b": [SKEWED]}),
        ({"nodeTaintsPolicy": "Honor"}, {}),
        # With affinity ignored, so does the zone that the pod cannot go to.
        (
            {"nodeTaintsPolicy": "Honor", "nodeAffinityPolicy": "Ignore"},
            {"a": [SKEWED], "b": [SKEWED]},
        ),
    ],
)
def test_spreading_looks_at_nodes_the_pod_can_go_to(
    policies: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    nodes = [
        node("a", {ZONE: "a", "pool": "1"}),
        node("b", {ZONE: "b", "pool": "1"}),
        node("tainted", {ZONE: "c", "pool": "1"}, taints=["k:NoSchedule"]),
        node("other", {ZONE: "d"}),
    ]
    cluster = cluster_of(nodes, {"a": [pod("1", X)], "b": [pod("2", X)]})
    info = pod(labels=X, nodeSelector={"pool": "1"}, topologySpreadConstraints=[spread(**policies)])
    assert reasons(PodTopologySpread(), info, cluster) == expected


def affinity(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [*terms]}}


def near(app: str, key: str = ZONE, **more: Any) -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key, **more}


AFFINITY = "node(s) didn't match pod affinity rules"
ANTI = "node(s) didn't match pod anti-affinity rules"
EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (affinity("podAffinity", near("x")), {"b1": [AFFINITY], "none": [AFFINITY]}),
        (
            affinity("podAffinity", near("x", HOSTNAME)),
            {"a2": [AFFINITY], "b1": [AFFINITY], "none": [AFFINITY]},
        ),
        # Nobody is like this, not even the pod itself.
        (
            affinity("podAffinity", near("z")),
            {name: [AFFINITY] for name in ("a1", "a2", "b1", "none")},
        ),
        # The first of its kind only needs the label.
        (affinity("podAffinity", near("me")), {"none": [AFFINITY]}),
        # A friend must match all terms.
        (
            affinity("podAffinity", near("x"), near("y")),
            {name: [AFFINITY] for name in ("a1", "a2", "b1", "none")},
        ),
        (affinity("podAntiAffinity", near("x")), {"a1": [ANTI], "a2": [ANTI]}),
        (affinity("podAntiAffinity", near("x", HOSTNAME)), {"a1": [ANTI]}),
        (affinity("podAntiAffinity", near("far")), {}),
        (affinity("podAntiAffinity", near("far", namespaces=["other"])), {"b1": [ANTI]}),
        (
            affinity("podAntiAffinity", near("far", namespaceSelector={})),
            {"b1": [ANTI]},
        ),
        (
            affinity(
                "podAntiAffinity", near("far", namespaceSelector={"matchLabels": {"team": "t"}})
            ),
            {"b1": [ANTI]},
        ),
        (
            affinity(
                "podAntiAffinity", near("far", namespaceSelector={"matchLabels": {"team": "u"}})
            ),
            {},
        ),
    ],
)
def test_pod_affinity(rules: dict[str, Any], expected: dict[str, list[str]]) -> None:
    nodes = [node("a1", {ZONE: "a"}), node("a2", {ZONE: "a"}), node("b1", {ZONE: "b"})]
    placed = {
        "a1": [pod("1", X)],
        "b1": [pod("2", {"app": "y"}), pod("3", {"app": "far"}, namespace="other")],
        "none": [pod("4", {"app": "far"})],
    }
    objects = FakeObjects(namespaces={"default": {}, "other": {"team": "t"}})
    cluster = cluster_of([*nodes, node("none")], placed)
    info = pod("new", {"app": "me"}, affinity=rules)
    assert reasons(InterPodAffinity(), info, cluster, objects) == expected


def test_pods_that_are_there_keep_others_away() -> None:
    guard = pod("guard", affinity=affinity("podAntiAffinity", near("x")))
    nodes = [node("a1", {ZONE: "a"}), node("a2", {ZONE: "a"}), node("b1", {ZONE: "b"})]
    cluster = cluster_of(nodes, {"a1": [guard]})
    plugin = InterPodAffinity()
    assert reasons(plugin, pod(labels=X), cluster) == {"a1": [EXISTING], "a2": [EXISTING]}
    assert reasons(plugin, pod(labels={"app": "y"}), cluster) == {}
    assert reasons(plugin, pod(labels=X, namespace="other"), cluster) == {}
    cluster.remove_pod(guard.uid)
    assert reasons(plugin, pod(labels=X), cluster) == {}


def claim(name: str = "data", **fields: Any) -> PersistentVolumeClaim:
    body: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
        },
        "spec": {"volumeName": "v", "accessModes": ["ReadWriteOnce"]},
    }
    for key, value in fields.items():
        part, _, field = key.partition("_")
        body.setdefault(part, {})[field] = value
    return from_object(PersistentVolumeClaim, body)


def volume(**fields: Any) -> PersistentVolume:
    return from_object(PersistentVolume, {"metadata": {"name": "v"}, **fields})


DATA = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, 'persistentvolumeclaim "data" not found'),
        (
            claim(metadata_deletionTimestamp="2026-01-01T00:00:00Z"),
            'persistentvolumeclaim "data" is being deleted',
        ),
        (
            claim(status_phase="Lost"),
            'persistentvolumeclaim "data" bound to non-existent persistentvolume "v"',
        ),
        (claim(metadata_annotations={}), "pod has unbound immediate PersistentVolumeClaims"),
    ],
)
def test_claims_that_cannot_be_used(found: PersistentVolumeClaim | None, message: str) -> None:
    late = from_object(
        StorageClass, {"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    )
    objects = FakeObjects(classes={"late": late})
    if found is not None:
        objects.claims["default/data"] = found
    failure = choose(pod(volumes=DATA), cluster_of([node("a")]), objects)
    assert not isinstance(failure, str)
    assert failure.message == f"0/1 nodes are available: {message}. not found"
    assert failure.plugins == {"VolumeBinding" if found else "VolumeRestrictions"}


def test_volumes_are_reachable_from_some_nodes() -> None:
    terms = [expression(HOSTNAME, "In", "a")]
    local = volume(spec={"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})
    objects = FakeObjects(claims={"default/data": claim()}, volumes={"v": local})
    cluster = cluster_of([node("a"), node("b")])
    found = reasons(VolumeBinding(), pod(volumes=DATA), cluster, objects)
    assert found == {"b": ["node(s) didn't match PersistentVolume's node affinity"]}
    assert choose(pod(volumes=DATA), cluster, objects) == "a"
    objects.volumes.clear()
    lost = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
    found = reasons(VolumeBinding(), pod(volumes=DATA), cluster, objects)
    assert found == {"a": [lost], "b": [lost]}


def test_volumes_have_zones() -> None:
    zoned = volume()
    zoned.metadata.labels = {ZONE: "a__b"}
    objects = FakeObjects(claims={"default/data": claim()}, volumes={"v": zoned})
    nodes = [node("a", {ZONE: "a"}), node("c", {ZONE: "c"}), node("none")]
    found = reasons(VolumeZone(), pod(volumes=DATA), cluster_of(nodes), objects)
    assert found == {"c": ["node(s) had no available volume zone"]}


def test_claims_for_one_pod() -> None:
    objects = FakeObjects(claims={"default/data": claim(spec_accessModes=["ReadWriteOncePod"])})
    user = pod("user", volumes=DATA)
    cluster = cluster_of([node("a"), node("b")], {"a": [user]})
    found = reasons(VolumeRestrictions(), pod(volumes=DATA), cluster, objects)
    assert found == {"a": [IN_USE], "b": [IN_USE]}
    cluster.remove_pod(user.uid)
    assert reasons(VolumeRestrictions(), pod(volumes=DATA), cluster, objects) == {}


MESSAGES: list[tuple[list[Node], dict[str, Any], str]] = [
    ([], {}, "no nodes available to schedule pods"),
    (
        [node("a", taints=["k:NoSchedule"]), node("b"), node("c")],
        {"requests": {"cpu": "3"}},
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. "
        "no new claims to deallocate, preemption: 0/3 nodes are available: "
        "1 Preemption is not helpful for scheduling, "
        "2 No preemption victims found for incoming pod.",
    ),
    (
        [node("a")],
        {"requests": {"cpu": "5"}},
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    ),
    (
        [node("b")],
        {"requests": {"cpu": "3"}, "preemptionPolicy": "Never"},
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
        "preemption: not eligible due to preemptionPolicy=Never.",
    ),
    # Where pods of lower priority are in the way, nothing is said of what removing them would do.
    (
        [node("b")],
        {"requests": {"cpu": "3"}, "priority": 5},
        "0/1 nodes are available: 1 Insufficient cpu.",
    ),
]


@pytest.mark.parametrize(("nodes", "spec", "message"), MESSAGES)
def test_messages(nodes: list[Node], spec: dict[str, Any], message: str) -> None:
    names = {n.metadata.name for n in nodes}
    placed: dict[str, list[PodInfo]] = {
        name: [pod(f"on-{name}", requests={"cpu": "2"})] for name in ("b", "c") if name in names
    }
    failure = choose(pod(**spec), cluster_of(nodes, placed))
    assert not isinstance(failure, str)
    assert failure.message == message
