"""Bodies and objects that are wrong: bad syntax, bombs, wrong types, names, places, labels."""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from tests.api.conftest import Api, config_map, secured_options, secured_server
from tests.api.hostile import (
    CM,
    NAMESPACE,
    PODS,
    ROOT,
    Object,
    Refusal,
    furnish,
    pod,
    refuse,
    resident,
    row,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1 << 20
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SERVICES = f"{NAMESPACE}/services"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await furnish(shared_api)
    return shared_api


def alias_bomb() -> bytes:
    """Nine lists, each of nine aliases of the one before: 9^9 strings when written out."""
    lines = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    for level in range(1, 10):
        names = b",".join(b"*a%d" % (level - 1) for _ in range(9))
        lines.append(b"a%d: &a%d [%b]" % (level, level, names))
    return b"\n".join(lines)


def deep(opening: bytes, closing: bytes, count: int = 100_000) -> bytes:
    return b'{"data":' + opening * count + closing * count + b"}"


SYNTAX = [
    row("empty body", f"POST {CM}", 400, body=b""),
    row("half an object", f"POST {CM}", 400, "unexpected end of JSON input", body=b"{"),
    row("a list", f"POST {CM}", 400, "cannot unmarshal array", body=b"[]"),
    row("a number", f"POST {CM}", 400, "cannot unmarshal number", body=b"1"),
    row("a string", f"POST {CM}", 400, "cannot unmarshal string", body=b'"x"'),
    row("two objects", f"POST {CM}", 400, body=b'{"metadata":{"name":"x"}}{}'),
    row("a comma too many", f"POST {CM}", 400, body=b'{"metadata":{"name":"x",}}'),
    row("NaN", f"POST {CM}", 400, body=b'{"metadata":{"name":NaN}}'),
    row("null", f"POST {CM}", 422, "name or generateName is required", body=b"null"),
    row("broken yaml", f"POST {CM}", 400, "yaml", body=b"a: [b", content_type=YAML),
    row("yaml tabs", f"POST {CM}", 400, "yaml", body=b"a:\n\tb: c", content_type=YAML),
    row("yaml python object", f"POST {CM}", 400, content_type=YAML,
        body=b"metadata: !!python/object/apply:os.getcwd []"),
    row("yaml alias bomb", f"POST {CM}", 400, "excessive aliasing", body=alias_bomb(),
        content_type=YAML),
    row("json too deep", f"POST {CM}", 400, "exceeded max depth", body=deep(b"[", b"]")),
    row("json objects too deep", f"POST {CM}", 400, "exceeded max depth",
        body=deep(b'{"a":', b"}").replace(b":}", b":1}")),
    row("yaml too deep", f"POST {CM}", 400, "exceeded max depth",
        body=b"data: " + b"[" * 100_000 + b"]" * 100_000, content_type=YAML),
    row("gzip body", f"POST {CM}", 400,
        body=gzip.compress(json.dumps(config_map("x")).encode()),
        headers={"Content-Encoding": "gzip"}),
    row("protobuf without magic", f"POST {CM}", 400, body=b"\x01\x02\x03\x04abc",
        content_type=PROTOBUF),
    row("protobuf cut off", f"POST {CM}", 400, body=b"k8s\0\x0a\xff\xff\x03abc",
        content_type=PROTOBUF),
    row("protobuf empty", f"POST {CM}", 422, "name or generateName is required",
        body=b"k8s\0", content_type=PROTOBUF),
]  # fmt: skip

TYPES = [
    row("plain text", f"POST {CM}", 415, "application/json", body=b"x", content_type="text/plain"),
    row("cbor", f"POST {CM}", 415, "application/yaml", body=b"\xa0",
        content_type="application/cbor"),
    row("form", f"POST {CM}", 415, body=b"a=b",
        content_type="application/x-www-form-urlencoded"),
]  # fmt: skip

SIZES = [
    row("4 MiB", f"POST {CM}", 413, "limit is 3145728", body=b" " * (4 * MEBIBYTE)),
    row("just above 3 MiB", f"POST {CM}", 413, "limit is 3145728", body=b" " * (3 * MEBIBYTE + 1)),
    row("4 MiB put", f"PUT {CM}/there", 413, "limit is 3145728", body=b" " * (4 * MEBIBYTE)),
    row("4 MiB of patch", f"PATCH {CM}/there", 413, "limit is 3145728",
        body=b" " * (4 * MEBIBYTE), content_type="application/merge-patch+json"),
    row("4 MiB of delete options", f"DELETE {CM}/there", 413, body=b" " * (4 * MEBIBYTE)),
    row("data above 1 MiB", f"POST {CM}", 422, "Too long",
        body=config_map("big", key="x" * (MEBIBYTE + 1))),
    row("secret above 1 MiB", f"POST {NAMESPACE}/secrets", 422, "Too long", causes=("data",),
        body={"metadata": {"name": "big"}, "stringData": {"a": "x" * (MEBIBYTE + 1)}}),
    row("annotations above 256 KiB", f"POST {CM}", 422, "may not be more than 262144 bytes",
        causes=("metadata.annotations",),
        body={"metadata": {"name": "big", "annotations": {"a": "x" * 256 * 1024}}}),
    row("a pod beyond what etcd takes", f"POST {PODS}", 413,
        body=pod("big", containers=[{"name": "c", "image": "i",
                                     "env": [{"name": "A", "value": "x" * 2_000_000}]}])),
]  # fmt: skip


def service(name: str, **port: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"ports": [port]}}


def limits(value: str) -> Object:
    limited = {"name": "c", "image": "i", "resources": {"limits": {"memory": value}}}
    return pod("x", containers=[limited])


VALUES = [
    row("text for a number", f"POST {SERVICES}", 400, "spec.ports.port of type int32",
        body=service("x", port="80")),
    row("fraction for an int32", f"POST {SERVICES}", 400, body=service("x", port=80.5)),
    row("beyond an int32", f"POST {SERVICES}", 400, body=service("x", port=2**32 + 80)),
    row("beyond any integer", f"POST {SERVICES}", 400, body=service("x", port=10**400)),
    row("object for a string", f"POST {CM}", 400, "ConfigMap.data",
        body={"metadata": {"name": "x"}, "data": {"a": {}}}),
    row("number for a string", f"POST {CM}", 400, "ConfigMap.data",
        body={"metadata": {"name": "x"}, "data": {"a": 1}}),
    row("list for a map", f"POST {CM}", 400, body={"metadata": {"name": "x"}, "data": []}),
    row("text for metadata", f"POST {CM}", 400, body={"metadata": "x"}),
    row("name as a number", f"POST {CM}", 400, "name", body={"metadata": {"name": 5}}),
    row("bad base64", f"POST {NAMESPACE}/secrets", 400, "illegal base64",
        body={"metadata": {"name": "x"}, "data": {"a": "%"}}),
    row("bad time", f"POST {CM}", 400,
        body={"metadata": {"name": "x", "creationTimestamp": "yesterday"}}),
    row("no quantity", f"POST {PODS}", 400, "quantities must match", body=limits("1zz")),
    row("a huge exponent", f"POST {PODS}", 400, body=limits("1e999999999")),
    row("a tiny exponent", f"POST {PODS}", 400, body=limits("1e-999999999")),
    row("a quantity of a million digits", f"POST {PODS}", 400, body=limits("9" * 1_000_000 + "zz")),
    row("other kind", f"POST {CM}", 400, "cannot be handled as a ConfigMap",
        body={"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}}),
    row("unknown kind", f"POST {CM}", 400, 'no kind "Foo" is registered',
        body={"kind": "Foo", "apiVersion": "v1", "metadata": {"name": "x"}}),
    row("other version", f"POST {CM}", 400, body={"apiVersion": "v2", "metadata": {"name": "x"}}),
    row("version of three parts", f"POST {CM}", 400, "unexpected GroupVersion string",
        body={"apiVersion": "a/b/c", "metadata": {"name": "x"}}),
    row("kind as a number", f"POST {CM}", 400, body={"kind": 5, "metadata": {"name": "x"}}),
    row("strict unknown field", f"POST {CM}?fieldValidation=Strict", 400, 'unknown field "extra"',
        body={**config_map("x"), "extra": 1}),
    row("strict wrong case", f"POST {CM}?fieldValidation=Strict", 400, 'unknown field "Data"',
        body={"metadata": {"name": "x"}, "Data": {}}),
    row("strict duplicate", f"POST {CM}?fieldValidation=Strict", 400, "duplicate field",
        body=b'{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'),
]  # fmt: skip

NAMES = [
    *(
        row(f"name {name!r:.20}", f"POST {CM}", 422, "metadata.name", causes=("metadata.name",),
            body={"metadata": {"name": name}})
        for name in ("..", ".", "a/b", "a%b", "UPPER", "x" * 254, "a\n", "a\0", "-a", "a b", "é")
    ),
    row("no name", f"POST {CM}", 422, "name or generateName is required",
        causes=("metadata.name",), body={"metadata": {}}),
    row("no metadata", f"POST {CM}", 422, "name or generateName is required", body={}),
    row("a role named ..", "POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", 422,
        "metadata.name", body={"metadata": {"name": ".."}}),
    row("generateName in capitals", f"POST {CM}", 422, "metadata.generateName",
        body={"metadata": {"generateName": "UPPER-"}}),
    row("service name with a dot", f"POST {SERVICES}", 422, "must not contain dots",
        body={"metadata": {"name": "a.b"}, "spec": {"ports": [{"port": 1}]}}),
    row("other namespace", f"POST {CM}", 400, "does not match the namespace",
        body=config_map("x", "kube-system")),
    row("missing namespace", "POST /api/v1/namespaces/none/configmaps", 404,
        'namespaces "none" not found', body={"metadata": {"name": "x"}}),
]  # fmt: skip


def with_metadata(**metadata: Any) -> Object:
    return {"metadata": {"name": "x", **metadata}}


def owner(**more: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", **more}


METADATA = [
    row("label key", f"POST {CM}", 422, causes=("metadata.labels",),
        body=with_metadata(labels={"a b": ""})),
    row("label key of two slashes", f"POST {CM}", 422, body=with_metadata(labels={"a/b/c": ""})),
    row("label value", f"POST {CM}", 422, causes=("metadata.labels",),
        body=with_metadata(labels={"a": "b c"})),
    row("long label value", f"POST {CM}", 422, "63", body=with_metadata(labels={"a": "x" * 64})),
    row("label value as a number", f"POST {CM}", 400, body=with_metadata(labels={"a": 1})),
    row("annotation key", f"POST {CM}", 422, causes=("metadata.annotations",),
        body=with_metadata(annotations={"a b": ""})),
    row("unqualified finalizer", f"POST {CM}", 422, causes=("metadata.finalizers[0]",),
        body=with_metadata(finalizers=["plain"])),
    row("owner without uid", f"POST {CM}", 422, causes=("metadata.ownerReferences.uid",),
        body=with_metadata(ownerReferences=[owner(uid="")])),
    row("owner without kind", f"POST {CM}", 422, causes=("metadata.ownerReferences.kind",),
        body=with_metadata(ownerReferences=[owner(kind="")])),
    row("two controllers", f"POST {CM}", 422, "Only one reference can have Controller",
        body=with_metadata(ownerReferences=[owner(controller=True),
                                            owner(uid="2", name="b", controller=True)])),
    row("resourceVersion on create", f"POST {CM}", 400, "resourceVersion should not be set",
        body=with_metadata(resourceVersion="5")),
    row("create what exists", f"POST {CM}", 409, 'configmaps "there" already exists',
        reason="AlreadyExists", body=config_map("there")),
]  # fmt: skip

CONTENTS = [
    row("config map key ..x", f"POST {CM}", 422, body=config_map("x", **{"..x": ""})),
    row("config map key with a slash", f"POST {CM}", 422, body=config_map("x", **{"a/b": ""})),
    row("pod without containers", f"POST {PODS}", 422, "Required value",
        causes=("spec.containers",), body={"metadata": {"name": "x"}, "spec": {}}),
    row("container without name", f"POST {PODS}", 422, causes=("spec.containers[0].name",),
        body=pod("x", containers=[{"image": "i"}])),
    row("two containers of one name", f"POST {PODS}", 422, "Duplicate value",
        body=pod("x", containers=[{"name": "c", "image": "i"}] * 2)),
    row("container port 0", f"POST {PODS}", 422,
        body=pod("x", containers=[{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}])),
    row("limits below requests", f"POST {PODS}", 422, "must be less than or equal to",
        body=pod("x", containers=[{"name": "c", "image": "i", "resources": {
            "requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}])),
    row("negative quantity", f"POST {PODS}", 422, body=limits("-1")),
    row("unknown restart policy", f"POST {PODS}", 422, "Unsupported value",
        causes=("spec.restartPolicy",), body=pod("x", restartPolicy="Sometimes")),
    row("mount of no volume", f"POST {PODS}", 422, "Not found",
        body=pod("x", containers=[{"name": "c", "image": "i",
                                   "volumeMounts": [{"name": "v", "mountPath": "/v"}]}])),
    row("selector beside the labels", f"POST {DEPLOYMENTS}", 422,
        "`selector` does not match template `labels`",
        body={"metadata": {"name": "x"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "c"}}, "spec": pod("")["spec"]}}}),
    row("no selector", f"POST {DEPLOYMENTS}", 422, causes=("spec.selector",),
        body={"metadata": {"name": "x"}, "spec": {
            "template": {"metadata": {"labels": {"a": "c"}}, "spec": pod("")["spec"]}}}),
    row("negative replicas", f"PATCH {DEPLOYMENTS}/there", 422, causes=("spec.replicas",),
        body={"spec": {"replicas": -1}}, content_type="application/merge-patch+json"),
    row("service without ports", f"POST {SERVICES}", 422, causes=("spec.ports",),
        body={"metadata": {"name": "x"}, "spec": {}}),
    row("node port 22", f"POST {SERVICES}", 422, "provided port is not in the valid range",
        body={"metadata": {"name": "x"},
              "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 22}]}}),
    row("cluster address off range", f"POST {SERVICES}", 422, causes=("spec.clusterIPs",),
        body={"metadata": {"name": "x"},
              "spec": {"clusterIP": "192.0.2.1", "ports": [{"port": 1}]}}),
    row("cluster address that is none", f"POST {SERVICES}", 422,
        body={"metadata": {"name": "x"}, "spec": {"clusterIP": "what", "ports": [{"port": 1}]}}),
    *(
        row(f"external address {address}", f"POST {SERVICES}", 422,
            body={"metadata": {"name": "x"},
                  "spec": {"externalIPs": [address], "ports": [{"port": 1}]}})
        for address in ("127.0.0.1", "169.254.169.254", "010.0.0.1", "0.0.0.0")
    ),
    *(
        row(f"endpoints {address}", f"POST {NAMESPACE}/endpoints", 422,
            body={"metadata": {"name": "x"}, "subsets": [
                {"addresses": [{"ip": address}], "ports": [{"port": 80}]}]})
        for address in ("127.0.0.1", "169.254.169.254", "010.0.0.1", "::1")
    ),
    *(
        row(f"endpoint slice {address}",
            "POST /apis/discovery.k8s.io/v1/namespaces/default/endpointslices", 422,
            body={"metadata": {"name": "x"}, "addressType": "IPv4",
                  "endpoints": [{"addresses": [address]}]})
        for address in ("127.0.0.1", "169.254.169.254", "010.0.0.1")
    ),
]  # fmt: skip


def mounted(source: Object, **mount: Any) -> Object:
    """A pod with one volume."""
    mount = {"name": "v", "mountPath": "/v", **mount}
    container = {"name": "c", "image": "i", "volumeMounts": [mount]}
    return pod("x", containers=[container], volumes=[{"name": "v", **source}])


def key_to(path: str) -> Object:
    return {"configMap": {"name": "m", "items": [{"key": "k", "path": path}]}}


PATHS = [
    row("host path", f"POST {PODS}", 422, "must not contain '..'",
        body=mounted({"hostPath": {"path": "/a/../etc"}})),
    row("subPath", f"POST {PODS}", 422, "must not contain '..'",
        body=mounted({"emptyDir": {}}, subPath="a/../../b")),
    row("absolute subPath", f"POST {PODS}", 422, "must be a relative path",
        body=mounted({"emptyDir": {}}, subPath="/etc")),
    row("item path", f"POST {PODS}", 422, "must not contain '..'", body=mounted(key_to("../x"))),
    row("absolute item path", f"POST {PODS}", 422, "must be a relative path",
        body=mounted(key_to("/x"))),
    row("item path that hides", f"POST {PODS}", 422, "must not start with '..'",
        body=mounted(key_to("..data"))),
    row("seccomp profile", f"POST {PODS}", 422, "must not contain '..'",
        body=pod("x", securityContext={"seccompProfile": {
            "type": "Localhost", "localhostProfile": "../../x"}})),
]  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [*SYNTAX, *TYPES, *SIZES, *VALUES, *NAMES, *METADATA, *CONTENTS, *PATHS],
)
async def test_it_is_refused(api: Api, case: Refusal) -> None:
    await refuse(api, case)


# ---- what is odd and yet accepted


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param("", json.dumps(config_map("a", k="v")).encode(), id="json without a type"),
        pytest.param("", b"metadata:\n  name: a\ndata:\n  k: v\n", id="yaml without a type"),
        pytest.param(
            "application/json; charset=utf-8", json.dumps(config_map("a", k="v")).encode(),
            id="with a charset",
        ),
        pytest.param("application/json", b'{"metadata":{"name":"a"},"data":{"k":"v"}}',
                     id="without kind and version"),
    ],
)  # fmt: skip
async def test_it_is_accepted(api: Api, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type}
    if not content_type:
        # The client would name a type of its own.
        made = await untyped_post(api, CM, body)
    else:
        answer = await api.request("POST", CM, body, headers=headers, **ROOT)
        made = answer.ok(201)
    assert made["data"] == {"k": "v"}
    (await api.delete(f"{CM}/a", **ROOT)).ok()


async def untyped_post(api: Api, path: str, body: bytes) -> Any:
    headers = {"Test-User": "root", "Test-Groups": "system:masters"}
    async with api.session.post(
        api.server.url + path, data=body, headers=headers, skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 201, await response.text()
        return await response.json()


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        pytest.param(b"a\xffb", "a\ufffdb", id="bad UTF-8"),
        pytest.param(b"a\\u0000b", "a\0b", id="NUL"),
        pytest.param(b"a\\ud800b", "a\ufffdb", id="half a surrogate pair"),
        pytest.param(b"\\ud83d\\ude00", "\U0001f600", id="a surrogate pair"),
    ],
)
async def test_broken_text_is_mended(api: Api, sent: bytes, stored: str) -> None:
    """As upstream's decoder does: what is no Unicode becomes the replacement character."""
    body = b'{"metadata":{"name":"odd"},"data":{"k":"%b"}}' % sent
    (await api.post(CM, body, **ROOT)).ok(201)
    assert (await api.get(f"{CM}/odd", **ROOT)).ok()["data"] == {"k": stored}
    (await api.delete(f"{CM}/odd", **ROOT)).ok()


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        (b'{"metadata":{"name":"w"},"data":{"a":"1","a":"2"}}', 'duplicate field \\"data.a\\"'),
        (b'{"metadata":{"name":"w"},"data":{"a":"2"},"extra":1}', 'unknown field \\"extra\\"'),
        (b'{"metadata":{"name":"w"},"data":{"a":"2"},"Data":{}}', 'unknown field \\"Data\\"'),
    ],
)
async def test_sloppy_bodies_are_warned_of(api: Api, body: bytes, warning: str) -> None:
    answer = await api.post(CM, body, **ROOT)
    assert answer.ok(201)["data"] == {"a": "2"}
    assert answer.headers["Warning"] == f'299 - "{warning}"'
    (await api.delete(f"{CM}/w", **ROOT)).ok()
    answer = await api.post(f"{CM}?fieldValidation=Ignore", body, **ROOT)
    answer.ok(201)
    assert "Warning" not in answer.headers
    (await api.delete(f"{CM}/w", **ROOT)).ok()


async def test_what_the_server_owns_is_ignored(api: Api) -> None:
    claimed = {
        "uid": "mine",
        "creationTimestamp": "2001-01-01T00:00:00Z",
        "generation": 77,
        "deletionTimestamp": "2001-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 5,
        "selfLink": "/x",
    }
    made = (await api.post(CM, with_metadata(**claimed), **ROOT)).ok(201)["metadata"]
    assert not {"generation", "deletionTimestamp", "selfLink"} & made.keys()
    assert made["uid"] != "mine"
    assert not made["creationTimestamp"].startswith("2001")
    (await api.delete(f"{CM}/x", **ROOT)).ok()


async def test_external_addresses_are_allowed_with_a_warning(api: Api) -> None:
    spec = {"externalIPs": ["8.8.8.8"], "ports": [{"port": 1}]}
    answer = await api.post(SERVICES, {"metadata": {"name": "x"}, "spec": spec}, **ROOT)
    answer.ok(201)
    text = "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
    assert answer.headers["Warning"] == f'299 - "{text}"'


async def test_external_addresses_can_be_forbidden(tmp_path: Path) -> None:
    """CVE-2020-8554. What a Service has already may stay and go."""
    spec = {"externalIPs": ["8.8.8.8"], "ports": [{"port": 1}]}
    body = {"metadata": {"name": "x"}, "spec": spec}
    plugins = ("DenyServiceExternalIPs",)
    options = replace(secured_options(tmp_path), enable_admission_plugins=plugins)
    async with secured_server(tmp_path, options) as server, ClientSession() as session:
        api = Api(server, session)
        answer = await api.post(SERVICES, body, **ROOT)
        assert (answer.status, answer.json["message"]) == (
            403,
            'services "x" is forbidden: Use of external IPs is denied by admission control',
        )
        (await api.post(SERVICES, {**body, "spec": {"ports": [{"port": 1}]}}, **ROOT)).ok(201)
        for patch in ({"externalIPs": ["8.8.8.8"]}, {"externalIPs": None}):
            answer = await api.patch(f"{SERVICES}/x", {"spec": patch}, **ROOT)
            assert answer.status == (403 if patch["externalIPs"] else 200)


async def test_bombs_leave_no_memory_behind(api: Api) -> None:
    """Twice the worst bodies: what the second round takes, the server keeps."""
    bombs = [case.values[0] for case in (*SYNTAX, *SIZES) if len(case.values[0].body) > 50_000]
    assert len(bombs) >= 8

    async def throw() -> None:
        for case in bombs:
            await refuse(api, case)

    await throw()
    before = resident()
    for _ in range(3):
        await throw()
    assert resident() - before < 50 * MEBIBYTE


async def test_others_are_served_while_a_big_body_comes(api: Api) -> None:
    """Reading three megabytes of object does not hold up anybody for long."""
    import asyncio

    big = {"metadata": {"name": "x"}, "spec": {"containers": [
        {"name": f"c{number}", "image": "i", "env": [{"name": "A", "value": "b" * 20}] * 100}
        for number in range(500)
    ]}}  # fmt: skip
    heavy = asyncio.create_task(api.post(f"{PODS}?dryRun=All", big, **ROOT))
    slowest = 0.0
    while not heavy.done():
        began = time.perf_counter()
        (await api.get(f"{CM}/there", **ROOT)).ok()
        slowest = max(slowest, time.perf_counter() - began)
    (await heavy).ok(201)
    assert slowest < 5.0
