"""Namespaces that are deleted: what goes when, and what is told meanwhile."""

from __future__ import annotations

import time

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import (
    ConfigMap,
    Namespace,
    NamespaceCondition,
    Pod,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client import Client

from .conftest import Kubelet, add_node, eventually, pod, running


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"Namespaces [Serial] should {what}")


async def make_namespace(client: Client, name: str) -> Namespace:
    return await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name=name)))


async def is_gone(client: Client, name: str) -> bool:
    try:
        await client.resource(Namespace).get(name)
    except ApiError as error:
        return error.is_not_found
    return False


async def test_an_empty_namespace_goes_at_once(client: Client) -> None:
    async with running(client, "namespace"):
        await make_namespace(client, "a")
        started = time.monotonic()
        await client.resource(Namespace).delete("a")
        await eventually(lambda: is_gone(client, "a"), "the namespace's end")
        assert time.monotonic() - started < 10.0


@pytest.mark.conformance("OrderedNamespaceDeletion namespace deletion should delete pod first")
async def test_pods_go_before_anything_else(client: Client) -> None:
    await make_namespace(client, "b")
    await add_node(client)
    held = pod("held")
    held.metadata.namespace = "b"
    held.metadata.finalizers = ["example.com/hold"]
    await client.resource(Pod).create(held)
    settings = ConfigMap(metadata=ObjectMeta(name="settings", namespace="b"))
    await client.resource(ConfigMap).create(settings)
    # Were it gone before the pod, the pod would be open to everybody meanwhile (CVE-2024-7598).
    policy = NetworkPolicy(metadata=ObjectMeta(name="deny", namespace="b"))
    await client.resource(NetworkPolicy).create(policy)

    async def told() -> Namespace | None:
        namespace = await client.resource(Namespace).get("b")
        by_type = {c.type: c for c in namespace.status.conditions}
        assert by_type["NamespaceContentRemaining"].status == "True"
        return namespace

    async with running(client, "namespace"), Kubelet(client):
        await client.resource(Namespace).delete("b")
        namespace = await eventually(told, "the condition on what remains")
        assert namespace.status.phase == "Terminating"
        conditions = {c.type: (c.status, c.reason, c.message) for c in namespace.status.conditions}
        assert conditions == {
            "NamespaceDeletionDiscoveryFailure": (
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            "NamespaceDeletionGroupVersionParsingFailure": (
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            "NamespaceDeletionContentFailure": (
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            "NamespaceContentRemaining": (
                "True",
                "SomeResourcesRemain",
                "Some resources are remaining: pods. has 1 resource instances",
            ),
            "NamespaceFinalizersRemaining": (
                "True",
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: "
                "example.com/hold in 1 resource instances",
            ),
        }
        assert (await client.resource(Pod).get("held", "b")).metadata.deletionTimestamp
        for kind, name in ((ConfigMap, "settings"), (NetworkPolicy, "deny")):
            found = await client.resource(kind).get(name, "b")
            assert not found.metadata.deletionTimestamp
        await client.resource(Pod).patch("held", "b", {"metadata": {"finalizers": None}})
        await eventually(lambda: is_gone(client, "b"), "the namespace's end")


async def test_content_that_others_hold_keeps_the_namespace(client: Client) -> None:
    await make_namespace(client, "c")
    held = ConfigMap(metadata=ObjectMeta(name="held", namespace="c", finalizers=["example.com/x"]))
    await client.resource(ConfigMap).create(held)
    async with running(client, "namespace"):
        await client.resource(Namespace).delete("c")

        async def told() -> bool:
            namespace = await client.resource(Namespace).get("c")
            messages = [c.message for c in namespace.status.conditions]
            return "Some resources are remaining: configmaps. has 1 resource instances" in messages

        await eventually(told, "the condition on what remains")
        await client.resource(ConfigMap).patch("held", "c", {"metadata": {"finalizers": None}})
        await eventually(lambda: is_gone(client, "c"), "the namespace's end")


@covers("apply a finalizer to a Namespace")
async def test_a_foreign_finalizer_keeps_the_empty_namespace(client: Client) -> None:
    namespace = await make_namespace(client, "d")
    namespace.spec.finalizers.append("example.com/hold")
    await client.resource(Namespace).update(namespace, subresource="finalize")
    async with running(client, "namespace"):
        await client.resource(Namespace).delete("d")

        async def ours_is_off() -> bool:
            found = await client.resource(Namespace).get("d")
            return found.spec.finalizers == ["example.com/hold"]

        await eventually(ours_is_off, "the namespace controller's part")
        namespace = await client.resource(Namespace).get("d")
        namespace.spec.finalizers = []
        await client.resource(Namespace).update(namespace, subresource="finalize")
        await eventually(lambda: is_gone(client, "d"), "the namespace's end")


@covers("ensure that all pods are removed when a namespace is deleted")
@covers("ensure that all services are removed when a namespace is deleted")
async def test_a_namespace_made_anew_is_empty(client: Client) -> None:
    await add_node(client)
    async with running(client, "namespace"), Kubelet(client):
        await make_namespace(client, "e")
        made = pod("p")
        made.metadata.namespace = "e"
        await client.resource(Pod).create(made)
        spec = ServiceSpec(ports=[ServicePort(port=80, targetPort=80)])
        service = Service(metadata=ObjectMeta(name="s", namespace="e"), spec=spec)
        await client.resource(Service).create(service)

        async def runs() -> bool:
            return (await client.resource(Pod).get("p", "e")).status.phase == "Running"

        await eventually(runs, "the pod")
        await client.resource(Namespace).delete("e")
        await eventually(lambda: is_gone(client, "e"), "the namespace's end")
        await make_namespace(client, "e")
        for kind in (Pod, Service):
            assert not (await client.resource(kind).list("e")).items


@covers("patch a Namespace")
@covers("apply an update to a Namespace")
async def test_a_namespace_is_changed(client: Client) -> None:
    await make_namespace(client, "f")
    namespaces = client.resource(Namespace)
    patch = {"metadata": {"labels": {"testLabel": "testValue"}}}
    patched = await namespaces.patch("f", "", patch)
    assert patched.metadata.labels["testLabel"] == "testValue"
    patched.metadata.labels["updated"] = "yes"
    updated = await namespaces.update(patched)
    assert updated.metadata.labels == {
        "kubernetes.io/metadata.name": "f",
        "testLabel": "testValue",
        "updated": "yes",
    }
    assert (await namespaces.get("f")).metadata.labels == updated.metadata.labels


@covers("apply changes to a namespace status")
async def test_the_status_of_a_namespace_is_written(client: Client) -> None:
    async with running(client, "namespace"):
        await make_namespace(client, "g")
        namespaces = client.resource(Namespace)
        condition = {
            "type": "StatusPatch",
            "status": "True",
            "reason": "E2E",
            "message": "Set from an e2e test",
        }
        body = {
            "metadata": {"annotations": {"patchedstatus": "true"}},
            "status": {"conditions": [condition]},
        }
        patched = await namespaces.patch("g", "", body, subresource="status")
        assert patched.metadata.annotations == {"patchedstatus": "true"}
        assert [c.type for c in patched.status.conditions] == ["StatusPatch"]
        patched.status.conditions.append(
            NamespaceCondition(type="StatusUpdate", status="True", reason="E2E")
        )
        updated = await namespaces.update_status(patched)
        found = await namespaces.get("g")
        assert found.status == updated.status
        assert [c.type for c in found.status.conditions] == ["StatusPatch", "StatusUpdate"]
        assert found.status.phase == "Active"
