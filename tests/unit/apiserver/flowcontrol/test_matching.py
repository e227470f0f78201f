"""Which requests fall under which of the default FlowSchemas."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.apiserver.contracts import RequestInfo, UserInfo
from navarch.apiserver.flowcontrol.matching import schema_of
from navarch.apiserver.flowcontrol.objects import SCHEMAS, flow_objects

Object = dict[str, Any]

DEFAULTS = sorted(
    (schema_of(obj) for name, obj in flow_objects() if name == SCHEMAS),
    key=lambda each: (each.precedence, each.name),
)
ANYBODY = UserInfo("ann", groups=("devs", "system:authenticated"))
ADMIN = UserInfo("root", groups=("system:masters", "system:authenticated"))
NODE = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))
MANAGER = UserInfo("system:kube-controller-manager", groups=("system:authenticated",))
ACCOUNT = UserInfo(
    "system:serviceaccount:default:app",
    groups=("system:serviceaccounts", "system:authenticated"),
)
SYSTEM_ACCOUNT = UserInfo(
    "system:serviceaccount:kube-system:dns",
    groups=("system:serviceaccounts", "system:authenticated"),
)


def on(resource: str, verb: str = "get", group: str = "", namespace: str = "ns") -> RequestInfo:
    return RequestInfo(True, "", verb, group, "v1", resource, "", namespace, "")


LEASES = on("leases", "update", "coordination.k8s.io")


@pytest.mark.parametrize(
    ("user", "info", "expected"),
    [
        pytest.param(ADMIN, on("pods"), "exempt", id="administrator"),
        pytest.param(ANYBODY, RequestInfo(False, "/livez", "get"), "probes", id="probe"),
        pytest.param(ANYBODY, RequestInfo(False, "/metrics", "get"), "global-default", id="path"),
        pytest.param(NODE, on("nodes", namespace=""), "system-node-high", id="node itself"),
        pytest.param(NODE, LEASES, "system-node-high", id="node's lease"),
        pytest.param(NODE, on("pods"), "system-nodes", id="node's pods"),
        pytest.param(MANAGER, LEASES, "system-leader-election", id="leader election"),
        pytest.param(MANAGER, on("pods"), "kube-controller-manager", id="manager"),
        pytest.param(SYSTEM_ACCOUNT, on("pods"), "kube-system-service-accounts", id="system"),
        pytest.param(ACCOUNT, on("pods"), "service-accounts", id="service account"),
        pytest.param(ANYBODY, on("pods"), "global-default", id="user"),
        pytest.param(UserInfo("x"), on("pods"), None, id="nobody at all"),
    ],
)
def test_default_schemas(user: UserInfo, info: RequestInfo, expected: str | None) -> None:
    found = next((each.name for each in DEFAULTS if each.matches(user, info)), None)
    assert found == expected


@pytest.mark.parametrize(
    ("method", "expected"), [("ByUser", "ann"), ("ByNamespace", "ns"), ("", "")]
)
def test_flows_are_told_apart(method: str, expected: str) -> None:
    spec: Object = {"priorityLevelConfiguration": {"name": "x"}}
    if method:
        spec["distinguisherMethod"] = {"type": method}
    schema = schema_of({"metadata": {"name": "s"}, "spec": spec})
    assert schema.precedence == 1000
    assert schema.flow_of(ANYBODY, on("pods")) == expected


@pytest.mark.parametrize(
    ("rule", "info", "expected"),
    [
        ({"namespaces": ["ns"], "resources": ["pods"]}, on("pods"), True),
        ({"namespaces": ["other"], "resources": ["pods"]}, on("pods"), False),
        ({"namespaces": ["*"], "resources": ["nodes"]}, on("nodes", namespace=""), False),
        ({"clusterScope": True, "resources": ["nodes"]}, on("nodes", namespace=""), True),
        ({"namespaces": ["*"], "resources": ["pods/log"]}, on("pods"), False),
    ],
)
def test_resource_rules(rule: Object, info: RequestInfo, expected: bool) -> None:
    subjects = [{"kind": "User", "user": {"name": "*"}}]
    resource = {"verbs": ["*"], "apiGroups": ["*"], **rule}
    spec = {"rules": [{"subjects": subjects, "resourceRules": [resource]}]}
    assert schema_of({"metadata": {"name": "s"}, "spec": spec}).matches(ANYBODY, info) is expected
