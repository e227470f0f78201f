"""Deletion: preconditions, finalizers, grace, propagation, collections, namespaces."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api, config_map

Object = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


def pod(name: str, **spec: Any) -> Object:
    containers = [{"name": "c", "image": "busybox"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


async def bound_pod(api: Api, name: str, **spec: Any) -> Object:
    (await api.post(PODS, pod(name, **spec))).ok(201)
    binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}}
    (await api.post(f"{PODS}/{name}/binding", binding)).ok(201)
    found: Object = (await api.get(f"{PODS}/{name}")).ok()
    return found


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
async def test_preconditions(api: Api, field: str) -> None:
    made = (await api.post(MAPS, config_map("a"))).ok(201)
    refused = await api.delete(f"{MAPS}/a", {"preconditions": {field: "1"}})
    assert (refused.status, refused.json["reason"]) == (409, "Conflict")
    right = {"preconditions": {field: made["metadata"][field]}}
    (await api.delete(f"{MAPS}/a", right)).ok(200)


async def test_finalizers_keep_an_object_until_they_are_gone(api: Api) -> None:
    obj = config_map("a")
    obj["metadata"]["finalizers"] = ["ex.io/wait"]
    (await api.post(MAPS, obj)).ok(201)
    marked = (await api.delete(f"{MAPS}/a")).ok(200)
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    again = (await api.delete(f"{MAPS}/a")).ok(200)
    assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    more = await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": ["ex.io/wait", "ex.io/b"]}})
    assert more.status == 422
    assert (await api.patch(f"{MAPS}/a", {"metadata": {"labels": {"a": "b"}}})).status == 200
    (await api.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}})).ok(200)
    assert (await api.get(f"{MAPS}/a")).status == 404


@pytest.mark.parametrize(
    ("options", "finalizers"),
    [
        ({"propagationPolicy": "Foreground"}, ["foregroundDeletion"]),
        ({"propagationPolicy": "Orphan"}, ["orphan"]),
        ({"orphanDependents": True}, ["orphan"]),
    ],
)
async def test_propagation_is_a_finalizer(api: Api, options: Object, finalizers: list[str]) -> None:
    (await api.post(MAPS, config_map("a"))).ok(201)
    marked = (await api.delete(f"{MAPS}/a", options)).ok(200)
    assert marked["metadata"]["finalizers"] == finalizers


async def test_jobs_orphan_their_pods_by_default(api: Api) -> None:
    path = "/apis/batch/v1/namespaces/default/jobs"
    template = {"spec": pod("x", restartPolicy="Never")["spec"]}
    job = {"metadata": {"name": "j"}, "spec": {"template": template}}
    (await api.post(path, job)).ok(201)
    answer = await api.delete(f"{path}/j")
    assert answer.ok(200)["metadata"]["finalizers"] == ["orphan"]
    assert "child pods are preserved by default" in answer.headers["Warning"]
    (await api.post(path, {**job, "metadata": {"name": "k"}})).ok(201)
    background = await api.delete(f"{path}/k", {"propagationPolicy": "Background"})
    assert background.ok(200)["status"] == "Success" and "Warning" not in background.headers
    assert "child pods are preserved by default" in (await api.delete(path)).headers["Warning"]


async def test_a_bound_pod_gets_its_grace_and_it_can_only_shrink(api: Api) -> None:
    before = await bound_pod(api, "p", terminationGracePeriodSeconds=40)
    marked = (await api.delete(f"{PODS}/p")).ok(200)["metadata"]
    assert marked["deletionGracePeriodSeconds"] == 40
    assert marked["generation"] == before["metadata"]["generation"] + 1
    longer = (await api.delete(f"{PODS}/p?gracePeriodSeconds=50")).ok(200)["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 40
    shorter = (await api.delete(f"{PODS}/p?gracePeriodSeconds=5")).ok(200)["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    assert shorter["deletionTimestamp"] < marked["deletionTimestamp"]
    assert (await api.delete(f"{PODS}/p?gracePeriodSeconds=0")).ok(200)["kind"] == "Pod"
    assert (await api.get(f"{PODS}/p")).status == 404


async def test_a_pod_without_a_node_goes_at_once(api: Api) -> None:
    (await api.post(PODS, pod("p"))).ok(201)
    assert (await api.delete(f"{PODS}/p")).ok(200)["kind"] == "Pod"


async def test_a_dry_run_deletes_nothing(api: Api) -> None:
    (await api.post(MAPS, config_map("a"))).ok(201)
    (await api.delete(f"{MAPS}/a?dryRun=All")).ok(200)
    assert (await api.get(f"{MAPS}/a")).status == 200


async def test_collections(api: Api) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        obj = config_map(name)
        obj["metadata"]["labels"] = {"app": label}
        (await api.post(MAPS, obj)).ok(201)
    gone = (await api.delete(MAPS + "?labelSelector=app%3Dx")).ok(200)
    assert gone["kind"] == "ConfigMapList"
    assert [each["metadata"]["name"] for each in gone["items"]] == ["a", "b"]
    left = (await api.get(MAPS)).ok()["items"]
    assert [each["metadata"]["name"] for each in left] == ["c"]
    assert (await api.delete("/api/v1/namespaces")).status == 405


async def test_a_namespace_goes_when_it_is_finalized(api: Api) -> None:
    path = "/api/v1/namespaces/n"
    (await api.post("/api/v1/namespaces", {"metadata": {"name": "n"}})).ok(201)
    marked = (await api.delete(path)).ok(200)
    assert marked["status"]["phase"] == "Terminating"
    assert marked["spec"]["finalizers"] == ["kubernetes"]
    marked["spec"]["finalizers"] = []
    (await api.put(f"{path}/finalize", marked)).ok(200)
    assert (await api.get(path)).status == 404
    assert (await api.delete("/api/v1/namespaces/default")).status == 403


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/api/v1/namespaces/default/services", {"spec": {"ports": [{"port": 1}]}}, "Service"),
        ("/api/v1/namespaces/default/serviceaccounts", {}, "ServiceAccount"),
        ("/apis/storage.k8s.io/v1/storageclasses", {"provisioner": "a.b/c"}, "StorageClass"),
        ("/api/v1/namespaces/default/secrets", {}, "Status"),
        (
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            {"storageClassName": "a"},
            "Status",
        ),
    ],
)
async def test_answer_to_a_deletion(api: Api, path: str, body: Object, kind: str) -> None:
    """The last state of some kinds, a Status for the others, in earnest and in a dry run."""
    made = (await api.post(path, {"metadata": {"name": "gone"}, **body})).ok(201)
    for query in ("?dryRun=All", ""):
        answer = (await api.delete(f"{path}/gone{query}")).ok(200)
        assert answer["kind"] == kind
        uid = answer["metadata"]["uid"] if kind != "Status" else answer["details"]["uid"]
        assert uid == made["metadata"]["uid"]
    assert (await api.get(f"{path}/gone")).status == 404


async def test_answer_to_the_deletion_of_a_pod(api: Api) -> None:
    pods = "/api/v1/namespaces/default/pods"
    pod = {"metadata": {"name": "gone"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    (await api.post(pods, pod)).ok(201)
    answer = (await api.delete(f"{pods}/gone")).ok(200)
    assert answer["kind"] == "Pod"
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 0
    assert answer["metadata"]["deletionTimestamp"]
