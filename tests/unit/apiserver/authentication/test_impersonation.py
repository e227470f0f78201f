"""Impersonation: who may act as whom, the constrained way and the old one."""

from __future__ import annotations

import pytest

from navarch.api.errors import ApiError
from navarch.apiserver.authentication.impersonation import impersonate
from navarch.apiserver.contracts import Attributes, Decision, RequestInfo, UserInfo

CALLER = UserInfo("ann", groups=("system:authenticated",))
LIST_PODS = RequestInfo(True, "", "list", "", "v1", "pods", "", "ns")

Headers = list[tuple[str, str]]


class Allows:
    """Allows what it lists, as `verb group/resource[/subresource] [namespace/]name`."""

    def __init__(self, *grants: str) -> None:
        self.grants = grants
        self.asked: list[str] = []

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        path = "/".join(filter(None, (info.group or "core", info.resource, info.subresource)))
        name = "/".join(filter(None, (info.namespace, info.name)))
        asked = f"{info.verb} {path} {name}"
        self.asked.append(asked)
        allowed = asked in self.grants or "everything" in self.grants
        return (Decision.ALLOW if allowed else Decision.NO_OPINION), ""


def act(headers: Headers, *grants: str, caller: UserInfo = CALLER) -> UserInfo | None:
    return impersonate(headers, Attributes(caller, LIST_PODS), Allows(*grants))


def test_nobody_asked() -> None:
    assert act([("Accept", "*/*"), ("Impersonate-User", "")], "everything") is None


@pytest.mark.parametrize(
    "header",
    [("Impersonate-Group", "devs"), ("Impersonate-Uid", "7"), ("Impersonate-Extra-scopes", "x")],
)
def test_a_user_must_be_named(header: tuple[str, str]) -> None:
    with pytest.raises(ApiError) as raised:
        act([header], "everything")
    assert raised.value.status == 400
    assert "without impersonating a user" in raised.value.message


def test_not_allowed() -> None:
    with pytest.raises(ApiError) as raised:
        act([("Impersonate-User", "bob")])
    assert raised.value.status == 403
    assert raised.value.message == (
        'pods is forbidden: User "ann" cannot impersonate-on:user-info:list resource "pods" '
        'in API group "" in the namespace "ns"'
    )


def test_the_old_way() -> None:
    headers = [
        ("Impersonate-User", "bob"),
        ("Impersonate-Group", "devs"),
        ("impersonate-group", "system:masters"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Extra-Acme.com%2fScope", "view"),
        ("Impersonate-Extra-acme.com%2Fscope", "edit"),
    ]
    grants = [
        "impersonate core/users bob",
        "impersonate core/groups devs",
        "impersonate core/groups system:masters",
        "impersonate authentication.k8s.io/uids 7",
        "impersonate authentication.k8s.io/userextras/acme.com/scope view",
        "impersonate authentication.k8s.io/userextras/acme.com/scope edit",
    ]
    user = act(headers, *grants)
    assert user == UserInfo(
        "bob",
        "7",
        ("devs", "system:masters", "system:authenticated"),
        {"acme.com/scope": ("view", "edit")},
    )
    for missing in grants:
        with pytest.raises(ApiError) as raised:
            act(headers, *(grant for grant in grants if grant != missing))
        assert raised.value.status == 403


def test_service_accounts_have_their_groups() -> None:
    headers = [("Impersonate-User", "system:serviceaccount:ns:robot")]
    user = act(headers, "impersonate core/serviceaccounts ns/robot")
    assert user is not None
    groups = ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated")
    assert user.groups == groups
    with_group = [*headers, ("Impersonate-Group", "other")]
    user = act(
        with_group, "impersonate core/serviceaccounts ns/robot", "impersonate core/groups other"
    )
    assert user is not None
    assert user.groups == ("other", "system:authenticated")


def test_anonymous_stays_unauthenticated() -> None:
    user = act([("Impersonate-User", "system:anonymous")], "everything")
    assert user == UserInfo("system:anonymous", groups=("system:unauthenticated",))


def test_the_constrained_way_needs_the_request_and_the_user() -> None:
    headers = [("Impersonate-User", "bob"), ("Impersonate-Group", "devs")]
    grants = [
        "impersonate-on:user-info:list core/pods ns",
        "impersonate:user-info authentication.k8s.io/users bob",
        "impersonate:user-info authentication.k8s.io/groups devs",
    ]
    user = act(headers, *grants)
    assert user is not None
    assert user.groups == ("devs", "system:authenticated")
    for missing in grants:
        with pytest.raises(ApiError):
            act(headers, *(grant for grant in grants if grant != missing))


def test_the_constrained_way_never_leads_to_masters() -> None:
    headers = [("Impersonate-User", "bob"), ("Impersonate-Group", "system:masters")]
    with pytest.raises(ApiError, match="system:masters group is not allowed"):
        act(
            headers,
            "impersonate-on:user-info:list core/pods ns",
            "impersonate:user-info authentication.k8s.io/users bob",
            "impersonate:user-info authentication.k8s.io/groups system:masters",
        )


def test_nodes_and_service_accounts_have_modes_of_their_own() -> None:
    node = act(
        [("Impersonate-User", "system:node:n1")],
        "impersonate-on:arbitrary-node:list core/pods ns",
        "impersonate:arbitrary-node authentication.k8s.io/nodes n1",
    )
    assert node is not None
    assert node.groups == ("system:nodes", "system:authenticated")
    account = act(
        [("Impersonate-User", "system:serviceaccount:ns:robot")],
        "impersonate-on:serviceaccount:list core/pods ns",
        "impersonate:serviceaccount authentication.k8s.io/serviceaccounts ns/robot",
    )
    assert account is not None
    assert "system:serviceaccounts:ns" in account.groups


def test_a_service_account_may_be_its_own_node() -> None:
    agent = UserInfo(
        "system:serviceaccount:ns:agent",
        extra={"authentication.kubernetes.io/node-name": ("n1",)},
    )
    grants = (
        "impersonate-on:associated-node:list core/pods ns",
        "impersonate:associated-node authentication.k8s.io/nodes *",
    )
    user = act([("Impersonate-User", "system:node:n1")], *grants, caller=agent)
    assert user is not None
    assert user.name == "system:node:n1"
    with pytest.raises(ApiError):
        act([("Impersonate-User", "system:node:n2")], *grants, caller=agent)


def test_many_groups_need_one_permission() -> None:
    headers = [("Impersonate-User", "bob")]
    headers += [("Impersonate-Group", f"g{index}") for index in range(5)]
    user = act(
        headers,
        "impersonate-on:user-info:list core/pods ns",
        "impersonate:user-info authentication.k8s.io/users bob",
        "impersonate:user-info authentication.k8s.io/groups *",
    )
    assert user is not None
    assert len(user.groups) == 6
