"""Nodes, pods and what is about them, drawn at random with few names and little room.

All is drawn with a focus: what pods mostly are about. All foci share the rest, so that rules meet
others, but seldom enough that an example can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Namespace, Node, Pod, Service
from navarch.api.types.policy_v1 import PodDisruptionBudget

T = TypeVar("T")
Object = dict[str, Any]
Draw = st.DrawFn

HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
TOPOLOGIES = (HOSTNAME, ZONE, "rack")
NAMESPACES = ("one", "two")
FOCI = ("resources", "nodes", "spread", "affinity", "preemption", "volumes", "everything")
IMAGES = {"registry.example/a:1": 700, "registry.example/b:latest": 90, "c:latest": 2500}
MIB = 1024 * 1024


def one(*values: T) -> st.SearchStrategy[T]:
    return st.sampled_from(values)


def seldom(draw: Draw, often: bool = False) -> bool:
    """True in one of six cases, or in one of two; shrinks to False."""
    return draw(one(False, True) if often else one(False, False, False, False, False, True))


def subset(values: Sequence[T], most: int = 3) -> st.SearchStrategy[list[T]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True)


pod_labels = st.fixed_dictionaries({}, optional={"app": one("x", "y"), "tier": one("1", "2")})


@st.composite
def expressions(draw: Draw, keys: Sequence[str], values: Sequence[str]) -> Object:
    operator = draw(one("In", "NotIn", "Exists", "DoesNotExist"))
    found: Object = {"key": draw(st.sampled_from(keys)), "operator": operator}
    if operator in ("In", "NotIn"):
        found["values"] = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
    return found


@st.composite
def selectors(draw: Draw) -> Object:
    """Of labels of pods; most are simple, some are empty."""
    kind = draw(one("app", "app", "app", "empty", "expressions"))
    if kind == "app":
        return {"matchLabels": {"app": draw(one("x", "y"))}}
    if kind == "empty":
        return {}
    found = expressions(["app", "tier"], ["x", "y", "1", "2"])
    return {"matchExpressions": draw(st.lists(found, min_size=1, max_size=2))}


@st.composite
def allocatables(draw: Draw, focus: str) -> Object:
    found = {
        "cpu": draw(one("2", "1", "500m", "1300m", "4", "0")),
        "memory": draw(one("2Gi", "1Gi", "512Mi", "1500000001", "0")),
        "pods": draw(one("3", "2", "1") if focus == "preemption" else one("110", "5", "3", "2")),
    }
    if seldom(draw):
        found["example.com/gpu"] = draw(one("2", "1", "0"))
    if seldom(draw):
        found["hugepages-2Mi"] = draw(one("4Mi", "2Mi"))
    if seldom(draw):
        found["ephemeral-storage"] = draw(one("2Gi", "1Gi"))
    return found


@st.composite
def node_labels(draw: Draw, name: str) -> dict[str, str]:
    labels = {HOSTNAME: name}
    if seldom(draw):
        del labels[HOSTNAME]
    for key, values in ((ZONE, "12"), ("rack", "123")):
        if value := draw(one(*values, "")):
            labels[key] = value
    if value := draw(one("", "", "5", "12")):
        labels["rank"] = value
    return labels


taints = st.lists(
    st.builds(
        lambda key, value, effect: {"key": key, "value": value, "effect": effect},
        one("k", "l"),
        one("", "v"),
        one("PreferNoSchedule", "NoSchedule", "NoExecute"),
    ),
    max_size=2,
    unique_by=lambda taint: (taint["key"], taint["effect"]),
)


@st.composite
def nodes(draw: Draw, name: str, focus: str) -> Node:
    on_nodes = focus in ("nodes", "everything")
    spec: Object = {}
    if seldom(draw, on_nodes):
        spec["taints"] = draw(taints)
    if seldom(draw):
        spec["unschedulable"] = True
    status: Object = {"allocatable": draw(allocatables(focus))}
    if seldom(draw, on_nodes):
        names = draw(subset([*IMAGES]))
        status["images"] = [{"names": [n], "sizeBytes": IMAGES[n] * MIB} for n in names]
    if on_nodes and seldom(draw):
        status["declaredFeatures"] = ["UserNamespacesHostNetworkSupport"]
    labels = draw(node_labels(name))
    return from_object(
        Node,
        {"metadata": {"name": name, "uid": name, "labels": labels}, "spec": spec, "status": status},
    )


@st.composite
def amounts(draw: Draw, rich: bool) -> dict[str, str]:
    found = {}
    if value := draw(one("", "100m", "500m", "1", "0", "100500u")):
        found["cpu"] = value
    if value := draw(one("", "128Mi", "512Mi", "1Gi", "0", "100000001")):
        found["memory"] = value
    if rich and seldom(draw):
        found["example.com/gpu"] = draw(one("1", "2", "0"))
    if rich and seldom(draw):
        found["hugepages-2Mi"] = "2Mi"
    if rich and seldom(draw):
        found["ephemeral-storage"] = "600Mi"
    return found


ports = st.builds(
    lambda number, address, protocol: {
        "containerPort": number,
        "hostPort": number,
        "hostIP": address,
        "protocol": protocol,
    },
    one(80, 81),
    one("", "0.0.0.0", "10.0.0.1", "10.0.0.2"),
    one("", "TCP", "UDP"),
)


@st.composite
def containers(draw: Draw, name: str, focus: str) -> Object:
    found: Object = {"name": name, "image": "other"}
    rich = focus in ("resources", "everything")
    if focus in ("resources", "preemption", "everything") or seldom(draw):
        found["resources"] = {"requests": draw(amounts(rich))}
    if seldom(draw, focus == "nodes"):
        found["ports"] = [draw(ports)]
    if seldom(draw, focus == "nodes"):
        found["image"] = draw(one("registry.example/a:1", "registry.example/b", "c", "c:latest"))
    return found


@st.composite
def node_terms(draw: Draw) -> Object:
    def fields() -> Object:
        operator = draw(one("In", "NotIn"))
        return {"key": "metadata.name", "operator": operator, "values": [draw(one("n0", "n1"))]}

    term: Object = {}
    kind = draw(one("labels", "labels", "labels", "name", "both", "empty", "rank"))
    if kind in ("labels", "both"):
        found = expressions([ZONE, "rack", "rank"], ["1", "2", "5"])
        term["matchExpressions"] = draw(st.lists(found, min_size=1, max_size=2))
    if kind in ("name", "both"):
        term["matchFields"] = [fields() for _ in range(draw(st.integers(1, 2)))]
    if kind == "rank":
        operator = draw(one("Gt", "Lt"))
        term["matchExpressions"] = [{"key": "rank", "operator": operator, "values": ["7"]}]
    return term


@st.composite
def node_affinities(draw: Draw) -> Object:
    found: Object = {}
    if draw(st.booleans()):
        terms = draw(st.lists(node_terms(), min_size=1, max_size=2))
        found["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    if draw(st.booleans()):
        preferred = st.builds(
            lambda weight, term: {"weight": weight, "preference": term},
            one(1, 3, 100),
            node_terms(),
        )
        found["preferredDuringSchedulingIgnoredDuringExecution"] = draw(
            st.lists(preferred, min_size=1, max_size=2)
        )
    return found


@st.composite
def pod_terms(draw: Draw) -> Object:
    term: Object = {"topologyKey": draw(st.sampled_from(TOPOLOGIES))}
    if not seldom(draw):
        term["labelSelector"] = draw(selectors())
    if seldom(draw):
        term["namespaces"] = draw(st.lists(one(*NAMESPACES), min_size=1, unique=True))
    if seldom(draw):
        term["namespaceSelector"] = draw(one({}, {"matchLabels": {"team": "red"}}))
    return term


@st.composite
def pod_affinities(draw: Draw) -> Object:
    found: Object = {}
    if draw(st.booleans()):
        found["requiredDuringSchedulingIgnoredDuringExecution"] = draw(
            st.lists(pod_terms(), min_size=1, max_size=2)
        )
    if draw(st.booleans()):
        preferred = st.builds(
            lambda weight, term: {"weight": weight, "podAffinityTerm": term},
            one(1, 10, 100),
            pod_terms(),
        )
        found["preferredDuringSchedulingIgnoredDuringExecution"] = draw(
            st.lists(preferred, min_size=1, max_size=2)
        )
    return found


@st.composite
def constraints(draw: Draw) -> Object:
    hard = draw(st.booleans())
    found: Object = {
        "topologyKey": draw(st.sampled_from(TOPOLOGIES)),
        "maxSkew": draw(one(1, 2)),
        "whenUnsatisfiable": "DoNotSchedule" if hard else "ScheduleAnyway",
    }
    if not seldom(draw):
        found["labelSelector"] = draw(selectors())
        if seldom(draw):
            found["matchLabelKeys"] = draw(one(["tier"], ["tier", "nobody"]))
    if hard and seldom(draw):
        found["minDomains"] = draw(one(1, 2, 3))
    for key in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
        if seldom(draw):
            found[key] = draw(one("Honor", "Ignore"))
    return found


tolerations = st.lists(
    st.builds(
        lambda key, operator, value, effect: {
            "key": key,
            "operator": operator if key else "Exists",
            "value": "" if operator == "Exists" or not key else value,
            "effect": effect,
        },
        one("k", "l", "", "node.kubernetes.io/unschedulable"),
        one("Exists", "Equal", ""),
        one("v", ""),
        one("", "NoSchedule", "NoExecute", "PreferNoSchedule"),
    ),
    max_size=2,
)


@st.composite
def specs(draw: Draw, focus: str) -> Object:
    count = draw(one(1, 1, 1, 2)) if focus == "resources" else 1
    spec: Object = {
        "containers": [draw(containers(f"c{number}", focus)) for number in range(count)]
    }
    if seldom(draw, focus == "resources"):
        spec["initContainers"] = [
            {**draw(containers(f"i{number}", focus)), **draw(one({}, {"restartPolicy": "Always"}))}
            for number in range(draw(st.integers(1, 3)))
        ]
    if focus == "resources" and seldom(draw):
        spec["overhead"] = draw(amounts(False))
    if focus == "resources" and seldom(draw):
        spec["resources"] = {"requests": draw(amounts(False))}
    if seldom(draw, focus == "nodes"):
        spec["tolerations"] = draw(tolerations)
    if seldom(draw, focus == "nodes"):
        spec["nodeSelector"] = {draw(one(ZONE, "rack")): draw(one("1", "2"))}
    if focus == "nodes" and seldom(draw):
        spec.update(hostNetwork=True, hostUsers=False)
    affinity: Object = {}
    if seldom(draw, focus == "nodes"):
        affinity["nodeAffinity"] = draw(node_affinities())
    for key in ("podAffinity", "podAntiAffinity"):
        if seldom(draw, focus == "affinity"):
            affinity[key] = draw(pod_affinities())
    if affinity:
        spec["affinity"] = affinity
    if seldom(draw, focus == "spread"):
        spec["topologySpreadConstraints"] = draw(
            st.lists(
                constraints(),
                min_size=1,
                max_size=3,
                unique_by=lambda c: (c["topologyKey"], c["whenUnsatisfiable"]),
            )
        )
    if seldom(draw):
        spec["priority"] = draw(one(1, 2, -1))
    return spec


@st.composite
def resizes(draw: Draw, spec: Object) -> Object:
    """What a pod that is being resized says of itself."""

    def status(container: Object) -> Object:
        found: Object = {"name": container["name"]}
        if draw(st.booleans()):
            found["resources"] = {"requests": draw(amounts(False))}
        if draw(st.booleans()):
            found["allocatedResources"] = draw(amounts(False))
        return found

    result: Object = {
        "containerStatuses": [status(each) for each in spec["containers"]],
        "initContainerStatuses": [status(each) for each in spec.get("initContainers", ())],
    }
    if reason := draw(one("", "Deferred", "Infeasible")):
        result["conditions"] = [{"type": "PodResizePending", "status": "True", "reason": reason}]
    if "resources" in spec and draw(st.booleans()):
        result["resources"] = {"requests": draw(amounts(False))}
        result["allocatedResources"] = draw(amounts(False))
    return result


OWNERS = {"ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "ReplicationController": "v1"}


@st.composite
def pods(draw: Draw, number: int, focus: str, places: Sequence[str] = ()) -> Pod:
    """Without places it waits for a node."""
    spec = draw(specs(focus))
    status: Object = {}
    meta: Object = {
        "name": f"p{number}",
        "uid": f"u{number}",
        "namespace": draw(one("one", "one", "one", "two")),
        "labels": draw(pod_labels),
    }
    if places:
        spec["nodeName"] = draw(st.sampled_from(places))
        if seldom(draw):
            meta["deletionTimestamp"] = "2026-01-01T01:00:00Z"
            if seldom(draw, focus == "preemption"):
                reason = {"type": "DisruptionTarget", "reason": "PreemptionByScheduler"}
                status["conditions"] = [{**reason, "status": "True"}]
        if focus == "resources" and seldom(draw):
            status.update(draw(resizes(spec)))
        # No two at the same time: which of them goes first would be left to chance.
        status["startTime"] = f"2026-01-01T00:{number * 7 % 60:02d}:{number % 60:02d}Z"
    elif seldom(draw, focus == "preemption"):
        status["nominatedNodeName"] = draw(one("n0", "n1"))
    if focus == "spread" and seldom(draw):
        kind = draw(st.sampled_from([*OWNERS]))
        owner = {"apiVersion": OWNERS[kind], "kind": kind, "name": "owner", "controller": True}
        meta["ownerReferences"] = [{**owner, "uid": "owner"}]
    if focus == "preemption":
        spec["priority"] = draw(one(0, -1, 1) if places else one(2, 1, 0))
        if not places and seldom(draw):
            spec["preemptionPolicy"] = "Never"
    return from_object(Pod, {"metadata": meta, "spec": spec, "status": status})


@st.composite
def services(draw: Draw, number: int) -> Service:
    selector = draw(one({"app": "x"}, {"app": "y"}, {"tier": "1"}, {}))
    meta = {"name": f"s{number}", "namespace": draw(one(*NAMESPACES)), "uid": f"s{number}"}
    return from_object(Service, {"metadata": meta, "spec": {"selector": selector}})


@st.composite
def budgets(draw: Draw, number: int) -> PodDisruptionBudget:
    meta = {"name": f"b{number}", "namespace": "one", "uid": f"b{number}"}
    status: Object = {"disruptionsAllowed": draw(one(0, 1, 2))}
    if seldom(draw):
        status["disruptedPods"] = {"p0": "2026-01-01T01:00:00Z"}
    spec: Object = {"selector": draw(selectors())} if not seldom(draw) else {}
    return from_object(PodDisruptionBudget, {"metadata": meta, "spec": spec, "status": status})


@st.composite
def namespaces(draw: Draw) -> list[Namespace]:
    result = []
    for name in NAMESPACES:
        labels = draw(one({}, {"team": "red"}, {"team": "blue"}))
        meta = {"name": name, "uid": name, "labels": labels}
        result.append(from_object(Namespace, {"metadata": meta}))
    return result
