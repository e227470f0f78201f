"""Custom resources from their definition to their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Api

Object = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FOOS = "/apis/ex.io/v1/namespaces/default/foos"

SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "color": {"type": "string", "default": "red"},
                "replicas": {"type": "integer"},
            },
        },
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


def definition() -> Object:
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": SCHEMA},
        "subresources": {"status": {}, "scale": scale},
        "selectableFields": [{"jsonPath": ".spec.color"}],
    }
    old = {"name": "v1beta1", "served": True, "storage": False, "schema": version["schema"]}
    return {
        "metadata": {"name": "foos.ex.io"},
        "spec": {
            "group": "ex.io",
            "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "shortNames": ["fo"]},
            "versions": [version, old],
        },
    }


async def define(api: Api, wanted: Object | None = None) -> None:
    """Make the definition and wait until it is established."""
    async with api.watch(DEFINITIONS + "?watch=1") as events:
        (await api.post(DEFINITIONS, wanted or definition())).ok(201)
        async with asyncio.timeout(60):
            async for event in events:
                conditions = event["object"]["status"].get("conditions") or ()
                if any(
                    each["type"] == "Established" and each["status"] == "True"
                    for each in conditions
                ):
                    return


def foo(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "ex.io/v1",
        "kind": "Foo",
        "metadata": {"name": name},
        "spec": spec,
    }


async def test_objects_are_defaulted_pruned_and_checked(api: Api) -> None:
    await define(api)
    made = await api.post(FOOS, foo("a", size=3, odd=1))
    assert made.ok(201)["spec"] == {"size": 3, "color": "red"}
    assert 'unknown field \\"spec.odd\\"' in made.headers["Warning"]
    strict = await api.post(FOOS + "?fieldValidation=Strict", foo("b", odd=1))
    assert (strict.status, strict.json["reason"]) == (400, "BadRequest")
    bad = await api.post(FOOS, foo("b", size=0))
    assert (bad.status, bad.json["details"]["causes"][0]["field"]) == (422, "spec.size")
    other = await api.post(FOOS, {**foo("b"), "kind": "Bar"})
    assert other.status in (400, 422)
    strategic = await api.patch(f"{FOOS}/a", {"spec": {"size": 4}}, kind="strategic")
    assert strategic.status == 415
    assert (await api.get(f"{FOOS}/a")).ok()["metadata"]["generation"] == 1


async def test_watch_status_scale_and_selection(api: Api) -> None:
    await define(api)
    async with api.watch(FOOS + "?watch=1&fieldSelector=spec.color%3Dblue") as events:
        (await api.post(FOOS, foo("a", size=1))).ok(201)
        (await api.patch(f"{FOOS}/a", {"spec": {"color": "blue", "replicas": 2}})).ok()
        (await api.patch(f"{FOOS}/a/status", {"status": {"replicas": 1}, "spec": {}})).ok()
        async with asyncio.timeout(60):
            seen = [await anext(events) for _ in range(2)]
    assert [each["type"] for each in seen] == ["ADDED", "MODIFIED"]
    assert seen[1]["object"]["apiVersion"] == "ex.io/v1"
    scale = (await api.get(f"{FOOS}/a/scale")).ok()
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 1)
    unversioned = foo("a", size=5)
    assert (await api.put(f"{FOOS}/a", unversioned)).status == 422
    old = (await api.get("/apis/ex.io/v1beta1/namespaces/default/foos")).ok()
    assert [each["apiVersion"] for each in old["items"]] == ["ex.io/v1beta1"]


async def test_apply_to_a_custom_resource(api: Api) -> None:
    await define(api)
    wanted = foo("a", size=1)
    query = "?fieldManager=m1"
    (await api.patch(f"{FOOS}/a{query}", wanted, kind="apply")).ok(201)
    same = (await api.patch(f"{FOOS}/a{query}", wanted, kind="apply")).ok(200)
    assert same["metadata"]["generation"] == 1
    other = await api.patch(f"{FOOS}/a?fieldManager=m2", foo("a", size=2), kind="apply")
    assert (other.status, other.json["reason"]) == (409, "Conflict")


async def test_discovery_shows_them_and_forgets_them(api: Api) -> None:
    await define(api)
    listed = (await api.get("/apis/ex.io/v1")).ok()["resources"]
    assert [each["name"] for each in listed] == ["foos", "foos/scale", "foos/status"]
    assert (await api.get("/apis/ex.io")).ok()["preferredVersion"]["version"] == "v1"
    (await api.post(FOOS, foo("a"))).ok(201)
    core, forgotten = api.server.core, asyncio.Event()

    def changed() -> None:
        if core.catalog.find("ex.io", "v1", "foos") is None:
            forgotten.set()

    core.catalog.on_change(changed)
    async with api.watch(DEFINITIONS + "?watch=1") as events:
        marked = (await api.delete(f"{DEFINITIONS}/foos.ex.io")).ok(200)
        assert marked["metadata"]["finalizers"]
        async with asyncio.timeout(60):
            async for event in events:
                if event["type"] == "DELETED":
                    break
    await asyncio.wait_for(forgotten.wait(), 60)
    assert (await api.get("/apis/ex.io/v1")).status == 404
    assert (await api.get(FOOS)).body == b"404 page not found\n"
    left = await core.store.range("/registry/ex.io/")
    assert not left.items


@pytest.mark.conformance(
    "CustomResourceDefinition resources [Privileged:ClusterAdmin] "
    "custom resource defaulting for requests and from storage works"
)
async def test_a_new_default_shows_in_objects_from_before_it(api: Api) -> None:
    await define(api)
    (await api.post(FOOS, foo("a"))).ok(201)
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
    added = [{"op": "add", "path": f"{path}/shape", "value": {"type": "string", "default": "oval"}}]
    (await api.patch(f"{DEFINITIONS}/foos.ex.io", added, kind="json")).ok()
    async with asyncio.timeout(60):
        seen = (await api.get(f"{FOOS}/a")).ok()
        while "shape" not in seen["spec"]:
            await asyncio.sleep(0.01)
            seen = (await api.get(f"{FOOS}/a")).ok()
    assert seen["spec"] == {"color": "red", "shape": "oval"}
    assert (await api.get(FOOS)).ok()["items"][0]["spec"] == seen["spec"]
    async with api.watch(FOOS + "?watch=1") as events:
        assert (await anext(events))["object"]["spec"] == seen["spec"]
    changed = (await api.patch(f"{FOOS}/a", {"metadata": {"labels": {"x": "y"}}})).ok()
    assert (changed["spec"], changed["metadata"]["generation"]) == (seen["spec"], 1)


async def test_finalizers_of_custom_resources_need_no_domain(api: Api) -> None:
    await define(api)
    free = foo("a", size=1)
    free["metadata"]["finalizers"] = ["plain"]
    assert (await api.post(FOOS, free)).ok(201)["metadata"]["finalizers"] == ["plain"]
    own = {"metadata": {"name": "a", "finalizers": ["orphan", "plain"]}}
    refused = await api.post("/api/v1/namespaces/default/configmaps", own)
    assert refused.status == 422
    assert refused.json["details"]["causes"][0]["field"] == "metadata.finalizers[1]"


async def test_a_version_is_refused_last(api: Api) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    for version, status in (("7", 400), ("0", 201)):
        body = {"metadata": {"name": f"v{version}", "resourceVersion": version}}
        assert (await api.post(path, body)).status == status
    wrong = {"metadata": {"name": "NO", "resourceVersion": "7"}}
    assert (await api.post(path, wrong)).status == 422


async def test_deprecated_versions_warn_whatever_is_asked_of_them(api: Api) -> None:
    wanted = definition()
    version, old = wanted["spec"]["versions"]
    old |= {"deprecated": True}
    newest = {**old, "name": "v1alpha1", "deprecationWarning": "gone soon"}
    wanted["spec"]["versions"] = [version, old, newest]
    await define(api, wanted)
    for name, path, warning in (
        ("v1", "", None),
        ("v1beta1", "", '299 - "ex.io/v1beta1 Foo is deprecated"'),
        ("v1alpha1", "/absent", '299 - "gone soon"'),
        ("v1alpha1", "/absent/scale", '299 - "gone soon"'),
    ):
        found = await api.get(FOOS.replace("v1", name) + path)
        assert found.headers.get("Warning") == warning, (name, path)


async def test_aggregated_discovery_names_the_group_of_a_custom_kind(api: Api) -> None:
    await define(api)
    accepted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    groups = (await api.get("/apis", headers={"Accept": accepted})).ok()["items"]
    kinds = {
        (each["metadata"]["name"], resource["resource"]): resource["responseKind"]
        for each in groups
        for version in each["versions"]
        if version["version"] == "v1"
        for resource in version["resources"]
    }
    assert kinds["ex.io", "foos"] == {"group": "ex.io", "version": "v1", "kind": "Foo"}
    assert kinds["apps", "deployments"] == {"group": "", "version": "", "kind": "Deployment"}


async def test_what_is_no_subresource_is_a_status(api: Api) -> None:
    await define(api)
    for path in ("v1/namespaces/default/foos/a/odd", "v1beta1/namespaces/default/foos/a/scale"):
        found = await api.get(f"/apis/ex.io/{path}")
        assert (found.status, found.json["message"]) == (404, 'foos.ex.io "a" not found')


async def test_what_a_scale_of_a_custom_resource_refuses(api: Api) -> None:
    await define(api)
    (await api.post(FOOS, foo("a", replicas=1))).ok(201)
    scale = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": -1}}
    refused = await api.put(f"{FOOS}/a/scale", scale)
    assert (refused.status, refused.json["message"]) == (
        422,
        'Foo.ex.io "a" is invalid: .spec.replicas: Invalid value: -1: should be a non-negative '
        "integer",
    )
    patched = await api.patch(f"{FOOS}/a/scale", {"spec": {"replicas": 2}}, "strategic")
    assert patched.status == 415


async def test_tools_that_migrate_may_forget_versions(api: Api) -> None:
    await define(api)
    path = f"{DEFINITIONS}/foos.ex.io"
    for body, status in (
        ({"status": {"storedVersions": []}}, 200),
        ({"spec": {"group": "a.b"}}, 422),
    ):
        sub = "/status" if status == 200 else ""
        answer = await api.patch(path + sub, body)
        assert answer.status == status
        if status == 422:
            assert [each["field"] for each in answer.json["details"]["causes"]] == ["spec.group"]


async def test_nothing_is_created_while_the_definition_ends(api: Api) -> None:
    await define(api)
    (await api.post(FOOS, foo("a") | {"metadata": {"name": "a", "finalizers": ["x/y"]}})).ok(201)
    (await api.delete(f"{DEFINITIONS}/foos.ex.io")).ok(200)
    async with asyncio.timeout(60):
        while (refused := await api.post(FOOS + "?dryRun=All", foo("b"))).status == 201:
            continue
    assert (refused.status, refused.json["message"]) == (
        403,
        'foos.ex.io "b" is forbidden: create not allowed while custom resource definition is '
        "terminating",
    )
    (await api.patch(f"{FOOS}/a", {"metadata": {"finalizers": None}})).ok(200)


async def test_lists_and_patches_of_custom_resources_differ_from_built_in_ones(api: Api) -> None:
    await define(api)
    assert (await api.get(FOOS)).ok()["metadata"]["continue"] == ""
    patched = await api.request("PATCH", f"{FOOS}/a", {}, content_type="application/json")
    assert patched.status == 415
    assert patched.json["message"].endswith(
        "include: application/json-patch+json, application/merge-patch+json, "
        "application/apply-patch+yaml"
    )
