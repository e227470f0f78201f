"""Texts that Python takes for numbers, or fails to: a superscript is a digit to `str.isdigit` and
nothing to `int`, another script's digit is one to both, and `int` refuses thousands of digits."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from tests.api.conftest import Api, config_map
from tests.api.hostile import CM, NAMESPACE, PODS, ROOT, Object, Refusal, furnish, pod, refuse

pytestmark = pytest.mark.asyncio(loop_scope="module")

MERGE_PATCH = "application/merge-patch+json"
TEXTS = {"superscript": "²", "arabic": "٣", "thousands": "9" * 5000}
APPS = "/apis/apps/v1/namespaces/default"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await furnish(shared_api)
    return shared_api


def workload(kind: str, annotations: dict[str, str], image: str = "a", **spec: Any) -> Object:
    labels = {"app": "numbers"}
    template = {"metadata": {"labels": labels}, "spec": pod("x")["spec"]}
    template["spec"]["containers"][0]["image"] = image
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "numbers", "annotations": annotations},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }


def rolling(most: str) -> Object:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}}
    return workload("Deployment", {}, strategy=strategy)


def policy(cidr: str) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "numbers"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]},
    }


def budget(least: str) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "numbers"},
        "spec": {"minAvailable": least, "selector": {}},
    }


def of_version(version: str) -> Object:
    return config_map("there") | {"metadata": {"name": "there", "resourceVersion": version}}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_no_number_that_breaks_the_server(api: Api, text: str) -> None:
    is_ascii = text.isascii()
    policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    there = f"there:{quote(text)}/proxy/"
    # A number that is too large for any revision is not this one's.
    version = 409 if is_ascii else 400
    for case in (
        Refusal("POST", f"{APPS}/deployments", 422, "must", rolling(f"{text}%")),
        Refusal("POST", f"{APPS}/deployments", 422, "must", rolling(text)),
        Refusal("POST", budgets, 422, "must", budget(f"{text}%")),
        Refusal("POST", policies, 422, "CIDR", policy(f"10.0.0.0/{text}")),
        Refusal("PUT", f"{CM}/there", version, "", of_version(text)),
        Refusal("PATCH", f"{CM}/there", version, "", of_version(text), MERGE_PATCH),
        Refusal("GET", f"{PODS}/{there}", 400, "invalid proxy request"),
        Refusal("POST", f"{PODS}/there/portforward?ports={quote(text)}", 400, "invalid syntax"),
    ):
        await refuse(api, case)
    answer = await api.get(f"{NAMESPACE}/services/{there}", **ROOT)
    assert answer.status == 503, "a Service is asked by the names of its ports"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_count_of_templates_that_is_no_number_stays(api: Api, text: str) -> None:
    key = "deprecated.daemonset.template.generation"
    path = f"{APPS}/daemonsets"
    (await api.post(path, workload("DaemonSet", {key: text}), **ROOT)).ok(201)
    written = (await api.put(f"{path}/numbers", workload("DaemonSet", {}, "b"), **ROOT)).ok(200)
    is_kept = written["metadata"]["annotations"][key] == text
    assert is_kept is not text.isascii()
    (await api.delete(f"{path}/numbers", **ROOT)).ok(200)
