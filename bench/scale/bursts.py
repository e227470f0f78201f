"""Bursts: thousands of pods to schedule, a large Deployment. How long they take, and what one pod
costs each process: the second figure says more on a machine that has other things to do as well.
"""

from __future__ import annotations

import asyncio
import time

from bench.load import Target
from bench.report import Row
from bench.scale import load
from bench.scale.cluster import Cluster, Usage, until
from navarch.api.types.apps_v1 import Deployment, DeploymentSpec
from navarch.api.types.core_v1 import (
    Container,
    PodSpec,
    PodTemplateSpec,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta
from navarch.client.client import Client

WORK_SECONDS = 300.0
UPSTREAM = 278
"""Pods a second of kube-apiserver, etcd and kube-scheduler, by `bench.scale.other`."""
NOT_RUNNING = "status.phase!=Running"
POLL_SECONDS = 0.25
"""Asking more often would cost the server more than the answer is worth."""


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def each(before: Usage, after: Usage, pods: int) -> list[Row]:
    """Microseconds of CPU that a pod has cost each process, between two moments."""
    return [
        Row(f"  CPU per pod, {name}", 1e6 * (after.cpu[name] - before.cpu[name]) / pods, "µs")
        for name in after.cpu
        if name in before.cpu
    ]


async def none_left(cluster: Cluster | None, client: Client, namespace: str, selector: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    await until(cluster, lambda: load.none_left(client, path, selector), WORK_SECONDS, POLL_SECONDS)


async def bound(
    cluster: Cluster | None, target: Target, client: Client, namespace: str, count: int
) -> float:
    """Pods created as fast as the server takes them, until the last has a node; the seconds."""
    began = time.perf_counter()
    await load.create_pods(target, namespace, count, {})
    await none_left(cluster, client, namespace, "spec.nodeName=")
    return time.perf_counter() - began


async def schedule(cluster: Cluster, client: Client, count: int) -> list[Row]:
    """Pods created and bound: first to nodes that nobody plays meanwhile, as upstream's
    scheduler_perf measures it, which is API server and scheduler alone; then to nodes that start
    each pod and write its status at the same time, until all run."""
    what = f"{count:,} pods on {cluster.nodes:,} nodes"
    target = cluster.target
    alone, together = (f"{name}-{cluster.nodes}" for name in ("bound", "started"))
    for namespace in (alone, together):
        await load.ensure_namespace(cluster, client, namespace)
    cluster.stop_nodes()
    before = cluster.usage()
    seconds = await bound(cluster, target, client, alone, count)
    rows = [
        Row(f"{what} that nobody plays: created and bound", seconds, "s"),
        Row("  pods created and bound through the API", count / seconds, "/s", 1000, UPSTREAM),
        *each(before, cluster.usage(), count),
    ]
    say(f"{what} that nobody plays: bound {seconds:.1f} s")
    cluster.start_nodes()
    await none_left(cluster, client, alone, NOT_RUNNING)
    before = cluster.usage()
    began = time.perf_counter()
    seconds = await bound(cluster, target, client, together, count)
    await none_left(cluster, client, together, NOT_RUNNING)
    running = time.perf_counter() - began
    say(f"{what} at work: bound {seconds:.1f} s, running {running:.1f} s")
    return [
        *rows,
        Row(f"{what} at work: created and bound", seconds, "s"),
        Row("  until all run", running, "s"),
        Row("  pods created, bound and started", count / running, "/s"),
        *each(before, cluster.usage(), count),
    ]


def deployment(name: str, replicas: int) -> Deployment:
    labels = {"app": name}
    template = PodTemplateSpec(
        metadata=ObjectMeta(labels=labels),
        spec=PodSpec(containers=[Container(name="main", image="registry.example/app:1.0")]),
    )
    container = template.spec.containers[0]
    container.resources.requests = {"cpu": "50m", "memory": "64Mi"}
    return Deployment(
        metadata=ObjectMeta(name=name, namespace=name),
        spec=DeploymentSpec(
            replicas=replicas, selector=LabelSelector(matchLabels=labels), template=template
        ),
    )


def is_rolled_out(found: Deployment) -> bool:
    status, wanted = found.status, found.spec.replicas
    return (
        status.observedGeneration >= found.metadata.generation
        and status.updatedReplicas == status.readyReplicas == status.replicas == wanted
    )


async def rolled_out(client: Client, name: str, version: str) -> None:
    async with asyncio.timeout(WORK_SECONDS):
        async for event in client.resource(Deployment).watch(name, resource_version=version):
            if is_rolled_out(event.object):
                return
    raise RuntimeError("the watch ended")


async def deploy(cluster: Cluster, client: Client, name: str, replicas: int) -> float:
    """From create until all replicas are ready; with a Service in front."""
    await load.ensure_namespace(cluster, client, name)
    port = ServicePort(port=80)
    service = Service(
        metadata=ObjectMeta(name=name, namespace=name),
        spec=ServiceSpec(selector={"app": name}, ports=[port]),
    )
    await client.resource(Service).create(service)
    began = time.perf_counter()
    made = await client.resource(Deployment).create(deployment(name, replicas))
    await rolled_out(client, name, made.metadata.resourceVersion)
    return time.perf_counter() - began


async def large_deployment(cluster: Cluster, client: Client, replicas: int) -> list[Row]:
    before = cluster.usage()
    seconds = await deploy(cluster, client, f"large-{cluster.nodes}", replicas)
    what = f"Deployment of {replicas:,} on {cluster.nodes:,} nodes, create to all Running"
    say(f"{what}: {seconds:.1f} s")
    return [
        Row(what, seconds, "s", 15 * replicas / 5000),
        *each(before, cluster.usage(), replicas),
    ]
