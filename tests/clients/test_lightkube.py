"""lightkube: what its documentation shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from lightkube import ALL_NS, ApiError, AsyncClient, Client, KubeConfig, codecs, operators
from lightkube.generic_resource import (
    async_load_in_cluster_generic_resources,
    create_namespaced_resource,
    get_generic_resource,
    load_in_cluster_generic_resources,
)
from lightkube.models.autoscaling_v1 import ScaleSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap, Node, Pod
from lightkube.types import CascadeType, PatchType

from navarch.testing import Cluster

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.example/web}]}
"""


@pytest.fixture
def client(cluster: Cluster, namespace: str) -> Iterator[Client]:
    config = KubeConfig.from_file(str(cluster.kubeconfig))
    with Client(config, namespace=namespace, field_manager="lightkube") as client:
        yield client


@pytest.fixture
async def async_client(cluster: Cluster, namespace: str) -> AsyncIterator[AsyncClient]:
    config = KubeConfig.from_file(str(cluster.kubeconfig))
    client = AsyncClient(config, namespace=namespace, field_manager="lightkube")
    yield client
    await client.close()


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, labels=labels), data=data)


def test_create_replace_patch_delete(client: Client) -> None:
    made = client.create(config_map("a", one="1"))
    with pytest.raises(ApiError) as again:
        client.create(config_map("a"))
    assert again.value.status.reason == "AlreadyExists"
    made.data["two"] = "2"
    replaced = client.replace(made)
    with pytest.raises(ApiError) as stale:
        client.replace(made)
    assert stale.value.status.reason == "Conflict"
    assert replaced.data == {"one": "1", "two": "2"}
    patched = client.patch(ConfigMap, "a", {"data": {"one": None}}, patch_type=PatchType.MERGE)
    assert patched.data == {"two": "2"}
    operations = [{"op": "replace", "path": "/data/two", "value": "II"}]
    patched = client.patch(ConfigMap, "a", operations, patch_type=PatchType.JSON)
    assert patched.data == {"two": "II"}
    dry = client.create(config_map("b"), dry_run=True)
    assert dry.metadata.uid
    labelled = client.set(ConfigMap, "a", labels={"x": "y"}, annotations={"note": "1"})
    assert labelled.metadata.labels == {"x": "y"}
    labelled = client.set(ConfigMap, "a", labels={"x": None})
    assert labelled.metadata.labels is None
    client.delete(ConfigMap, "a")
    with pytest.raises(ApiError) as gone:
        client.get(ConfigMap, "a")
    assert gone.value.status.code == 404


def test_apply(client: Client) -> None:
    applied = client.apply(config_map("a", one="1"))
    assert applied.data == {"one": "1"}
    assert client.apply(config_map("a", two="2")).data == {"two": "2"}
    with pytest.raises(ApiError) as conflict:
        client.apply(config_map("a", two="II"), field_manager="other")
    assert conflict.value.status.code == 409
    assert "conflict with" in conflict.value.status.message
    assert client.apply(config_map("a", two="II"), field_manager="other", force=True)


def test_lists_and_selectors(client: Client, namespace: str) -> None:
    for n in range(7):
        client.create(config_map(f"cm-{n}", labels={"n": str(n), "odd": str(n % 2)}))
    found = client.list(ConfigMap, chunk_size=2, labels={"odd": "1"})
    assert [each.metadata.name for each in found] == ["cm-1", "cm-3", "cm-5"]
    some = client.list(ConfigMap, labels={"n": operators.in_(["1", "2"])})
    assert len(list(some)) == 2
    others = client.list(ConfigMap, labels={"n": operators.not_in(["1"]), "odd": "1"})
    assert len(list(others)) == 2
    named = client.list(ConfigMap, fields={"metadata.name": "cm-3"}, namespace=ALL_NS)
    assert [each.metadata.namespace for each in named] == [namespace]
    client.deletecollection(ConfigMap)
    assert not list(client.list(ConfigMap, labels={"odd": "1"}))
    assert {node.metadata.name for node in client.list(Node)} >= {"node-0", "node-1"}


def test_a_deployment_from_yaml(cluster: Cluster, client: Client, namespace: str) -> None:
    (web,) = codecs.load_all_yaml(DEPLOYMENT)
    client.create(web)
    client.wait(Deployment, "web", for_conditions=["Available"])
    scale = Deployment.Scale(metadata=ObjectMeta(name="web"), spec=ScaleSpec(replicas=2))
    assert client.replace(scale, "web").spec.replicas == 2
    for event, obj in client.watch(Deployment, fields={"metadata.name": "web"}):
        if event != "DELETED" and obj.status and obj.status.readyReplicas == 2:
            break
    pods = list(client.list(Pod, labels={"app": "web"}))
    assert len(pods) == 2
    client.delete(Deployment, "web", cascade=CascadeType.FOREGROUND)
    cluster.wait_gone("deployment/web", namespace=namespace)
    assert not list(client.list(Pod))


def test_generic_resources(client: Client) -> None:
    widget_class = create_namespaced_resource("example.com", "v1", "Widget", "widgets")
    made = client.create(widget_class(metadata={"name": "w"}, spec={"size": 1}))
    assert made.spec["size"] == 1
    patched = client.patch(
        widget_class.Status, "w", {"status": {"size": 1}}, patch_type=PatchType.MERGE
    )
    assert patched.status == {"size": 1}
    load_in_cluster_generic_resources(client)
    loaded = get_generic_resource("example.com/v1", "Widget")
    assert loaded is not None
    assert [each.metadata.name for each in client.list(loaded)] == ["w"]
    client.delete(loaded, "w")


async def test_the_asynchronous_client(async_client: AsyncClient, cluster: Cluster) -> None:
    """Its watches go on by themselves when the server ends them."""
    await async_client.create(config_map("a"))
    page = async_client.list(ConfigMap, fields={"metadata.name": "a"})
    assert [each.metadata.name async for each in page] == ["a"]
    names = {"a": "b", "b": "c"}
    seen: list[str] = []
    creations = []

    async def create_later(name: str) -> None:
        await asyncio.sleep(1.5)
        await async_client.create(config_map(name))

    async with asyncio.timeout(60):
        async for event, obj in async_client.watch(ConfigMap, server_timeout=1):
            name = obj.metadata.name
            if event != "ADDED" or name not in (*names, "c"):
                continue
            seen.append(name)
            if name == "c":
                break
            # After the end of the present watch.
            creations.append(asyncio.create_task(create_later(names[name])))
    # The first events of a watch come by name, not by age, and lightkube goes on from the last.
    assert list(dict.fromkeys(seen)) == ["a", "b", "c"]
    await async_load_in_cluster_generic_resources(async_client)
    assert get_generic_resource("example.com/v1", "Widget") is not None
