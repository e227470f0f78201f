"""Owners that go and come back under the same name while the garbage collector is killed.

Each owner has dependents; it is deleted in one of the three ways and made anew at once, with
dependents of its own. The collector's process ends in the middle of that, and what its watches tell
lags and is mixed up. An object whose owner of the same uid lives may never go.

    background   dependents go, also what depends on them
    foreground   the same, and the owner last
    orphan       dependents stay, without a reference
    shared       a dependent of two owners stays as long as one of them lives
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import partial

from bench.reliability.daemons import CONTROLLERS, Daemons, daemons, kill_again_and_again, until
from bench.reliability.figure import Figure
from bench.reliability.workloads import NAMESPACE, Object
from navarch.client import Client
from navarch.client.objects import PartialObject

OWNERS, DEPENDENTS = 8, 3
POLICIES = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}


@dataclass
class Family:
    """All objects, and what is to become of them."""

    client: Client
    chance: random.Random
    stay: dict[str, str] = field(default_factory=dict)
    """Names by uid. Once an object is to go it never stays again."""
    go: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    made: int = 0
    turns: int = 0
    wrong: list[str] = field(default_factory=list)

    async def create(self, name: str, *owners: Object) -> Object:
        references = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": each["metadata"]["name"],
                "uid": each["metadata"]["uid"],
                "blockOwnerDeletion": True,
            }
            for each in owners
        ]
        meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": references}
        found = await self.client.dynamic("", "v1", "configmaps").create({"metadata": meta})
        self.stay[found["metadata"]["uid"]] = name
        self.made += 1
        return found

    def doom(self, *objects: Object) -> None:
        for each in objects:
            uid = each["metadata"]["uid"]
            self.go[uid] = self.stay.pop(uid, "")

    async def follow(self) -> None:
        maps = self.client.metadata("", "v1", "configmaps")
        async for event in maps.watch(NAMESPACE, resource_version="1"):
            if event.type == "DELETED":
                self.tell(event.object)
        raise RuntimeError("the watch ended")

    def tell(self, found: PartialObject) -> None:
        uid = found.metadata.uid
        self.gone.add(uid)
        if uid in self.stay:
            self.wrong.append(f"{found.metadata.name} {uid} is gone")

    async def live(self, name: str, anchor: Object) -> None:
        """One owner's lives, one after the other, until cancelled."""
        maps = self.client.dynamic("", "v1", "configmaps")
        while True:
            self.turns += 1
            owner = await self.create(name)
            stem = f"{name}-{self.turns}"
            children = [await self.create(f"{stem}-{n}", owner) for n in range(DEPENDENTS)]
            grandchild = await self.create(f"{stem}-grand", children[0])
            await self.create(f"{stem}-shared", owner, anchor)
            await asyncio.sleep(self.chance.uniform(0.0, 1.0))
            policy = self.chance.choice([*POLICIES])
            self.doom(owner)
            if policy != "orphan":
                self.doom(*children, grandchild)
            await maps.delete(name, NAMESPACE, propagation=POLICIES[policy])
            while owner["metadata"]["uid"] not in self.gone:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def is_tidy(self) -> bool:
        return self.go.keys() <= self.gone

    async def missing(self) -> int:
        """Of those that stay, and that may have gone while nobody watched."""
        present = await self.client.metadata("", "v1", "configmaps").list(NAMESPACE)
        return len(self.stay.keys() - {each.metadata.uid for each in present.items})


async def collect(found: Daemons, family: Family, kills: int) -> None:
    options = {"controllers": ["garbagecollector"]}

    def start() -> None:
        seed = family.chance.randrange(1 << 30)
        found.start("collector", CONTROLLERS, options, seed=seed)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(family.follow())
        anchor = await family.create("anchor")
        lives = [group.create_task(family.live(f"o{n}", anchor)) for n in range(OWNERS)]
        await kill_again_and_again(found, "collector", start, family.chance, kills)
        for each in lives:
            each.cancel()
        await until(partial(family.is_tidy))
        following.cancel()


async def killed_collector(kills: int, seed: int, repeat: str) -> Figure:
    with daemons() as found:
        async with found.client() as client:
            family = Family(client, random.Random(seed))
            await collect(found, family, kills)
            missing = await family.missing()
    figure = Figure("28", "the collector deletes only what has no living owner", seed, repeat)
    figure.counts = {
        "objects": family.made,
        "owners recreated": family.turns,
        "kills": found.kills,
        "collected": len(family.gone & family.go.keys()),
        "stayed": len(family.stay),
    }
    figure.faults = {
        "wrong deletions": max(len(family.wrong), missing),
        "left behind": len(family.go.keys() - family.gone),
    }
    figure.notes = family.wrong
    return figure
