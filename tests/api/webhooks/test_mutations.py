"""Admission webhooks that change objects."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.api.conftest import Admin, config_map
from tests.api.webhook_server import WebhookServer, add, allow, patch

from .conftest import (
    MAPS,
    PODS,
    PREFIX,
    WIDGETS,
    Object,
    define_widgets,
    hook,
    pod,
    register,
    rule,
    widget,
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


@pytest.mark.conformance(PREFIX + "should mutate custom resource")
async def test_custom_resources_are_mutated(api: Admin, webhooks: WebhookServer) -> None:
    await define_widgets(api)
    webhooks.answers["/cr"] = patch(add("/data/added", "yes"))
    client = webhooks.client("/cr")
    await register(api, "Mutating", "a", hook("cr", client, rule("example.com:widgets")))
    made = (await api.post(WIDGETS.format("v1"), widget("a", start="yes"))).ok(201)
    assert made["data"] == {"start": "yes", "added": "yes"}


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
