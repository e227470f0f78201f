"""Admission webhooks: outsiders who are asked about writes, over real HTTPS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.api.conftest import Answer, Api, config_map, secured_server
from tests.api.webhook_server import WebhookServer, add, allow, deny, patch, webhook_server

from navarch.apiserver.webhooks import client as client_module

Object = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
GROUP = "/apis/admissionregistration.k8s.io/v1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/example.com/{}/namespaces/default/widgets"
PREFIX = "AdmissionWebhook [Privileged:ClusterAdmin] "


class Admin(Api):
    """A client who may do everything."""

    async def request(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        options.setdefault("user", "admin")
        options.setdefault("groups", "system:masters")
        return await super().request(method, path, body, **options)


@pytest.fixture
async def webhooks(tmp_path: Path) -> AsyncIterator[WebhookServer]:
    async with webhook_server(tmp_path) as server:
        yield server


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Admin]:
    async with secured_server(tmp_path) as server, aiohttp.ClientSession() as session:
        api = Admin(server, session)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await api.post("/api/v1/namespaces/default/serviceaccounts", account)
        yield api


def rule(resources: str, *operations: str, **more: Any) -> Object:
    """A rule for `group:resource,resource`."""
    group, _, names = resources.rpartition(":")
    return {
        "apiGroups": [group],
        "apiVersions": ["*"],
        "resources": names.split(","),
        "operations": list(operations or ("CREATE",)),
        **more,
    }


def hook(name: str, client: Object, *rules: Object, **more: Any) -> Object:
    return {
        "name": f"{name}.example.com",
        "clientConfig": client,
        "rules": list(rules),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


def configuration(kind: str, name: str, *hooks: Object, **labels: str) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name, "labels": labels},
        "webhooks": list(hooks),
    }


def configurations(kind: str) -> str:
    return f"{GROUP}/{kind.lower()}webhookconfigurations"


async def register(api: Api, kind: str, name: str, *hooks: Object, **labels: str) -> Object:
    """Make a configuration; `kind` is Mutating or Validating."""
    body = configuration(kind, name, *hooks, **labels)
    made: Object = (await api.post(configurations(kind), body)).ok(201)
    return made


def pod(name: str, **metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "c", "image": "registry.example/pause"}]},
    }


async def define_widgets(api: Api, storage: str = "v1", *fields: str) -> None:
    """A custom resource in v1 and v2; without fields it keeps everything."""
    kept: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if fields:
        properties = {name: {"type": "string"} for name in fields}
        kept = {"type": "object", "properties": properties}
    schema = {"type": "object", "properties": {"data": kept}}
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == storage,
            "schema": {"openAPIV3Schema": schema},
        }
        for name in ("v1", "v2")
    ]
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": spec,
    }
    path = f"{CRDS}/widgets.example.com"
    if (await api.get(path)).status == 404:
        (await api.post(CRDS, body)).ok(201)
    else:
        (await api.patch(path, {"spec": {"versions": versions}})).ok(200)

    def is_served() -> bool:
        resource = api.server.core.catalog.find("example.com", "v1", "widgets")
        return resource is not None and resource.stored.version == storage

    async with asyncio.timeout(10):
        while not is_served():  # noqa: ASYNC110 - the server follows its definitions by itself
            await asyncio.sleep(0.01)


def widget(name: str, version: str = "v1", **data: str) -> Object:
    return {
        "apiVersion": f"example.com/{version}",
        "kind": "Widget",
        "metadata": {"name": name},
        "data": data,
    }


def deny_marked(request: Object) -> Object:
    """As the official tests' webhook: what is marked as offending may not be."""
    data = (request["object"] or request["oldObject"]).get("data") or {}
    if data.get("webhook-e2e-test") == "webhook-disallow":
        return {"allowed": False, "status": {"reason": "the object contains unwanted data"}}
    return {"allowed": True}


# ---- what is asked and said


async def test_a_review_carries_the_request(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = allow
    operations = ("CREATE", "UPDATE", "DELETE")
    await register(
        api, "Validating", "a", hook("a", webhooks.client("/a"), rule(":configmaps", *operations))
    )
    made = (await api.post(MAPS + "?fieldManager=me", config_map("a", k="1"))).ok(201)
    (await api.patch(MAPS + "/a", {"data": {"k": "2"}})).ok()
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
    (await api.delete(MAPS + "/a?dryRun=All")).ok()
    (await api.delete(MAPS + "/a", body)).ok()
    created, updated, dry, deleted = webhooks.requests("/a")
    place = {"group": "", "version": "v1", "resource": "configmaps"}
    kind = {"group": "", "version": "v1", "kind": "ConfigMap"}
    for request in (created, updated, dry, deleted):
        assert request["resource"] == request["requestResource"] == place
        assert request["kind"] == request["requestKind"] == kind
        assert (request["name"], request["namespace"]) == ("a", "default")
        assert request["userInfo"]["username"] == "admin"
        assert "system:masters" in request["userInfo"]["groups"]
    assert created["oldObject"] is None
    for obj in (created["object"], updated["oldObject"], deleted["oldObject"]):
        assert (obj["apiVersion"], obj["kind"]) == ("v1", "ConfigMap")
    assert created["object"]["metadata"]["uid"] == made["metadata"]["uid"]
    assert created["options"] == {
        "kind": "CreateOptions",
        "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me",
    }
    assert created["dryRun"] is False
    assert (updated["oldObject"]["data"], updated["object"]["data"]) == ({"k": "1"}, {"k": "2"})
    assert updated["options"]["kind"] == "UpdateOptions"
    assert dry["dryRun"] is True
    assert deleted["object"] is None
    assert deleted["oldObject"]["data"] == {"k": "2"}
    assert deleted["options"]["propagationPolicy"] == "Foreground"
    assert len({each["uid"] for each in (created, updated, dry, deleted)}) == 4
    assert [path for path, _ in webhooks.seen] == ["/a"] * 4
    assert len(webhooks.connections) == 1


@pytest.mark.parametrize(
    ("answer", "status", "message", "reason"),
    [
        (deny("no", code=418, reason="Teapot"), 418, ": no", "Teapot"),
        (deny("no"), 400, ": no", None),
        (deny("", reason="BadTaste", code=200), 400, ": BadTaste", "BadTaste"),
        (lambda request: {"allowed": False}, 400, " without explanation", None),
    ],
    ids=["own code", "no code", "reason only", "nothing"],
)
@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
async def test_a_denial_tells_who_and_why(
    api: Admin,
    webhooks: WebhookServer,
    kind: str,
    answer: Callable[[Object], Object],
    status: int,
    message: str,
    reason: str | None,
) -> None:
    webhooks.answers["/deny"] = answer
    await register(api, kind, "a", hook("deny", webhooks.client("/deny"), rule(":configmaps")))
    refused = await api.post(MAPS, config_map("a"))
    assert refused.status == status, refused.body
    prefix = 'admission webhook "deny.example.com" denied the request'
    assert refused.json["message"] == prefix + message
    assert refused.json.get("reason") == reason


async def test_warnings_reach_the_client(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = lambda request: {"allowed": True, "warnings": ["mind the gap"]}
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.headers["Warning"] == '299 - "mind the gap"'


@pytest.mark.conformance(PREFIX + "should include webhook resources in discovery documents")
async def test_discovery_shows_the_configurations(api: Admin) -> None:
    groups = {each["name"]: each for each in (await api.get("/apis")).ok()["groups"]}
    versions = [each["version"] for each in groups["admissionregistration.k8s.io"]["versions"]]
    assert "v1" in versions
    document = (await api.get("/apis/admissionregistration.k8s.io")).ok()
    assert document["preferredVersion"]["version"] == "v1"
    names = {each["name"] for each in (await api.get(GROUP)).ok()["resources"]}
    assert {"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} <= names


# ---- the official tests' stories


@pytest.mark.conformance(PREFIX + "should be able to deny pod and configmap creation")
async def test_pods_and_config_maps_are_denied(api: Admin, webhooks: WebhookServer) -> None:
    hanging = asyncio.Event()

    async def pods(request: web.BaseRequest) -> web.StreamResponse:
        review = (await request.json())["request"]
        if review["name"] == "hang":
            await hanging.wait()
        response = {"uid": review["uid"], "allowed": False, "status": {"message": "bad pod"}}
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        )

    webhooks.handlers["/pods"] = pods
    webhooks.answers["/configmaps"] = deny_marked
    exempt = {"matchExpressions": [{"key": "skip", "operator": "NotIn", "values": ["yes"]}]}
    await register(
        api,
        "Validating",
        "a",
        hook("pods", webhooks.client("/pods"), rule(":pods"), timeoutSeconds=1),
        hook(
            "maps",
            webhooks.client("/configmaps"),
            rule(":configmaps", "CREATE", "UPDATE", "DELETE"),
            namespaceSelector=exempt,
        ),
    )
    refused = await api.post(PODS, pod("a"))
    assert refused.status == 400
    assert "bad pod" in refused.json["message"]
    late = await api.post(PODS, pod("hang"))
    assert late.status == 500
    assert "webhook" in late.json["message"]
    assert "deadline" in late.json["message"]
    hanging.set()
    mark = {"webhook-e2e-test": "webhook-disallow"}
    refused = await api.post(MAPS, config_map("a", **mark))
    assert "the object contains unwanted data" in refused.json["message"]
    (await api.post(MAPS, config_map("a"))).ok(201)
    assert (await api.put(MAPS + "/a", config_map("a", **mark))).status == 400
    assert (await api.patch(MAPS + "/a", {"data": mark})).status == 400
    skipped = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "skipped", "labels": {"skip": "yes"}},
    }
    (await api.post("/api/v1/namespaces", skipped)).ok(201)
    elsewhere = config_map("a", "skipped", **mark)
    (await api.post("/api/v1/namespaces/skipped/configmaps", elsewhere)).ok(201)


@pytest.mark.conformance(PREFIX + "should be able to deny attaching pod")
@pytest.mark.parametrize(
    ("subresource", "kind"),
    [
        ("attach", "PodAttachOptions"),
        ("exec", "PodExecOptions"),
        ("portforward", "PodPortForwardOptions"),
        ("proxy", "PodProxyOptions"),
    ],
)
async def test_connections_are_denied(
    api: Admin, webhooks: WebhookServer, subresource: str, kind: str
) -> None:
    message = "attaching to pod 'to-be-attached-pod' is not allowed"
    webhooks.answers["/connect"] = deny(message)
    await register(
        api,
        "Validating",
        "a",
        hook("connect", webhooks.client("/connect"), rule(f":pods/{subresource}", "CONNECT")),
    )
    (await api.post(PODS, pod("to-be-attached-pod"))).ok(201)
    path = f"{PODS}/to-be-attached-pod/{subresource}?stdout=true&command=ls"
    refused = await api.get(path)
    assert refused.status == 400
    assert message in refused.json["message"]
    [request] = webhooks.requests("/connect")
    assert request["operation"] == "CONNECT"
    assert request["kind"] == {"group": "", "version": "v1", "kind": kind}
    assert request["subResource"] == subresource
    assert request["object"]["kind"] == kind


@pytest.mark.conformance(
    PREFIX + "should be able to deny custom resource creation, update and deletion"
)
async def test_custom_resources_are_denied(api: Admin, webhooks: WebhookServer) -> None:
    await define_widgets(api)
    webhooks.answers["/custom"] = deny_marked
    operations = ("CREATE", "UPDATE", "DELETE")
    client = webhooks.client("/custom")
    await register(
        api, "Validating", "a", hook("cr", client, rule("example.com:widgets", *operations))
    )
    path, mark = WIDGETS.format("v1"), {"webhook-e2e-test": "webhook-disallow"}
    assert (await api.post(path, widget("a", **mark))).status == 400
    (await api.delete(configurations("Validating") + "/a")).ok()
    (await api.post(path, widget("a", **mark))).ok(201)
    await register(
        api, "Validating", "a", hook("cr", client, rule("example.com:widgets", *operations))
    )
    assert (await api.patch(path + "/a", {"data": {"more": "x"}})).status == 400
    refused = await api.delete(path + "/a")
    assert "the object contains unwanted data" in refused.json["message"]
    (await api.get(path + "/a")).ok()
    (await api.patch(path + "/a", {"data": {"webhook-e2e-test": "webhook-allow"}})).ok()
    (await api.delete(path + "/a")).ok()


@pytest.mark.conformance(PREFIX + "should unconditionally reject operations on fail closed webhook")
async def test_a_webhook_that_cannot_be_trusted_fails_closed(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = allow
    client = {"url": webhooks.client("/a")["url"]}
    await register(api, "Validating", "a", hook("closed", client, rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert answer.json["message"] == (
        'Internal error occurred: failed calling webhook "closed.example.com": failed to call '
        f'webhook: Post "{client["url"]}?timeout=10s": tls: failed to verify certificate: x509: '
        "certificate signed by unknown authority"
    )


@pytest.mark.conformance(PREFIX + "should mutate configmap")
async def test_mutations_follow_one_another(api: Admin, webhooks: WebhookServer) -> None:
    def stage(have: str, give: str) -> Callable[[Object], Object]:
        def answer(request: Object) -> Object:
            is_due = have in request["object"]["data"]
            return (patch(add(f"/data/{give}", "yes")) if is_due else allow)(request)

        return answer

    webhooks.answers["/1"] = stage("start", "stage-1")
    webhooks.answers["/2"] = stage("stage-1", "stage-2")
    maps = rule(":configmaps")
    await register(
        api,
        "Mutating",
        "a",
        hook("one", webhooks.client("/1"), maps),
        hook("two", webhooks.client("/2"), maps),
    )
    made = (await api.post(MAPS, config_map("a", start="yes"))).ok(201)
    assert made["data"] == {"start": "yes", "stage-1": "yes", "stage-2": "yes"}
    assert (await api.get(MAPS + "/a")).ok() == made


@pytest.mark.conformance(PREFIX + "should mutate pod and apply defaults after mutation")
async def test_mutations_are_stored_with_defaults(api: Admin, webhooks: WebhookServer) -> None:
    container = {"name": "init", "image": "registry.example/init"}
    webhooks.answers["/pods"] = patch(add("/spec/initContainers", [container]))
    await register(api, "Mutating", "a", hook("add", webhooks.client("/pods"), rule(":pods")))
    made = (await api.post(PODS, pod("a"))).ok(201)
    [init] = made["spec"]["initContainers"]
    assert init["terminationMessagePolicy"] == "File"
    # Plug-ins that run before webhooks see what webhooks add.
    assert init["volumeMounts"][0]["name"].startswith("kube-api-access-")
    assert made["metadata"]["generation"] == 1


@pytest.mark.conformance(
    PREFIX + "should not be able to mutate or prevent deletion of webhook configuration objects"
)
async def test_configurations_are_beyond_webhooks(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/deny"] = deny("no")
    webhooks.answers["/label"] = patch(add("/metadata/labels", {"mutated": "yes"}))
    everything = rule("admissionregistration.k8s.io:*/*", "*")
    await register(api, "Validating", "a", hook("d", webhooks.client("/deny"), everything))
    await register(api, "Mutating", "b", hook("m", webhooks.client("/label"), everything))
    for kind in ("Validating", "Mutating"):
        await register(api, kind, "dummy", hook("x", webhooks.client("/deny"), rule(":none")))
        read = (await api.get(f"{configurations(kind)}/dummy")).ok()
        assert "mutated" not in (read["metadata"].get("labels") or {})
        (await api.delete(f"{configurations(kind)}/dummy")).ok()
    assert not webhooks.seen


@pytest.mark.conformance(PREFIX + "should mutate custom resource")
async def test_custom_resources_are_mutated(api: Admin, webhooks: WebhookServer) -> None:
    await define_widgets(api)
    webhooks.answers["/cr"] = patch(add("/data/added", "yes"))
    client = webhooks.client("/cr")
    await register(api, "Mutating", "a", hook("cr", client, rule("example.com:widgets")))
    made = (await api.post(WIDGETS.format("v1"), widget("a", start="yes"))).ok(201)
    assert made["data"] == {"start": "yes", "added": "yes"}


@pytest.mark.conformance(PREFIX + "should deny crd creation")
async def test_definitions_are_denied(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/crd"] = deny("unwanted label")
    crds = rule("apiextensions.k8s.io:customresourcedefinitions")
    await register(api, "Validating", "a", hook("crd", webhooks.client("/crd"), crds))
    with pytest.raises(AssertionError, match="unwanted label"):
        await define_widgets(api)


@pytest.mark.conformance(PREFIX + "should mutate custom resource with different stored version")
async def test_custom_resources_of_older_storage_are_mutated(
    api: Admin, webhooks: WebhookServer
) -> None:
    await define_widgets(api)
    webhooks.answers["/cr"] = patch(add("/data/added", "yes"))
    client = webhooks.client("/cr")
    rules = rule("example.com:widgets", "CREATE", "UPDATE")
    await register(api, "Mutating", "a", hook("cr", client, rules))
    (await api.post(WIDGETS.format("v1"), widget("a"))).ok(201)
    await define_widgets(api, "v2")
    patched = (await api.patch(WIDGETS.format("v1") + "/a", {"data": {"more": "yes"}})).ok()
    assert patched["data"] == {"added": "yes", "more": "yes"}


@pytest.mark.conformance(PREFIX + "should mutate custom resource with pruning")
async def test_what_webhooks_add_is_pruned(api: Admin, webhooks: WebhookServer) -> None:
    await define_widgets(api, "v1", "start", "known")
    webhooks.answers["/cr"] = patch(add("/data/known", "yes"), add("/data/unknown", "yes"))
    client = webhooks.client("/cr")
    await register(api, "Mutating", "a", hook("cr", client, rule("example.com:widgets")))
    made = (await api.post(WIDGETS.format("v1"), widget("a", start="yes"))).ok(201)
    assert made["data"] == {"start": "yes", "known": "yes"}


@pytest.mark.conformance(PREFIX + "should honor timeout")
async def test_timeouts_are_those_of_the_configuration(api: Admin, webhooks: WebhookServer) -> None:
    answered = asyncio.Event()
    asked: list[str] = []

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.query_string)
        await answered.wait()
        review = await request.json()
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response({**review, "response": response})

    webhooks.handlers["/slow"] = slow

    def slow_hook(seconds: int, policy: str) -> Object:
        more = {"timeoutSeconds": seconds, "failurePolicy": policy}
        return hook("slow", webhooks.client("/slow"), rule(":configmaps"), **more)

    await register(api, "Validating", "a", slow_hook(1, "Fail"))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 500
    assert "context deadline exceeded" in answer.json["message"]
    assert 'slow?timeout=1s": ' in answer.json["message"]
    (await api.delete(configurations("Validating") + "/a")).ok()
    await register(api, "Validating", "a", slow_hook(1, "Ignore"))
    (await api.post(MAPS, config_map("a"))).ok(201)
    (await api.delete(configurations("Validating") + "/a")).ok()
    await register(api, "Validating", "a", slow_hook(30, "Fail"))
    pending = asyncio.create_task(api.post(MAPS, config_map("b")))
    async with asyncio.timeout(10):
        while len(asked) < 3:  # noqa: ASYNC110 - the question comes over HTTPS
            await asyncio.sleep(0.01)
    answered.set()
    (await pending).ok(201)
    assert asked == ["timeout=1s", "timeout=1s", "timeout=30s"]


@pytest.mark.conformance(
    PREFIX + "patching/updating a validating webhook should work",
    PREFIX + "patching/updating a mutating webhook should work",
)
@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
async def test_changed_configurations_act_at_once(
    api: Admin, webhooks: WebhookServer, kind: str
) -> None:
    webhooks.answers["/a"] = deny("no")
    made = await register(api, kind, "a", hook("a", webhooks.client("/a"), rule(":configmaps")))
    assert (await api.post(MAPS, config_map("a"))).status == 400
    made["webhooks"][0]["rules"][0]["operations"] = ["UPDATE"]
    path = f"{configurations(kind)}/a"
    (await api.put(path, made)).ok()
    (await api.post(MAPS, config_map("a"))).ok(201)
    change = [{"op": "replace", "path": "/webhooks/0/rules/0/operations/0", "value": "CREATE"}]
    (await api.patch(path, change, kind="json")).ok()
    assert (await api.post(MAPS, config_map("b"))).status == 400


@pytest.mark.conformance(
    PREFIX + "listing validating webhooks should work",
    PREFIX + "listing mutating webhooks should work",
)
@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
async def test_configurations_are_listed_and_deleted_together(
    api: Admin, webhooks: WebhookServer, kind: str
) -> None:
    webhooks.answers["/a"] = deny("no")
    for name in ("a", "b", "c"):
        each = hook("a", webhooks.client("/a"), rule(":configmaps"))
        await register(api, kind, name, each, story="list")
    path = f"{configurations(kind)}?labelSelector=story%3Dlist"
    assert len((await api.get(path)).ok()["items"]) == 3
    assert (await api.post(MAPS, config_map("a"))).status == 400
    (await api.delete(path)).ok()
    assert (await api.get(path)).ok()["items"] == []
    (await api.post(MAPS, config_map("a"))).ok(201)


SERVICE = {"name": "a", "namespace": "b"}


BAD: list[tuple[Object, str]] = [
    ({"name": "short"}, "webhooks[0].name: Invalid value"),
    ({"timeoutSeconds": 31}, "must be between 1 and 30 seconds"),
    ({"timeoutSeconds": 0}, "must be between 1 and 30 seconds"),
    ({"sideEffects": "Some"}, 'supported values: "None", "NoneOnDryRun"'),
    ({"sideEffects": None}, "webhooks[0].sideEffects: Required value"),
    ({"admissionReviewVersions": []}, "must specify one of v1, v1beta1"),
    ({"admissionReviewVersions": ["v9"]}, "must include at least one of v1, v1beta1"),
    ({"clientConfig": {}}, "exactly one of url or service is required"),
    ({"clientConfig": {"url": "https://x", "service": SERVICE}}, "exactly one of url or"),
    ({"clientConfig": {"url": "http://x"}}, "'https' is the only allowed URL scheme"),
    ({"clientConfig": {"url": "https://a:b@x"}}, "user information is not permitted"),
    ({"clientConfig": {"url": "https://x/?a=b"}}, "query parameters are not permitted"),
    ({"clientConfig": {"service": {**SERVICE, "port": 70000}}}, "port is not valid: "),
    ({"clientConfig": {"service": {**SERVICE, "path": "x"}}}, "must start with a '/'"),
    ({"failurePolicy": "Maybe"}, "webhooks[0].failurePolicy: Unsupported value"),
    ({"matchPolicy": "Maybe"}, "webhooks[0].matchPolicy: Unsupported value"),
    ({"rules": [{**rule(":pods"), "operations": ["*", "CREATE"]}]}, "if '*' is present"),
    ({"rules": [{**rule(":pods"), "operations": ["PATCH"]}]}, "Unsupported value"),
    ({"rules": [{**rule(":pods"), "apiVersions": []}]}, "apiVersions: Required value"),
    ({"rules": [rule(":pods", scope="Some")]}, "Unsupported value"),
]


async def test_bad_configurations_are_refused(api: Admin) -> None:
    for changes, text in BAD:
        each = {**hook("a", {"url": "https://x"}, rule(":pods")), **changes}
        answer = await api.post(configurations("Mutating"), configuration("Mutating", "a", each))
        assert (answer.status, answer.json["reason"]) == (422, "Invalid"), changes
        assert text in answer.json["message"], changes


async def test_names_are_unique_in_a_configuration(api: Admin) -> None:
    each = hook("a", {"url": "https://x"}, rule(":pods"))
    body = configuration("Validating", "a", each, each)
    answer = await api.post(configurations("Validating"), body)
    assert 'webhooks[1].name: Duplicate value: "a.example.com"' in answer.json["message"]


# ---- match conditions

NOT_SKIPPED = {"name": "not-skipped", "expression": "object.metadata.name != 'skip-me'"}


@pytest.mark.conformance(PREFIX + "should mutate everything except 'skip-me' configmaps")
async def test_match_conditions_decide_who_is_asked(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = patch(add("/data/mutated", "yes"))
    each = hook("a", webhooks.client("/a"), rule(":configmaps"), matchConditions=[NOT_SKIPPED])
    await register(api, "Mutating", "a", each)
    assert (await api.post(MAPS, config_map("skip-me", k="v"))).ok()["data"] == {"k": "v"}
    made = (await api.post(MAPS, config_map("other", k="v"))).ok()
    assert made["data"] == {"k": "v", "mutated": "yes"}


@pytest.mark.conformance(
    PREFIX
    + "should be able to create and update validating webhook configurations with match conditions",
    PREFIX
    + "should be able to create and update mutating webhook configurations with match conditions",
)
@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
async def test_match_conditions_are_kept(api: Admin, webhooks: WebhookServer, kind: str) -> None:
    each = hook("a", webhooks.client("/a"), rule(":configmaps"), matchConditions=[NOT_SKIPPED])
    made = await register(api, kind, "a", each)
    assert made["webhooks"][0]["matchConditions"] == [NOT_SKIPPED]
    second = {"name": "second", "expression": "request.userInfo.username != 'x'"}
    made["webhooks"][0]["matchConditions"].append(second)
    path = f"{configurations(kind)}/a"
    (await api.put(path, made)).ok()
    read = (await api.get(path)).ok()
    assert read["webhooks"][0]["matchConditions"] == [NOT_SKIPPED, second]


@pytest.mark.conformance(
    PREFIX + "should reject validating webhook configurations with invalid match conditions",
    PREFIX + "should reject mutating webhook configurations with invalid match conditions",
)
@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
async def test_bad_match_conditions_are_refused(
    api: Admin, webhooks: WebhookServer, kind: str
) -> None:
    bad = {"name": "bad", "expression": "... [] bad expression"}
    each = hook("a", webhooks.client("/a"), rule(":configmaps"), matchConditions=[bad])
    answer = await api.post(configurations(kind), configuration(kind, "a", each))
    assert answer.status == 422
    assert "compilation failed" in answer.json["message"]


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
async def test_match_conditions_that_fail_follow_the_policy(
    api: Admin, webhooks: WebhookServer, policy: str
) -> None:
    webhooks.answers["/a"] = deny("no")
    broken = {"name": "broken", "expression": "object.data.missing == 'x'"}
    client, more = webhooks.client("/a"), {"matchConditions": [broken], "failurePolicy": policy}
    await register(api, "Validating", "a", hook("a", client, rule(":configmaps"), **more))
    answer = await api.post(MAPS, config_map("a", k="v"))
    if policy == "Ignore":
        answer.ok(201)
    else:
        assert answer.status == 403
        assert answer.json["message"].startswith('configmaps "a" is forbidden: expression ')
    assert not webhooks.seen


# ---- webhooks that do not do what they should (reliability row 19)

Turn = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def hanging(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def redirecting(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(str(request.url.with_path("/elsewhere")))


async def garbage(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"<html>\xff", content_type="application/json")


async def nothing(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def failing(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPInternalServerError(text="out of order")


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(b" " * (1 << 16))
        await asyncio.sleep(0)
    return response


async def another(request: web.BaseRequest) -> web.StreamResponse:
    """An answer to somebody else's question."""
    response = {"uid": "other", "allowed": True}
    return web.json_response(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    )


async def mistyped(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"response": {"allowed": "yes"}})


async def silent(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def bare(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})


MISBEHAVIOUR: list[tuple[Turn | None, str]] = [
    (None, "connect: connection refused"),
    (hanging, "context deadline exceeded"),
    (redirecting, "the server responded with the status code 307"),
    (garbage, "json parse error"),
    (nothing, "EOF"),
    (failing, 'an error on the server ("out of order") has prevented the request from succeeding'),
    (endless, "the response is larger than"),
    (another, "expected response.uid="),
    (mistyped, "json: cannot unmarshal"),
    (silent, "0-length response with status code: 200"),
    (bare, "webhook response was absent"),
]


@pytest.mark.parametrize("kind", ["Mutating", "Validating"])
@pytest.mark.parametrize(
    ("turn", "text"),
    MISBEHAVIOUR,
    ids=[turn.__name__ if turn else "dead" for turn, _ in MISBEHAVIOUR],
)
async def test_broken_webhooks_fail_or_are_passed_over(
    api: Admin,
    webhooks: WebhookServer,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    turn: Turn | None,
    text: str,
) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER", 1 << 20)
    webhooks.answers["/elsewhere"] = allow
    client = webhooks.client("/a")
    if turn is not None:
        webhooks.handlers["/a"] = turn
    else:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            client["url"] = f"https://127.0.0.1:{unused.getsockname()[1]}/a"
    seconds = 2 if turn is hanging else 20
    for policy in ("Fail", "Ignore"):
        more = {"failurePolicy": policy, "timeoutSeconds": seconds}
        await register(api, kind, policy.lower(), hook("a", client, rule(":configmaps"), **more))
        answer = await api.post(MAPS, config_map(policy.lower()))
        (await api.delete(f"{configurations(kind)}/{policy.lower()}")).ok()
        if policy == "Ignore":
            answer.ok(201)
        else:
            assert (answer.status, answer.json["reason"]) == (500, "InternalError")
            message = answer.json["message"]
            assert message.startswith(
                'Internal error occurred: failed calling webhook "a.example.com": '
            )
            assert text in message
    assert not webhooks.requests("/elsewhere")
    lines = (await api.get("/metrics")).body.decode().splitlines()
    step = "admit" if kind == "Mutating" else "validating"
    labels = f'name="a.example.com",type="{step}"'
    assert f"apiserver_admission_webhook_fail_open_count{{{labels}}} 1" in lines


async def test_a_connection_that_dies_while_idle_is_replaced(
    api: Admin, webhooks: WebhookServer
) -> None:
    asked = 0

    async def once(request: web.BaseRequest) -> web.StreamResponse:
        """Answers once on each connection."""
        nonlocal asked
        asked += 1
        if request.transport in webhooks.answered:
            return await nothing(request)
        webhooks.answered.add(request.transport)
        review = await request.json()
        response = {"uid": review["request"]["uid"], "allowed": True}
        return web.json_response({**review, "response": response})

    webhooks.handlers["/a"] = once
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), rule(":configmaps")))
    for name in ("a", "b"):
        (await api.post(MAPS, config_map(name))).ok(201)
    assert asked == 3


async def test_reviews_of_access_are_shown_as_well(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = deny("ask somebody else")
    reviews = rule("authorization.k8s.io:selfsubjectaccessreviews")
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), reviews))
    body: Object = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
    }
    refused = await api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    assert "ask somebody else" in refused.json["message"]


async def test_a_name_the_certificate_does_not_have_is_no_webhook(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = allow
    client = webhooks.client("/a", host="127.0.0.1")
    await register(api, "Validating", "a", hook("a", client, rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 500
    assert "tls: failed to verify certificate: x509: " in answer.json["message"]


# ---- patches


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ({"patch": "W10=", "allowed": True}, "response.patch but not response.patchType"),
        ({"patchType": "JSONPatch", "allowed": True}, "response.patchType but not response.patch"),
        ({"patch": "e30=", "patchType": "JSONPatch", "allowed": True}, "undecodable patch"),
        ({"patch": "W3t9XQ==", "patchType": "Merge", "allowed": True}, "unsupported patch type"),
    ],
)
async def test_patches_without_form_are_failures(
    api: Admin, webhooks: WebhookServer, response: Object, text: str
) -> None:
    webhooks.answers["/a"] = lambda request: response
    more = {"failurePolicy": "Fail"}
    client = webhooks.client("/a")
    await register(api, "Mutating", "a", hook("a", client, rule(":configmaps"), **more))
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 500
    assert text in answer.json["message"]


async def test_validating_webhooks_cannot_patch(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = patch(add("/data/a", "b"))
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), rule(":configmaps")))
    answer = await api.post(MAPS, config_map("a"))
    assert "validating webhook may not return response.patch" in answer.json["message"]


@pytest.mark.parametrize(
    ("operation", "status", "text"),
    [
        (
            {"op": "remove", "path": "/data/missing"},
            500,
            "Unable to remove nonexistent key: missing",
        ),
        (add("/data/number", 1), 500, "error occurred: json: cannot unmarshal number into Go"),
        (add("/metadata/resourceVersion", "5"), 400, "resourceVersion should not be set"),
        (add("/metadata/namespace", "kube-system"), 400, "does not match the namespace"),
        (add("/metadata/labels", {"bad key!": "x"}), 422, "metadata.labels"),
    ],
    ids=["does not apply", "no such object", "versioned", "elsewhere", "invalid"],
)
async def test_what_webhooks_make_must_be_right(
    api: Admin, webhooks: WebhookServer, operation: Object, status: int, text: str
) -> None:
    webhooks.answers["/a"] = patch(operation)
    client = webhooks.client("/a")
    more = {"failurePolicy": "Ignore"}
    await register(api, "Mutating", "a", hook("a", client, rule(":configmaps"), **more))
    answer = await api.post(MAPS, config_map("a", k="v"))
    assert answer.status == status, answer.body
    assert text in answer.json["message"]
    assert (await api.get(MAPS + "/a")).status == 404


async def test_the_server_s_own_fields_stay_the_server_s(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = patch(
        add("/metadata/uid", "mine"),
        add("/metadata/creationTimestamp", "2001-01-01T00:00:00Z"),
        add("/metadata/deletionTimestamp", "2001-01-01T00:00:00Z"),
        add("/metadata/managedFields", [{"manager": "x"}]),
        add("/spec/schedulingGates", []),
        add("/status", {"phase": "Running"}),
    )
    await register(api, "Mutating", "a", hook("a", webhooks.client("/a"), rule(":pods")))
    answer = await api.post(PODS + "?fieldManager=me", pod("a"))
    made = answer.ok(201)
    metadata = made["metadata"]
    assert metadata["uid"] != "mine"
    assert not metadata["creationTimestamp"].startswith("2001")
    assert "deletionTimestamp" not in metadata
    assert [each["manager"] for each in metadata["managedFields"]] == ["me"]
    assert "managedFields was in an invalid state" in answer.headers["Warning"]
    assert made["status"]["phase"] == "Pending"


async def test_a_generated_name_is_not_shown_before_it_is_made(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/m"] = patch(add("/data/a", "b"))
    webhooks.answers["/v"] = allow
    maps = rule(":configmaps")
    await register(api, "Mutating", "m", hook("m", webhooks.client("/m"), maps))
    await register(api, "Validating", "v", hook("v", webhooks.client("/v"), maps))
    body = config_map("x", k="v")
    body["metadata"] = {"generateName": "map-"}
    made = (await api.post(MAPS, body)).ok(201)
    name = made["metadata"]["name"]
    assert name.startswith("map-")
    [mutating], [validating] = webhooks.requests("/m"), webhooks.requests("/v")
    assert "name" not in mutating
    assert "name" not in mutating["object"]["metadata"]
    assert "uid" not in mutating["object"]["metadata"]
    assert validating["name"] == validating["object"]["metadata"]["name"] == name
    assert made["data"] == {"k": "v", "a": "b"}


@pytest.mark.parametrize("policy", ["Never", "IfNeeded"])
async def test_webhooks_are_called_again_if_they_want_to(
    api: Admin, webhooks: WebhookServer, policy: str
) -> None:
    webhooks.answers["/first"] = allow
    webhooks.answers["/second"] = patch(add("/data/second", "yes"))
    maps = rule(":configmaps", "CREATE")
    first = hook("first", webhooks.client("/first"), maps, reinvocationPolicy=policy)
    await register(api, "Mutating", "b", hook("second", webhooks.client("/second"), maps))
    await register(api, "Mutating", "a", first)
    (await api.post(MAPS, config_map("a", k="v"))).ok(201)
    shown = [request["object"]["data"] for request in webhooks.requests("/first")]
    again = [{"k": "v", "second": "yes"}] if policy == "IfNeeded" else []
    assert shown == [{"k": "v"}, *again]
    assert len(webhooks.requests("/second")) == 1


# ---- what is caught


async def test_equivalent_versions_are_converted(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/exact"] = deny("exact")
    webhooks.answers["/v2"] = patch(add("/spec/minReplicas", 3))
    rules = {**rule("autoscaling:horizontalpodautoscalers"), "apiVersions": ["v2"]}
    client = webhooks.client
    await register(api, "Mutating", "a", hook("a", client("/v2"), rules))
    exact = hook("b", client("/exact"), rules, matchPolicy="Exact")
    await register(api, "Validating", "b", exact)
    body = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {
            "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        },
    }
    path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
    made = (await api.post(path, body)).ok(201)
    assert made["spec"]["minReplicas"] == 3
    assert made["spec"]["targetCPUUtilizationPercentage"] == 50
    [request] = webhooks.requests("/v2")
    assert request["kind"]["version"] == request["resource"]["version"] == "v2"
    assert request["requestKind"]["version"] == request["requestResource"]["version"] == "v1"
    assert request["object"]["apiVersion"] == "autoscaling/v2"
    assert request["object"]["spec"]["metrics"][0]["resource"]["name"] == "cpu"


async def test_every_object_of_a_collection_is_asked_about(
    api: Admin, webhooks: WebhookServer
) -> None:
    for name in ("a", "b"):
        (await api.post(MAPS, config_map(name))).ok(201)
    webhooks.answers["/a"] = lambda request: {
        "allowed": request["oldObject"]["metadata"]["name"] != "b"
    }
    maps = rule(":configmaps", "DELETE")
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), maps))
    assert (await api.delete(MAPS)).status == 400
    assert {each["oldObject"]["metadata"]["name"] for each in webhooks.requests("/a")} >= {
        "a",
        "b",
    }
    assert (await api.get(MAPS + "/a")).status == 404
    (await api.get(MAPS + "/b")).ok()


async def test_object_selectors_look_at_both_states(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = deny("no")
    more = {"objectSelector": {"matchLabels": {"guarded": "yes"}}}
    maps = rule(":configmaps", "UPDATE", "DELETE")
    body = config_map("a")
    body["metadata"]["labels"] = {"guarded": "yes"}
    (await api.post(MAPS, body)).ok(201)
    (await api.post(MAPS, config_map("b"))).ok(201)
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), maps, **more))
    change = {"metadata": {"labels": {"guarded": None}}}
    assert (await api.patch(MAPS + "/a", change)).status == 400
    assert (await api.delete(MAPS + "/a")).status == 400
    (await api.patch(MAPS + "/b", {"data": {"k": "v"}})).ok()


async def test_dry_runs_spare_webhooks_with_effects(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = allow
    client = webhooks.client("/a")
    more = {"sideEffects": "NoneOnDryRun"}
    await register(api, "Validating", "a", hook("a", client, rule(":configmaps"), **more))
    (await api.post(MAPS + "?dryRun=All", config_map("a"))).ok(201)
    assert webhooks.requests("/a")[0]["dryRun"] is True


async def test_the_older_review_is_spoken(api: Admin, webhooks: WebhookServer) -> None:
    encoded = patch(add("/data/a", "b"))({})["patch"]
    webhooks.answers["/a"] = lambda request: {"allowed": True, "patch": encoded, "uid": "ignored"}
    more = {"admissionReviewVersions": ["v2", "v1beta1", "v1"]}
    client = webhooks.client("/a")
    await register(api, "Mutating", "a", hook("a", client, rule(":configmaps"), **more))
    made = (await api.post(MAPS, config_map("a", k="v"))).ok(201)
    assert made["data"] == {"k": "v", "a": "b"}
    assert webhooks.seen[0][1]["apiVersion"] == "admission.k8s.io/v1beta1"


async def test_subresources_are_shown_as_what_they_are(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/a"] = allow
    webhooks.answers["/scale"] = patch({"op": "replace", "path": "/spec/replicas", "value": 7})
    everything = rule(":pods/binding,pods/status,pods/eviction", "*")
    scale = rule("apps:deployments/scale", "UPDATE")
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), everything))
    await register(api, "Mutating", "b", hook("b", webhooks.client("/scale"), scale))
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]},
        },
    }
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    (await api.post(deployments, deployment)).ok(201)
    scaled = (await api.patch(deployments + "/d/scale", {"spec": {"replicas": 2}})).ok()
    assert scaled["spec"]["replicas"] == 7
    read = (await api.get(deployments + "/d")).ok()
    assert (read["spec"]["replicas"], read["metadata"]["generation"]) == (7, 2)
    [request] = webhooks.requests("/scale")
    assert request["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert request["object"]["spec"]["replicas"] == 2
    assert request["oldObject"]["spec"]["replicas"] == 1
    (await api.post(PODS, pod("p"))).ok(201)
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"},
    }
    (await api.post(f"{PODS}/p/binding", binding)).ok(201)
    (await api.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}})).ok()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    (await api.post(f"{PODS}/p/eviction", eviction)).ok(201)
    seen = [
        (each["subResource"], each["kind"]["kind"], each["operation"])
        for each in webhooks.requests("/a")
    ]
    assert seen == [
        ("binding", "Binding", "CREATE"),
        ("status", "Pod", "UPDATE"),
        ("eviction", "Eviction", "CREATE"),
    ]
    status = webhooks.requests("/a")[1]
    assert status["oldObject"]["status"]["phase"] == "Pending"
    assert status["object"]["spec"]["nodeName"] == "n"


async def test_namespaces_are_selected_by_their_own_labels(
    api: Admin, webhooks: WebhookServer
) -> None:
    webhooks.answers["/a"] = deny("no")
    more = {"namespaceSelector": {"matchLabels": {"guarded": "yes"}}}
    spaces = rule(":namespaces", "CREATE", scope="Cluster")
    await register(api, "Validating", "a", hook("a", webhooks.client("/a"), spaces, **more))
    body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    (await api.post("/api/v1/namespaces", body)).ok(201)
    body["metadata"] = {"name": "b", "labels": {"guarded": "yes"}}
    assert (await api.post("/api/v1/namespaces", body)).status == 400
    assert webhooks.requests("/a")[0]["namespace"] == "b"


async def test_webhooks_are_reached_through_services(api: Admin, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    services = "/api/v1/namespaces/default/services"
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    async with webhook_server(tmp_path, address) as server:
        server.answers["/path"] = deny("through the service")
        ref = {"namespace": "default", "name": "e2e-test-webhook", "path": "/path", "port": 8443}
        client = {"service": ref, "caBundle": server.ca_bundle}
        await register(api, "Validating", "a", hook("a", client, rule(":configmaps")))
        url = "https://e2e-test-webhook.default.svc:8443/path?timeout=10s"
        answer = await api.post(MAPS, config_map("a"))
        assert f'Post "{url}": service "e2e-test-webhook" not found' in answer.json["message"]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "e2e-test-webhook"},
            "spec": {"ports": [{"port": 8443, "name": "https"}]},
        }
        (await api.post(services, service)).ok(201)
        answer = await api.post(MAPS, config_map("a"))
        assert 'no endpoints available for service "e2e-test-webhook"' in answer.json["message"]
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "e2e-test-webhook-1",
                "labels": {"kubernetes.io/service-name": "e2e-test-webhook"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": server.port}],
            "endpoints": [{"addresses": [address]}],
        }
        (await api.post(slices, endpoints)).ok(201)
        answer = await api.post(MAPS, config_map("a"))
        assert "through the service" in answer.json["message"]
