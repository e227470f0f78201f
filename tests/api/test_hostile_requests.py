"""Requests that are wrong whatever their body: paths, methods, Accept, parameters, preconditions,
patches that do not apply."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import pytest_asyncio
from tests.api.conftest import Api, config_map
from tests.api.hostile import CM, PODS, ROOT, Object, Refusal, furnish, refuse, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1 << 20
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/there"
FUTURE = 10**9
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await furnish(shared_api)
    return shared_api


METHODS = [
    row("post on an object", f"POST {CM}/there", 405, body=config_map("there")),
    row("put on a collection", f"PUT {CM}", 405, body=config_map("there")),
    row("patch on a collection", f"PATCH {CM}", 405, body={}, content_type=MERGE_PATCH),
    row("post on all namespaces", "POST /api/v1/configmaps", 405, body=config_map("x")),
    row("delete all namespaces", "DELETE /api/v1/namespaces", 405),
    row("trace", f"TRACE {CM}", 405),
    row("options", f"OPTIONS {CM}", 405),
    row("delete a review", "DELETE /apis/authorization.k8s.io/v1/subjectaccessreviews/x", 405),
    row("get status by post", f"POST {PODS}/there/status", 405, body={}),
]

ACCEPT = [
    *(
        row(f"accept {accept}", f"GET {CM}", 406, "application/json", headers={"Accept": accept})
        for accept in (
            "text/html",
            ";;;=,,",
            "application/json;as=Table;v=v9;g=meta.k8s.io",
            "application/json;as=Chair;v=v1;g=meta.k8s.io",
            "application/xml;q=1",
        )
    ),
]

LISTS = [
    row("limit abc", f"GET {CM}?limit=abc", 400),
    row("limit beyond 64 bits", f"GET {CM}?limit=99999999999999999999", 400),
    row("limit of a million digits", f"GET {CM}?limit={'9' * 10_000}", 400),
    row("continue garbage", f"GET {CM}?continue=garbage", 400, "continue key is not valid"),
    row("continue elsewhere", f"GET {CM}?continue="
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9zZWNyZXRzL1x1MDAwMCJ9",
        400, "continue key is not valid"),
    row("continue with a revision", f"GET {CM}?resourceVersion=5&continue="
        "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0", 400,
        "specifying resource version is not allowed when using continue"),
    row("label selector a===b", f"GET {CM}?labelSelector=a===b", 400,
        "unable to parse requirement"),
    row("label selector a in (", f"GET {CM}?labelSelector=a+in+(", 400),
    row("label selector value", f"GET {CM}?labelSelector=a=-x-", 400),
    row("field selector data.k", f"GET {CM}?fieldSelector=data.k=v", 400, "field"),
    row("field selector of pods", f"GET {PODS}?fieldSelector=spec.what=v", 400,
        "field label not supported: spec.what"),
    row("field selector without operator", f"GET {CM}?fieldSelector=name", 400),
    row("revision abc", f"GET {CM}?resourceVersion=abc", 400),
    row("revision -1", f"GET {CM}?resourceVersion=-1", 400),
    row("revision of an object", f"GET {CM}/there?resourceVersion=abc", 400),
    row("match without revision", f"GET {CM}?resourceVersionMatch=Exact", 422,
        causes=("resourceVersionMatch",)),
    row("exactly nothing", f"GET {CM}?resourceVersionMatch=Exact&resourceVersion=0", 422,
        causes=("resourceVersionMatch",)),
    row("unknown match", f"GET {CM}?resourceVersionMatch=Near&resourceVersion=5", 422,
        "Unsupported value"),
    row("initial events of a list", f"GET {CM}?sendInitialEvents=true", 422,
        causes=("sendInitialEvents",)),
    row("initial events without match", f"GET {CM}?watch=1&sendInitialEvents=true", 422,
        causes=("resourceVersionMatch",)),
    row("match on a watch", f"GET {CM}?watch=1&resourceVersionMatch=NotOlderThan", 422,
        causes=("resourceVersionMatch",)),
    row("continue on a watch", f"GET {CM}?watch=1&continue=x", 422,
        causes=("resourceVersionMatch",)),
    row("watch from abc", f"GET {CM}?watch=1&resourceVersion=abc", 400),
    row("watch from beyond 64 bits", f"GET {CM}?watch=1&resourceVersion={'9' * 25}", 400),
    row("timeout abc", f"GET {CM}?timeout=abc", 400),
    row("timeoutSeconds abc", f"GET {CM}?watch=1&timeoutSeconds=abc", 400),
    row("timeout of a nanosecond", f"GET {CM}?timeout=1ns", 504, reason="Timeout"),
]  # fmt: skip

OPTIONS = [
    *(
        row(f"{method} {option}", f"{method} {path}?{option}", 422, body=config_map("there"),
            content_type=MERGE_PATCH if method == "PATCH" else "application/json")
        for method, path in (("POST", CM), ("PUT", f"{CM}/there"), ("PATCH", f"{CM}/there"))
        for option in ("dryRun=foo", "fieldValidation=foo", f"fieldManager={'x' * 129}",
                       "fieldManager=a%07b")
    ),
    row("force on a merge patch", f"PATCH {CM}/there?force=true", 422, causes=("force",), body={},
        content_type=MERGE_PATCH),
]  # fmt: skip


def there(**metadata: Any) -> Object:
    return {"metadata": {"name": "there", **metadata}}


UPDATES = [
    row("stale", f"PUT {CM}/there", 409, "the object has been modified",
        body=there(resourceVersion="1")),
    row("ahead", f"PUT {CM}/there", 409, "the object has been modified",
        body=there(resourceVersion=str(FUTURE))),
    row("other uid", f"PUT {CM}/there", 409, "UID in precondition", body=there(uid="other")),
    row("other name", f"PUT {CM}/there", 400, "does not match the name on the URL",
        body=config_map("else")),
    row("no name", f"PUT {CM}/there", 400, "name must be provided", body={"metadata": {}}),
    row("not there", f"PUT {CM}/none", 404, 'configmaps "none" not found',
        body=config_map("none")),
    row("revision abc", f"PUT {CM}/there", 400, body=there(resourceVersion="abc")),
    row("revision -1", f"PUT {CM}/there", 400, body=there(resourceVersion="-1")),
    row("no revision where one is needed",
        "PUT /apis/apiregistration.k8s.io/v1/apiservices/v1.", 422, "must be specified",
        body={"metadata": {"name": "v1."}, "spec": {"groupPriorityMinimum": 1,
                                                    "versionPriority": 1}}),
    row("selector changed", f"PATCH {DEPLOYMENT}", 422, "field is immutable",
        causes=("spec.selector",), content_type=MERGE_PATCH,
        body={"spec": {"selector": {"matchLabels": {"c": "d"}}, "template": {
            "metadata": {"labels": {"c": "d"}}}}}),
    row("pod spec changed", f"PATCH {PODS}/there", 422, "pod updates may not change fields",
        causes=("spec",), content_type=MERGE_PATCH, body={"spec": {"hostNetwork": True}}),
]  # fmt: skip


def operations(*steps: Object) -> Any:
    return list(steps)


def copy_bomb() -> Any:
    """A string of 16 KiB, copied into itself until it is too big."""
    start = {"op": "add", "path": "/data/a", "value": "x" * 16_384}
    double: list[Object] = [{"op": "add", "path": "/metadata/annotations", "value": {}}]
    for number in range(400):
        double.append({"op": "copy", "from": "/data/a", "path": f"/metadata/annotations/{number}"})
    return [start, *double]


REMOVE = {"op": "remove", "path": "/data/none"}
PATCHES = [
    row("json patch: no such path", f"PATCH {CM}/there", 422, body=operations(REMOVE),
        content_type=JSON_PATCH),
    row("json patch: test fails", f"PATCH {CM}/there", 422, content_type=JSON_PATCH,
        body=operations({"op": "test", "path": "/data/key", "value": "other"})),
    row("json patch: unknown operation", f"PATCH {CM}/there", 422, content_type=JSON_PATCH,
        body=operations({"op": "explode", "path": "/data"})),
    row("json patch: no operation", f"PATCH {CM}/there", 422, content_type=JSON_PATCH,
        body=operations({"path": "/data"})),
    row("json patch: huge index", f"PATCH {DEPLOYMENT}", 422, content_type=JSON_PATCH,
        body=operations({"op": "add", "value": {},
                         "path": "/spec/template/spec/containers/99999999999"})),
    row("json patch: copy bomb", f"PATCH {CM}/there", 422, body=copy_bomb(),
        content_type=JSON_PATCH),
    row("json patch: no list", f"PATCH {CM}/there", 400, body={}, content_type=JSON_PATCH),
    row("json patch: list of numbers", f"PATCH {CM}/there", 400, body=[1],
        content_type=JSON_PATCH),
    row("json patch: bad syntax", f"PATCH {CM}/there", 400, body=b"[{", content_type=JSON_PATCH),
    row("json patch: 10 001 steps", f"PATCH {CM}/there", 413, "10000", content_type=JSON_PATCH,
        body=[{"op": "test", "path": "/kind", "value": "ConfigMap"}] * 10_001),
    row("json patch: renames", f"PATCH {CM}/there", 400, content_type=JSON_PATCH,
        body=operations({"op": "replace", "path": "/metadata/name", "value": "else"})),
    row("json patch: takes metadata away", f"PATCH {CM}/there", 422, content_type=JSON_PATCH,
        body=operations({"op": "replace", "path": "/metadata", "value": 5})),
    row("json patch: changes the kind", f"PATCH {CM}/there", 400, content_type=JSON_PATCH,
        body=operations({"op": "replace", "path": "/kind", "value": "Secret"})),
    row("json patch: replaces the whole", f"PATCH {CM}/there", 422, content_type=JSON_PATCH,
        body=operations({"op": "replace", "path": "", "value": "gone"})),
    row("merge patch null", f"PATCH {CM}/there", 400, body=b"null", content_type=MERGE_PATCH),
    row("merge patch list", f"PATCH {CM}/there", 400, body=[], content_type=MERGE_PATCH),
    row("merge patch bad syntax", f"PATCH {CM}/there", 400, body=b"{", content_type=MERGE_PATCH),
    row("merge patch 20 000 deep", f"PATCH {CM}/there", 400, content_type=MERGE_PATCH,
        body=b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    row("merge patch 900 deep", f"PATCH {CM}/there", 422, content_type=MERGE_PATCH,
        body=b'{"data":' * 900 + b"1" + b"}" * 900),
    row("merge patch renames", f"PATCH {CM}/there", 400, content_type=MERGE_PATCH,
        body={"metadata": {"name": "else"}}),
    row("merge patch moves", f"PATCH {CM}/there", 400, "namespace", content_type=MERGE_PATCH,
        body={"metadata": {"namespace": "kube-system"}}),
    row("merge patch wrong type", f"PATCH {CM}/there", 422, content_type=MERGE_PATCH,
        body={"data": {"a": 1}}),
    row("merge patch stale", f"PATCH {CM}/there", 409, "the object has been modified",
        content_type=MERGE_PATCH, body={"metadata": {"resourceVersion": "1"}}),
    row("merge patch other uid", f"PATCH {CM}/there", 422, content_type=MERGE_PATCH,
        body={"metadata": {"uid": "other"}}),
    row("merge patch of nothing", f"PATCH {CM}/none", 404, content_type=MERGE_PATCH, body={}),
    row("merge patch strictly", f"PATCH {CM}/there?fieldValidation=Strict", 422, "unknown field",
        content_type=MERGE_PATCH, body={"extra": 1}),
    row("strategic patch null", f"PATCH {CM}/there", 400, body=b"null",
        content_type=STRATEGIC_PATCH),
    row("strategic patch list", f"PATCH {CM}/there", 400, body=[], content_type=STRATEGIC_PATCH),
    row("strategic patch directive", f"PATCH {CM}/there", 400, content_type=STRATEGIC_PATCH,
        body={"data": {"$patch": "explode"}}),
    row("strategic patch without merge key", f"PATCH {DEPLOYMENT}", 400,
        content_type=STRATEGIC_PATCH,
        body={"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}),
    row("strategic patch retainKeys", f"PATCH {DEPLOYMENT}", 400, content_type=STRATEGIC_PATCH,
        body={"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}),
    row("strategic patch setElementOrder", f"PATCH {DEPLOYMENT}", 400,
        content_type=STRATEGIC_PATCH,
        body={"spec": {"template": {"spec": {"$setElementOrder/containers": 5}}}}),
    row("patch as json", f"PATCH {CM}/there", 415, "415: Unsupported Media Type", body={}),
    row("patch of no type", f"PATCH {CM}/there", 415, body=b"{}", content_type="text/plain"),
]  # fmt: skip

DELETIONS = [
    row("uid", f"DELETE {CM}/there", 409, "the UID in the precondition (other)",
        body={"preconditions": {"uid": "other"}}),
    row("revision", f"DELETE {CM}/there", 409, "the ResourceVersion in the precondition (1)",
        body={"preconditions": {"resourceVersion": "1"}}),
    row("policy", f"DELETE {CM}/there", 422, "propagationPolicy",
        body={"propagationPolicy": "Sideways"}),
    row("policy in the query", f"DELETE {CM}/there?propagationPolicy=Sideways", 422),
    row("two policies", f"DELETE {CM}/there", 422, "cannot be both set",
        body={"propagationPolicy": "Orphan", "orphanDependents": True}),
    row("dry run of some", f"DELETE {CM}/there", 422, body={"dryRun": ["Some"]}),
    row("garbage", f"DELETE {CM}/there", 400, body=b"garbage"),
    row("list", f"DELETE {CM}/there", 400, body=[]),
    row("other kind", f"DELETE {CM}/there", 400, body={"kind": "Pod", "apiVersion": "v1"}),
    row("grace x", f"DELETE {CM}/there?gracePeriodSeconds=x", 400),
    row("grace as text", f"DELETE {CM}/there", 400, body={"gracePeriodSeconds": "5"}),
    row("grace beyond 64 bits", f"DELETE {CM}/there", 400, body={"gracePeriodSeconds": 2**70}),
    row("not there", f"DELETE {CM}/none", 404, 'configmaps "none" not found'),
    row("default", "DELETE /api/v1/namespaces/default", 403, "this namespace may not be deleted"),
    row("kube-system", "DELETE /api/v1/namespaces/kube-system", 403),
    row("collection with a bad selector", f"DELETE {CM}?labelSelector=a===b", 400),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [*METHODS, *ACCEPT, *LISTS, *OPTIONS, *UPDATES, *PATCHES, *DELETIONS]
)
async def test_it_is_refused(api: Api, case: Refusal) -> None:
    await refuse(api, case)


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v2/pods",
        "/apis/none/v1/things",
        "/apis/apps/v9/deployments",
        "/api/v1/namespaces/default/configmaps//there",
        "/api/v1/namespaces//configmaps",
        "/api/v1/namespaces/default/configmaps/../secrets",
        "/api/v1/namespaces/default/configmaps/..%2fsecrets%2fx",
        "/api/v1/namespaces/default/configmaps/there/what",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/configmaps/there/status",
        "/api/v1/namespaces/default/things",
    ],
)
async def test_paths_that_lead_nowhere(api: Api, path: str) -> None:
    before = await api.server.store.revision()
    for method in ("GET", "POST", "DELETE"):
        body = {"metadata": {"name": "x"}} if method == "POST" else None
        answer = await api.request(method, path, body, user="root", groups="system:masters")
        assert answer.status in ((404, 405) if method != "GET" else (404,)), answer.body
    assert await api.server.store.revision() == before


@pytest.mark.parametrize(
    ("escaped", "shown"),
    [("%00", '"\\x00"'), ("%5c..", '"\\\\.."'), ("a%0ab", '"a\\nb"'), ("%ff", '"\ufffd"')],
)
async def test_odd_names_are_shown_escaped(api: Api, escaped: str, shown: str) -> None:
    answer = await api.get(f"{CM}/{escaped}", **ROOT)
    assert answer.status == 404
    assert answer.json["message"] == f"configmaps {shown} not found"


async def test_head_has_no_body(api: Api) -> None:
    answer = await api.request("HEAD", f"{CM}/there", user="root", groups="system:masters")
    assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "fieldSelector==",
        "fieldSelector===",
        "unknown=1",
        "timeout=-1s",
        "timeout=20s",
        "watch=0",
        "watch=false",
        "labelSelector=",
        "resourceVersion=0",
        "limit=",
    ],
)
async def test_odd_parameters_that_are_taken(api: Api, query: str) -> None:
    names = [
        each["metadata"]["name"] for each in (await api.get(f"{CM}?{query}", **ROOT)).ok()["items"]
    ]
    assert names in (["there"], [])


async def test_the_future_comes_not(api: Api) -> None:
    paths = [CM, f"{CM}/there", f"{CM}?resourceVersionMatch=Exact", f"{CM}?limit=5"]
    wanted = [f"{path}{'&' if '?' in path else '?'}resourceVersion={FUTURE}" for path in paths]
    began = time.perf_counter()
    answers = await asyncio.gather(*(api.get(path, **ROOT) for path in wanted))
    assert 2.9 < time.perf_counter() - began < 30
    for answer in answers:
        assert (answer.status, answer.json["reason"]) == (504, "Timeout")
        assert answer.headers["Retry-After"] == "1"
        assert answer.json["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_watches_from_nowhere(api: Api) -> None:
    """From the past that is forgotten: 410 as an event. From the future: silence."""
    options: Any = {"headers": {"Test-User": "root", "Test-Groups": "system:masters"}}
    server = api.server
    await api.post(CM, config_map("w"), **ROOT)
    (await api.delete(f"{CM}/w", **ROOT)).ok()
    await server.store.compact(await server.store.revision())
    cache = server.core.catalog.get("", "v1", "configmaps").cache
    cache.oldest = cache.revision
    async with api.watch(f"{CM}?watch=banana&resourceVersion=1", **options) as events:
        async with asyncio.timeout(60):
            seen = [event async for event in events]
    assert [each["type"] for each in seen] == ["ERROR"]
    assert (seen[0]["object"]["code"], seen[0]["object"]["reason"]) == (410, "Expired")
    path = f"{CM}?watch=1&resourceVersion={FUTURE}&timeoutSeconds=1"
    async with api.watch(path, **options) as events:
        assert [event async for event in events] == []


async def test_some_kinds_are_created_by_put(api: Api) -> None:
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    (await api.put(f"{lease}/new", {"metadata": {"name": "new"}}, **ROOT)).ok(201)
    (await api.put(f"{CM}/there", config_map("there", key="value"), **ROOT)).ok(200)
    service = {"metadata": {"name": "by-put"}, "spec": {"ports": [{"port": 1}]}}
    path = "/api/v1/namespaces/default/services/by-put"
    made = (await api.put(path, service, **ROOT)).ok(201)
    assert made["spec"]["clusterIP"]
    (await api.delete(path, **ROOT)).ok()


async def test_nothing_is_added_to_what_is_being_deleted(api: Api) -> None:
    held = config_map("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    (await api.post(CM, held, **ROOT)).ok(201)
    (await api.delete(f"{CM}/held", **ROOT)).ok()
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
    answer = await api.patch(f"{CM}/held", more, **ROOT)
    assert answer.status == 422
    assert "no new finalizers can be added if the object is being deleted" in answer.json["message"]
    (await api.patch(f"{CM}/held", {"metadata": {"finalizers": []}}, **ROOT)).ok()
    assert (await api.get(f"{CM}/held", **ROOT)).status == 404


async def test_a_patch_that_loses_a_race_is_made_again(api: Api) -> None:
    """Fifty clients change one object, each its own part, none names a revision: all succeed."""
    (await api.post(CM, config_map("race"), **ROOT)).ok(201)
    patches = [api.patch(f"{CM}/race", {"data": {f"k{n}": "v"}}, **ROOT) for n in range(50)]
    answers = await asyncio.gather(*patches)
    assert {answer.status for answer in answers} == {200}
    assert len((await api.get(f"{CM}/race", **ROOT)).ok()["data"]) == 50
    (await api.delete(f"{CM}/race", **ROOT)).ok()


async def test_of_updates_at_one_revision_one_wins(api: Api) -> None:
    made = (await api.post(CM, config_map("race"), **ROOT)).ok(201)
    wanted = [json.loads(json.dumps({**made, "data": {"winner": str(n)}})) for n in range(20)]
    answers = await asyncio.gather(*(api.put(f"{CM}/race", each, **ROOT) for each in wanted))
    assert sorted(answer.status for answer in answers) == [200, *[409] * 19]
    [won] = [answer for answer in answers if answer.status == 200]
    assert (await api.get(f"{CM}/race", **ROOT)).json == won.json
    patch = {"metadata": {"resourceVersion": won.json["metadata"]["resourceVersion"]}}
    patches = [
        api.patch(f"{CM}/race", {**patch, "data": {"winner": f"p{n}"}}, **ROOT) for n in range(20)
    ]
    answers = await asyncio.gather(*patches)
    assert sorted(answer.status for answer in answers) == [200, *[409] * 19]
    (await api.delete(f"{CM}/race", **ROOT)).ok()
