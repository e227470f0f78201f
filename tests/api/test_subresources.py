"""Status, scale, binding, eviction."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.test_deletion import PODS, bound_pod, pod

from navarch.apiserver.subresources import eviction

Object = dict[str, Any]
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SETS = "/apis/apps/v1/namespaces/default/replicasets"
CONTROLLERS = "/api/v1/namespaces/default/replicationcontrollers"


def deployment(replicas: int = 1) -> Object:
    labels = {"app": "web"}
    return {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }


async def test_status_and_spec_are_written_apart(api: Api) -> None:
    made = (await api.post(DEPLOYMENTS, {**deployment(), "status": {"replicas": 9}})).ok(201)
    assert not made["status"].get("replicas")
    made["status"] = {"replicas": 3}
    made["spec"]["replicas"] = 7
    through_status = (await api.put(f"{DEPLOYMENTS}/web/status", made)).ok()
    assert (through_status["status"]["replicas"], through_status["spec"]["replicas"]) == (3, 1)
    assert through_status["metadata"]["generation"] == 1
    changed = (await api.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 2}})).ok()
    assert (changed["status"]["replicas"], changed["metadata"]["generation"]) == (3, 2)
    same = (await api.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 2}})).ok()
    assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]


@pytest.mark.conformance(
    "Deployment Deployment should have a working scale subresource",
    "ReplicaSet Replicaset should have a working scale subresource",
    "ReplicationController should get and update a ReplicationController scale",
)
@pytest.mark.parametrize("path", [DEPLOYMENTS, SETS, CONTROLLERS])
async def test_scale(api: Api, path: str) -> None:
    made = deployment()
    if path == CONTROLLERS:
        made["spec"]["selector"] = {"app": "web"}
    (await api.post(path, made)).ok(201)
    scale = (await api.get(f"{path}/web/scale")).ok()
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["status"]["selector"] == "app=web"
    scale["spec"]["replicas"] = 4
    (await api.put(f"{path}/web/scale", scale)).ok()
    assert (await api.get(f"{path}/web")).ok()["spec"]["replicas"] == 4
    assert (await api.put(f"{path}/web/scale", scale)).status == 409
    patched = (await api.patch(f"{path}/web/scale", {"spec": {"replicas": 6}})).ok()
    assert patched["spec"]["replicas"] == 6
    negative = await api.patch(f"{path}/web/scale", {"spec": {"replicas": -1}})
    assert negative.status == 422


async def test_binding(api: Api) -> None:
    found = await bound_pod(api, "p")
    assert found["spec"]["nodeName"] == "n1"
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions == {"PodScheduled": "True"}
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n2"}}
    twice = await api.post(f"{PODS}/p/binding", binding)
    assert (twice.status, twice.json["reason"]) == (409, "Conflict")
    (await api.post(PODS, pod("q"))).ok(201)
    old = {"metadata": {"name": "q"}, "target": {"name": "n2"}}
    (await api.post("/api/v1/namespaces/default/bindings", old)).ok(201)
    assert (await api.get(f"{PODS}/q")).ok()["spec"]["nodeName"] == "n2"
    listed = (await api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2")).ok()["items"]
    assert [each["metadata"]["name"] for each in listed] == ["q"]


async def running_pod(api: Api, name: str) -> None:
    (await api.post(PODS, {**pod(name), "metadata": {"name": name, "labels": {"a": "b"}}})).ok(201)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    (await api.patch(f"{PODS}/{name}/status", {"status": status})).ok()


@pytest.mark.parametrize(
    ("allowed", "code"), [pytest.param(1, 201, id="allowed"), pytest.param(0, 429, id="blocked")]
)
async def test_eviction_spends_the_budget(api: Api, allowed: int, code: int) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
    (await api.post(budgets, {"metadata": {"name": "pdb"}, "spec": spec})).ok(201)
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": allowed,
        "desiredHealthy": 1,
        "currentHealthy": 1 + allowed,
        "expectedPods": 1 + allowed,
    }
    (await api.patch(f"{budgets}/pdb/status", {"status": status})).ok()
    await running_pod(api, "p")
    answer = await api.post(f"{PODS}/p/eviction", {"metadata": {"name": "p"}})
    assert answer.status == code, answer.body
    left = (await api.get(f"{budgets}/pdb")).ok()["status"]
    if code == 201:
        assert (await api.get(f"{PODS}/p")).status == 404
        assert left["disruptionsAllowed"] == 0
        assert list(left["disruptedPods"]) == ["p"]
    else:
        assert answer.json["details"]["causes"][0]["reason"] == "DisruptionBudget"
        assert (await api.get(f"{PODS}/p")).status == 200


async def test_an_unready_budget_asks_to_come_back(api: Api) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
    (await api.post(budgets, {"metadata": {"name": "pdb"}, "spec": spec})).ok(201)
    await running_pod(api, "p")
    answer = await api.post(f"{PODS}/p/eviction", {"metadata": {"name": "p"}})
    assert (answer.status, answer.headers["Retry-After"]) == (429, "10")


async def test_a_pod_without_a_budget_is_evicted(api: Api) -> None:
    await running_pod(api, "p")
    (await api.post(f"{PODS}/p/eviction", {"metadata": {"name": "p"}})).ok(201)
    assert (await api.post(f"{PODS}/p/eviction", {"metadata": {"name": "p"}})).status == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(
            {"metadata": {"name": "q"}},
            400,
            "name in URL does not match name in Eviction object",
            id="another pod",
        ),
        pytest.param(
            {"metadata": {"name": "p", "namespace": "other"}},
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
            id="another namespace",
        ),
        pytest.param(
            {
                "metadata": {"name": "p"},
                "deleteOptions": {"ignoreStoreReadErrorWithClusterBreakingPotential": True},
            },
            422,
            'Eviction.policy "p" is invalid: '
            "deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: "
            "can not be set for pod eviction, try after removing the option",
            id="past the budget",
        ),
        pytest.param(
            {"apiVersion": "policy/v1alpha1", "kind": "Eviction", "metadata": {"name": "p"}},
            400,
            'no kind "Eviction" is registered for version "policy/v1alpha1"',
            id="no such version",
        ),
    ],
)
async def test_evictions_that_are_refused(
    api: Api, body: Object, status: int, message: str
) -> None:
    await running_pod(api, "p")
    answer = await api.post(f"{PODS}/p/eviction", body)
    assert answer.status == status, answer.body
    assert message in answer.json["message"]
    assert (await api.get(f"{PODS}/p")).status == 200


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_old_clients_evict_too(api: Api, version: str) -> None:
    await running_pod(api, "p")
    metadata = {"name": "p", "namespace": ""}
    body = {"apiVersion": f"policy/{version}", "kind": "Eviction", "metadata": metadata}
    (await api.post(f"{PODS}/p/eviction", body)).ok(201)
    assert (await api.get(f"{PODS}/p")).status == 404


async def test_a_pod_is_bound_in_its_own_namespace_only(api: Api) -> None:
    (await api.post(PODS, pod("q"))).ok(201)
    binding = {"metadata": {"name": "q", "namespace": "other"}, "target": {"name": "n2"}}
    for path in (f"{PODS}/q/binding", "/api/v1/namespaces/default/bindings"):
        assert (await api.post(path, binding)).status == 400
    binding["metadata"]["namespace"] = ""
    (await api.post(f"{PODS}/q/binding", binding)).ok(201)


@pytest.mark.parametrize(
    ("phase", "finalizers", "code"),
    [
        pytest.param("Running", [], 429, id="running"),
        pytest.param("Pending", [], 201, id="not started yet"),
        pytest.param("Succeeded", [], 201, id="ended well"),
        pytest.param("Failed", [], 201, id="ended badly"),
        pytest.param("Running", ["example.com/hold"], 201, id="on its way out"),
    ],
)
async def test_whom_no_budget_guards(
    api: Api, phase: str, finalizers: list[str], code: int
) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
    (await api.post(budgets, {"metadata": {"name": "pdb"}, "spec": spec})).ok(201)
    await running_pod(api, "p")
    (await api.patch(f"{PODS}/p", {"metadata": {"finalizers": finalizers}})).ok()
    (await api.patch(f"{PODS}/p/status", {"status": {"phase": phase}})).ok()
    if finalizers:
        (await api.delete(f"{PODS}/p?gracePeriodSeconds=0")).ok()
    assert (await api.post(f"{PODS}/p/eviction", {"metadata": {"name": "p"}})).status == code
    left = await api.get(f"{PODS}/p")
    assert left.status == (200 if code == 429 or finalizers else 404)
    assert not (await api.get(f"{budgets}/pdb")).ok().get("status", {}).get("disruptedPods")


@pytest.mark.parametrize(
    ("phase", "insists", "code"),
    [
        pytest.param("Pending", False, 201, id="pending, tried again"),
        pytest.param("Running", False, 429, id="unready, to be asked for again"),
        pytest.param("Pending", True, 409, id="a version the client insists on"),
    ],
)
async def test_a_pod_that_changes_while_it_is_evicted(
    api: Api, monkeypatch: pytest.MonkeyPatch, phase: str, insists: bool, code: int
) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {
        "minAvailable": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    (await api.post(budgets, {"metadata": {"name": "pdb"}, "spec": spec})).ok(201)
    (await api.post(PODS, {**pod("p"), "metadata": {"name": "p", "labels": {"a": "b"}}})).ok(201)
    (await api.patch(f"{PODS}/p/status", {"status": {"phase": phase}})).ok()
    version = (await api.get(f"{PODS}/p")).ok()["metadata"]["resourceVersion"]
    delete, tries = eviction._delete, 0

    async def interfere(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            (await api.patch(f"{PODS}/p", {"metadata": {"labels": {"c": "d"}}})).ok()
        await delete(*arguments)

    monkeypatch.setattr(eviction, "_delete", interfere)
    options = {"preconditions": {"resourceVersion": version}} if insists else {}
    body = {"metadata": {"name": "p"}, "deleteOptions": options}
    answer = await api.post(f"{PODS}/p/eviction", body)
    assert answer.status == code, answer.body
    assert tries == (2 if code == 201 else 1)
    assert (await api.get(f"{PODS}/p")).status == (404 if code == 201 else 200)
