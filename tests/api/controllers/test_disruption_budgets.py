"""Budgets and evictions: what may be disrupted is counted, spent, and counted again."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conftest import Api

from navarch.api.errors import ApiError
from navarch.api.times import format_time
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.api.types.policy_v1 import (
    PodDisruptionBudget,
    PodDisruptionBudgetSpec,
    PodDisruptionBudgetStatus,
)
from navarch.client import Client, Object, PatchType

from .conftest import Kubelet, eventually, pod, running, selector, template

LABELS = {"foo": "bar"}
CONTROLLERS = ("disruption", "replicaset")
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"DisruptionController {what}")


async def make_budget(
    client: Client, name: str = "foo", namespace: str = "default", **spec: Any
) -> PodDisruptionBudget:
    budget = PodDisruptionBudget(
        metadata=ObjectMeta(name=name, namespace=namespace, labels=LABELS),
        spec=PodDisruptionBudgetSpec(selector=selector(LABELS), **spec),
    )
    return await client.resource(PodDisruptionBudget).create(budget)


async def change(client: Client, **spec: Any) -> PodDisruptionBudget:
    resource = client.resource(PodDisruptionBudget)
    return await resource.patch("foo", "default", {"spec": spec})


async def until(client: Client, name: str = "foo", **fields: int) -> PodDisruptionBudgetStatus:
    async def is_told() -> PodDisruptionBudgetStatus:
        budget = await client.resource(PodDisruptionBudget).get(name, "default")
        assert budget.status.observedGeneration == budget.metadata.generation
        assert {n: getattr(budget.status, n) for n in fields} == fields
        return budget.status

    return await eventually(is_told, f"the status {fields}")


async def make_set(client: Client, replicas: int = 3, *owners: OwnerReference) -> None:
    spec = ReplicaSetSpec(replicas=replicas, selector=selector(LABELS), template=template(LABELS))
    metadata = ObjectMeta(name="rs", namespace="default", ownerReferences=[*owners])
    await client.resource(ReplicaSet).create(ReplicaSet(metadata=metadata, spec=spec))


async def ready_pods(client: Client, count: int) -> list[Pod]:
    async def are_ready() -> list[Pod]:
        found = (await client.resource(Pod).list("default", label_selector="foo=bar")).items
        living = [p for p in found if not p.metadata.deletionTimestamp]
        ready = [p for p in living if any(c.type == "Ready" for c in p.status.conditions)]
        assert len(ready) == count == len(living)
        return ready

    return await eventually(are_ready, f"{count} ready pods")


async def evict(client: Client, name: str, **options: Any) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": options,
    }
    await client.resource(Pod).post_subresource(name, "default", "eviction", eviction)


async def refusal(client: Client, name: str, **options: Any) -> Object:
    """The details of the 429 that an eviction gets."""
    with pytest.raises(ApiError) as caught:
        await evict(client, name, **options)
    assert (caught.value.status, caught.value.reason) == (429, "TooManyRequests")
    details = caught.value.details or {}
    assert [cause["reason"] for cause in details["causes"]] == ["DisruptionBudget"]
    return details


@covers("should observe PodDisruptionBudget status updated")
@covers("should update/patch PodDisruptionBudget status")
async def test_the_status_follows_the_pods(client: Client, api: Api) -> None:
    async with running(client, *CONTROLLERS), Kubelet(client):
        await make_budget(client, minAvailable=1)
        status = await until(client, disruptionsAllowed=0, desiredHealthy=1)
        assert [(c.status, c.reason) for c in status.conditions] == [("False", "InsufficientPods")]
        raw = (await api.get(f"{BUDGETS}/foo")).ok()["status"]
        numbers = {"currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 0}
        assert raw.items() >= {**numbers, "disruptionsAllowed": 0}.items()
        assert raw["conditions"][0]["message"] == ""
        for number in range(3):
            await client.resource(Pod).create(pod(f"p{number}", LABELS))
        status = await until(client, disruptionsAllowed=2, currentHealthy=3, expectedPods=3)
        assert [(c.status, c.reason) for c in status.conditions] == [("True", "SufficientPods")]
        resource = client.resource(PodDisruptionBudget)
        budget = await resource.get("foo", "default")
        budget.status.disruptedPods = {
            "p0": format_time(client.clock.now()),
            "gone": "2020-01-01T00:00:00Z",
        }
        await resource.update_status(budget)
        status = await until(client, disruptionsAllowed=1, currentHealthy=2)
        assert list(status.disruptedPods) == ["p0"]
        patch = {"status": {"disruptedPods": None}}
        patched = await resource.patch("foo", "default", patch, subresource="status")
        assert patched.status.disruptedPods == {}
        await until(client, disruptionsAllowed=2, currentHealthy=3)
        await client.resource(Pod).delete("p1", "default", grace_period=0)
        await until(client, disruptionsAllowed=1, currentHealthy=2)


@covers("should create a PodDisruptionBudget")
@covers(
    "Listing PodDisruptionBudgets for all namespaces "
    "should list and delete a collection of PodDisruptionBudgets"
)
async def test_budgets_are_made_changed_listed_and_deleted(client: Client) -> None:
    resource = client.resource(PodDisruptionBudget)
    budget = await make_budget(client, minAvailable="1%")
    budget.spec.minAvailable = "2%"
    updated = await resource.update(budget)
    assert updated.spec.minAvailable == "2%"
    patched = await change(client, minAvailable="3%")
    assert patched.spec.minAvailable == "3%"
    assert int(patched.metadata.resourceVersion) > int(updated.metadata.resourceVersion)
    await make_budget(client, "foo2", minAvailable=2)
    await make_budget(client, "foo3", "kube-system", minAvailable=2)

    async def names(namespace: str = "") -> list[str]:
        found = await resource.list(namespace, label_selector="foo=bar")
        return sorted(item.metadata.name for item in found.items)

    assert await names() == ["foo", "foo2", "foo3"]
    assert await names("default") == ["foo", "foo2"]
    await resource.delete("foo", "default")
    await resource.delete_collection("default")
    assert await names() == ["foo3"]


@covers("should block an eviction until the PDB is updated to allow it")
async def test_an_eviction_waits_for_its_budget(client: Client) -> None:
    async with running(client, *CONTROLLERS), Kubelet(client):
        await make_budget(client, minAvailable=3)
        await make_set(client)
        name = (await ready_pods(client, 3))[0].metadata.name
        await until(client, currentHealthy=3)
        details = await refusal(client, name)
        text = "The disruption budget foo needs 3 healthy pods and has 3 currently"
        assert details["causes"][0]["message"] == text
        await change(client, minAvailable=2)
        await until(client, currentHealthy=3, desiredHealthy=2, disruptionsAllowed=1)
        await evict(client, name)
        await change(client, minAvailable=None, maxUnavailable=0)
        other = (await ready_pods(client, 3))[0].metadata.name
        assert other != name
        await until(client, expectedPods=3, desiredHealthy=3, currentHealthy=3)
        await refusal(client, other)
        await client.resource(PodDisruptionBudget).delete("foo", "default")
        await evict(client, other)


async def test_a_percentage_is_of_what_the_controllers_want(client: Client) -> None:
    async with running(client, *CONTROLLERS), Kubelet(client, manual=True) as kubelet:
        await make_set(client, 10)
        await make_budget(client, maxUnavailable="25%")
        await until(client, expectedPods=10, desiredHealthy=7, currentHealthy=0)

        async def are_there() -> bool:
            return len((await client.resource(Pod).list("default")).items) == 10

        await eventually(are_there, "the pods")
        for each in (await client.resource(Pod).list("default")).items[:8]:
            await kubelet.start(each)
        await until(client, currentHealthy=8, disruptionsAllowed=1)


async def test_a_set_whose_deployment_nobody_knows_tells_its_own_scale(client: Client) -> None:
    owner = OwnerReference(
        apiVersion="example.com/v1", kind="Deployment", name="d", uid="u", controller=True
    )
    async with running(client, *CONTROLLERS), Kubelet(client):
        await make_set(client, 3, owner)
        await make_budget(client, maxUnavailable=1)
        await until(client, expectedPods=3, currentHealthy=3, disruptionsAllowed=1)


async def test_custom_controllers_tell_their_scale(client: Client) -> None:
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"plural": "fleets", "kind": "Fleet"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": True,
                        }
                    },
                }
            ],
        },
    }
    crds = client.dynamic("apiextensions.k8s.io", "v1", "customresourcedefinitions", False)
    await crds.create(crd)
    fleets = client.dynamic("example.com", "v1", "fleets")
    body = {"apiVersion": "example.com/v1", "kind": "Fleet"}

    async def make() -> Object:
        meta = {"name": "f", "namespace": "default"}
        return await fleets.create({**body, "metadata": meta, "spec": {"replicas": 4}})

    fleet = await eventually(make, "the fleet")
    async with running(client, "disruption"), Kubelet(client):
        owner = {**body, "name": "f", "uid": fleet["metadata"]["uid"], "controller": True}
        made = pod("p", LABELS)
        await client.resource(Pod).create(made)
        patch = {"metadata": {"ownerReferences": [owner]}}
        await client.resource(Pod).patch("p", "default", patch)
        await make_budget(client, maxUnavailable=1)

        async def failed() -> bool:
            budget = await client.resource(PodDisruptionBudget).get("foo", "default")
            condition = budget.status.conditions[0]
            text = "fleets.example.com does not implement the scale subresource"
            return (condition.status, condition.reason, condition.message) == (
                "False",
                "SyncFailed",
                text,
            )

        await eventually(failed, "the failure")
        scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
        operation = {
            "op": "add",
            "path": "/spec/versions/0/subresources",
            "value": {"scale": scale, "status": {}},
        }
        await crds.patch("fleets.example.com", "", [operation], patch_type=PatchType.JSON)

        async def scales() -> bytes:
            return await fleets.get_subresource("f", "default", "scale")

        await eventually(scales, "the subresource")
        await client.resource(Pod).patch("p", "default", {"metadata": {"labels": {"a": "b"}}})
        await until(client, expectedPods=4, desiredHealthy=3, currentHealthy=1)


@pytest.mark.parametrize(
    ("policy", "desired", "is_evicted"),
    [
        pytest.param(None, 1, True, id="the healthy are enough"),
        pytest.param(None, 2, False, id="too few are healthy"),
        pytest.param("AlwaysAllow", 2, True, id="always allowed"),
    ],
)
async def test_pods_that_are_not_ready(
    client: Client, policy: str | None, desired: int, is_evicted: bool
) -> None:
    async with running(client, *CONTROLLERS), Kubelet(client, manual=True) as kubelet:
        for name, ready in (("well", True), ("ill", False)):
            await kubelet.start(await client.resource(Pod).create(pod(name, LABELS)), ready=ready)
        await make_budget(client, minAvailable=desired, unhealthyPodEvictionPolicy=policy)
        await until(client, currentHealthy=1, expectedPods=2)
        if is_evicted:
            await evict(client, "ill")
        else:
            await refusal(client, "ill")
        await refusal(client, "well")


async def test_more_than_one_budget_is_too_many(client: Client) -> None:
    async with Kubelet(client):
        await client.resource(Pod).create(pod("p", LABELS))
        await ready_pods(client, 1)
        for name in ("foo", "foo2"):
            await make_budget(client, name, minAvailable=0)
        with pytest.raises(ApiError) as caught:
            await evict(client, "p")
    assert (caught.value.status, caught.value.message) == (
        500,
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not "
        "support.",
    )


async def test_an_evicted_pod_says_so_and_a_rehearsal_changes_nothing(client: Client) -> None:
    held = pod("p", LABELS)
    held.metadata.finalizers = ["example.com/hold"]
    async with Kubelet(client, manual=True) as kubelet:
        await kubelet.start(await client.resource(Pod).create(held))
        before = await client.resource(Pod).get("p", "default")
        await evict(client, "p", dryRun=["All"])
        assert await client.resource(Pod).get("p", "default") == before
        for wrong in ({"uid": "other"}, {"resourceVersion": "1"}):
            with pytest.raises(ApiError) as caught:
                await evict(client, "p", preconditions=wrong)
            assert caught.value.is_conflict
        assert await client.resource(Pod).get("p", "default") == before
        version = {"resourceVersion": before.metadata.resourceVersion}
        await evict(client, "p", preconditions=version, gracePeriodSeconds=7)
        found = await client.resource(Pod).get("p", "default")
        assert found.metadata.deletionGracePeriodSeconds == 7
        target = next(c for c in found.status.conditions if c.type == "DisruptionTarget")
        assert (target.status, target.reason) == ("True", "EvictionByEvictionAPI")
        await client.resource(Pod).patch("p", "default", {"metadata": {"finalizers": None}})
