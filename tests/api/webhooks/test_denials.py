"""Admission webhooks that refuse: what they are shown, and what their answer becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web
from tests.api.conftest import Admin, config_map
from tests.api.webhook_server import WebhookServer, add, allow, deny, patch

from .conftest import (
    MAPS,
    PODS,
    PREFIX,
    WIDGETS,
    Object,
    configurations,
    define_widgets,
    hook,
    pod,
    register,
    rule,
    widget,
)


def deny_marked(request: Object) -> Object:
    """As the official tests' webhook: what is marked as offending may not be."""
    data = (request["object"] or request["oldObject"]).get("data") or {}
    if data.get("webhook-e2e-test") == "webhook-disallow":
        return {"allowed": False, "status": {"reason": "the object contains unwanted data"}}
    return {"allowed": True}


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


@pytest.mark.conformance(PREFIX + "should deny crd creation")
async def test_definitions_are_denied(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/crd"] = deny("unwanted label")
    crds = rule("apiextensions.k8s.io:customresourcedefinitions")
    await register(api, "Validating", "a", hook("crd", webhooks.client("/crd"), crds))
    with pytest.raises(AssertionError, match="unwanted label"):
        await define_widgets(api)


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
