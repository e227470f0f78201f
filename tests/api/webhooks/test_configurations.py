"""Configurations of admission webhooks: when they act, and what is refused."""

from __future__ import annotations

import pytest
from tests.api.conftest import Admin, config_map
from tests.api.webhook_server import WebhookServer, add, deny, patch

from .conftest import (
    GROUP,
    MAPS,
    PREFIX,
    Object,
    configuration,
    configurations,
    hook,
    register,
    rule,
)


@pytest.mark.conformance(PREFIX + "should include webhook resources in discovery documents")
async def test_discovery_shows_the_configurations(api: Admin) -> None:
    groups = {each["name"]: each for each in (await api.get("/apis")).ok()["groups"]}
    versions = [each["version"] for each in groups["admissionregistration.k8s.io"]["versions"]]
    assert "v1" in versions
    document = (await api.get("/apis/admissionregistration.k8s.io")).ok()
    assert document["preferredVersion"]["version"] == "v1"
    names = {each["name"] for each in (await api.get(GROUP)).ok()["resources"]}
    assert {"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} <= names


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
