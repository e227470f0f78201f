"""Two schedulers at once, killed over and over, while pods come and go: no pod is bound twice.

Nobody elects a leader here, so both want every pod; what keeps a pod from being bound twice is the
API server, and what keeps a node from being given too much is the node, which refuses it. Watched
are all pods at all revisions, and counted are the accepted bindings of the audit log.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from bench.reliability.daemons import (
    CONTROLLERS,
    NEEDED,
    NODES,
    SCHEDULER,
    Daemons,
    daemons,
    kill_again_and_again,
    until,
)
from bench.reliability.figure import Figure
from bench.reliability.workloads import NAMESPACE, Object, template
from navarch.api.types.core_v1 import Pod, ServiceAccount
from navarch.client import Client

BATCH = 25
SIM_NODES = 10


@dataclass
class Places:
    """Where each pod was seen, by uid."""

    nodes: dict[str, str] = field(default_factory=dict)
    events: int = 0
    moved: int = 0

    def tell(self, pod: Pod) -> None:
        self.events += 1
        before = self.nodes.get(pod.metadata.uid, "")
        self.moved += before not in ("", pod.spec.nodeName)
        self.nodes[pod.metadata.uid] = pod.spec.nodeName

    async def follow(self, client: Client) -> None:
        async for event in client.resource(Pod).watch(NAMESPACE, resource_version="1"):
            self.tell(event.object)
        raise RuntimeError("the watch of pods ended")


async def has_account(client: Client) -> bool:
    """Without it no pod can be made."""
    return bool((await client.resource(ServiceAccount).list(NAMESPACE)).items)


async def create(client: Client, chance: random.Random) -> None:
    """Pods, a batch at a time, until cancelled."""
    number = 0
    while True:
        for _ in range(BATCH):
            pod: Object = template("load")
            pod["metadata"] |= {"name": f"p-{number}", "namespace": NAMESPACE}
            number += 1
            await client.dynamic("", "v1", "pods").create(pod)
        await asyncio.sleep(chance.uniform(0.2, 1.5))


def bindings(found: Daemons) -> tuple[int, int, int]:
    """Accepted ones, those of a pod that had been bound, and refused ones."""
    accepted, refused = Counter[str](), 0
    for each in found.audited():
        reference = each.get("objectRef", {})
        if reference.get("subresource") == "binding":
            is_accepted = each["responseStatus"]["code"] < 300
            accepted[reference["name"]] += is_accepted
            refused += not is_accepted
    return accepted.total(), sum(each - 1 for each in accepted.values() if each), refused


async def killed_schedulers(kills: int, seed: int, repeat: str) -> Figure:
    chance, places = random.Random(seed), Places()
    with daemons(audit=True) as found:
        names = [f"node-{number}" for number in range(SIM_NODES)]
        found.start("nodes", NODES, {"names": names, "capacity": {"cpu": "64", "pods": "5000"}})
        found.start("controllers", CONTROLLERS, {"controllers": NEEDED})

        async def kill(name: str) -> None:
            def start() -> None:
                found.start(name, SCHEDULER, seed=chance.randrange(1 << 30))

            await kill_again_and_again(found, name, start, chance, (kills + 1) // 2)

        async with found.client() as client, asyncio.TaskGroup() as group:

            async def all_run() -> bool:
                pods = (await client.resource(Pod).list(NAMESPACE)).items
                return all(pod.status.phase in ("Running", "Failed") for pod in pods)

            assert await until(partial(has_account, client))
            following = group.create_task(places.follow(client))
            creating = group.create_task(create(client, chance))
            await asyncio.gather(kill("scheduler-a"), kill("scheduler-b"))
            creating.cancel()
            are_running = await until(all_run)
            pods = (await client.resource(Pod).list(NAMESPACE)).items
            following.cancel()
        accepted, doubled, refused = bindings(found)
    figure = Figure("24", "killed schedulers bind no pod twice", seed, repeat)
    figure.counts = {
        "pods": len(pods),
        "kills": found.kills,
        "bindings": accepted,
        "refused as bound already": refused,
        "events watched": places.events,
    }
    figure.faults = {
        "double binds": doubled,
        "pods that moved": places.moved,
        "pods refused by nodes": sum(pod.status.phase == "Failed" for pod in pods),
        "never bound": sum(not pod.spec.nodeName for pod in pods),
        "never ran": int(not are_running),
    }
    return figure
