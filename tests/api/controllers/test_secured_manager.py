"""All controllers together as the user they are in a cluster, with RBAC and admission on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    ReplicaSet,
    ReplicaSetCondition,
    ReplicaSetSpec,
)
from navarch.api.types.batch_v1 import Job, JobSpec
from navarch.api.types.core_v1 import Namespace, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client

from .conftest import (
    Kubelet,
    add_node,
    client_as,
    eventually,
    make_namespace,
    running,
    selector,
    template,
)

pytestmark = pytest.mark.secured

LABELS = {"app": "web"}


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with client_as(api_server, "root", "system:masters") as client:
        yield client


@pytest.fixture
async def manager(api_server: Server) -> AsyncIterator[Client]:
    async with client_as(api_server, "system:kube-controller-manager") as client:
        yield client


def meta(name: str, namespace: str = "a") -> ObjectMeta:
    return ObjectMeta(name=name, namespace=namespace)


async def test_the_life_of_a_namespace(
    client: Client, manager: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await add_node(client)
    async with running(manager, "*"), Kubelet(client) as kubelet:
        await make_namespace(client, "a")
        deployment = DeploymentSpec(
            replicas=2, selector=selector(LABELS), template=template(LABELS)
        )
        await client.resource(Deployment).create(Deployment(metadata=meta("web"), spec=deployment))
        job = JobSpec(template=template({}, policy="Never"), completions=1)
        await client.resource(Job).create(Job(metadata=meta("once"), spec=job))

        async def is_ready() -> bool:
            found = await client.resource(Deployment).get("web", "a")
            return found.status.availableReplicas == 2

        async def is_done() -> bool:
            found = (await client.resource(Pod).list("a", label_selector="job-name=once")).items
            for pod in found:
                await kubelet.finish(pod)
            return bool((await client.resource(Job).get("once", "a")).status.completionTime)

        await eventually(is_ready, "the Deployment")
        await eventually(is_done, "the Job")
        await client.resource(Namespace).delete("a")

        async def is_gone() -> bool:
            try:
                await client.resource(Namespace).get("a")
            except ApiError as error:
                return error.is_not_found
            return False

        await eventually(is_gone, "the namespace's end")
    refused = [r.getMessage() for r in caplog.records if "is forbidden: User" in r.getMessage()]
    assert not refused


async def test_a_full_quota_is_a_condition_until_it_is_cured(
    client: Client, manager: Client
) -> None:
    async with running(manager, "replicaset", "serviceaccount"), Kubelet(client):
        await make_namespace(client, "a")
        quotas = client.dynamic("", "v1", "resourcequotas")
        quota: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "two", "namespace": "a"},
            "spec": {"hard": {"pods": "2"}},
        }
        quota = await quotas.create(quota)
        quota["status"] = {"hard": {"pods": "2"}, "used": {"pods": "0"}}
        await quotas.update_status(quota)
        spec = ReplicaSetSpec(replicas=3, selector=selector(LABELS), template=template(LABELS))
        await client.resource(ReplicaSet).create(ReplicaSet(metadata=meta("web"), spec=spec))

        async def get() -> ReplicaSet:
            return await client.resource(ReplicaSet).get("web", "a")

        async def told() -> ReplicaSetCondition:
            return (await get()).status.conditions[0]

        condition = await eventually(told, "the condition")
        assert (condition.type, condition.status) == ("ReplicaFailure", "True")
        assert condition.reason == "FailedCreate"
        assert "exceeded quota: two" in condition.message
        body = {"spec": {"replicas": 2}}
        await client.resource(ReplicaSet).patch("web", "a", body)

        async def cured() -> bool:
            status = (await get()).status
            return status.readyReplicas == 2 and not status.conditions

        await eventually(cured, "the condition's end")
