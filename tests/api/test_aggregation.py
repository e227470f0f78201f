"""The aggregation layer, against a real extension API server over TLS."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import AlsoHeaders, Api
from tests.api.extension_server import (
    AGGREGATED,
    BASE,
    GROUP,
    SERVICE,
    VERSION,
    ExtensionServer,
    ca_bundle,
    extension_server,
)
from tests.api.test_custom_resources import DEFINITIONS, definition
from tests.api.test_tls import certificates, client_tls, options_of

from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

NAME = f"{VERSION}.{GROUP}"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
OURS = f"{SERVICES}/{NAME}"
FLUNDERS = f"{BASE}/namespaces/default/flunders"


@asynccontextmanager
async def aggregating(directory: Path) -> AsyncIterator[tuple[Api, ExtensionServer]]:
    """A main server with its own certificates, and an extension server that it can be told of."""
    paths = certificates(directory)
    server = Server(options_of(paths), open_memory_store())
    await server.start()
    security = server.core.secured
    authenticator = AlsoHeaders(security.authenticator)
    server.core.security = replace(security, authenticator=authenticator)
    connector = aiohttp.TCPConnector(ssl=client_tls(paths, paths))
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            api = Api(server, session)
            async with extension_server(api, directory) as extension:
                yield api, extension
    finally:
        await server.stop()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Api, ExtensionServer]]:
    async with aggregating(tmp_path) as pair:
        yield pair


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """Wait until `check` returns something."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110 - nothing tells of all of these
            await asyncio.sleep(0.02)
        return found


def api_service(directory: Path, port: int, **spec: Any) -> Object:
    return {
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "service": {"namespace": "default", "name": SERVICE, "port": port},
            "caBundle": ca_bundle(directory),
            "groupPriorityMinimum": 2000,
            "versionPriority": 200,
            **spec,
        },
    }


async def make_service(api: Api) -> None:
    spec = {"type": "ExternalName", "externalName": "localhost"}
    body = {"metadata": {"name": SERVICE}, "spec": spec}
    (await api.post("/api/v1/namespaces/default/services", body)).ok(201)


async def condition(api: Api) -> Object:
    conditions = (await api.get(OURS)).ok().get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Available"), {})


async def has_reason(api: Api, reason: str) -> Object:
    async def check() -> Object:
        found = await condition(api)
        return found if found.get("reason") == reason else {}

    found: Object = await until(check)
    return found


async def registered(api: Api, extension: ExtensionServer, directory: Path, **spec: Any) -> None:
    """Register the extension server and wait until it is there."""
    await make_service(api)
    (await api.post(SERVICES, api_service(directory, extension.port, **spec))).ok(201)
    await has_reason(api, "Passed")


@pytest.mark.conformance(
    "Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator"
    " [LinuxOnly]"
)
async def test_the_life_of_an_extension_server(
    both: tuple[Api, ExtensionServer], tmp_path: Path
) -> None:
    api, extension = both
    extension.speaks_aggregated = False
    await registered(api, extension, tmp_path)
    flunder = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Flunder", "metadata": {"name": "f"}}
    assert (await api.post(FLUNDERS, flunder)).ok(201) == flunder
    assert len((await api.get(FLUNDERS)).ok()["items"]) == 1
    (await api.delete(f"{FLUNDERS}/f")).ok()
    assert (await api.get(FLUNDERS)).ok()["items"] == []
    assert (await api.get(f"{FLUNDERS}/f")).status == 404
    resources = (await api.get(BASE)).ok()["resources"]
    assert "flunders" in [each["name"] for each in resources]
    shown = (await api.get(f"{OURS}/status")).ok()
    assert shown["status"]["conditions"][0]["message"] == "all checks passed"
    patched = (await api.patch(OURS, {"spec": {"versionPriority": 400}})).ok()
    assert patched["spec"]["versionPriority"] == 400
    assert int(patched["metadata"]["resourceVersion"]) > int(shown["metadata"]["resourceVersion"])
    names = [each["metadata"]["name"] for each in (await api.get(SERVICES)).ok()["items"]]
    assert NAME in names
    labelled = {"metadata": {"labels": {"e2e": "patched"}}}
    (await api.patch(OURS, labelled, kind="strategic")).ok()
    status = (await api.get(f"{OURS}/status")).ok()
    added = {"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set"}
    status["status"]["conditions"].append(added)
    (await api.put(f"{OURS}/status", status)).ok()
    kept = (await api.get(f"{OURS}/status")).ok()["status"]["conditions"]
    assert [each["type"] for each in kept] == ["Available", "StatusUpdated"]
    kept.append({**added, "type": "StatusPatched"})
    (await api.patch(f"{OURS}/status", {"status": {"conditions": kept}})).ok()
    assert len((await api.get(OURS)).ok()["status"]["conditions"]) == 3
    current = (await api.get(OURS)).ok()
    current["metadata"]["labels"] = {NAME: "updated"}
    assert (await api.put(OURS, current)).ok()["metadata"]["labels"] == {NAME: "updated"}
    (await api.delete(f"{SERVICES}?labelSelector={NAME}%3Dupdated")).ok()
    gone = await until(lambda: _is_gone(api))
    assert gone.body == b"404 page not found\n"
    assert (await api.get(f"/apis/{GROUP}")).status == 404


async def _is_gone(api: Api) -> Any:
    answer = await api.get(FLUNDERS)
    return answer if answer.status == 404 and (await api.get(OURS)).status == 404 else None


async def test_the_user_is_told_and_decided_on_twice(
    both: tuple[Api, ExtensionServer], tmp_path: Path
) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    assert (await api.get(FLUNDERS, user="ann")).status == 403
    assert extension.asked == []
    role: Object = {"metadata": {"name": "fl"}, "rules": []}
    role["rules"] = [{"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["list"]}]
    (await api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)).ok(201)
    subject = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
    reference = {"kind": "ClusterRole", "name": "fl", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": "fl"}, "subjects": [subject], "roleRef": reference}
    (await api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)).ok(201)
    forged = {
        "X-Remote-User": "admin",
        "X-Remote-Group": "system:masters",
        "x-remote-extra-scopes": "all",
        "Authorization": "",
        "X-Kept": "1",
    }
    (await api.get(FLUNDERS, user="ann", groups="devs,ops", headers=forged)).ok()
    headers = extension.asked[-1].headers
    assert headers.getall("X-Remote-User") == ["ann"]
    assert headers.getall("X-Remote-Group") == ["devs", "ops", "system:authenticated"]
    assert not [name for name in headers if name.lower().startswith("x-remote-extra")]
    assert headers["X-Kept"] == "1"
    assert "Authorization" not in headers
    # Impersonation is resolved here; the extension server sees only its result.
    asked = {"Impersonate-User": "ann", "Impersonate-Group": "x"}
    asked |= {"Impersonate-Extra-Scopes%2fA": "view", "Impersonate-Uid": "7"}
    (await api.get(FLUNDERS, headers=asked)).ok()
    headers = extension.asked[-1].headers
    assert headers["X-Remote-User"] == "ann"
    assert headers["X-Remote-Uid"] == "7"
    assert headers["X-Remote-Extra-scopes%2Fa"] == "view"
    assert not [name for name in headers if name.lower().startswith("impersonate-")]


@pytest.mark.parametrize(
    "path",
    [
        "/namespaces/default%2fflunders/x",
        "/namespaces/default/flunders/../../../../secrets",
        "/namespaces/default/flunders/%2e%2e",
        "/namespaces//flunders",
    ],
)
async def test_no_path_means_two_things(
    both: tuple[Api, ExtensionServer], tmp_path: Path, path: str
) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    assert (await api.get(BASE + path)).status == 404
    assert extension.asked == []


async def test_redirects_lead_nowhere(both: tuple[Api, ExtensionServer], tmp_path: Path) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    extension.redirects_to = "https://elsewhere.example/"
    answer = await api.get(FLUNDERS)
    assert answer.status == 502
    assert "Location" not in answer.headers
    assert b"attempted to redirect" in answer.body


async def test_watches_stream(both: tuple[Api, ExtensionServer], tmp_path: Path) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    async with asyncio.timeout(60), api.watch(f"{FLUNDERS}?watch=1") as events:
        for name in ("a", "b"):
            (await api.post(FLUNDERS, {"metadata": {"name": name}})).ok(201)
            assert (await anext(events))["object"]["metadata"]["name"] == name

    async def is_left() -> bool:
        return not extension.watchers

    await until(is_left)


async def test_upgrades_are_passed_on(both: tuple[Api, ExtensionServer], tmp_path: Path) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    url = f"{api.server.url}{FLUNDERS}/f/exec"
    forged = {"X-Remote-User": "nobody"}
    async with api.session.ws_connect(url, protocols=("echo",), headers=forged) as socket:
        assert socket.protocol == "echo"
        await socket.send_str("hello")
        assert await socket.receive_str() == "HELLO"
    assert extension.asked[-1].headers.getall("X-Remote-User") == ["kubernetes-admin"]


# ---- availability


@pytest.mark.parametrize(
    ("spec", "endpoints", "reason", "message"),
    [
        pytest.param(
            None, None, "ServiceNotFound", f'service/{SERVICE} in "default" is not present'
        ),
        pytest.param(
            {"ports": [{"port": 80}]},
            None,
            "ServicePortError",
            f'service/{SERVICE} in "default" is not listening on port 443',
        ),
        pytest.param(
            {"ports": [{"port": 443}]},
            None,
            "EndpointsNotFound",
            f'cannot find endpointslices for service/{SERVICE} in "default"',
        ),
        pytest.param(
            {"ports": [{"port": 443}]},
            [],
            "MissingEndpoints",
            f'endpointslices for service/{SERVICE} in "default" have no addresses with port '
            'name ""',
        ),
    ],
)
async def test_why_it_is_not_available(
    api: Api, spec: Object | None, endpoints: list[Object] | None, reason: str, message: str
) -> None:
    if spec is not None:
        service = {"metadata": {"name": SERVICE}, "spec": spec}
        (await api.post("/api/v1/namespaces/default/services", service)).ok(201)
    if endpoints is not None:
        labels = {"kubernetes.io/service-name": SERVICE}
        body: Object = {"metadata": {"name": "x", "labels": labels}, "addressType": "IPv4"}
        body |= {"endpoints": endpoints, "ports": [{"port": 1, "name": ""}]}
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        (await api.post(path, body)).ok(201)
    wanted = {
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "service": {"namespace": "default", "name": SERVICE},
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 1,
        },
    }
    (await api.post(SERVICES, wanted)).ok(201)
    found = await has_reason(api, reason)
    assert (found["status"], found["message"]) == ("False", message)
    answer = await api.get(FLUNDERS)
    assert (answer.status, answer.body) == (503, b"service unavailable\n")
    assert answer.headers["Content-Type"].startswith("text/plain")
    # Its group is known to the legacy documents, and stale in the aggregated one.
    assert (await api.get(f"/apis/{GROUP}")).ok()["preferredVersion"]["version"] == VERSION
    assert await version_of(api, GROUP) == {"version": VERSION, "freshness": "Stale"}


async def test_it_falls_ill_and_recovers(
    both: tuple[Api, ExtensionServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from navarch.apiserver.aggregation import aggregator

    monkeypatch.setattr(aggregator, "RECHECK_SECONDS", 0.2)
    api, extension = both
    await registered(api, extension, tmp_path)
    extension.is_sick = True
    found = await has_reason(api, "FailedDiscoveryCheck")
    assert "bad status from https://localhost" in found["message"]
    assert (await api.get(FLUNDERS)).status == 503
    text = (await api.get("/metrics")).body.decode()
    assert f'aggregator_unavailable_apiservice{{name="{NAME}"}} 1' in text
    assert 'aggregator_unavailable_apiservice{name="v1.apps"} 0' in text
    assert f'_total{{name="{NAME}",reason="FailedDiscoveryCheck"}} 1' in text
    extension.is_sick = False
    await has_reason(api, "Passed")
    (await api.get(FLUNDERS)).ok()


async def test_the_wrong_certificate(both: tuple[Api, ExtensionServer], tmp_path: Path) -> None:
    """A bundle that did not issue the server's certificate, and a name that it is not made for."""
    api, extension = both
    await make_service(api)
    other = (tmp_path / "pki" / "ca.crt").read_bytes()
    bundle = base64.b64encode(other).decode()
    (await api.post(SERVICES, api_service(tmp_path, extension.port, caBundle=bundle))).ok(201)
    found = await has_reason(api, "FailedDiscoveryCheck")
    assert "certificate" in found["message"]
    await api.patch(OURS, {"spec": {"caBundle": ca_bundle(tmp_path)}})
    await has_reason(api, "Passed")
    spec = {"type": "ExternalName", "externalName": "localhost"}
    body = {"metadata": {"name": "other"}, "spec": spec}
    (await api.post("/api/v1/namespaces/default/services", body)).ok(201)
    (await api.patch(OURS, {"spec": {"service": {"name": "other"}}})).ok()
    found = await has_reason(api, "FailedDiscoveryCheck")
    assert "certificate" in found["message"]


# ---- the automatic ones


async def test_what_is_served_here_is_listed(api: Api) -> None:
    items = {each["metadata"]["name"]: each for each in (await api.get(SERVICES)).ok()["items"]}
    core = items["v1."]
    assert core["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "onstart"}
    assert core["status"]["conditions"][0]["reason"] == "Local"
    assert items["v1.apps"]["spec"]["groupPriorityMinimum"] == 17800
    (await api.post(DEFINITIONS, definition())).ok(201)
    path = f"{SERVICES}/v1.ex.io"

    async def registered_custom() -> Object:
        answer = await api.get(path)
        return dict(answer.json) if answer.status == 200 else {}

    found = await until(registered_custom)
    assert found["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "true"}
    assert found["spec"] == {
        "group": "ex.io",
        "version": "v1",
        "groupPriorityMinimum": 1000,
        "versionPriority": 100,
    }
    # Deleted, it comes back; bent, it is set right.
    (await api.delete(path)).ok()
    again = await until(registered_custom)
    assert again["metadata"]["uid"] != found["metadata"]["uid"]
    (await api.patch(path, {"spec": {"versionPriority": 7}})).ok()

    async def is_right() -> bool:
        answer = await api.get(path)
        return answer.status == 200 and answer.json["spec"]["versionPriority"] == 100

    await until(is_right)
    (await api.delete(f"{DEFINITIONS}/foos.ex.io")).ok()

    async def is_gone() -> bool:
        return (await api.get(path)).status == 404

    await until(is_gone)


# ---- discovery and OpenAPI


async def version_of(api: Api, group: str, form: str = "v2") -> Object:
    """The only version of a group in the aggregated document, once it is there."""

    async def check() -> Object:
        answer = await api.get("/apis", headers={"Accept": AGGREGATED.format(form)})
        for each in answer.ok()["items"]:
            if each["metadata"]["name"] == group:
                return dict(each["versions"][0])
        return {}

    found: Object = await until(check)
    return found


@pytest.mark.parametrize("speaks_aggregated", [True, False])
async def test_discovery_is_merged(
    both: tuple[Api, ExtensionServer], tmp_path: Path, speaks_aggregated: bool
) -> None:
    api, extension = both
    extension.speaks_aggregated = speaks_aggregated
    await registered(api, extension, tmp_path)

    async def is_fresh() -> Object:
        found = await version_of(api, GROUP)
        return found if found["freshness"] == "Current" else {}

    found = await until(is_fresh)
    resource = found["resources"][0]
    assert resource["resource"] == "flunders"
    assert resource["responseKind"]["kind"] == "Flunder"
    assert resource["scope"] == "Namespaced"
    if not speaks_aggregated:
        assert resource["subresources"][0]["subresource"] == "exec"
    assert (await version_of(api, GROUP, "v2beta1"))["version"] == VERSION
    groups = [each["name"] for each in (await api.get("/apis")).ok()["groups"]]
    assert groups[0] == "apiregistration.k8s.io"
    assert groups.index("storagemigration.k8s.io") < groups.index(GROUP)
    # A priority beyond that of the built-in groups moves it to the front.
    (await api.patch(OURS, {"spec": {"groupPriorityMinimum": 19000}})).ok()
    groups = [each["name"] for each in (await api.get("/apis")).ok()["groups"]]
    assert groups[:3] == ["apiregistration.k8s.io", GROUP, "apps"]
    (await api.delete(OURS)).ok()
    assert GROUP not in (await api.get("/apis")).body.decode()
    root = await api.get("/apis", headers={"Accept": AGGREGATED.format("v2")})
    assert GROUP not in root.body.decode()


async def test_openapi_is_merged(both: tuple[Api, ExtensionServer], tmp_path: Path) -> None:
    api, extension = both
    await registered(api, extension, tmp_path)
    path = BASE.lstrip("/")

    async def url() -> str:
        entry = (await api.get("/openapi/v3")).ok()["paths"].get(path)
        return str(entry["serverRelativeURL"]) if entry else ""

    document = (await api.get(await until(url))).ok()
    operation = document["paths"][f"{BASE}/namespaces/{{namespace}}/flunders"]["get"]
    body = operation["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/Flunder"}
    assert operation["parameters"] == [
        {"name": "limit", "in": "query", "schema": {"type": "integer"}}
    ]
    assert set(document["components"]["schemas"]) == {"Flunder", "Spec"}
    swagger = (await api.get("/openapi/v2")).ok()
    assert f"{BASE}/namespaces/{{namespace}}/flunders" in swagger["paths"]
    listing = swagger["paths"][f"{BASE}/namespaces/{{namespace}}/flunders"]["get"]
    assert [each["name"] for each in listing["parameters"]] == ["body", "limit"]
    assert "/apis/other.example.com/v1/" not in swagger["paths"]
    assert swagger["definitions"]["Spec"]["description"] == "what a flunder wants"
    assert "io.k8s.api.core.v1.Pod" in swagger["definitions"]
    asked = {"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}
    assert b"listFlunders" in (await api.get("/openapi/v2", headers=asked)).body
    (await api.delete(OURS)).ok()
    assert path not in (await api.get("/openapi/v3")).ok()["paths"]
    assert b"Flunder" not in (await api.get("/openapi/v2")).body
    json.loads((await api.get("/openapi/v2")).body)
