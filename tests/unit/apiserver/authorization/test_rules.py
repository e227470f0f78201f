"""Policy rules: what they match, what covers what, how they are told."""

from __future__ import annotations

import pytest

from navarch.apiserver.authorization.bootstrap_policy import parse_rule_text
from navarch.apiserver.authorization.rules import missing_rules
from navarch.apiserver.contracts import RequestInfo


def resource(verb: str, group: str, path: str, name: str = "") -> RequestInfo:
    plural, _, subresource = path.partition("/")
    return RequestInfo(True, "", verb, group, "v1", plural, subresource, "", name)


@pytest.mark.parametrize(
    ("rule", "info", "allowed"),
    [
        ("get | core | pods", resource("get", "", "pods"), True),
        ("get | core | pods", resource("list", "", "pods"), False),
        ("get | core | pods", resource("get", "apps", "pods"), False),
        ("get | core | pods", resource("get", "", "pods/log"), False),
        ("get | core | pods/log", resource("get", "", "pods/log"), True),
        ("* | * | *", resource("delete", "any", "thing/part"), True),
        ("update | apps | */scale", resource("update", "apps", "deployments/scale"), True),
        ("update | apps | */scale", resource("update", "apps", "deployments"), False),
        ("update | apps | */scale", resource("update", "apps", "deployments/rescale"), False),
        ("get | core | secrets | a b", resource("get", "", "secrets", "b"), True),
        ("get | core | secrets | a b", resource("get", "", "secrets", "c"), False),
        ("list | core | secrets | a", resource("list", "", "secrets"), False),
        ("get | /healthz /livez/*", RequestInfo(False, "/livez/ping", "get"), True),
        ("get | /healthz /livez/*", RequestInfo(False, "/livez", "get"), False),
        ("get | /healthz", RequestInfo(False, "/healthz/", "get"), False),
        ("* | *", RequestInfo(False, "/anything", "post"), True),
        ("* | *", resource("get", "", "pods"), False),
    ],
)
def test_a_rule_matches(rule: str, info: RequestInfo, allowed: bool) -> None:
    assert parse_rule_text(rule).allows(info) is allowed


@pytest.mark.parametrize(
    ("owned", "wanted", "missing"),
    [
        (["* | * | *", "* | *"], ["get list | apps | deployments", "get | /metrics"], []),
        (["get list | core | pods"], ["get | core | pods"], []),
        (["get | core | pods", "list | core | pods"], ["get list | core | pods"], []),
        (
            ["get | core | pods"],
            ["get delete patch | core | pods"],
            ['{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}'],
        ),
        (
            ["get | core | secrets | a"],
            ["get | core | secrets | a b"],
            ['{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}'],
        ),
        (
            ["get | core | secrets | a"],
            ["get | core | secrets"],
            ['{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}'],
        ),
        (["get | core | secrets"], ["get | core | secrets | a"], []),
        (["update | apps | */scale"], ["update | apps | deployments/scale"], []),
        (
            ["get | core | pods"],
            ["* | core | pods"],
            ['{APIGroups:[""], Resources:["pods"], Verbs:["*"]}'],
        ),
        (["get | /healthz/*"], ["get | /healthz/ping"], []),
        (
            ["get | /healthz/*"],
            ["get | /metrics"],
            ['{NonResourceURLs:["/metrics"], Verbs:["get"]}'],
        ),
        (
            ["get | * | *"],
            ["get | /metrics"],
            ['{NonResourceURLs:["/metrics"], Verbs:["get"]}'],
        ),
    ],
)
def test_what_rules_do_not_cover(owned: list[str], wanted: list[str], missing: list[str]) -> None:
    found = missing_rules(
        [parse_rule_text(text) for text in owned], [parse_rule_text(text) for text in wanted]
    )
    assert sorted(map(str, found)) == missing
