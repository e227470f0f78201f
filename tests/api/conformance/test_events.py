"""Events of both groups, one by one and in collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.api.conftest import Api

Object = dict[str, Any]
CORE = ("/api/v1", {"kind": "Event", "apiVersion": "v1"})
NEW = ("/apis/events.k8s.io/v1", {"kind": "Event", "apiVersion": "events.k8s.io/v1"})
LISTED = "?labelSelector=constant%3Dtrue"

OLD_EVENT: Object = {
    "message": "This is a test event",
    "reason": "Test",
    "type": "Normal",
    "count": 1,
    "involvedObject": {"namespace": "default"},
}
NEW_EVENT: Object = {
    "note": "This is a test event",
    "reason": "Test",
    "action": "Do",
    "type": "Normal",
    "eventTime": "2017-09-19T13:49:11.000000Z",
    "regarding": {"namespace": "default"},
    "reportingController": "test-controller",
    "reportingInstance": "test-node",
}


def event(name: str, head: Mapping[str, str], body: Object) -> Object:
    return {**head, "metadata": {"name": name, "labels": {"constant": "true"}}, **body}


async def names(api: Api, path: str) -> list[str]:
    return [each["metadata"]["name"] for each in (await api.get(path)).ok()["items"]]


def plain(obj: Object) -> Object:
    """Without what the server sets at each write."""
    kept = {
        k: v for k, v in obj["metadata"].items() if k not in {"resourceVersion", "managedFields"}
    }
    return {**obj, "metadata": kept}


@pytest.mark.conformance("Events should manage the lifecycle of an event")
async def test_the_life_of_an_old_event(api: Api) -> None:
    root, head = CORE
    path = f"{root}/namespaces/default/events"
    await one_life(api, root, event("e", head, OLD_EVENT), {"message": "patched"})
    assert await names(api, path) == []


@pytest.mark.conformance(
    "Events API should ensure that an event can be fetched, patched, deleted, and listed"
)
async def test_the_life_of_a_new_event(api: Api) -> None:
    root, head = NEW
    old = f"{CORE[0]}/namespaces/default/events"
    other = {**event("other", head, NEW_EVENT), "reportingController": "other"}
    other["metadata"]["labels"] = {}
    path = f"{root}/namespaces/default/events"
    (await api.post(path, other)).ok(201)
    (await api.post(path, event("e", head, NEW_EVENT))).ok(201)
    assert await names(api, f"{old}?fieldSelector=source%3Dtest-controller") == ["e"]
    selector = "?fieldSelector=reportingController%3Dtest-controller"
    assert await names(api, path + selector) == ["e"]
    (await api.delete(f"{path}/e")).ok()
    series = {"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"}
    await one_life(api, root, event("e", head, NEW_EVENT), {"series": series})


async def one_life(api: Api, root: str, body: Object, patch: Object) -> None:
    """Create, list, patch, update without a revision, delete; everywhere visible."""
    path = f"{root}/namespaces/default/events"
    everywhere, here = f"{root}/events{LISTED}", path + LISTED
    made = (await api.post(path, body)).ok(201)
    assert made["metadata"]["resourceVersion"].isdigit()
    assert await names(api, everywhere) == await names(api, here) == ["e"]
    (await api.patch(f"{path}/e", patch, kind="strategic")).ok()
    patched = (await api.get(f"{path}/e")).ok()
    assert plain(patched) == plain(made) | patch
    assert int(patched["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    series = {"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"}
    (await api.put(f"{path}/e", {**plain(patched), "series": series})).ok()
    assert plain((await api.get(f"{path}/e")).ok()) == {**plain(patched), "series": series}
    (await api.delete(f"{path}/e")).ok()
    assert await names(api, everywhere) == await names(api, here) == []


@pytest.mark.conformance(
    "Events should delete a collection of events", "Events API should delete a collection of events"
)
@pytest.mark.parametrize(
    ("root", "head", "body"), [(*CORE, OLD_EVENT), (*NEW, NEW_EVENT)], ids=["core", "new"]
)
async def test_a_collection_goes_and_others_stay(
    api: Api, root: str, head: Mapping[str, str], body: Object
) -> None:
    path = f"{root}/namespaces/default/events"
    wanted = ["test-event-1", "test-event-2", "test-event-3"]
    for name in wanted:
        (await api.post(path, event(name, head, body))).ok(201)
    other = event("other", head, body)
    other["metadata"]["labels"] = {}
    (await api.post(path, other)).ok(201)
    assert await names(api, path + LISTED) == wanted
    (await api.delete(path + LISTED)).ok()
    assert await names(api, path + LISTED) == []
    assert await names(api, path) == ["other"]
