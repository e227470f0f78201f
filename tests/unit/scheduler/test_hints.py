"""Which changes each plugin takes for helpful."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.types.core_v1 import Node
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.plugins import default_plugins
from navarch.scheduler.podinfo import PodInfo

from .conftest import ZONE, node, pod
from .test_filters import DATA, affinity, claim, expression, near, required, spread

X = {"app": "x"}
ADD, UPDATE, DELETE = Action.ADD, Action.UPDATE, Action.DELETE
PLUGINS = {plugin.name: plugin for plugin in default_plugins()}


def helped(plugin: str, info: PodInfo, change: Change) -> bool:
    found = PLUGINS[plugin]
    return change[:2] in found.interests and found.helped_by(info, change)


def nodes(old: Node | None, new: Node | None) -> Change:
    action = ADD if old is None else DELETE if new is None else UPDATE
    return Change(Subject.NODE, action, old, new)


def pods(old: PodInfo | None, new: PodInfo | None) -> Change:
    action = ADD if old is None else DELETE if new is None else UPDATE
    return Change(Subject.ASSIGNED_POD, action, old, new)


def own(old: PodInfo, new: PodInfo) -> Change:
    return Change(Subject.OWN_POD, UPDATE, old, new)


TOLERANT: dict[str, Any] = {"tolerations": [{"operator": "Exists"}]}
SSD: dict[str, Any] = {"affinity": required(expression("disk", "In", "ssd"))}
NEAR: dict[str, Any] = {"affinity": affinity("podAffinity", near("x"))}
FAR: dict[str, Any] = {"affinity": affinity("podAntiAffinity", near("x"))}
SPREAD: dict[str, Any] = {"topologySpreadConstraints": [spread()]}
HOST_USERS: dict[str, Any] = {"hostNetwork": True, "hostUsers": False}
DECLARING = node("n")
DECLARING.status.declaredFeatures = ["UserNamespacesHostNetworkSupport"]
TAINTED = node("n", taints=["k:NoSchedule"])


@pytest.mark.parametrize(
    ("plugin", "info", "change", "expected"),
    [
        ("NodeUnschedulable", pod(), nodes(None, node("n")), True),
        ("NodeUnschedulable", pod(), nodes(None, node("n", unschedulable=True)), False),
        ("NodeUnschedulable", pod(), nodes(node("n", unschedulable=True), node("n")), True),
        ("NodeUnschedulable", pod(), nodes(node("n"), node("n", {"a": "b"})), False),
        ("NodeUnschedulable", pod(), own(pod(), pod(**TOLERANT)), True),
        ("NodeUnschedulable", pod(), own(pod(), pod(labels=X)), False),
        ("NodeDeclaredFeatures", pod(**HOST_USERS), nodes(None, node("n")), True),
        ("NodeDeclaredFeatures", pod(**HOST_USERS), nodes(node("n"), DECLARING), True),
        ("NodeDeclaredFeatures", pod(**HOST_USERS), nodes(node("n"), node("n", X)), False),
        ("NodeDeclaredFeatures", pod(), own(pod(**HOST_USERS), pod()), True),
        ("NodeDeclaredFeatures", pod(), own(pod(), pod(labels=X)), False),
        ("NodeName", pod(nodeName="n"), nodes(None, node("n")), True),
        ("NodeName", pod(nodeName="n"), nodes(None, node("m")), False),
        ("TaintToleration", pod(), nodes(None, node("n")), True),
        ("TaintToleration", pod(), nodes(None, TAINTED), False),
        ("TaintToleration", pod(), nodes(TAINTED, node("n")), True),
        ("TaintToleration", pod(), nodes(node("n"), TAINTED), False),
        ("TaintToleration", pod(), own(pod(), pod(**TOLERANT)), True),
        ("TaintToleration", pod(), pods(pod("o"), None), False),
        ("NodeAffinity", pod(**SSD), nodes(None, node("n", {"disk": "ssd"})), True),
        ("NodeAffinity", pod(**SSD), nodes(None, node("n")), False),
        ("NodeAffinity", pod(**SSD), nodes(node("n"), node("n", {"disk": "ssd"})), True),
        ("NodeAffinity", pod(nodeSelector={"a": "b"}), nodes(None, node("n", {"a": "b"})), True),
        ("NodeAffinity", pod(nodeSelector={"a": "b"}), nodes(None, node("n", {"a": "c"})), False),
        ("NodeResourcesFit", pod(requests={"cpu": "1"}), pods(pod("o"), None), True),
        ("NodeResourcesFit", pod(requests={"cpu": "1"}), pods(None, pod("o")), False),
        ("NodeResourcesFit", pod(requests={"cpu": "1"}), nodes(None, node("n")), True),
        ("NodeResourcesFit", pod(requests={"cpu": "5"}), nodes(None, node("n")), False),
        (
            "NodeResourcesFit",
            pod(requests={"cpu": "5"}),
            nodes(node("n"), node("n", cpu="6")),
            True,
        ),
        (
            "NodeResourcesFit",
            pod(requests={"cpu": "1"}),
            nodes(node("n"), node("n", memory="9Gi")),
            False,
        ),
        ("NodeResourcesFit", pod(), nodes(node("n", pods="1"), node("n", pods="2")), True),
        (
            "NodeResourcesFit",
            pod(requests={"cpu": "1"}),
            pods(pod("o", requests={"cpu": "2"}), pod("o", requests={"cpu": "1"})),
            True,
        ),
        (
            "NodeResourcesFit",
            pod(requests={"cpu": "1"}),
            pods(pod("o", requests={"memory": "2Gi"}), pod("o", requests={"memory": "1Gi"})),
            False,
        ),
        (
            "NodeResourcesFit",
            pod(requests={"cpu": "9"}),
            own(pod(requests={"cpu": "9"}), pod(requests={"cpu": "1"})),
            True,
        ),
        ("PodTopologySpread", pod(labels=X, **SPREAD), pods(None, pod("o", X)), True),
        ("PodTopologySpread", pod(labels=X, **SPREAD), pods(None, pod("o")), False),
        ("PodTopologySpread", pod(labels=X, **SPREAD), pods(pod("o", X), None), True),
        (
            "PodTopologySpread",
            pod(labels=X, **SPREAD),
            pods(None, pod("o", X, namespace="other")),
            False,
        ),
        ("PodTopologySpread", pod(labels=X, **SPREAD), pods(pod("o", X), pod("o")), True),
        (
            "PodTopologySpread",
            pod(labels=X, **SPREAD),
            pods(pod("o", X), pod("o", X, deleting=True)),
            True,
        ),
        ("PodTopologySpread", pod(**SPREAD), nodes(None, node("n", {ZONE: "a"})), True),
        ("PodTopologySpread", pod(**SPREAD), nodes(None, node("n")), False),
        ("PodTopologySpread", pod(**SPREAD), nodes(node("n", {ZONE: "a"}), None), True),
        (
            "PodTopologySpread",
            pod(**SPREAD),
            nodes(node("n", {ZONE: "a"}), node("n", {ZONE: "b"})),
            True,
        ),
        (
            "PodTopologySpread",
            pod(**SPREAD),
            nodes(node("n", {ZONE: "a"}), node("n", {ZONE: "a", "other": "1"})),
            False,
        ),
        ("InterPodAffinity", pod(**NEAR), pods(None, pod("o", X)), True),
        ("InterPodAffinity", pod(**NEAR), pods(None, pod("o")), False),
        ("InterPodAffinity", pod(**NEAR), pods(pod("o"), pod("o", X)), True),
        ("InterPodAffinity", pod(**FAR), pods(pod("o", X), None), True),
        ("InterPodAffinity", pod(**FAR), pods(pod("o"), None), False),
        ("InterPodAffinity", pod(**FAR), pods(pod("o", X), pod("o")), True),
        ("InterPodAffinity", pod(**FAR), pods(None, pod("o", X)), False),
        ("InterPodAffinity", pod(labels=X), pods(pod("o", **FAR), None), True),
        ("InterPodAffinity", pod(labels={"app": "y"}), pods(pod("o", **FAR), None), False),
        (
            "InterPodAffinity",
            pod(**NEAR),
            nodes(node("n", {ZONE: "a"}), node("n", {ZONE: "b"})),
            True,
        ),
        (
            "VolumeBinding",
            pod(volumes=DATA),
            Change(Subject.CLAIM, ADD, None, claim()),
            True,
        ),
        (
            "VolumeBinding",
            pod(volumes=DATA),
            Change(Subject.CLAIM, ADD, None, claim("other")),
            False,
        ),
        ("VolumeRestrictions", pod(volumes=DATA), pods(pod("o", volumes=DATA), None), True),
        ("VolumeRestrictions", pod(volumes=DATA), pods(pod("o"), None), False),
    ],
)
def test_hints(plugin: str, info: PodInfo, change: Change, expected: bool) -> None:
    assert helped(plugin, info, change) is expected


def test_freed_ports() -> None:
    def with_port(number: int) -> PodInfo:
        return pod(containers=[{"name": "c", "ports": [{"hostPort": number}]}])

    assert helped("NodePorts", with_port(80), pods(with_port(80), None))
    assert not helped("NodePorts", with_port(80), pods(with_port(81), None))
