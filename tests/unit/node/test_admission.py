"""Which pods a node does not take."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import Taint
from navarch.node.admission import NodeView, admit
from navarch.node.podspec import CONFIG_SOURCE
from navarch.node.resources import NodeResources

NODE = NodeView(
    "node-1",
    {"disk": "ssd", "cores": "8"},
    [Taint(key="gone", effect="NoExecute")],
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
        "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, "
        "capacity: 2"
    )


def test_a_static_pod_heeds_taints_unless_it_is_critical() -> None:
    # A static pod counts as critical by itself.
    static = make_pod(metadata={"annotations": {CONFIG_SOURCE: "file"}})
    assert admit(static, [], NODE) is None
