"""The figures: idle cost, scheduling, a large Deployment, and what doubling costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.report import Row
from bench.scale import load
from bench.scale.cluster import API, CONTROL, NODES, Cluster, listed, started, until
from bench.scale.probes import NAMESPACE as PROBES
from bench.scale.probes import Probes, quantile
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

SETTLE_SECONDS = 5.0
IDLE_SECONDS = 25.0
"""Less than the nodes' grace period: for so long they are silent."""
WORK_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    sizes: tuple[int, ...] = (100, 200, 400)
    pods_per_node: int = 30
    base_nodes: int = 200
    base_pods: int = 2000
    scheduled: int = 1000
    replicas: int = 500
    rolled: int = 200


FULL = Scale((625, 1250, 2500, 5000), 30, 1000, 10_000, 10_000, 5000, 1000)


@dataclass(slots=True)
class Step:
    """One size of the series."""

    nodes: int
    pods: int
    populate_seconds: float = 0.0
    memory: Mapping[str, float] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)
    """Cores in use with nothing but heartbeats."""
    roll_seconds: float = 0.0
    busy: Mapping[str, float] = field(default_factory=dict)
    """Cores in use during the roll."""
    latencies: Mapping[str, list[float]] = field(default_factory=dict)

    def milliseconds(self, verb: str, share: float) -> float:
        return 1000 * quantile(self.latencies.get(verb, []), share)


def say(text: str) -> None:
    print(f"  {text}", flush=True)


async def schedule(cluster: Cluster, client: Client, count: int) -> list[Row]:
    """Pods created as fast as the server takes them, until the last is bound, and until all run."""
    namespace = f"schedule-{cluster.nodes}"
    await load.ensure_namespace(cluster, client, namespace)
    path = f"/api/v1/namespaces/{namespace}/pods"
    began = time.perf_counter()
    created = await load.create_pods(cluster, namespace, count, {})
    await until(
        cluster, lambda: load.none_left(client, path, "spec.nodeName="), WORK_SECONDS, pause=0.25
    )
    bound = time.perf_counter() - began
    await until(
        cluster, lambda: load.none_left(client, path, "status.phase!=Running"), WORK_SECONDS
    )
    running = time.perf_counter() - began
    what = f"{count:,} pods on {cluster.nodes:,} nodes"
    say(f"{what}: created {created.seconds:.1f} s, bound {bound:.1f} s, running {running:.1f} s")
    return [
        Row(f"{what}: created and bound", bound, "s"),
        Row("  pods created and bound through the API", count / bound, "/s", 1000, 180),
        Row("  until all run", running, "s"),
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
    seconds = await deploy(cluster, client, "large", replicas)
    what = f"Deployment of {replicas:,} on {cluster.nodes:,} nodes, create to all Running"
    say(f"{what}: {seconds:.1f} s")
    return [Row(what, seconds, "s", 15 * replicas / 5000)]


async def roll(cluster: Cluster, client: Client, step: Step, replicas: int) -> None:
    """Change the template of a Deployment and ask for everything meanwhile."""
    name = f"rolled-{step.nodes}"
    await deploy(cluster, client, name, replicas)
    probes = Probes(client, "load-0-0")
    patch: dict[str, Any] = {
        "spec": {"template": {"metadata": {"annotations": {"bench.example/roll": "1"}}}}
    }
    before = cluster.usage()
    began = time.perf_counter()
    async with probes.running():
        changed = await client.resource(Deployment).patch(name, name, patch)
        await rolled_out(client, name, changed.metadata.resourceVersion)
    step.roll_seconds = time.perf_counter() - began
    step.busy = cluster.usage().since(before)
    step.latencies = probes.seconds
    await client.resource(Deployment).delete(name, name)


async def idle(cluster: Cluster) -> list[Row]:
    """At rest with heartbeats, then with the nodes stopped, whose silence is not yet noticed. The
    difference is what storing the heartbeats costs the API server."""
    await asyncio.sleep(2 * SETTLE_SECONDS)
    before = cluster.usage()
    await asyncio.sleep(IDLE_SECONDS)
    beating = cluster.usage().since(before)
    cluster.pause(NODES)
    try:
        await asyncio.sleep(1.0)
        before = cluster.usage()
        await asyncio.sleep(IDLE_SECONDS)
        silent = cluster.usage().since(before)
    finally:
        cluster.resume(NODES)
    beyond = silent[API] + beating[CONTROL]
    storing = beating[API] - silent[API]
    say(f"idle: {100 * beyond:.2f} % of a core, and {100 * storing:.2f} % for heartbeats")
    return [
        Row("idle: control plane beyond storing heartbeats", 100 * beyond, "%", 5.0),
        Row("  API server without heartbeats", 100 * silent[API], "%"),
        Row("  controllers and scheduler with heartbeats", 100 * beating[CONTROL], "%"),
        Row("  controllers and scheduler without", 100 * silent[CONTROL], "%"),
        Row("  API server for storing the heartbeats", 100 * storing, "%"),
    ]


def memory_rows(cluster: Cluster, budget: float | None = None) -> list[Row]:
    return [
        Row(f"  memory, {name}", size, "MB", None if name == NODES else budget)
        for name, size in cluster.memory().items()
    ]


async def base(scale: Scale, chosen: frozenset[str]) -> list[Row]:
    """The rows of the middling cluster: idle, scheduling, a large Deployment."""
    rows: list[Row] = []
    with started() as cluster:
        async with cluster.client() as client:
            seconds = await load.add_nodes(cluster, client, scale.base_nodes)
            say(f"{scale.base_nodes:,} nodes after {seconds:.1f} s")
            if "idle" in chosen:
                seconds = await load.populate(cluster, client, 0, scale.base_pods)
                say(f"{scale.base_pods:,} pods after {seconds:.1f} s")
                rows += await idle(cluster)
                rows += memory_rows(cluster)
            if "schedule" in chosen:
                rows += await schedule(cluster, client, scale.scheduled)
            if "deployment" in chosen:
                rows += await large_deployment(cluster, client, scale.replicas)
    return rows


async def series(scale: Scale, steps: list[Step]) -> list[Row]:
    """One cluster that grows from size to size; at its largest, pods are scheduled as well."""
    with started() as cluster:
        async with cluster.client() as client:
            for size in scale.sizes:
                steps.append(await grow(cluster, client, size, scale))
            rows = memory_rows(cluster, max(300.0, 2500.0 * scale.sizes[-1] / 5000))
            rows += latency_rows(steps[-1])
            rows += await schedule(cluster, client, scale.scheduled)
    return rows


async def grow(cluster: Cluster, client: Client, size: int, scale: Scale) -> Step:
    first = cluster.nodes
    added = await load.add_nodes(cluster, client, size - first)
    if not first:
        await load.ensure_namespace(cluster, client, PROBES)
    pods = (size - first) * scale.pods_per_node
    step = Step(size, size * scale.pods_per_node)
    step.populate_seconds = await load.populate(cluster, client, first, pods)
    say(f"{size:,} nodes (+{added:.0f} s), {step.pods:,} pods (+{step.populate_seconds:.0f} s)")
    await asyncio.sleep(SETTLE_SECONDS)
    before = cluster.usage()
    await asyncio.sleep(2 * SETTLE_SECONDS)
    step.idle = cluster.usage().since(before)
    step.memory = cluster.memory()
    say("  memory " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in step.memory.items()))
    await roll(cluster, client, step, scale.rolled)
    worst = max(step.latencies, key=lambda verb: step.milliseconds(verb, 0.99))
    say(
        f"  roll of {scale.rolled:,} in {step.roll_seconds:.1f} s; "
        f"slowest p99: {worst}, {step.milliseconds(worst, 0.99):.0f} ms"
    )
    await gone(cluster, client, f"rolled-{size}")
    return step


async def gone(cluster: Cluster, client: Client, namespace: str) -> None:
    async def is_empty() -> bool:
        return not (await listed(client, f"/api/v1/namespaces/{namespace}/pods", limit="1")).items

    await until(cluster, is_empty, WORK_SECONDS)


def latency_rows(step: Step) -> list[Row]:
    rows = [Row(f"roll at {step.nodes:,} nodes, {step.pods:,} pods", step.roll_seconds, "s")]
    for verb in sorted(step.latencies):
        rows.append(Row(f"  {verb} p50", step.milliseconds(verb, 0.5), "ms"))
        rows.append(Row(f"  {verb} p99", step.milliseconds(verb, 0.99), "ms", 1000))
    return rows
