"""The review kinds of authorization.k8s.io."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.authorization import Authorization, build_authorizer
from navarch.apiserver.authorization.reviews import (
    local_subject_access_review,
    self_subject_access_review,
    self_subject_rules_review,
    subject_access_review,
)
from navarch.apiserver.contracts import UserInfo

GROUP = "rbac.authorization.k8s.io"
EVE = UserInfo("eve", groups=("system:authenticated",))


@pytest.fixture
def authorization() -> Authorization:
    lookup = MemoryLookup()
    rules = [
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
    ]
    lookup.put(f"clusterroles.{GROUP}", {"metadata": {"name": "r"}, "rules": rules})
    lookup.put(
        f"clusterrolebindings.{GROUP}",
        {
            "metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "User", "name": "eve"}],
        },
    )
    return build_authorizer(lookup)


def review(kind: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": spec}


PODS = {"verb": "get", "resource": "pods", "namespace": "ns"}


def test_allowed_and_not(authorization: Authorization) -> None:
    asked = review("SubjectAccessReview", user="eve", resourceAttributes=PODS)
    answer = subject_access_review(asked, authorization)
    assert answer["spec"] == asked["spec"]
    assert answer["status"] == {
        "allowed": True,
        "reason": 'RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "r" to User "eve"',
    }
    asked = review("SubjectAccessReview", user="mallory", resourceAttributes=PODS)
    assert subject_access_review(asked, authorization)["status"] == {"allowed": False}
    path = {"path": "/metrics", "verb": "get"}
    asked = review("SelfSubjectAccessReview", nonResourceAttributes=path)
    assert self_subject_access_review(asked, EVE, authorization)["status"]["allowed"] is True


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"user": "eve"}, "spec.resourceAttributes"),
        (
            {"user": "eve", "resourceAttributes": PODS, "nonResourceAttributes": {"path": "/"}},
            "spec.nonResourceAttributes",
        ),
        ({"resourceAttributes": PODS}, "spec.user"),
        (
            {"user": "eve", "resourceAttributes": {**PODS, "labelSelector": {}}},
            "spec.resourceAttributes.labelSelector.requirements",
        ),
    ],
)
def test_senseless_questions(authorization: Authorization, spec: Any, field: str) -> None:
    with pytest.raises(ApiError) as raised:
        subject_access_review(review("SubjectAccessReview", **spec), authorization)
    assert raised.value.status == 422
    assert (raised.value.details or {})["causes"][0]["field"] == field


def test_metadata_must_be_empty(authorization: Authorization) -> None:
    asked = review("SubjectAccessReview", user="eve", resourceAttributes=PODS)
    with pytest.raises(ApiError, match="must be empty"):
        subject_access_review({**asked, "metadata": {"name": "x"}}, authorization)


def test_local_review_keeps_to_its_namespace(authorization: Authorization) -> None:
    asked = review("LocalSubjectAccessReview", user="eve", resourceAttributes=PODS)
    asked["metadata"] = {"namespace": "ns"}
    assert local_subject_access_review(asked, "ns", authorization)["status"]["allowed"]
    with pytest.raises(ApiError) as raised:
        local_subject_access_review(asked, "other", authorization)
    assert raised.value.status == 400
    asked["spec"]["resourceAttributes"] = {**PODS, "namespace": "other"}
    with pytest.raises(ApiError, match=r"must match metadata\.namespace"):
        local_subject_access_review(asked, "ns", authorization)


def test_selectors_that_cannot_be_read_are_told_of(authorization: Authorization) -> None:
    requirements = [
        {"key": "metadata.name", "operator": "In", "values": ["a"]},
        {"key": "metadata.name", "operator": "Exists"},
    ]
    attributes = {
        **PODS,
        "fieldSelector": {"requirements": requirements},
        "labelSelector": {"rawSelector": "a in ("},
    }
    asked = review("SubjectAccessReview", user="eve", resourceAttributes=attributes)
    status = subject_access_review(asked, authorization)["status"]
    assert status["allowed"] is True
    assert status["evaluationError"] == (
        "spec.resourceAttributes.fieldSelector partially ignored due to parse error; "
        "spec.resourceAttributes.labelSelector ignored due to parse error"
    )


def test_rules_of_the_caller(authorization: Authorization) -> None:
    asked = review("SelfSubjectRulesReview", namespace="ns")
    assert self_subject_rules_review(asked, EVE, authorization)["status"] == {
        "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}],
        "incomplete": False,
    }
    node = UserInfo("system:node:n1", groups=("system:nodes",))
    assert self_subject_rules_review(asked, node, authorization)["status"]["incomplete"] is True
    with pytest.raises(ApiError, match="no namespace on request"):
        self_subject_rules_review(review("SelfSubjectRulesReview"), EVE, authorization)
