"""RBAC: decisions, their reasons, and that the index follows every change of roles and bindings."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.pace import slowness
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.apiserver.authorization import Authorization, build_authorizer, forbidden_error
from navarch.apiserver.authorization.bootstrap_policy import parse_rule_text
from navarch.apiserver.contracts import Attributes, Decision, RequestInfo, UserInfo

GROUP = "rbac.authorization.k8s.io"
ALICE = UserInfo("alice", groups=("devs", "system:authenticated"))
ROBOT = UserInfo("system:serviceaccount:ns1:robot", groups=("system:serviceaccounts",))


def role(name: str, *rules: str, namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": more.pop("labels", {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata, "rules": [parse_rule_text(r).to_object() for r in rules], **more}


def binding(name: str, to: str, *subjects: str, namespace: str = "") -> dict[str, Any]:
    """`to` is `Kind/name`, a subject `Kind name` or `ServiceAccount namespace/name`."""
    kind, role_name = to.split("/", 1)
    metadata = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    found = []
    for subject in subjects:
        subject_kind, subject_name = subject.split(" ", 1)
        entry = {"kind": subject_kind, "name": subject_name}
        if subject_kind == "ServiceAccount" and "/" in subject_name:
            entry["namespace"], entry["name"] = subject_name.split("/", 1)
        found.append(entry)
    ref = {"apiGroup": GROUP, "kind": kind, "name": role_name}
    return {"metadata": metadata, "roleRef": ref, "subjects": found}


def put(lookup: MemoryLookup, obj: dict[str, Any]) -> None:
    namespaced = "namespace" in obj["metadata"]
    noun = "rolebindings" if "roleRef" in obj else "roles"
    lookup.put(f"{noun if namespaced else 'cluster' + noun}.{GROUP}", obj)


def ask(
    authorization: Authorization,
    user: UserInfo,
    verb: str,
    path: str,
    namespace: str = "",
    name: str = "",
) -> tuple[Decision, str]:
    plural, _, subresource = path.partition("/")
    info = RequestInfo(True, "", verb, "", "v1", plural, subresource, namespace, name)
    return authorization.authorize(Attributes(user, info))


@pytest.fixture
def lookup() -> MemoryLookup:
    return MemoryLookup()


@pytest.fixture
def authorization(lookup: MemoryLookup) -> Authorization:
    return build_authorizer(lookup)


def test_reasons_and_scopes(lookup: MemoryLookup, authorization: Authorization) -> None:
    put(lookup, role("reader", "get list | core | pods"))
    put(lookup, role("writer", "create | core | pods", namespace="ns1"))
    put(lookup, binding("all-read", "ClusterRole/reader", "Group devs"))
    put(lookup, binding("write", "Role/writer", "User alice", namespace="ns1"))
    put(
        lookup,
        binding("ns2-read", "ClusterRole/reader", "ServiceAccount ns1/robot", namespace="ns2"),
    )
    put(lookup, binding("own", "ClusterRole/reader", "ServiceAccount robot", namespace="ns1"))

    read_all = (
        'RBAC: allowed by ClusterRoleBinding "all-read" of ClusterRole "reader" to Group "devs"'
    )
    assert ask(authorization, ALICE, "get", "pods", "ns9") == (Decision.ALLOW, read_all)
    assert ask(authorization, ALICE, "list", "pods") == (Decision.ALLOW, read_all)
    write = 'RBAC: allowed by RoleBinding "write/ns1" of Role "writer" to User "alice"'
    assert ask(authorization, ALICE, "create", "pods", "ns1") == (Decision.ALLOW, write)
    assert ask(authorization, ALICE, "create", "pods", "ns2") == (Decision.NO_OPINION, "")
    assert ask(authorization, ALICE, "get", "pods/log", "ns1") == (Decision.NO_OPINION, "")
    robot = 'of ClusterRole "reader" to ServiceAccount "robot/ns1"'
    assert ask(authorization, ROBOT, "get", "pods", "ns2") == (
        Decision.ALLOW,
        f'RBAC: allowed by RoleBinding "ns2-read/ns2" {robot}',
    )
    assert ask(authorization, ROBOT, "get", "pods", "ns1")[0] is Decision.ALLOW
    assert ask(authorization, ROBOT, "get", "pods")[0] is Decision.NO_OPINION


def test_names_restrict(lookup: MemoryLookup, authorization: Authorization) -> None:
    put(lookup, role("one", "get update | core | secrets | mine"))
    put(lookup, binding("one", "ClusterRole/one", "User alice"))
    assert ask(authorization, ALICE, "get", "secrets", "ns1", "mine")[0] is Decision.ALLOW
    assert ask(authorization, ALICE, "get", "secrets", "ns1", "other")[0] is Decision.NO_OPINION
    assert ask(authorization, ALICE, "get", "secrets", "ns1")[0] is Decision.NO_OPINION


def test_every_change_counts_at_once(lookup: MemoryLookup, authorization: Authorization) -> None:
    def may(verb: str) -> bool:
        return ask(authorization, ALICE, verb, "pods", "ns1")[0] is Decision.ALLOW

    put(lookup, binding("b", "Role/r", "User alice", "Group devs", namespace="ns1"))
    missing = f'RBAC: role.{GROUP} "r" not found'
    assert ask(authorization, ALICE, "get", "pods", "ns1") == (Decision.NO_OPINION, missing)
    put(lookup, role("r", "get | core | pods", namespace="ns1"))
    assert may("get")
    put(lookup, role("r", "list | core | pods", namespace="ns1"))
    assert (may("get"), may("list")) == (False, True)
    put(lookup, binding("b", "Role/r", "Group devs", namespace="ns1"))
    assert may("list")
    put(lookup, binding("b", "Role/r", "User bob", namespace="ns1"))
    assert not may("list")
    put(lookup, binding("b", "Role/r", "User alice", namespace="ns1"))
    assert may("list")
    lookup.remove(f"rolebindings.{GROUP}", "ns1", "b")
    assert not may("list")


def test_aggregated_roles_follow_their_members(
    lookup: MemoryLookup, authorization: Authorization
) -> None:
    selector = {"matchLabels": {"to-top": "true"}}
    put(lookup, role("top", aggregationRule={"clusterRoleSelectors": [selector]}))
    inner = {"clusterRoleSelectors": [{"matchLabels": {"to-mid": "true"}}]}
    put(lookup, role("mid", labels={"to-top": "true"}, aggregationRule=inner))
    put(lookup, binding("b", "ClusterRole/top", "User alice"))
    assert ask(authorization, ALICE, "get", "pods")[0] is Decision.NO_OPINION
    put(lookup, role("leaf", "get | core | pods", labels={"to-mid": "true"}))
    assert ask(authorization, ALICE, "get", "pods")[0] is Decision.ALLOW
    put(lookup, role("leaf", "get | core | pods"))
    assert ask(authorization, ALICE, "get", "pods")[0] is Decision.NO_OPINION


def test_roles_that_gather_each_other_end(
    lookup: MemoryLookup, authorization: Authorization
) -> None:
    for name in ("a", "b"):
        selector = {"matchLabels": {"ring": "yes"}}
        rule = {"clusterRoleSelectors": [selector]}
        put(lookup, role(name, labels={"ring": "yes"}, aggregationRule=rule))
    put(lookup, role("leaf", "get | core | pods", labels={"ring": "yes"}))
    put(lookup, binding("x", "ClusterRole/a", "User alice"))
    put(lookup, binding("y", "ClusterRole/b", "Group devs"))
    assert ask(authorization, ALICE, "get", "pods")[0] is Decision.ALLOW


def test_masters_may_do_everything(authorization: Authorization) -> None:
    root = UserInfo("root", groups=("system:masters",))
    assert ask(authorization, root, "delete", "nodes") == (Decision.ALLOW, "")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        pytest.param(
            RequestInfo(True, "", "list", "", "v1", "pods", "", "default"),
            'pods is forbidden: User "alice" cannot list resource "pods" in API group "" '
            'in the namespace "default"',
            id="namespace",
        ),
        pytest.param(
            RequestInfo(True, "", "get", "apps", "v1", "deployments", "scale", "ns", "web"),
            'deployments.apps "web" is forbidden: User "alice" cannot get resource '
            '"deployments/scale" in API group "apps" in the namespace "ns"',
            id="subresource",
        ),
        pytest.param(
            RequestInfo(True, "", "list", "", "v1", "nodes"),
            'nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" '
            "at the cluster scope",
            id="cluster",
        ),
        pytest.param(
            RequestInfo(False, "/metrics", "get"),
            'forbidden: User "alice" cannot get path "/metrics"',
            id="path",
        ),
        pytest.param(
            RequestInfo(False, "/<b>&", "get"),
            'forbidden: User "alice" cannot get path "/&lt;b&gt;&amp;"',
            id="no markup",
        ),
    ],
)
def test_forbidden_messages(info: RequestInfo, message: str) -> None:
    error = forbidden_error(Attributes(ALICE, info), "")
    assert (error.status, error.reason, error.message) == (403, "Forbidden", message)
    with_reason = forbidden_error(Attributes(ALICE, info), "because")
    assert with_reason.message == f"{message}: because"


def test_a_repeated_check_is_quick(lookup: MemoryLookup, authorization: Authorization) -> None:
    """The budget is 10 µs with authentication; the bound here leaves room for a busy machine."""
    put(lookup, role("reader", "get list | core | pods"))
    put(lookup, binding("all-read", "ClusterRole/reader", "Group devs"))
    attributes = Attributes(ALICE, RequestInfo(True, "", "get", "", "v1", "pods", "", "ns", "p"))
    authorization.authorize(attributes)
    best = min(_timed(authorization, attributes) for _ in range(5))
    assert best < 20e-6 * slowness()


def _timed(authorization: Authorization, attributes: Attributes) -> float:
    start = time.perf_counter()
    for _ in range(500):
        authorization.authorize(attributes)
    return (time.perf_counter() - start) / 500
