"""Filling a cluster: nodes, namespaces, and pods by the thousand."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from bench import load
from bench.scale.cluster import Cluster, listed, until
from navarch.api.types.core_v1 import ConfigMap, Namespace
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.cluster import simulation
from navarch.cluster.manifests import manifests

PER_NAMESPACE = 1000
CONNECTIONS = 32
"""As many as in the other benches of the API."""
PODS = "/api/v1/pods"


def pod_body(
    name: str, extra: Mapping[str, object], owner: Mapping[str, object] | None = None
) -> bytes:
    """A pod as a Deployment would make it."""
    metadata: dict[str, object] = {
        "name": name,
        "labels": {"app": "bench", "tier": "backend", "pod-template-hash": "5d4f8c7b9"},
    }
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"containers": [CONTAINER], **extra},
        }
    )


CONTAINER = {
    "name": "main",
    "image": "registry.example/app:1.0",
    "env": [{"name": f"VARIABLE_{number}", "value": f"value-{number}"} for number in range(4)],
    "ports": [{"name": "http", "containerPort": 8080}],
    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
}


async def add_nodes(cluster: Cluster, client: Client, count: int) -> float:
    """Until all are there and pods may go to them; the seconds it took."""
    began = time.perf_counter()
    if not cluster.nodes:
        for collection, value in manifests("simulated", user=simulation.USER):
            await client.request("POST", collection, body=msgspec.json.encode(value))
    cluster.add_nodes(count)

    async def are_usable() -> bool:
        page = await listed(client, "/api/v1/nodes", limit="1")
        if page.count < cluster.nodes:
            return False
        nodes = await client.request("GET", "/api/v1/nodes")
        return nodes.count(b'"podCIDR"') >= cluster.nodes and b'"taints"' not in nodes

    await until(cluster, are_usable, 60 + 0.1 * count, pause=1.0)
    return time.perf_counter() - began


async def ensure_namespace(cluster: Cluster, client: Client, name: str) -> None:
    """With the account that its pods run as."""
    await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name=name)))

    async def has_account() -> bool:
        path = f"/api/v1/namespaces/{name}/serviceaccounts"
        return bool((await listed(client, path)).items)

    await until(cluster, has_account, 60.0, pause=0.02)


async def create_pods(
    target: load.Target, namespace: str, count: int, extra: Mapping[str, object]
) -> load.Result:
    """Pods for the scheduler, as fast as the server takes them."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    result = await load.run(
        target,
        CONNECTIONS,
        lambda index: target.request("POST", path, pod_body(f"pod-{index}", extra)),
        count=count,
        seconds=600.0,
    )
    _check(result)
    return result


async def populate(cluster: Cluster, client: Client, first: int, count: int) -> float:
    """Pods that are bound to nodes already, in namespaces of a thousand, until all run; the seconds
    it took. The pods of a namespace have an owner that no controller acts upon."""
    began = time.perf_counter()
    fresh = cluster.nodes - first
    namespaces = -(-count // PER_NAMESPACE)
    owners = []
    for number in range(namespaces):
        name = f"load-{first}-{number}"
        await ensure_namespace(cluster, client, name)
        owner = ConfigMap(metadata=ObjectMeta(name="workload", namespace=name))
        made = await client.resource(ConfigMap).create(owner)
        owners.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": "workload",
                "uid": made.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        )

    def request(index: int) -> bytes:
        # In turn over the nodes, so that none has to start all its pods at once.
        node = {"nodeName": f"node-{first + index % fresh}"}
        number = index // PER_NAMESPACE
        body = pod_body(f"pod-{index}", node, owners[number])
        path = f"/api/v1/namespaces/load-{first}-{number}/pods"
        return cluster.target.request("POST", path, body)

    _check(await load.run(cluster.target, CONNECTIONS, request, count=count, seconds=900.0))
    await until(cluster, lambda: none_left(client, PODS, "status.phase!=Running"), 600.0)
    return time.perf_counter() - began


async def none_left(client: Client, path: str, selector: str) -> bool:
    return not (await listed(client, path, fieldSelector=selector, limit="1")).items


def _check(result: load.Result) -> None:
    refused = {status: n for status, n in result.statuses.items() if status >= 300}
    if refused:
        raise RuntimeError(f"requests were refused: {refused}")
