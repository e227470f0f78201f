"""The loop of enforcement: changed pods, namespaces and policies in, one transaction out.

Changes that come while a transaction runs are gathered into the next one. After a failure, and when
somebody else has touched the table, all of it is made anew in one transaction: at no moment is
there a table that allows more than the policies do.

A pod of this node is announced by its kubelet as soon as it has an address, and before any of its
containers starts: `admit` returns when its rules are in the kernel. The API tells of the address
later; until it does, the announcement (`Claim`) counts.

A connection that exists and that the policies no longer allow is cut: the kernel forgets it, so
that its next packet is judged like that of a new one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from navarch.api.selectors import SelectorError
from navarch.api.types.core_v1 import Namespace, Pod
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.clock import Clock
from navarch.network.policy.claims import Book, Claim
from navarch.network.policy.kernel import Kernel, NftError
from navarch.network.policy.model import Key, policy_of
from navarch.network.policy.planner import Planner
from navarch.network.policy.rules import MAPS
from navarch.network.policy.table import Table
from navarch.network.policy.verdicts import Connection, Verdicts

log = logging.getLogger("navarch.network.policy")
MIN_INTERVAL = 0.02
"""Seconds between two transactions: a burst of changes costs a few of them, not hundreds."""
CUT_INTERVAL = 0.5
"""Between two looks through all connections, which cost more than a transaction."""
RETRY_SECONDS = 1.0
SWEEP_SECONDS = 1.0
REBUILD_SECONDS = 3600.0
REPAIR_SECONDS = 1.0
"""Between two repairs of what others have done."""


@dataclass
class Enforcer:
    """One node's. Informers call `put_…` and `remove_…`, `run` does the rest."""

    planner: Planner
    book: Book
    kernel: Kernel
    clock: Clock
    table: Table = field(default_factory=Table)

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._cut = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._synced_at = 0.0
        self._distrusted = False
        self._repaired_at = -REPAIR_SECONDS

    def put_namespace(self, namespace: Namespace) -> None:
        self.planner.put_namespace(namespace.metadata.name, namespace.metadata.labels)
        self._wake.set()

    def remove_namespace(self, namespace: Namespace) -> None:
        self.planner.put_namespace(namespace.metadata.name, None)
        self._wake.set()

    def put_policy(self, policy: NetworkPolicy) -> None:
        try:
            parsed = policy_of(policy)
        except SelectorError as error:
            # The API server lets none of these in. What it meant cannot be known; what it said
            # before stays in force.
            log.error("NetworkPolicy %s/%s: %s", *_key(policy), error)
            return
        self.planner.put_policy(parsed)
        self._wake.set()

    def remove_policy(self, policy: NetworkPolicy) -> None:
        self.planner.remove_policy(_key(policy))
        self._wake.set()

    def put_pod(self, pod: Pod) -> None:
        self.book.put(pod)
        self._pod_changed(_key(pod))

    def remove_pod(self, pod: Pod) -> None:
        self.book.remove(pod)
        self._pod_changed(_key(pod))

    def _pod_changed(self, key: Key) -> None:
        facts = self.book.facts(key)
        if facts is None:
            self.planner.remove_pod(key)
        else:
            self.planner.put_pod(facts)
        self._wake.set()

    async def admit(self, claim: Claim) -> None:
        """Returns when everything policies say of this new pod is in force."""
        for key in self.book.claim(claim):
            self._pod_changed(key)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    def distrust(self) -> None:
        """Somebody else has changed the table."""
        self._distrusted = True
        self._wake.set()

    async def run(self) -> None:
        """Keep the table up until cancelled. Call it when the informers are synced: a table made
        from half the policies would let through what the others forbid."""
        for key in self.book.known():
            self._pod_changed(key)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_table(), name="network policies")
            group.create_task(self._keep_cutting(), name="cut connections")

    async def _keep_table(self) -> None:
        while True:
            if self._distrusted:
                await self._begin_repair()
            try:
                has_changed = await self.sync()
            except NftError as error:
                log.error("nft refused the rules, they are made anew: %s", error)
                self.table.is_known = False
                await self.clock.sleep(RETRY_SECONDS)
                continue
            if has_changed:
                await self.clock.sleep(MIN_INTERVAL)
            timeout = SWEEP_SECONDS if self.table.has_leftovers else REBUILD_SECONDS
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                await self._tidy()

    async def _begin_repair(self) -> None:
        """At once, but a stranger who goes on and on does not keep us busy."""
        log.warning("the table of network policies was changed by others, it is made anew")
        pause = self._repaired_at + REPAIR_SECONDS - self.clock.monotonic()
        if pause > 0:
            await self.clock.sleep(pause)
        self._repaired_at = self.clock.monotonic()
        self._distrusted = self.table.is_known = False

    async def _tidy(self) -> None:
        if self.table.has_leftovers:
            try:
                await self.kernel.apply(self.table.sweep())
            except NftError as error:
                log.warning("chains that nothing uses remain until the next start: %s", error)
        elif self.clock.monotonic() - self._synced_at >= REBUILD_SECONDS:
            self.table.is_known = False

    async def sync(self) -> bool:
        """Bring the kernel up to date once; whether it was not. Raises NftError."""
        self._wake.clear()
        waiting, self._waiting = self._waiting, []
        try:
            if self.table.is_known:
                commands = self.table.change(self.planner.flush())
            else:
                self.planner.flush()
                commands = self.table.replace(self.planner.everything())
            if commands:
                # Until it is done nobody knows what the kernel has.
                self.table.is_known = False
                await self.kernel.apply(commands)
                self._synced_at = self.clock.monotonic()
            self.table.is_known = True
        except BaseException:
            self._waiting += waiting
            raise
        for done in waiting:
            if not done.done():
                done.set_result(None)
        if any(map(may_deny, commands)):
            self._cut.set()
        return bool(commands)

    async def _keep_cutting(self) -> None:
        while True:
            await self._cut.wait()
            self._cut.clear()
            try:
                await self.cut()
            except NftError as error:
                log.warning("%s", error)
            await self.clock.sleep(CUT_INTERVAL)

    async def cut(self) -> None:
        """End the connections that are not allowed any more. Raises NftError."""
        verdicts = Verdicts(self.table)

        def is_denied(connection: Connection) -> bool:
            is_ours = verdicts.concerns(connection.source) or verdicts.concerns(connection.target)
            return is_ours and not verdicts.allows(connection)

        if verdicts.isolate_any:
            number = await self.kernel.cut(is_denied)
            if number:
                log.info("%d connections that no policy allows any more were cut", number)


def may_deny(command: str) -> bool:
    """Whether something that was allowed may be so no more: all but new members of sets."""
    words = command.split(" ", 5)
    if words[:2] == ["add", "element"]:
        return words[4].partition("-")[0] in MAPS.values()
    return words[:2] not in (["add", "set"], ["add", "chain"])


def _key(thing: Pod | NetworkPolicy) -> Key:
    return (thing.metadata.namespace, thing.metadata.name)
