"""Custom resources whose versions a webhook converts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.api.conftest import Api, running_server
from tests.api.webhook_server import WebhookServer, webhook_server

Object = dict[str, Any]
GROUP = "stable.example.com"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = f"hosts.{GROUP}"


def things(version: str, namespace: str = "default") -> str:
    return f"/apis/{GROUP}/{version}/namespaces/{namespace}/hosts"


def schema(*fields: str) -> Object:
    properties: Object = {name: {"type": "string"} for name in fields}
    return {"openAPIV3Schema": {"type": "object", "properties": properties}}


def definition(conversion: Object, storage: str = "v1") -> Object:
    """v1 has one field for what v2 has two for."""
    versions: list[Object] = [
        {
            "name": "v1",
            "schema": schema("hostPort"),
            "selectableFields": [{"jsonPath": ".hostPort"}],
        },
        {
            "name": "v2",
            "schema": schema("host", "port"),
            "selectableFields": [{"jsonPath": ".host"}, {"jsonPath": ".port"}],
        },
    ]
    for version in versions:
        version |= {"served": True, "storage": version["name"] == storage}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": "hosts",
                "singular": "host",
                "kind": "Host",
                "listKind": "HostList",
            },
            "versions": versions,
            "conversion": conversion,
        },
    }


def convert(obj: Object, version: str) -> Object:
    """What the conversion webhook of the official tests does."""
    result = {**obj, "apiVersion": version}
    if version.endswith("/v2") and "hostPort" in obj:
        host, _, port = result.pop("hostPort").partition(":")
        result |= {"host": host, "port": port}
    elif version.endswith("/v1") and "host" in obj:
        result["hostPort"] = f"{result.pop('host')}:{result.pop('port')}"
    return result


class Converter:
    """The webhook: counts what it is asked, and answers what a test wants."""

    def __init__(self, server: WebhookServer) -> None:
        self.server = server
        self.batches: list[list[Object]] = []
        self.change: Callable[[Object], Object] = lambda obj: obj
        self.response: Callable[[Object], Object] = lambda response: response
        self.arrived = asyncio.Event()
        self.blocked: asyncio.Event | None = None
        """Holds answers back until it is set."""
        server.handlers["/convert"] = self.handle

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        review = await request.json()
        self.arrived.set()
        if self.blocked is not None:
            await self.blocked.wait()
        asked = review["request"]
        self.batches.append(asked["objects"])
        version = asked["desiredAPIVersion"]
        response = {
            "uid": asked["uid"],
            "convertedObjects": [self.change(convert(obj, version)) for obj in asked["objects"]],
            "result": {"status": "Success"},
        }
        answer = {key: review[key] for key in ("apiVersion", "kind")}
        return web.json_response(self.response({**answer, "response": response}))

    def spec(self, *versions: str) -> Object:
        return {
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": self.server.client("/convert"),
                "conversionReviewVersions": list(versions or ("v1", "v1beta1")),
            },
        }


@pytest.fixture
async def converter(tmp_path: Path) -> AsyncIterator[Converter]:
    async with webhook_server(tmp_path) as server:
        yield Converter(server)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_server() as server, aiohttp.ClientSession() as session:
        yield Api(server, session)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await check():  # noqa: ASYNC110 - what changes is on the other side of HTTP
            await asyncio.sleep(0.01)


async def define(api: Api, conversion: Object, storage: str = "v1") -> None:
    (await api.post(CRDS, definition(conversion, storage))).ok(201)

    async def is_served() -> bool:
        return (await api.get(things("v1"))).status == 200

    await until(is_served)


async def change_storage(api: Api, conversion: Object, storage: str) -> None:
    body = {"spec": {"versions": definition(conversion, storage)["spec"]["versions"]}}
    (await api.patch(f"{CRDS}/{NAME}", body)).ok(200)

    async def is_stored() -> bool:
        crd = (await api.get(f"{CRDS}/{NAME}")).ok()
        resource = api.server.core.catalog.get(GROUP, storage, "hosts")
        is_served = resource.stored.version == storage
        return storage in crd["status"]["storedVersions"] and is_served

    await until(is_stored)


def host(name: str, version: str = "v1", **fields: str) -> Object:
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": "Host",
        "metadata": {"name": name},
        **(fields or {"hostPort": "localhost:8080"}),
    }


@pytest.mark.conformance(
    "CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert from CR "
    "v1 to CR v2"
)
async def test_an_object_is_read_in_another_version(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    made = (await api.post(things("v1"), host("a"))).ok(201)
    assert not converter.batches
    read = (await api.get(things("v2") + "/a")).ok()
    assert (read["host"], read["port"], read["apiVersion"]) == ("localhost", "8080", f"{GROUP}/v2")
    assert "hostPort" not in read
    assert read["metadata"] == made["metadata"]


@pytest.mark.conformance(
    "CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert a non "
    "homogeneous list of CRs"
)
async def test_a_list_of_mixed_versions_is_converted_in_one_request(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    for name in ("a", "b"):
        (await api.post(things("v1"), host(name))).ok(201)
    await change_storage(api, converter.spec(), "v2")
    (await api.post(things("v2"), host("c", "v2", host="h", port="1"))).ok(201)
    converter.batches.clear()
    listed = (await api.get(things("v2"))).ok()["items"]
    assert [(each["host"], each["port"]) for each in listed] == [
        ("localhost", "8080"),
        ("localhost", "8080"),
        ("h", "1"),
    ]
    assert [[each["metadata"]["name"] for each in batch] for batch in converter.batches] == [
        ["a", "b"]
    ]
    listed = (await api.get(things("v1"))).ok()["items"]
    assert [each["hostPort"] for each in listed] == ["localhost:8080", "localhost:8080", "h:1"]
    crd = (await api.get(f"{CRDS}/{NAME}")).ok()
    assert crd["status"]["storedVersions"] == ["v1", "v2"]


async def test_writes_in_another_version_are_stored_in_the_storage_version(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    made = (await api.post(things("v2"), host("a", "v2", host="h", port="1"))).ok(201)
    assert (made["apiVersion"], made["host"], made["port"]) == (f"{GROUP}/v2", "h", "1")
    assert (await api.get(things("v1") + "/a")).ok()["hostPort"] == "h:1"
    patched = (await api.patch(things("v2") + "/a", {"port": "2"})).ok()
    assert (patched["host"], patched["port"]) == ("h", "2")
    assert patched["metadata"]["generation"] == 2
    read = (await api.get(things("v1") + "/a")).ok()
    assert read["hostPort"] == "h:2"
    read["hostPort"] = "h:3"
    (await api.put(things("v1") + "/a", read)).ok()
    applied = host("a", "v2", host="h", port="4")
    answer = await api.patch(things("v2") + "/a?fieldManager=me&force=true", applied, kind="apply")
    assert answer.ok()["port"] == "4"
    same = await api.patch(things("v2") + "/a", {"port": "4"})
    version = answer.json["metadata"]["resourceVersion"]
    assert same.ok()["metadata"]["resourceVersion"] == version
    deleted = await api.delete(things("v2") + "/a")
    deleted.ok()
    assert (await api.get(things("v1") + "/a")).status == 404


async def test_old_objects_are_rewritten_by_a_write_that_changes_nothing(
    api: Api, converter: Converter
) -> None:
    """What storage migration relies on."""
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    await change_storage(api, converter.spec(), "v2")
    read = (await api.get(things("v2") + "/a")).ok()
    (await api.put(things("v2") + "/a", read)).ok()
    resource = api.server.core.catalog.get(GROUP, "v2", "hosts")
    entry = resource.cache.get("default", "a")
    assert entry is not None
    assert entry.api_version == f"{GROUP}/v2".encode()
    assert b'"host":"localhost"' in entry.tail


async def test_what_was_converted_is_kept(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    for name in "abc":
        (await api.post(things("v1"), host(name))).ok(201)
    converter.blocked = asyncio.Event()
    leaving = asyncio.create_task(api.get(things("v2")))
    async with asyncio.timeout(60):
        await converter.arrived.wait()
    pending = [asyncio.create_task(api.get(things("v2"))) for _ in range(5)]
    leaving.cancel()
    converter.blocked.set()
    for each in pending:
        assert len((await each).ok()["items"]) == 3
    (await api.get(things("v2") + "/b")).ok()
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    rows = (await api.get(things("v2"), headers={"Accept": table})).ok()["rows"]
    assert [row["cells"][0] for row in rows] == ["a", "b", "c"]
    names = sorted(obj["metadata"]["name"] for batch in converter.batches for obj in batch)
    assert names == ["a", "b", "c"]
    (await api.patch(things("v1") + "/b", {"hostPort": "x:1"})).ok()
    converter.batches.clear()
    assert [each["host"] for each in (await api.get(things("v2"))).ok()["items"]] == [
        "localhost",
        "x",
        "localhost",
    ]
    assert [[obj["metadata"]["name"] for obj in batch] for batch in converter.batches] == [["b"]]


async def test_watch_events_are_converted(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    async with api.watch(things("v2") + "?watch=true") as events, asyncio.timeout(60):
        first = await anext(events)
        assert (first["type"], first["object"]["host"]) == ("ADDED", "localhost")
        assert first["object"]["apiVersion"] == f"{GROUP}/v2"
        (await api.patch(things("v1") + "/a", {"hostPort": "h:1"})).ok()
        (await api.delete(things("v1") + "/a")).ok()
        changed, gone = await anext(events), await anext(events)
        assert (changed["type"], changed["object"]["host"]) == ("MODIFIED", "h")
        assert (gone["type"], gone["object"]["host"]) == ("DELETED", "h")
        version = int(gone["object"]["metadata"]["resourceVersion"])
        assert version > int(changed["object"]["metadata"]["resourceVersion"])
        converter.response = lambda response: {"garbage": True}
        (await api.post(things("v1"), host("b"))).ok(201)
        failure = await anext(events)
        assert failure["type"] == "ERROR"
        assert "conversion webhook for" in failure["object"]["message"]
        with pytest.raises(StopAsyncIteration):
            await anext(events)


@pytest.mark.conformance(
    "CustomResourceFieldSelectors [Privileged:ClusterAdmin] CustomResourceFieldSelectors MUST list "
    "and watch custom resources matching the field selector"
)
async def test_fields_are_selected_in_the_version_that_is_asked(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a", hostPort="host1:80"))).ok(201)
    (await api.post(things("v1"), host("b", hostPort="host1:8080"))).ok(201)
    (await api.post(things("v2"), host("c", "v2", host="host2", port="80"))).ok(201)

    async def names(version: str, selector: str, more: str = "") -> list[str]:
        path = f"{things(version)}?fieldSelector={selector.replace('=', '%3D')}{more}"
        return [each["metadata"]["name"] for each in (await api.get(path)).ok()["items"]]

    assert await names("v2", "host=host1") == ["a", "b"]
    assert await names("v2", "host=host1,port=80") == ["a"]
    assert await names("v2", "host!=host1") == ["c"]
    assert await names("v2", "metadata.name=b,host=host1") == ["b"]
    assert await names("v1", "hostPort=host2:80") == ["c"]
    refused = await api.get(things("v1") + "?fieldSelector=host%3Dhost1")
    assert (refused.status, refused.json["message"]) == (400, "field label not supported: host")
    page = (await api.get(things("v2") + "?fieldSelector=port%3D80&limit=1")).ok()
    assert [each["metadata"]["name"] for each in page["items"]] == ["a"]
    token = page["metadata"]["continue"]
    assert await names("v2", "port=80", f"&limit=1&continue={token}") == ["c"]
    selector = "?watch=true&fieldSelector=host%3Dhost1"
    async with api.watch(things("v2") + selector) as events, asyncio.timeout(60):
        assert [(await anext(events))["object"]["metadata"]["name"] for _ in "ab"] == ["a", "b"]
        (await api.patch(things("v2") + "/a", {"host": "host2"})).ok()
        left = await anext(events)
        assert (left["type"], left["object"]["host"]) == ("DELETED", "host1")
        (await api.delete(things("v2") + "?fieldSelector=host%3Dhost1")).ok()
        gone = await anext(events)
        assert (gone["type"], gone["object"]["metadata"]["name"]) == ("DELETED", "b")
    assert await names("v2", "host=host2") == ["a", "c"]


def with_metadata(**changes: Any) -> Callable[[Object], Object]:
    return lambda obj: {**obj, "metadata": {**obj["metadata"], **changes}}


def without_metadata(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key != "metadata"}


async def test_labels_and_annotations_are_all_a_webhook_changes_in_metadata(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    body = host("a")
    body["metadata"] |= {"labels": {"old": "x"}, "annotations": {"old": "x"}}
    made = (await api.post(things("v1"), body)).ok(201)
    converter.change = with_metadata(
        labels={"new": "y"},
        annotations=None,
        generation=77,
        finalizers=["example.com/x"],
        resourceVersion="1",
        creationTimestamp="2001-01-01T00:00:00Z",
        ownerReferences=[],
    )
    read = (await api.get(things("v2") + "/a")).ok()
    expected = {**made["metadata"], "labels": {"new": "y"}}
    del expected["annotations"]
    assert read["metadata"] == expected
    assert len((await api.get(things("v2") + "?labelSelector=new")).ok()["items"]) == 1
    assert (await api.get(things("v2") + "?labelSelector=old")).ok()["items"] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (with_metadata(name="b"), "must have the same name: a != b"),
        (with_metadata(namespace="b"), "must have the same namespace: default != b"),
        (with_metadata(uid="b"), "must have the same UID"),
        (without_metadata, "invalid object: must have the same name: a != "),
        (lambda obj: {**obj, "metadata": 1}, "invalid object: must have the same name: a != "),
        (with_metadata(labels=1), "invalid metadata: invalid metadata.labels of type int64 in "),
        (with_metadata(labels={"a": 1}), "metadata.labels[a] must be a string, but is int64"),
        (with_metadata(labels={"a b": "c"}), "metadata.labels: Invalid value"),
        (
            lambda obj: {**obj, "apiVersion": f"{GROUP}/v3"},
            "invalid object at index 0: invalid groupVersion (expected "
            f"{GROUP}/v2, received {GROUP}/v3)",
        ),
        (lambda obj: {**obj, "kind": "Other"}, "invalid kind (expected Host, received Other)"),
    ],
)
async def test_conversions_that_are_none_are_refused(
    api: Api, converter: Converter, change: Callable[[Object], Object], text: str
) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    converter.change = change
    answer = await api.get(things("v2") + "/a")
    assert answer.status == 500
    message = answer.json["message"]
    assert message.startswith(f"conversion webhook for {GROUP}/v1, Kind=Host returned invalid ")
    assert text in message
    (await api.get(things("v1") + "/a")).ok()
    (await api.post(things("v1"), host("b"))).ok(201)
    message = (await api.get(things("v2"))).json["message"]
    assert re.search("returned invalid .*object at index 0: ", message)


def response_with(**changes: Any) -> Callable[[Object], Object]:
    return lambda answer: {**answer, "response": {**answer["response"], **changes}}


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (response_with(uid="other"), 'failed: expected response.uid="'),
        (response_with(convertedObjects=[]), "returned 0 objects, expected 1"),
        (response_with(result={"status": "Failure", "message": "no way"}), "failed: no way"),
        (
            response_with(result={}),
            "failed: response.result.status was '', not 'Success'",
        ),
        (lambda answer: {**answer, "response": None}, "failed: no response provided"),
        (
            lambda answer: {**answer, "kind": "Other"},
            "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview",
        ),
        (lambda answer: {"response": "x"}, "failed: json: cannot unmarshal"),
    ],
)
async def test_answers_that_are_none_are_refused(
    api: Api, converter: Converter, response: Callable[[Object], Object], text: str
) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    converter.response = response
    for path in (things("v2") + "/a", things("v2"), things("v2") + "?watch=true"):
        answer = await api.get(path)
        assert answer.status == 500
        assert answer.json["message"].startswith(f"conversion webhook for {GROUP}/v1, Kind=Host")
        assert text in answer.json["message"]
    for query in ("", "?dryRun=All"):
        refused = await api.post(things("v2") + query, host("b", "v2", host="h", port="1"))
        assert refused.status == 500
    assert (await api.get(things("v1") + "/b")).status == 404


async def test_the_older_review_is_spoken(api: Api, converter: Converter) -> None:
    await define(api, converter.spec("v1beta1"))
    (await api.post(things("v1"), host("a"))).ok(201)
    converter.response = response_with(uid="ignored")
    assert (await api.get(things("v2") + "/a")).ok()["host"] == "localhost"


async def test_what_the_schema_does_not_know_is_pruned(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    converter.change = lambda obj: {**obj, "unknown": "field"}
    assert "unknown" not in (await api.get(things("v2") + "/a")).ok()


async def test_a_dead_webhook_is_in_the_way_of_other_versions_only(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    (await api.post(things("v1"), host("a"))).ok(201)
    dead = converter.spec()
    dead["webhook"]["clientConfig"]["url"] = "https://127.0.0.1:1/convert"
    (await api.patch(f"{CRDS}/{NAME}", {"spec": {"conversion": dead}})).ok()

    async def is_dead() -> bool:
        return (await api.get(things("v2") + "/a")).status == 500

    await until(is_dead)
    message = (await api.get(things("v2") + "/a")).json["message"]
    assert message == (
        f"conversion webhook for {GROUP}/v1, Kind=Host failed: Post "
        '"https://127.0.0.1:1/convert?timeout=30s": dial tcp 127.0.0.1:1: connect: '
        "connection refused"
    )
    (await api.get(things("v1") + "/a")).ok()
    await change_storage(api, dead, "v2")
    (await api.delete(f"{CRDS}/{NAME}")).ok()

    async def is_gone() -> bool:
        return (await api.get(f"{CRDS}/{NAME}")).status == 404

    await until(is_gone)


async def test_watches_end_when_conversion_changes(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    async with api.watch(things("v2") + "?watch=true") as events, asyncio.timeout(60):
        await change_storage(api, converter.spec(), "v2")
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_definition_says_how_to_convert_or_not_at_all(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    where = "spec.conversion.webhookClientConfig"
    bad = converter.spec()
    bad["webhook"]["clientConfig"]["caBundle"] = "bm9uZQ=="
    for conversion, text in (
        ({"strategy": "None"}, f"{where}: Forbidden: should not be set when strategy is not"),
        ({"webhook": {"clientConfig": {"url": "http://x"}}}, f'{where}.url: Invalid value: "http"'),
        ({"webhook": {"conversionReviewVersions": ["v9"]}}, "must include at least one of v1"),
        (bad, f"{where}.caBundle: Invalid value"),
    ):
        answer = await api.patch(f"{CRDS}/{NAME}", {"spec": {"conversion": conversion}})
        assert answer.status == 422, conversion
        assert text in answer.json["message"]
    nothing = {"spec": {"conversion": {"strategy": "None", "webhook": None}}}
    (await api.patch(f"{CRDS}/{NAME}", nothing)).ok()
