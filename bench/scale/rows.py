"""The figures: idle cost, scheduling, a large Deployment, and what doubling costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.report import Row
from bench.scale import load
from bench.scale.bursts import WORK_SECONDS, deploy, large_deployment, rolled_out, say, schedule
from bench.scale.cluster import API, CONTROL, NODES, Cluster, listed, started, until
from bench.scale.probes import NAMESPACE as PROBES
from bench.scale.probes import Probes, quantile
from navarch.api.types.apps_v1 import Deployment
from navarch.client.client import Client

SETTLE_SECONDS = 5.0
IDLE_SECONDS = 25.0
"""Less than the nodes' grace period: for so long they are silent."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    sizes: tuple[int, ...] = (100, 200, 400)
    pods_per_node: int = 30
    base_nodes: int = 200
    base_pods: int = 2000
    burst_nodes: tuple[int, ...] = (200, 400)
    """The numbers of nodes that pods are scheduled to and a Deployment is made on."""
    scheduled: int = 1000
    replicas: int = 500
    rolled: int = 200


FULL = Scale(
    sizes=(625, 1250, 2500, 5000),
    base_nodes=1000,
    base_pods=10_000,
    burst_nodes=(1000, 5000),
    scheduled=10_000,
    replicas=5000,
    rolled=1000,
)


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
    """The rows of a cluster at rest, and of bursts on growing ones."""
    rows: list[Row] = []
    with started() as cluster:
        async with cluster.client() as client:
            if "idle" in chosen:
                await grown(cluster, client, scale.base_nodes)
                seconds = await load.populate(cluster, client, 0, scale.base_pods)
                say(f"{scale.base_pods:,} pods after {seconds:.1f} s")
                rows += await idle(cluster)
                rows += memory_rows(cluster)
            for size in scale.burst_nodes if chosen & {"schedule", "deployment"} else ():
                await grown(cluster, client, size)
                if "schedule" in chosen:
                    rows += await schedule(cluster, client, scale.scheduled)
                if "deployment" in chosen:
                    rows += await large_deployment(cluster, client, scale.replicas)
    return rows


async def grown(cluster: Cluster, client: Client, size: int) -> None:
    """As many nodes as that, if there are fewer."""
    if size > cluster.nodes:
        seconds = await load.add_nodes(cluster, client, size - cluster.nodes)
        say(f"{size:,} nodes (+{seconds:.1f} s)")


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
