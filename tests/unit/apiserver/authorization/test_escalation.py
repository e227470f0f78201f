"""The escalation check: rights cannot be handed out that one does not have."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.authorization import build_authorizer
from navarch.apiserver.authorization.bootstrap_policy import parse_rule_text
from navarch.apiserver.authorization.escalation import RbacEscalation
from navarch.apiserver.contracts import AdmissionRequest, RequestInfo, UserInfo

GROUP = "rbac.authorization.k8s.io"
BOB = UserInfo("bob", groups=("system:authenticated",))


def rules(*texts: str) -> list[dict[str, Any]]:
    return [parse_rule_text(text).to_object() for text in texts]


def grant(lookup: MemoryLookup, name: str, *texts: str) -> None:
    """Let bob have these rules everywhere."""
    lookup.put(f"clusterroles.{GROUP}", {"metadata": {"name": name}, "rules": rules(*texts)})
    lookup.put(
        f"clusterrolebindings.{GROUP}",
        {
            "metadata": {"name": name},
            "roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": "bob"}],
        },
    )


@pytest.fixture
def lookup() -> MemoryLookup:
    lookup = MemoryLookup()
    grant(lookup, "own", "get list | core | pods")
    admin = {"metadata": {"name": "cluster-admin"}, "rules": rules("* | * | *", "* | *")}
    lookup.put(f"clusterroles.{GROUP}", admin)
    return lookup


async def write(
    lookup: MemoryLookup,
    resource: str,
    obj: dict[str, Any],
    user: UserInfo = BOB,
    old: dict[str, Any] | None = None,
) -> None:
    plugin = RbacEscalation(build_authorizer(lookup))
    namespace = "" if resource.startswith("cluster") else "ns"
    name = obj["metadata"]["name"]
    info = RequestInfo(True, "", "create", GROUP, "v1", resource, "", namespace, name)
    operation = "CREATE" if old is None else "UPDATE"
    request = AdmissionRequest(operation, info, "", user, obj, old)
    assert plugin.handles(request)
    await plugin.validate(request)


def role(*texts: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "new"}, "rules": rules(*texts), **more}


def binding(kind: str, name: str) -> dict[str, Any]:
    ref = {"apiGroup": GROUP, "kind": kind, "name": name}
    return {"metadata": {"name": "new"}, "roleRef": ref, "subjects": []}


AGGREGATION = {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}


@pytest.mark.parametrize(
    ("resource", "obj", "status"),
    [
        pytest.param("roles", role("get | core | pods"), 0, id="own rights"),
        pytest.param("roles", role("get | core | secrets"), 403, id="beyond"),
        pytest.param("clusterroles", role("* | core | pods"), 403, id="all verbs"),
        pytest.param("clusterroles", role(aggregationRule=AGGREGATION), 403, id="aggregation"),
        pytest.param("clusterroles", role(aggregationRule={}), 0, id="empty aggregation"),
        pytest.param("rolebindings", binding("ClusterRole", "own"), 0, id="own role"),
        pytest.param(
            "clusterrolebindings", binding("ClusterRole", "cluster-admin"), 403, id="cluster-admin"
        ),
        pytest.param("rolebindings", binding("Role", "none"), 404, id="missing role"),
    ],
)
async def test_writes(
    lookup: MemoryLookup, resource: str, obj: dict[str, Any], status: int
) -> None:
    if not status:
        await write(lookup, resource, obj)
        return
    with pytest.raises(ApiError) as raised:
        await write(lookup, resource, obj)
    assert raised.value.status == status
    await write(lookup, resource, obj, UserInfo("root", groups=("system:masters",)))


async def test_the_message_names_what_is_missing(lookup: MemoryLookup) -> None:
    obj = role("get delete | core | pods", "get | apps | deployments", "get | /metrics")
    with pytest.raises(ApiError) as raised:
        await write(lookup, "clusterroles", obj)
    assert raised.value.message == (
        'clusterroles.rbac.authorization.k8s.io "new" is forbidden: user "bob" '
        '(groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently '
        'held:\n{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}\n'
        '{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}\n'
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}'
    )


async def test_explicit_verbs_lift_the_check(lookup: MemoryLookup) -> None:
    grant(lookup, "escalator", f"escalate | {GROUP} | roles")
    await write(lookup, "roles", role("* | * | *"))
    with pytest.raises(ApiError):
        await write(lookup, "clusterroles", role("* | * | *"))
    grant(lookup, "binder", f"bind | {GROUP} | clusterroles | cluster-admin")
    await write(lookup, "clusterrolebindings", binding("ClusterRole", "cluster-admin"))


async def test_housekeeping_is_no_escalation(lookup: MemoryLookup) -> None:
    old = role("* | * | *")
    old["metadata"]["finalizers"] = ["x/y"]
    new = role("* | * | *")
    await write(lookup, "clusterroles", new, old=old)
    new["metadata"]["labels"] = {"a": "b"}
    with pytest.raises(ApiError):
        await write(lookup, "clusterroles", new, old=old)
