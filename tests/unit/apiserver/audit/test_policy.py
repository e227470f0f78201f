"""Audit policies: which rule is the one that counts, and which files are no policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from navarch.apiserver.audit.policy import Policy, PolicyFile, load_policy
from navarch.apiserver.configuration_file import ConfigurationError
from navarch.apiserver.contracts import Attributes, RequestInfo, UserInfo

ANN = UserInfo("ann", groups=("devs", "system:authenticated"))


def info(
    verb: str, resource: str, name: str = "", namespace: str = "ns", group: str = ""
) -> RequestInfo:
    plain, _, subresource = resource.partition("/")
    return RequestInfo(True, "", verb, group, "v1", plain, subresource, namespace, name)


def path(where: str) -> RequestInfo:
    return RequestInfo(False, where, "get")


def judge(rules: list[dict[str, Any]], asked: RequestInfo, user: UserInfo = ANN) -> str:
    return (
        Policy(msgspec.convert({"rules": rules}, PolicyFile)).judge(Attributes(user, asked)).level
    )


@pytest.mark.parametrize(
    ("rule", "asked", "matches"),
    [
        pytest.param({}, info("get", "pods"), True, id="everything"),
        pytest.param({"users": ["ann"]}, info("get", "pods"), True, id="user"),
        pytest.param({"users": ["bob"]}, info("get", "pods"), False, id="another user"),
        pytest.param({"userGroups": ["x", "devs"]}, info("get", "pods"), True, id="group"),
        pytest.param({"userGroups": ["x"]}, info("get", "pods"), False, id="another group"),
        pytest.param({"verbs": ["watch"]}, info("get", "pods"), False, id="another verb"),
        pytest.param({"namespaces": ["ns"]}, info("get", "pods"), True, id="namespace"),
        pytest.param({"namespaces": [""]}, info("get", "nodes", namespace=""), True, id="cluster"),
        pytest.param({"namespaces": [""]}, path("/x"), False, id="a path has no namespace"),
        pytest.param({"resources": [{"group": ""}]}, info("get", "pods"), True, id="group alone"),
        pytest.param(
            {"resources": [{"group": "apps"}]}, info("get", "pods"), False, id="another API group"
        ),
        pytest.param(
            {"resources": [{"group": "*", "resources": ["pods"]}]},
            info("get", "pods"),
            True,
            id="resource",
        ),
        pytest.param(
            {"resources": [{"resources": ["pods"]}]},
            info("get", "pods/log"),
            False,
            id="a resource is not its subresources",
        ),
        pytest.param(
            {"resources": [{"resources": ["pods/*"]}]}, info("get", "pods/log"), True, id="pods/*"
        ),
        pytest.param(
            {"resources": [{"resources": ["*/log"]}]}, info("get", "pods/log"), True, id="*/log"
        ),
        pytest.param(
            {"resources": [{"resources": ["*"]}]}, info("get", "pods/log"), True, id="any resource"
        ),
        pytest.param(
            {"resources": [{"resources": ["pods"], "resourceNames": ["a"]}]},
            info("get", "pods", "b"),
            False,
            id="another name",
        ),
        pytest.param({"nonResourceURLs": ["/healthz*"]}, path("/healthz/x"), True, id="prefix"),
        pytest.param({"nonResourceURLs": ["/healthz"]}, path("/healthz/x"), False, id="exact"),
        pytest.param({"nonResourceURLs": ["*"]}, info("get", "pods"), False, id="only paths"),
    ],
)
def test_rules(rule: dict[str, Any], asked: RequestInfo, matches: bool) -> None:
    assert judge([{"level": "Request", **rule}], asked) == ("Request" if matches else "None")


def test_the_first_rule_counts_and_its_settings_come_before_the_policys() -> None:
    file = {
        "omitStages": ["RequestReceived"],
        "omitManagedFields": True,
        "rules": [
            {"level": "None", "verbs": ["list"]},
            {"level": "Metadata", "omitStages": ["Panic"], "omitManagedFields": False},
            {"level": "RequestResponse"},
        ],
    }
    policy = Policy(msgspec.convert(file, PolicyFile))
    assert policy.judge(Attributes(ANN, info("list", "pods"))).level == "None"
    verdict = policy.judge(Attributes(ANN, info("get", "pods")))
    assert verdict.level == "Metadata"
    assert verdict.omitted == {"RequestReceived", "Panic"}
    assert not verdict.omits_managed_fields
    assert verdict.includes("Metadata") and not verdict.includes("Request")


GOOD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expected `object`"),
        ("{", "not an audit policy"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\n", "no rules"),
        (GOOD.replace("v1", "v1alpha1"), "v1alpha1"),
        ("apiVersion: v1\n", "expected audit.k8s.io/v1 Policy, not 'v1'; it has no rules"),
        (GOOD.replace("Metadata", "Loud"), "Loud"),
        (GOOD + "  user: [ann]\n", "unknown field `user`"),
        (GOOD + "  omitStages: [Never]\n", "Never"),
        (GOOD + "  nonResourceURLs: [healthz]\n", "must begin with"),
        (GOOD + "  nonResourceURLs: ['/a*b']\n", "final character"),
        (GOOD + "  nonResourceURLs: ['/a']\n  namespaces: [x]\n", "both"),
        (GOOD + "  resources: [{group: apps/v1}]\n", "apps/v1"),
        (GOOD + "  resources: [{resourceNames: [a]}]\n", "at least one resource"),
    ],
)
def test_files_that_are_no_policies(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        load_policy(file)


def test_a_file_that_is_one(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD + "metadata: {name: mine, creationTimestamp: null}\n")
    assert load_policy(file).judge(Attributes(ANN, info("get", "pods"))).level == "Metadata"
