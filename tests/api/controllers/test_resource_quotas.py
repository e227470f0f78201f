"""Quotas with real admission: what is used is counted, limited, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import secured_server

from navarch.api.errors import ApiError
from navarch.api.quantity import parse_quantity
from navarch.client import Client, Object, PatchType

from .conftest import client_as, eventually, make_namespace, running

DONGLE = "requests.example.com/dongle"
HARD = {
    "pods": "5",
    "services": "10",
    "services.nodeports": "1",
    "services.loadbalancers": "1",
    "replicationcontrollers": "10",
    "resourcequotas": "1",
    "cpu": "1",
    "memory": "500Mi",
    "configmaps": "10",
    "secrets": "10",
    "persistentvolumeclaims": "10",
    "requests.storage": "10Gi",
    "ephemeral-storage": "50Gi",
    "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
    "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
    "count/replicasets.apps": "5",
    DONGLE: "3",
}
"""The quota of the conformance tests."""
SCOPED = {
    "pods": "5",
    "requests.cpu": "1",
    "requests.memory": "500Mi",
    "limits.cpu": "2",
    "limits.memory": "1Gi",
}
COMPUTE = {
    "requests": {"cpu": "500m", "memory": "200Mi"},
    "limits": {"cpu": "1", "memory": "400Mi"},
}
USED_BY_COMPUTE = {
    "pods": "1",
    "requests.cpu": "500m",
    "requests.memory": "200Mi",
    "limits.cpu": "1",
    "limits.memory": "400Mi",
}
NOTHING = dict.fromkeys(SCOPED, "0")


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"ResourceQuota should {what}")


@dataclass
class Space:
    """A namespace and what a test does in it."""

    client: Client
    name: str = "q"

    def of(self, plural: str, group: str = "", version: str = "v1") -> Any:
        return self.client.dynamic(group, version, plural)

    async def make(self, kind: str, plural: str, name: str, group: str = "", **body: Any) -> Object:
        obj = {
            "apiVersion": f"{group}/v1" if group else "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.name},
            **body,
        }
        made: Object = await self.of(plural, group).create(obj)
        return made

    async def delete(self, plural: str, name: str, group: str = "", **options: Any) -> None:
        await self.of(plural, group).delete(name, self.name, **options)

    async def quota(self, name: str = "test-quota", **spec: Any) -> Object:
        spec.setdefault("hard", HARD)
        return await self.make("ResourceQuota", "resourcequotas", name, spec=spec)

    async def until_used(self, name: str = "test-quota", **used: str) -> None:
        """Until the status has the quota's own limits and, of what is used, this."""
        await self.until(name, used)

    async def until(self, name: str, used: dict[str, str]) -> None:
        async def is_told() -> bool:
            quota = await self.of("resourcequotas").get(name, self.name)
            assert quota.get("status", {}).get("hard") == quota["spec"]["hard"]
            told = quota["status"].get("used", {})
            assert {n: told[n] for n in used} == {n: _canonical(v) for n, v in used.items()}
            return True

        await eventually(is_told, f"the use {used}")

    async def pod(self, name: str, resources: Object, **spec: Any) -> Object:
        container = {"name": "main", "image": "pause", "resources": resources}
        return await self.make("Pod", "pods", name, spec={"containers": [container], **spec})

    async def service(self, name: str, kind: str, **spec: Any) -> Object:
        spec |= {"type": kind, "ports": [{"port": 80}]}
        return await self.make("Service", "services", name, spec=spec)


def _canonical(text: str) -> str:
    return str(parse_quantity(text))


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[Space]:
    async with (
        secured_server(tmp_path) as server,
        client_as(server, "root", "system:masters") as client,
        client_as(server, "system:kube-controller-manager") as manager,
        running(manager, "resourcequota", "serviceaccount"),
    ):
        await make_namespace(client, "q")
        yield Space(client)


@covers("create a ResourceQuota and ensure its status is promptly calculated.")
async def test_a_quota_is_counted_and_counts_itself(space: Space) -> None:
    await space.quota()
    zeros = dict.fromkeys(HARD, "0")
    await space.until("test-quota", {**zeros, "resourcequotas": "1"})
    with pytest.raises(ApiError, match="exceeded quota: test-quota, requested: resourcequotas=1"):
        await space.quota("second")


@covers("create a ResourceQuota and capture the life of a service.")
async def test_services(space: Space) -> None:
    await space.quota()
    await space.until_used(services="0")
    await space.service("cluster", "ClusterIP")
    await space.service("node", "NodePort")
    with pytest.raises(ApiError) as caught:
        await space.service("balanced", "LoadBalancer")
    assert caught.value.status == 403
    assert caught.value.message == (
        'services "balanced" is forbidden: exceeded quota: test-quota, '
        "requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"
    )
    await space.service("portless", "LoadBalancer", allocateLoadBalancerNodePorts=False)
    used = {"services": "3", "services.nodeports": "1", "services.loadbalancers": "1"}
    await space.until("test-quota", used)
    for name in ("cluster", "node", "portless"):
        await space.delete("services", name)
    await space.until("test-quota", dict.fromkeys(used, "0"))


async def test_a_service_that_needs_less_gives_back(space: Space) -> None:
    await space.quota()
    await space.until_used(services="0")
    await space.service("web", "LoadBalancer")
    used = {"services": "1", "services.nodeports": "1", "services.loadbalancers": "1"}
    await space.until("test-quota", used)
    await space.of("services").patch("web", "q", {"spec": {"type": "ClusterIP"}})
    used |= {"services.nodeports": "0", "services.loadbalancers": "0"}
    await space.until("test-quota", used)


@pytest.mark.parametrize(
    ("kind", "plural", "group", "name", "body", "options"),
    [
        pytest.param(
            "Secret",
            "secrets",
            "",
            "secrets",
            {},
            {},
            id="secret",
            marks=covers("create a ResourceQuota and capture the life of a secret."),
        ),
        pytest.param(
            "ConfigMap",
            "configmaps",
            "",
            "configmaps",
            {},
            {},
            id="configMap",
            marks=covers("create a ResourceQuota and capture the life of a configMap."),
        ),
        pytest.param(
            "ReplicationController",
            "replicationcontrollers",
            "",
            "replicationcontrollers",
            {"spec": {"replicas": 0, "selector": {"a": "b"}}},
            {"propagation": "Background"},
            id="rc",
            marks=covers(
                "create a ResourceQuota and capture the life of a replication controller."
            ),
        ),
        pytest.param(
            "ReplicaSet",
            "replicasets",
            "apps",
            "count/replicasets.apps",
            {"spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}}},
            {},
            id="rs",
            marks=covers("create a ResourceQuota and capture the life of a replica set."),
        ),
    ],
)
async def test_objects_are_counted(
    space: Space, kind: str, plural: str, group: str, name: str, body: Object, options: Any
) -> None:
    if "spec" in body:
        template = {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "main", "image": "pause"}]},
        }
        body = {"spec": {**body["spec"], "template": template}}
    before = len((await space.of(plural, group).list("q")).items)
    most = {name: str(before + 1)}
    await space.quota(hard={**HARD, **most})
    await space.until("test-quota", {name: str(before)})
    await space.make(kind, plural, "one", group, **body)
    await space.until("test-quota", most)
    with pytest.raises(ApiError, match=f"exceeded quota: test-quota, requested: {name}=1"):
        await space.make(kind, plural, "two", group, **body)
    await space.delete(plural, "one", group, **options)
    await space.until("test-quota", {name: str(before)})


@covers("create a ResourceQuota and capture the life of a pod.")
async def test_pods(space: Space) -> None:
    await space.quota()
    await space.until_used(pods="0")
    dongles = {"example.com/dongle": "2"}
    requests = {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", **dongles}
    pod = await space.pod("fits", {"requests": requests, "limits": dongles})
    used = {
        "pods": "1",
        "cpu": "500m",
        "memory": "252Mi",
        "ephemeral-storage": "30Gi",
        DONGLE: "2",
    }
    await space.until("test-quota", used)
    with pytest.raises(ApiError, match=r"requested: cpu=600m, used: cpu=500m, limited: cpu=1$"):
        await space.pod("big", {"requests": {"cpu": "600m", "memory": "100Mi"}})
    small = {"cpu": "100m", "memory": "100Mi", **dongles}
    with pytest.raises(ApiError, match=f"requested: {DONGLE}=2, used: {DONGLE}=2"):
        await space.pod("rare", {"requests": small, "limits": dongles})
    with pytest.raises(ApiError, match="must specify memory for: main"):
        await space.pod("vague", {"requests": {"cpu": "1m"}})
    pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "100m", "memory": "100Mi"}
    with pytest.raises(ApiError) as caught:
        await space.of("pods").update(pod)
    assert caught.value.status == 422
    await space.until("test-quota", used)
    await space.delete("pods", "fits", grace_period=0)
    await space.until("test-quota", dict.fromkeys(used, "0"))


async def test_a_pod_that_has_ended_counts_no_more_but_as_an_object(space: Space) -> None:
    await space.quota(hard={"pods": "1", "count/pods": "2"})
    await space.until("test-quota", {"pods": "0", "count/pods": "0"})
    pod = await space.pod("once", {})
    await space.until("test-quota", {"pods": "1", "count/pods": "1"})
    pod["status"]["phase"] = "Succeeded"
    await space.of("pods").update_status(pod)
    await space.until("test-quota", {"pods": "0", "count/pods": "1"})
    await space.pod("again", {})
    with pytest.raises(ApiError, match="requested: count/pods=1,pods=1"):
        await space.pod("more", {})


@covers("verify ResourceQuota with terminating scopes.")
async def test_terminating_scopes(space: Space) -> None:
    for scope in ("Terminating", "NotTerminating"):
        await space.quota(scope.lower(), hard=SCOPED, scopes=[scope])
        await space.until(scope.lower(), NOTHING)
    for spec, counts, ignores in (
        ({}, "notterminating", "terminating"),
        ({"activeDeadlineSeconds": 3600}, "terminating", "notterminating"),
    ):
        await space.pod("pod", COMPUTE, **spec)
        await space.until(counts, USED_BY_COMPUTE)
        await space.until(ignores, NOTHING)
        await space.delete("pods", "pod", grace_period=0)
        await space.until(counts, NOTHING)


async def test_a_pod_that_gets_a_deadline_changes_its_scope(space: Space) -> None:
    for scope in ("Terminating", "NotTerminating"):
        await space.quota(scope.lower(), hard=SCOPED, scopes=[scope])
        await space.until(scope.lower(), NOTHING)
    await space.pod("pod", COMPUTE)
    await space.until("notterminating", USED_BY_COMPUTE)
    await space.of("pods").patch("pod", "q", {"spec": {"activeDeadlineSeconds": 60}})
    await space.until("terminating", USED_BY_COMPUTE)
    await space.until("notterminating", NOTHING)


@covers("verify ResourceQuota with best effort scope.")
async def test_best_effort_scopes(space: Space) -> None:
    await space.quota("besteffort", hard={"pods": "5"}, scopes=["BestEffort"])
    await space.quota("notbesteffort", hard=SCOPED, scopes=["NotBestEffort"])
    await space.until_used("besteffort", pods="0")
    await space.until("notbesteffort", NOTHING)
    await space.pod("free", {})
    await space.until_used("besteffort", pods="1")
    await space.until("notbesteffort", NOTHING)
    await space.delete("pods", "free", grace_period=0)
    await space.until_used("besteffort", pods="0")
    await space.pod("burstable", COMPUTE)
    await space.until("notbesteffort", USED_BY_COMPUTE)
    await space.until_used("besteffort", pods="0")
    await space.delete("pods", "burstable", grace_period=0)
    await space.until("notbesteffort", NOTHING)


async def test_claims_by_class_and_attributes(space: Space) -> None:
    gold = "gold.storageclass.storage.k8s.io/"
    await space.quota()
    await space.until("test-quota", {"requests.storage": "0", f"{gold}requests.storage": "0"})

    async def claim(name: str, size: str, **spec: Any) -> Object:
        resources = {"requests": {"storage": size}}
        spec |= {"accessModes": ["ReadWriteOnce"], "resources": resources}
        return await space.make("PersistentVolumeClaim", "persistentvolumeclaims", name, spec=spec)

    await claim("plain", "1Gi")
    await claim("golden", "3Gi", storageClassName="gold")
    used = {
        "persistentvolumeclaims": "2",
        "requests.storage": "4Gi",
        f"{gold}persistentvolumeclaims": "1",
        f"{gold}requests.storage": "3Gi",
    }
    await space.until("test-quota", used)
    with pytest.raises(ApiError, match=r"exceeded quota: test-quota, requested: requests\.storage"):
        await claim("huge", "7Gi")
    await space.delete("persistentvolumeclaims", "golden")
    claims = space.of("persistentvolumeclaims")
    await claims.patch("golden", "q", {"metadata": {"finalizers": None}})
    used = {"persistentvolumeclaims": "1", "requests.storage": "1Gi"}
    await space.until("test-quota", {**used, f"{gold}requests.storage": "0"})


async def test_custom_resources_are_counted_by_name(space: Space) -> None:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "names": {"plural": "widgets", "kind": "Widget"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }
    definitions = space.client.dynamic(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", False
    )
    await definitions.create(definition)

    async def is_served() -> bool:
        found = await definitions.get("widgets.example.com")
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        return bool(conditions["Established"] == "True")

    await eventually(is_served, "the definition")
    name = "count/widgets.example.com"
    await space.quota(hard={name: "1"})
    await space.until("test-quota", {name: "0"})
    await space.make("Widget", "widgets", "one", "example.com")
    await space.until("test-quota", {name: "1"})
    with pytest.raises(ApiError, match=f"requested: {name}=1, used: {name}=1, limited: {name}=1"):
        await space.make("Widget", "widgets", "two", "example.com")
    await space.delete("widgets", "one", "example.com")
    await space.until("test-quota", {name: "0"})


async def test_many_at_once_never_get_more_than_there_is(space: Space) -> None:
    await space.quota(hard={"count/configmaps": "7"})
    await space.until("test-quota", {"count/configmaps": "0"})
    results = await asyncio.gather(
        *(space.make("ConfigMap", "configmaps", f"c{n}") for n in range(30)),
        return_exceptions=True,
    )
    assert len([r for r in results if isinstance(r, dict)]) == 7
    assert all(r.status == 403 for r in results if isinstance(r, ApiError))
    await space.until("test-quota", {"count/configmaps": "7"})
    assert len((await space.of("configmaps").list("q")).items) == 7


async def test_what_was_admitted_but_not_stored_is_given_back(space: Space) -> None:
    await space.quota(hard={"count/configmaps": "5"})
    await space.until("test-quota", {"count/configmaps": "0"})
    await space.make("ConfigMap", "configmaps", "one")
    with pytest.raises(ApiError, match="already exists"):
        await space.make("ConfigMap", "configmaps", "one")
    await space.until("test-quota", {"count/configmaps": "1"})


@covers("be able to update and delete ResourceQuota.")
@covers("manage the lifecycle of a ResourceQuota")
async def test_the_life_of_a_quota(space: Space) -> None:
    quotas = space.of("resourcequotas")
    hard = {"cpu": "1", "memory": "500Mi"}
    made = await space.quota(hard=hard)
    assert made["spec"]["hard"] == hard
    larger = {"cpu": "2", "memory": "1Gi"}
    del made["metadata"]["resourceVersion"]
    updated = await quotas.update({**made, "spec": {"hard": larger}})
    assert updated["spec"]["hard"] == larger
    await space.until_used(cpu="0", memory="0")
    assert (await quotas.get("test-quota", "q"))["status"]["hard"] == larger
    patch = {"metadata": {"labels": {"a": "b"}}, "spec": {"hard": {"memory": "750Mi"}}}
    before = (await quotas.list()).items[0]["metadata"]["resourceVersion"]
    patched = await quotas.patch("test-quota", "q", patch, patch_type=PatchType.STRATEGIC)
    assert patched["spec"]["hard"] == {"cpu": "2", "memory": "750Mi"}
    assert int(patched["metadata"]["resourceVersion"]) > int(before)
    assert len((await quotas.list(label_selector="a=b")).items) == 1
    await quotas.delete_collection("q", label_selector="a=b")
    with pytest.raises(ApiError) as caught:
        await quotas.get("test-quota", "q")
    assert caught.value.is_not_found


@covers("apply changes to a resourcequota status")
async def test_a_status_that_others_write_is_put_right(space: Space) -> None:
    quotas = space.of("resourcequotas")
    hard = {"cpu": "500m", "memory": "500Mi"}
    made = await space.quota(hard=hard)

    async def replaced() -> bool:
        fresh = await quotas.get("test-quota", "q")
        updated = await quotas.update_status({**fresh, "status": {"hard": hard}})
        return bool(updated["status"] == {"hard": hard})

    await eventually(replaced, "the replacement of the status")
    larger = {"cpu": "1", "memory": "1Gi"}
    merge = PatchType.STRATEGIC
    await quotas.patch("test-quota", "q", {"spec": {"hard": larger}}, patch_type=merge)
    status = {"status": {"hard": larger}}
    patched = await quotas.patch("test-quota", "q", status, subresource="status", patch_type=merge)
    assert patched["status"]["hard"] == larger
    wrong = {"cpu": "2", "memory": "2Gi"}
    status = {"status": {"hard": wrong}}
    events = quotas.watch("q", resource_version=made["metadata"]["resourceVersion"])
    patched = await quotas.patch("test-quota", "q", status, subresource="status", patch_type=merge)
    assert patched["status"]["hard"] == wrong
    assert patched["spec"]["hard"] == larger
    seen: list[Any] = []
    async with aclosing(events) as stream, asyncio.timeout(60):
        async for event in stream:
            seen.append(event.object.get("status", {}).get("hard"))
            if wrong in seen and seen[-1] == larger:
                break
    assert wrong in seen
    assert (await quotas.get("test-quota", "q"))["spec"]["hard"] == larger


def _workload(kind: str, replicas: int) -> Object:
    labels = {"app": "web"}
    selector: Object = labels if kind == "ReplicationController" else {"matchLabels": labels}
    pods = {"containers": [{"name": "main", "image": "pause"}]}
    template = {"metadata": {"labels": labels}, "spec": pods}
    return {"spec": {"replicas": replicas, "selector": selector, "template": template}}


@pytest.mark.parametrize(
    ("kind", "plural", "group"),
    [
        pytest.param("ReplicaSet", "replicasets", "apps"),
        pytest.param(
            "ReplicationController",
            "replicationcontrollers",
            "",
            marks=pytest.mark.conformance(
                "ReplicationController should surface a failure condition on a common issue like "
                "exceeded quota"
            ),
        ),
    ],
)
async def test_pods_that_cannot_be_made_are_told_of(
    space: Space, kind: str, plural: str, group: str
) -> None:
    await space.quota(hard={"pods": "2"})
    await space.until_used(pods="0")
    owners = space.of(plural, group)
    async with running(space.client, plural.removesuffix("s")):
        await space.make(kind, plural, "web", group, **_workload(kind, 3))

        async def is_told() -> Any:
            return (await owners.get("web", "q"))["status"]["conditions"][0]

        condition = await eventually(is_told, "the condition")
        assert (condition["type"], condition["status"]) == ("ReplicaFailure", "True")
        assert condition["reason"] == "FailedCreate"
        assert "exceeded quota: test-quota" in condition["message"]
        await owners.patch("web", "q", {"spec": {"replicas": 2}})

        async def is_over() -> bool:
            found = await owners.get("web", "q")
            assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
            return not found["status"].get("conditions")

        await eventually(is_over, "the end of the condition")


async def test_a_replica_set_that_cannot_be_made_is_told_of(space: Space) -> None:
    await space.quota(hard={"count/replicasets.apps": "0"})
    await space.until_used(**{"count/replicasets.apps": "0"})
    deployments = space.of("deployments", "apps")
    async with running(space.client, "deployment"):
        await space.make("Deployment", "deployments", "web", "apps", **_workload("Deployment", 1))

        async def is_told() -> Any:
            return (await deployments.get("web", "q"))["status"]["conditions"][0]

        condition = await eventually(is_told, "the condition")
        told = (condition["type"], condition["status"], condition["reason"])
        assert told == ("Progressing", "False", "ReplicaSetCreateError")
        assert condition["message"].startswith('Failed to create new replica set "web-')
        await space.delete("resourcequotas", "test-quota")

        async def is_made() -> bool:
            return bool((await space.of("replicasets", "apps").list("q")).items)

        await eventually(is_made, "the set, tried again")
