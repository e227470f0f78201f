"""The bootstrap policy: the facts are whole, and reconciling keeps what administrators did."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError, already_exists
from navarch.apiserver.authorization import build_authorizer
from navarch.apiserver.authorization.bootstrap_policy import (
    bootstrap_policy,
    node_rules,
    reconciled,
)
from navarch.apiserver.bootstrap import Access, bootstrap, plan
from navarch.apiserver.contracts import Attributes, Decision, RequestInfo, UserInfo

GROUP = "rbac.authorization.k8s.io"


def access(lookup: MemoryLookup) -> Access:
    async def write(resource: str, obj: dict[str, Any]) -> None:
        lookup.put(resource, obj)

    return Access(lookup, write, write, write)


def named(kind: str, name: str) -> dict[str, Any]:
    found = [o for _, o in bootstrap_policy() if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1
    return found[0]


def test_every_binding_has_its_role() -> None:
    objects = [obj for _, obj in bootstrap_policy()]
    roles = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"])
        for o in objects
        if "rules" in o
    }
    bindings = [o for o in objects if "roleRef" in o]
    for obj in bindings:
        ref = obj["roleRef"]
        namespace = obj["metadata"].get("namespace", "") if ref["kind"] == "Role" else ""
        assert (ref["kind"], namespace, ref["name"]) in roles
    assert len(roles) == 77
    assert len(bindings) == 57


def test_objects_look_like_upstreams() -> None:
    assert named("ClusterRole", "view")["aggregationRule"] == {
        "clusterRoleSelectors": [
            {"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}
        ]
    }
    assert named("ClusterRole", "edit")["metadata"] == {
        "name": "edit",
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {
            "kubernetes.io/bootstrapping": "rbac-defaults",
            "rbac.authorization.k8s.io/aggregate-to-admin": "true",
        },
    }
    assert named("ClusterRole", "cluster-admin")["rules"] == [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]
    binding = named("ClusterRoleBinding", "system:controller:job-controller")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"},
        {"apiGroup": GROUP, "kind": "User", "name": "system:kube-controller-manager"},
    ]
    assert any("secrets" in rule.resources for rule in node_rules())


async def test_a_second_start_writes_nothing() -> None:
    lookup = MemoryLookup()
    assert await bootstrap(access(lookup)) == 77 + 57 + 4 + 2
    assert plan(lookup) == []
    assert await bootstrap(access(lookup)) == 0


async def test_planning_is_quick() -> None:
    """The bound leaves room for a busy machine; the work takes a few milliseconds."""
    lookup = MemoryLookup()
    build_authorizer(lookup)
    start = time.process_time()
    await bootstrap(access(lookup))
    assert time.process_time() - start < 0.5


async def test_a_race_is_no_error_but_a_failure_is() -> None:
    lookup = MemoryLookup()

    async def taken(resource: str, obj: dict[str, Any]) -> None:
        raise already_exists(resource, "", obj["metadata"]["name"])

    async def broken(resource: str, obj: dict[str, Any]) -> None:
        raise ApiError(500, "InternalError", "disk full")

    await bootstrap(Access(lookup, taken, taken, taken))
    with pytest.raises(ApiError, match="disk full"):
        await bootstrap(Access(lookup, broken, broken, broken))


def test_reconciling_adds_and_keeps() -> None:
    expected = named("ClusterRole", "system:kube-dns")
    existing = copy.deepcopy(expected)
    existing["metadata"] |= {"resourceVersion": "7", "labels": {"mine": "1"}}
    own_rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
    existing["rules"] = [own_rule, {**expected["rules"][0], "verbs": ["list"]}]
    result = reconciled(expected, existing)
    assert result is not None
    assert result["metadata"]["resourceVersion"] == "7"
    assert result["metadata"]["labels"] == {
        "mine": "1",
        "kubernetes.io/bootstrapping": "rbac-defaults",
    }
    assert result["rules"][0] == own_rule
    assert reconciled(expected, result) is None

    existing["metadata"]["annotations"] = {"rbac.authorization.kubernetes.io/autoupdate": "false"}
    assert reconciled(expected, existing) is None


def test_reconciling_a_binding_restores_its_subjects() -> None:
    expected = named("ClusterRoleBinding", "system:kube-scheduler")
    existing = copy.deepcopy(expected)
    existing["subjects"] = [{"kind": "User", "name": "extra", "apiGroup": GROUP}]
    result = reconciled(expected, existing)
    assert result is not None
    assert [subject["name"] for subject in result["subjects"]] == ["extra", "system:kube-scheduler"]


async def test_a_binding_to_another_role_is_made_anew() -> None:
    lookup = MemoryLookup()
    await bootstrap(access(lookup))
    resource = f"clusterrolebindings.{GROUP}"
    changed = copy.deepcopy(named("ClusterRoleBinding", "system:basic-user"))
    changed["roleRef"]["name"] = "view"
    lookup.put(resource, changed)
    [[step]] = plan(lookup)
    assert (step.action, step.obj["roleRef"]["name"]) == ("recreate", "system:basic-user")


@pytest.mark.parametrize(
    ("user", "verb", "group", "path", "namespace", "allowed"),
    [
        ("system:kube-scheduler", "create", "", "pods/binding", "ns", True),
        ("system:kube-scheduler", "delete", "apps", "deployments", "ns", False),
        ("system:kube-controller-manager", "create", "", "pods", "ns", True),
        ("system:kube-controller-manager", "update", "apps", "deployments/status", "ns", True),
        ("system:kube-controller-manager", "list", "anything", "widgets", "", True),
        ("system:kube-proxy", "watch", "discovery.k8s.io", "endpointslices", "", True),
        ("system:kube-proxy", "get", "", "secrets", "ns", False),
        ("somebody", "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", True),
        ("somebody", "list", "", "pods", "ns", False),
        ("viewer", "get", "", "pods/log", "ns", True),
        ("viewer", "get", "", "secrets", "ns", False),
        ("viewer", "list", "", "pods", "other", False),
        ("admin", "create", "rbac.authorization.k8s.io", "rolebindings", "ns", True),
        ("admin", "create", "", "pods/exec", "ns", True),
        ("admin", "get", "", "pods", "ns", True),
        ("admin", "update", "", "resourcequotas", "ns", False),
    ],
)
async def test_what_the_policy_grants(
    user: str, verb: str, group: str, path: str, namespace: str, allowed: bool
) -> None:
    lookup = MemoryLookup()
    authorizer = build_authorizer(lookup)
    await bootstrap(access(lookup))
    for name, role in (("viewer", "view"), ("admin", "admin")):
        metadata = {"name": name, "namespace": "ns"}
        subjects = [{"kind": "User", "name": name}]
        ref = {"kind": "ClusterRole", "name": role}
        bound = {"metadata": metadata, "roleRef": ref, "subjects": subjects}
        lookup.put(f"rolebindings.{GROUP}", bound)
    plural, _, subresource = path.partition("/")
    info = RequestInfo(True, "", verb, group, "v1", plural, subresource, namespace)
    attributes = Attributes(UserInfo(user, groups=("system:authenticated",)), info)
    assert (authorizer.authorize(attributes)[0] is Decision.ALLOW) is allowed


@pytest.mark.parametrize(
    ("group", "path", "allowed"),
    [
        ("system:unauthenticated", "/healthz", True),
        ("system:unauthenticated", "/version", True),
        ("system:unauthenticated", "/metrics", False),
        ("system:unauthenticated", "/api", False),
        ("system:authenticated", "/apis/apps", True),
        ("system:authenticated", "/openapi/v2", True),
        ("system:serviceaccounts", "/openid/v1/jwks", True),
        ("system:monitoring", "/metrics", True),
    ],
)
async def test_paths(group: str, path: str, allowed: bool) -> None:
    lookup = MemoryLookup()
    authorizer = build_authorizer(lookup)
    await bootstrap(access(lookup))
    user = UserInfo("somebody", groups=(group,))
    decision, _ = authorizer.authorize(Attributes(user, RequestInfo(False, path, "get")))
    assert (decision is Decision.ALLOW) is allowed
