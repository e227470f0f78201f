"""A node that falls silent and comes back: when what happens, and that nothing runs twice.

The agent (or the process that simulates a node) is stopped by SIGSTOP, so that its containers run
on while nobody hears of them. Its node becomes NotReady, pods leave by their tolerations, a
Deployment's are replaced elsewhere; a StatefulSet's pod is not before the node has confirmed its
end, since it may be alive. After SIGCONT the node ends what was deleted and all is as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.reliability.daemons import CONTROLLERS, NEEDED, NODES, SCHEDULER, daemons, until
from bench.reliability.figure import Figure
from bench.reliability.workloads import NAMESPACE, Object, has_ended, is_active, is_ready
from navarch.client import Client

REPLICAS = 3
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


@dataclass(frozen=True, slots=True)
class Loss:
    """How a node is lost, and how long everybody waits: `tolerance` is the pods'."""

    client: Client
    victim: str
    pause: Callable[[], None]
    resume: Callable[[], None]
    tolerance: int
    spec: Callable[[str], Object]
    """Of the pods of a workload."""
    running: Callable[[], int] = lambda: 0
    """How many processes of the StatefulSet's one pod there are."""


@dataclass
class Found:
    """When each step was taken, in seconds, and what should not have been."""

    times: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)


def workload(name: str, loss: Loss, **more: Any) -> Object:
    spec = loss.spec(name)
    if loss.tolerance != 300 and name != "log":
        spec["tolerations"] = [
            {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": loss.tolerance,
            }
            for key in LOST
        ]
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **more},
    }


class Observer:
    """Looks at nodes and pods, again and again."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.pods: list[Object] = []
        self.twins = 0
        self._before: Object = {}

    async def look(self) -> None:
        pods = self.loss.client.dynamic("", "v1", "pods")
        self.pods = (await pods.list(NAMESPACE)).items
        self.twins = max(self.twins, self.loss.running() - 1)
        now = {p["metadata"]["name"]: p for p in self.of("db")}
        for name, pod in now.items():
            last = self._before.get(name, pod)
            if last["metadata"]["uid"] != pod["metadata"]["uid"]:
                self.twins += self.node_of(last) == self.loss.victim and self.is_silent
        self._before = now

    is_silent = False

    def of(self, app: str) -> list[Object]:
        return [pod for pod in self.pods if pod["metadata"]["labels"].get("app") == app]

    @staticmethod
    def node_of(pod: Object) -> str:
        return str(pod["spec"].get("nodeName", ""))

    def there(self, app: str) -> list[Object]:
        return [pod for pod in self.of(app) if self.node_of(pod) == self.loss.victim]

    async def ready(self) -> str:
        node = await self.loss.client.dynamic("", "v1", "nodes", False).get(self.loss.victim, "")
        return next(
            (each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready"), ""
        )

    async def came(self, check: Callable[[], bool], seconds: float) -> bool:
        async def looked() -> bool:
            await self.look()
            return check()

        return await until(looked, seconds)

    async def is_ready(self, wanted: str, seconds: float) -> bool:
        async def looked() -> bool:
            await self.look()
            return await self.ready() == wanted

        return await until(looked, seconds)


async def settle(loss: Loss, see: Observer) -> None:
    """All pods run on the node that will be lost."""
    nodes = loss.client.dynamic("", "v1", "nodes", False)
    others = [each["metadata"]["name"] for each in (await nodes.list()).items]
    others.remove(loss.victim)
    for each in others:
        await nodes.patch(each, "", {"spec": {"unschedulable": True}})
    for plural, body in {
        "deployments": workload("web", loss, replicas=REPLICAS),
        "statefulsets": workload("db", loss, replicas=1, serviceName="db"),
        "daemonsets": workload("log", loss),
    }.items():
        await loss.client.dynamic("apps", "v1", plural).create(body)
    wanted = {"web": REPLICAS, "db": 1, "log": 1}
    assert await see.came(
        lambda: all(sum(map(is_ready, see.there(app))) == n for app, n in wanted.items()), 120
    ), see.pods
    for each in others:
        await nodes.patch(each, "", {"spec": {"unschedulable": None}})


async def lose(loss: Loss) -> Found:
    found, see = Found(), Observer(loss)
    await settle(loss, see)
    clock = asyncio.get_running_loop().time
    daemon = see.there("log")[0]["metadata"]["uid"]
    twin = see.there("db")[0]["metadata"]["uid"]
    patience = loss.tolerance + 120.0

    async def step(name: str, done: bool, began: float) -> None:
        found.times[name] = clock() - began
        found.faults[f"not {name}"] = int(not done)

    began = clock()
    loss.pause()
    see.is_silent = True
    try:
        await step("NotReady", await see.is_ready("Unknown", patience), began)
        tainted = clock()
        is_evicted = await see.came(
            lambda: not any(map(is_active, [*see.there("web"), *see.there("db")])), patience
        )
        await step("evicted", is_evicted, tainted)
        is_replaced = await see.came(
            lambda: sum(is_ready(p) and is_active(p) for p in see.of("web")) == REPLICAS, patience
        )
        await step("replaced", is_replaced, tainted)
        # Somebody who acts too soon does it now.
        await see.came(lambda: False, 3)
        found.faults["twins"] = int([p["metadata"]["uid"] for p in see.of("db")] != [twin])
    finally:
        see.is_silent = False
        resumed = clock()
        loss.resume()
    await step("Ready again", await see.is_ready("True", 120), resumed)

    def has_converged() -> bool:
        web, db = see.of("web"), see.of("db")
        return (
            len(web) == REPLICAS
            and all(is_ready(p) and not has_ended(p) for p in [*web, *db])
            and len(db) == 1
            and db[0]["metadata"]["uid"] != twin
        )

    await step("converged", await see.came(has_converged, 120), resumed)
    found.faults["twins"] += see.twins
    found.faults["daemons replaced"] = int(
        [p["metadata"]["uid"] for p in see.there("log")] != [daemon]
    )
    return found


async def lost_simulated_node(grace: float, tolerance: int) -> Found:
    """Two nodes, each in a process of its own, one of which is stopped."""
    with daemons() as found:
        for number in (0, 1):
            options = {
                "names": [f"node-{number}"],
                "first_number": number,
                "heartbeat_seconds": 0.5,
            }
            found.start(f"nodes-{number}", NODES, options)
        names = (*NEEDED, "statefulset", "daemonset", "taint-eviction")
        told = {"controllers": names, "node_monitor_grace_seconds": grace}
        found.start("controllers", CONTROLLERS, told)
        found.start("scheduler", SCHEDULER)
        async with found.client() as client:

            async def are_there() -> bool:
                nodes = (await client.dynamic("", "v1", "nodes", False).list()).items
                taints = [each["spec"].get("taints") for each in nodes]
                accounts = await client.dynamic("", "v1", "serviceaccounts").list(NAMESPACE)
                return taints == [None, None] and bool(accounts.items)

            assert await until(are_there)
            loss = Loss(
                client,
                "node-1",
                lambda: found.pause("nodes-1"),
                lambda: found.resume("nodes-1"),
                tolerance,
                lambda name: {"containers": [{"name": name, "image": "none"}]},
            )
            return await lose(loss)


def figure_of(found: Found, tolerance: int, seed: int, repeat: str) -> Figure:
    figure = Figure("26", "a node is lost and comes back", seed, repeat)
    figure.counts = {"tolerance in seconds": tolerance, **found.times}
    figure.faults = found.faults
    return figure
