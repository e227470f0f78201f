"""Which requests an admission webhook is asked about."""

from __future__ import annotations

import pytest
from tests.api.conftest import Admin, config_map
from tests.api.webhook_server import WebhookServer, add, allow, deny, patch

from .conftest import (
    MAPS,
    PREFIX,
    Object,
    configuration,
    configurations,
    hook,
    register,
    rule,
)

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
