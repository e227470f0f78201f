"""Which pods a node does not take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import stage

from navarch.api.types.core_v1 import Node, NodeSpec, Pod, Taint
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.node.admission import Lacking, NodeView, admit, load_of, problems
from navarch.node.podspec import CONFIG_SOURCE
from navarch.node.preemption import NoVictims, victims
from navarch.node.resources import NodeResources

NODE = NodeView(
    "node-1",
    {"disk": "ssd", "cores": "8"},
    [],
    NodeResources(2000, 1 << 30, pods=2),
    ("kernel.msg*",),
)
BIG = {"name": "main", "resources": {"requests": {"cpu": "1500m"}}}
PORT = {"name": "main", "ports": [{"containerPort": 80, "hostPort": 80}]}


def affinity(*expressions: dict[str, Any], fields: Any = ()) -> dict[str, Any]:
    terms = [{"matchExpressions": list(expressions), "matchFields": list(fields)}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


def sysctl(name: str) -> dict[str, Any]:
    return {"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}


@pytest.mark.parametrize(
    ("container", "spec", "reason"),
    [
        pytest.param({}, {}, "", id="anything"),
        pytest.param(BIG, {}, "OutOfcpu", id="too much cpu"),
        pytest.param(PORT, {}, "NodePorts", id="port taken"),
        pytest.param({"ports": [{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}]}, {}, "",
                     id="other protocol"),
        pytest.param({}, {"nodeSelector": {"disk": "ssd"}}, "", id="selected"),
        pytest.param({}, {"nodeSelector": {"disk": "hdd"}}, "NodeAffinity", id="not selected"),
        pytest.param({}, affinity({"key": "cores", "operator": "Gt", "values": ["4"]}), "",
                     id="affine"),
        pytest.param({}, affinity({"key": "cores", "operator": "Lt", "values": ["4"]}),
                     "NodeAffinity", id="not affine"),
        pytest.param({}, affinity({"key": "cores", "operator": "Lt", "values": ["9" * 5000]}),
                     "NodeAffinity", id="no number of 64 bits"),
        pytest.param({}, affinity(fields=[
            {"key": "metadata.name", "operator": "In", "values": ["node-1"]}]), "", id="by name"),
        pytest.param({}, sysctl("net.ipv4.tcp_syncookies"), "", id="safe sysctl"),
        pytest.param({}, sysctl("net/ipv4/tcp_syncookies"), "", id="spelt with slashes"),
        pytest.param({}, sysctl("kernel.msgmax"), "", id="allowed sysctl"),
        pytest.param({}, sysctl("kernel.shmmax"), "SysctlForbidden", id="unsafe sysctl"),
        pytest.param({}, {"os": {"name": "windows"}}, "PodOSNotSupported", id="windows"),
    ],
)  # fmt: skip
def test_admission(container: dict[str, Any], spec: dict[str, Any], reason: str) -> None:
    other = make_pod({**PORT, "resources": {"requests": {"cpu": "1"}}})
    pod = make_pod({"name": "main", **container}, **spec)
    refusal = admit(pod, [other], NODE)
    assert (refusal.reason if refusal is not None else "") == reason


def test_there_is_a_last_place() -> None:
    refusal = admit(make_pod(), [make_pod(), make_pod()], NODE)
    assert refusal is not None
    assert refusal.message == (
        "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
    )


def test_taints_that_would_evict_it_at_once() -> None:
    node = replace(NODE, taints=[Taint(key="gone", effect="NoExecute")])
    refusal = admit(make_pod(), [], node)
    assert refusal is not None and (refusal.reason, refusal.message) == (
        "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    )
    assert admit(make_pod(tolerations=[{"operator": "Exists"}]), [], node) is None
    assert admit(make_pod(metadata={"annotations": {CONFIG_SOURCE: "file"}}), [], node) is None


def asking(name: str, priority: int = 0, **resources: str) -> Pod:
    """A pod named after itself; what is asked for in capitals is the limit as well."""
    wanted = {
        (key.lower() if key.isupper() else key).replace("_", "-"): value
        for key, value in resources.items()
    }
    wanted = {"example.com/gpu" if key == "gpu" else key: value for key, value in wanted.items()}
    limits = wanted if any(key.isupper() for key in resources) else {}
    return make_pod({"name": "main", "resources": {"requests": wanted, "limits": limits}},
                    metadata={"name": name, "uid": name}, priority=priority)  # fmt: skip


@pytest.mark.parametrize(
    ("pod", "others", "reason"),
    [
        pytest.param(asking("a", gpu="1"), {}, "", id="nobody knows the device"),
        pytest.param(asking("a", gpu="2"), {"example.com/gpu": 2}, "", id="as many as there are"),
        pytest.param(asking("a", gpu="3"), {"example.com/gpu": 2}, "OutOfexample.com/gpu",
                     id="too few devices"),
        pytest.param(asking("a", ephemeral_storage="2Gi"), {}, "OutOfephemeral-storage",
                     id="too little disk"),
        pytest.param(asking("a", hugepages_2Mi="2Mi"), {}, "OutOfhugepages-2Mi", id="huge pages"),
    ],
)  # fmt: skip
def test_devices_and_disk(pod: Pod, others: dict[str, int], reason: str) -> None:
    resources = NodeResources(2000, 1 << 30, 1 << 30, pods=2)
    refusal = admit(pod, [], replace(NODE, resources=resources, others=others))
    assert (refusal.reason if refusal is not None else "") == reason


def test_strict_groups_need_a_runtime_that_can() -> None:
    pod = make_pod(securityContext={"supplementalGroupsPolicy": "Strict"})
    assert admit(pod, [], NODE) is None
    refusal = admit(pod, [], replace(NODE, has_strict_groups=False))
    assert refusal is not None and refusal.reason == "SupplementalGroupsPolicyNotSupported"


CRITICAL = 2_000_000_000


@pytest.mark.parametrize(
    ("pod", "others", "expected"),
    [
        pytest.param(asking("boss", CRITICAL, cpu="1"),
                     [asking("big", cpu="1", memory="1Gi"), asking("fit", cpu="1")], "fit",
                     id="the smaller of two that are enough"),
        pytest.param(asking("boss", CRITICAL, cpu="1"),
                     [asking("half", cpu="500m"), asking("more", cpu="700m"),
                      asking("some", cpu="600m")], "more half",
                     id="what comes closest"),
        pytest.param(asking("boss", CRITICAL, cpu="2"),
                     [asking("idle"), asking("a", cpu="1"), asking("b", cpu="1")], "a b",
                     id="as many as it takes"),
        pytest.param(asking("boss", CRITICAL, cpu="1"),
                     [asking("g", CPU="1", MEMORY="1Mi"), asking("b", cpu="1")], "b",
                     id="the lower class first"),
        pytest.param(asking("boss", CRITICAL),
                     [asking("besteffort"), asking("b", cpu="1")], "besteffort",
                     id="a place"),
    ],
)  # fmt: skip
def test_who_makes_room(pod: Pod, others: list[Pod], expected: str) -> None:
    places = 9 if pod.spec.containers[0].resources.requests else 2
    node = replace(NODE, resources=NodeResources(2000, 1 << 30, pods=places))
    lacking = [each for each in problems(pod, load_of(others), node) if isinstance(each, Lacking)]
    assert lacking
    assert " ".join(each.metadata.name for each in victims(pod, others, lacking)) == expected


def test_critical_pods_do_not_make_room_for_each_other() -> None:
    others = [asking("a", CRITICAL, cpu="1500m")]
    pod = asking("b", CRITICAL, cpu="1")
    with pytest.raises(NoVictims) as caught:
        victims(pod, others, [Lacking("OutOfcpu", "", "cpu", 500)])
    assert str(caught.value) == (
        "preemption: error finding a set of pods to preempt: no set of running pods found to "
        "reclaim resources: [(res: cpu, q: 500), ]"
    )


async def test_the_older_pod_is_taken_first(tmp_path: Path) -> None:
    """Also when the agent starts and finds several that do not fit together."""

    def big(name: str, created: str) -> Pod:
        pod = asking(name, cpu="3")
        pod.metadata.creationTimestamp = created
        return pod

    async with stage(tmp_path) as node:
        pods = [big("a", "2026-01-03T00:00:00Z"), big("b", "2026-01-01T00:00:00Z"),
                big("c", "2026-01-02T00:00:00Z")]  # fmt: skip
        change, node.api.on_change = node.api.on_change, lambda pod: None
        for each in pods:
            node.api.put(each)
        node.api.on_change = change
        node.agent.begin_all(pods)
        await node.rest()
        await node.rest()
        phases = {name: node.status(name).phase for name in "abc"}
        assert phases == {"a": "Failed", "b": "Running", "c": "Failed"}
        refused = node.status("a")
        assert (refused.reason, refused.message) == (
            "OutOfcpu",
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 3000, "
            "capacity: 4000",
        )
        assert (
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 3000, used: 3000, "
            "capacity: 4000"
        ) in node.events.told


@pytest.mark.parametrize(
    ("known", "current", "fate"),
    [
        pytest.param({}, {"zone": "a"}, "Running", id="labelled a moment ago"),
        pytest.param({"zone": "b"}, {"zone": "b"}, "Failed NodeAffinity", id="elsewhere"),
        pytest.param({"taint": "x"}, {"zone": "a"}, "Running", id="a taint that is gone"),
        pytest.param({}, {"taint": "x", "zone": "a"}, "Failed TaintToleration", id="a new taint"),
        pytest.param({}, None, "Failed NodeAffinity", id="no object to be had"),
    ],
)
async def test_nobody_is_refused_for_what_the_node_was_like(
    tmp_path: Path, known: dict[str, str], current: dict[str, str] | None, fate: str
) -> None:
    def node_object(labels: dict[str, str]) -> Node:
        taints = [Taint(key=labels["taint"], effect="NoExecute")] if "taint" in labels else []
        return Node(metadata=ObjectMeta(name="node-1", labels=labels), spec=NodeSpec(taints=taints))

    async with stage(tmp_path) as node:
        node.agent.node = node_object(known)
        if current is not None:
            node.objects.nodes["node-1"] = node_object(current)
        await node.create(make_pod({"name": "main"}, nodeSelector={"zone": "a"}))
        status = node.status()
        assert f"{status.phase} {status.reason}".strip() == fate


async def test_a_pod_deleted_by_force_makes_room_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as node:
        await node.create(asking("old", cpu="3"))
        assert node.status("old").phase == "Running"
        await node.api.delete("default", "old", node.api.pods["old"].metadata.uid, 0)
        assert "sandbox default/old#0 ready" in str(node.runtime)
        await node.create(asking("new", cpu="3"))
        assert node.status("new").phase == "Running"
