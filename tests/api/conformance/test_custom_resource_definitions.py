"""Definitions of custom resources as objects, and watches of what they define."""

from __future__ import annotations

import asyncio

import pytest
from tests.api.conformance.conftest import ANYTHING, DEFINITIONS, define, definition
from tests.api.conftest import Api
from tests.api.controllers.conftest import eventually

TITLE = "CustomResourceDefinition resources [Privileged:ClusterAdmin] "
SIMPLE = TITLE + "Simple CustomResourceDefinition "
GROUP = "mygroup.example.com"


async def gone(api: Api, path: str) -> None:
    async def is_gone() -> bool:
        return (await api.get(path)).status == 404

    await eventually(is_gone, f"the end of {path}")


@pytest.mark.conformance(SIMPLE + "creating/deleting custom resource definition objects works")
async def test_definitions_come_and_go(api: Api) -> None:
    made = await define(api, definition(GROUP, "Foo", v1=ANYTHING))
    path = f"{DEFINITIONS}/foos.{GROUP}"
    assert (await api.get(path)).ok()["spec"] == made["spec"]
    assert (await api.get(f"/apis/{GROUP}/v1/foos")).ok()["kind"] == "FooList"
    (await api.delete(path)).ok()
    await gone(api, path)
    await gone(api, f"/apis/{GROUP}/v1/foos")


@pytest.mark.conformance(SIMPLE + "listing custom resource definition objects works")
async def test_labelled_definitions(api: Api) -> None:
    made = {}
    for number in range(10):
        labelled = definition(GROUP, f"Foo{number}", v1=ANYTHING)
        labelled["metadata"]["labels"] = {"e2e-list-test": "yes"}
        made[labelled["metadata"]["name"]] = (await define(api, labelled))["spec"]
    other = await define(api, definition(GROUP, "Bar", v1=ANYTHING))
    path = f"{DEFINITIONS}?labelSelector=e2e-list-test%3Dyes"
    found = (await api.get(path)).ok()["items"]
    assert {each["metadata"]["name"]: each["spec"] for each in found} == made
    (await api.delete(path)).ok()

    async def only_other() -> bool:
        left = (await api.get(DEFINITIONS)).ok()["items"]
        return [each["metadata"]["uid"] for each in left] == [other["metadata"]["uid"]]

    await eventually(only_other, "the end of all labelled definitions")
    assert (await api.get(f"/apis/{GROUP}/v1/bars")).ok()["items"] == []


@pytest.mark.conformance(
    SIMPLE + "getting/updating/patching custom resource definition status sub-resource works"
)
async def test_the_status_of_a_definition(api: Api) -> None:
    made = await define(api, definition(GROUP, "Foo", v1=ANYTHING))
    path = f"{DEFINITIONS}/foos.{GROUP}/status"
    updated = {"type": "Updated", "status": "True", "message": "updated"}

    async def update() -> bool:
        current = (await api.get(path)).ok()
        assert current["spec"] == made["spec"]
        current["status"]["conditions"].append(updated)
        return (await api.put(path, current)).status == 200

    def messages(obj: dict[str, dict[str, list[dict[str, str]]]]) -> list[str]:
        return [each.get("message", "") for each in obj["status"]["conditions"]]

    await eventually(update, "an update of the status")
    assert "updated" in messages((await api.get(path)).ok())
    condition = {"type": "Patched", "status": "True", "message": "patched"}
    patch = [{"op": "add", "path": "/status/conditions/-", "value": condition}]
    assert "patched" in messages((await api.patch(path, patch, kind="json")).ok())
    assert {"updated", "patched"} <= {*messages((await api.get(path)).ok())}


@pytest.mark.conformance(
    TITLE + "should include custom resource definition resources in discovery documents"
)
async def test_definitions_in_discovery(api: Api) -> None:
    groups = {each["name"]: each for each in (await api.get("/apis")).ok()["groups"]}
    assert groups["apiextensions.k8s.io"]["versions"] == [
        {"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"}
    ]
    group = (await api.get("/apis/apiextensions.k8s.io")).ok()
    assert group["name"] == "apiextensions.k8s.io"
    assert group["versions"] == groups["apiextensions.k8s.io"]["versions"]
    listed = (await api.get("/apis/apiextensions.k8s.io/v1")).ok()
    assert listed["groupVersion"] == "apiextensions.k8s.io/v1"
    assert "customresourcedefinitions" in [each["name"] for each in listed["resources"]]


@pytest.mark.conformance(
    "CustomResourceDefinition Watch [Privileged:ClusterAdmin] CustomResourceDefinition Watch "
    "watch on custom resource definition objects"
)
async def test_watches_of_single_custom_objects(api: Api) -> None:
    await define(api, definition(GROUP, "Noxu", v1=ANYTHING))
    path = f"/apis/{GROUP}/v1/noxus"
    watch = f"{path}?watch=1&timeoutSeconds=600&fieldSelector=metadata.name%3D"
    names = ("name1", "name2")
    async with api.watch(watch + names[0]) as one, api.watch(watch + names[1]) as two:
        for name in names:
            body = {"apiVersion": f"{GROUP}/v1", "kind": "Noxu", "metadata": {"name": name}}
            (await api.post(path, {**body, "content": {"key": "value"}})).ok(201)
        for name in names:
            (await api.patch(f"{path}/{name}", {"dummy": "test"})).ok()
        for name in names:
            (await api.delete(f"{path}/{name}")).ok()
        for name, events in zip(names, (one, two), strict=True):
            async with asyncio.timeout(60):
                seen = [await anext(events) for _ in range(3)]
            assert [each["type"] for each in seen] == ["ADDED", "MODIFIED", "DELETED"]
            assert {each["object"]["metadata"]["name"] for each in seen} == {name}
            assert [each["object"].get("dummy") for each in seen] == [None, "test", "test"]
