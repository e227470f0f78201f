"""Two copies of a component of which one leads, and is frozen for longer than its lease lasts.

Each copy has a certificate of its own for the same user, so the audit log tells their writes apart.
Once the other copy has taken the lease over, nothing that the frozen one writes may be accepted: it
has to find out before it acts, and what it had sent before is for the API server to refuse.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.reliability.daemons import (
    CONTROLLERS,
    NEEDED,
    NODES,
    SCHEDULER,
    Daemons,
    daemons,
    until,
)
from bench.reliability.figure import Figure
from bench.reliability.workloads import NAMESPACE, template
from navarch.api.errors import ApiError
from navarch.api.types.coordination_v1 import Lease
from navarch.client import Client

LEASES = {CONTROLLERS: "kube-controller-manager", SCHEDULER: "kube-scheduler"}
USERS = {name: f"system:{lease}" for name, lease in LEASES.items()}
ENOUGH = 5
"""So many writes of a leader show that it acts."""
CREDENTIAL = "authentication.kubernetes.io/credential-id"


@dataclass(frozen=True, slots=True)
class Timing:
    """Of the lease, in seconds."""

    duration: int
    renew: int
    retry: int

    def options(self, component: str, directory: Any) -> dict[str, Any]:
        if component == CONTROLLERS:
            return {
                "controllers": NEEDED,
                "leader_elect": True,
                "leader_elect_lease_duration": f"{self.duration}s",
                "leader_elect_renew_deadline": f"{self.renew}s",
                "leader_elect_retry_period": f"{self.retry}s",
            }
        file = directory / "scheduler-config.json"
        election = {
            "leaderElect": True,
            "leaseDuration": f"{self.duration}s",
            "renewDeadline": f"{self.renew}s",
            "retryPeriod": f"{self.retry}s",
        }
        configuration = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": election,
        }
        file.write_text(json.dumps(configuration))
        return {"config": str(file)}


@dataclass
class Writes:
    """By who led, and by who did not: accepted or refused."""

    led: int = 0
    stale: int = 0
    refused: int = 0


@dataclass
class Pair:
    """Two copies of a component."""

    found: Daemons
    client: Client
    component: str
    options: dict[str, Any]
    credentials: dict[str, str] = field(default_factory=dict)
    """The copies' names, by what the audit log calls them."""
    seconds: list[float] = field(default_factory=list)
    """From the freeze until the other one led."""

    def start(self) -> None:
        for letter in "ab":
            name = f"{self.component}-{letter}"
            file, credential = self.found.own_credentials(name, USERS[self.component])
            self.credentials[credential] = name
            self.found.start(name, self.component, {**self.options, "kubeconfig": file})

    async def leader(self) -> str:
        """The copy that took the lease, by the audit log."""
        return next((self.name_of(each) for each in reversed(list(self.claims()))), "")

    def claims(self) -> Iterator[dict[str, Any]]:
        """Accepted writes of the lease."""
        return (each for each in self.found.audited() if self.is_claim(each))

    def is_claim(self, record: dict[str, Any]) -> bool:
        reference = record.get("objectRef", {})
        is_lease = reference.get("resource") == "leases" and (
            reference.get("name", LEASES[self.component]) == LEASES[self.component]
        )
        return is_lease and self.name_of(record) != "" and is_accepted(record)

    def name_of(self, record: dict[str, Any]) -> str:
        extra = record["user"].get("extra", {}).get(CREDENTIAL, [""])
        return self.credentials.get(extra[0], "")

    async def holder(self) -> str:
        try:
            lease = await self.client.resource(Lease).get(LEASES[self.component], "kube-system")
        except ApiError as error:
            if error.is_not_found:
                return ""
            raise
        return lease.spec.holderIdentity or ""

    async def freeze(self) -> tuple[str, bool]:
        """Freezes the leader until the other has taken over, then lets it go on; its name, and
        whether it ended of itself."""
        assert await until(partial(self._acts, self.judged().led)), "nobody leads"
        leading, holder = await self.leader(), await self.holder()
        clock = asyncio.get_running_loop().time
        began = clock()
        self.found.pause(leading)

        async def is_replaced() -> bool:
            return await self.holder() not in ("", holder)

        assert await until(is_replaced), "nobody took over"
        self.seconds.append(clock() - began)
        await until(partial(self._acts, self.judged().led))
        self.found.resume(leading)

        async def has_ended() -> bool:
            return self.found.has_ended(leading)

        return leading, await until(has_ended, 20)

    async def _acts(self, before: int) -> bool:
        return self.judged().led >= before + ENOUGH and await self.holder() != ""

    def judged(self) -> Writes:
        """All writes, in the order in which they were answered."""
        leader, found = "", Writes()
        for each in sorted(self.found.audited(), key=lambda one: str(one["stageTimestamp"])):
            name = self.name_of(each)
            if self.is_claim(each):
                leader = name
            elif name and each["objectRef"].get("resource") != "leases":
                if name == leader:
                    found.led += 1
                elif is_accepted(each):
                    found.stale += 1
                else:
                    found.refused += 1
        return found


def is_accepted(record: dict[str, Any]) -> bool:
    code: int = record["responseStatus"]["code"]
    return code < 300


async def keep_busy(client: Client, chance: random.Random) -> None:
    """Work for controllers and scheduler, at all times."""
    deployments = client.dynamic("apps", "v1", "deployments")
    pod = template("busy")
    spec = {"selector": {"matchLabels": {"app": "busy"}}, "template": pod, "replicas": 10}
    meta = {"name": "busy", "namespace": NAMESPACE}
    await deployments.create({"metadata": meta, "spec": spec})
    while True:
        await asyncio.sleep(0.3)
        await deployments.patch("busy", NAMESPACE, {"spec": {"replicas": chance.randint(0, 30)}})


async def frozen_leaders(pauses: int, timing: Timing, seed: int, repeat: str) -> Figure:
    chance = random.Random(seed)
    figure = Figure("27", "at most one leader acts", seed, repeat)
    lingering = 0
    with daemons(audit=True) as found:
        found.start("nodes", NODES, {"names": ["node-0", "node-1"]})
        async with found.client() as client, asyncio.TaskGroup() as group:
            pairs = [
                Pair(found, client, each, timing.options(each, found.paths.root))
                for each in (CONTROLLERS, SCHEDULER)
            ]
            for each in pairs:
                each.start()
            busy = group.create_task(keep_busy(client, chance))
            for _ in range(pauses):
                frozen = await asyncio.gather(*(each.freeze() for each in pairs))
                for name, has_ended in frozen:
                    if not has_ended:
                        lingering += 1
                        found.kill(name)
                    found.start_again(name)
            busy.cancel()
        writes = [each.judged() for each in pairs]
    figure.counts = {
        "leaders frozen": sum(len(each.seconds) for each in pairs),
        "lease of seconds": timing.duration,
        "slowest take-over": max(max(each.seconds) for each in pairs),
        "writes by leaders": sum(each.led for each in writes),
        "late writes refused": sum(each.refused for each in writes),
    }
    figure.faults = {
        "stale writes accepted": sum(each.stale for each in writes),
        "did not notice": lingering,
    }
    return figure
