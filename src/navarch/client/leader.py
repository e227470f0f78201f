"""Leader election: of several copies of a component one acts, the others stand by.

The leader writes its name and the time into a Lease again and again. A candidate that has watched
the Lease stand still for its whole duration takes it over; the write carries the resourceVersion
it saw, so of several candidates one wins. How long the Lease stands still is measured with the
candidate's own monotonic clock, never by comparing wall clocks of two machines. A leader that
could not renew in time stops its work at once, before anybody else may begin. One that was frozen
and comes back finds work that is ready to go on before it finds out: so each of its client's writes
first looks whether it still leads (`Client.fence`), and what it had sent before it froze is refused
as a conflict if another has written since: updates carry a resourceVersion, deletions a uid, and a
pod is bound but once (client-go's `leaderelection`; the limits of any lease are discussed there).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.times import format_micro_time
from navarch.api.types.coordination_v1 import Lease, LeaseSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.clock import Clock, timeout

log = logging.getLogger(__name__)

RELEASE_SECONDS = 5.0
"""A process that is told to end waits no longer for a server that does not answer."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds: `renew` must be shorter than `duration`, or two could act at once."""

    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew > self.retry > 0:
            raise ValueError("a lease needs duration > renew > retry > 0")


class LeadershipLost(Exception):
    """The lease could not be renewed in time; the work was cancelled."""


class LeaderElector:
    """`await elector.run(work)` waits for leadership, runs `work()` while it lasts, and raises
    `LeadershipLost` when it ends: the process then starts over with a clean mind."""

    def __init__(
        self,
        client: Client,
        name: str,
        identity: str,
        *,
        namespace: str = "kube-system",
        timing: LeaseTiming = LeaseTiming(),
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.identity = identity
        self.namespace = namespace
        self.timing = timing
        self.leader = ""
        """Who leads, as far as we have seen."""
        self._client = client
        self._leases = client.resource(Lease)
        self._clock: Clock = client.clock
        self._rng = rng or random.Random()
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._held_until = float("-inf")

    @property
    def is_leader(self) -> bool:
        """Whether we may act now. False from the moment the renewal deadline passes, also when
        this process was frozen past it and nobody has told it yet."""
        return self._clock.monotonic() < self._held_until

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        while not await self._try_to_lead():
            await self._clock.sleep(self.timing.retry * (1.0 + 0.2 * self._rng.random()))
        log.info("%s leads %s/%s", self.identity, self.namespace, self.name)
        self._client.fence = self._check
        try:
            await self._lead(work)
        finally:
            # Who has lost the lease never writes again: what is left of the work included.
            if self.is_leader:
                await self._release()
                self._client.fence = None

    def _check(self, path: str) -> None:
        """Whether a write may be sent now; the Lease itself guards its own."""
        if not self.is_leader and not path.endswith(f"/{self.namespace}/leases/{self.name}"):
            raise LeadershipLost(f"{self.identity} no longer leads and may not write {path}")

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        renewing = asyncio.create_task(self._renew(), name=f"lease {self.name}")
        tasks = (working, renewing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The work ends before the lease is given up or anybody is told.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _renew(self) -> None:
        """Keep the lease; raises when it could not be kept until the deadline."""
        while True:
            await self._clock.sleep(self.timing.retry)
            remaining = self._held_until - self._clock.monotonic()
            renewed = False
            with contextlib.suppress(TimeoutError):
                async with timeout(self._clock, max(0.0, remaining)):
                    while remaining > 0 and not (renewed := await self._try_to_lead()):
                        if self.leader != self.identity:
                            break
                        await self._clock.sleep(self.timing.retry)
            if not renewed:
                self._held_until = float("-inf")
                raise LeadershipLost(f"{self.identity} lost {self.namespace}/{self.name}")

    async def _try_to_lead(self) -> bool:
        """One attempt to take or renew the lease."""
        asked_at = self._clock.monotonic()
        try:
            lease = await self._write_claim(asked_at)
        except ApiError as error:
            if not error.is_conflict and not error.is_already_exists:
                log.warning("lease %s/%s: %s", self.namespace, self.name, error)
            return False
        if lease is None:
            return False
        self._observe(lease, asked_at)
        # Counted from before the request: the server may have stored it at any time since.
        self._held_until = asked_at + self.timing.renew
        return True

    async def _write_claim(self, now: float) -> Lease | None:
        stamp = format_micro_time(self._clock.now())
        spec = LeaseSpec(
            holderIdentity=self.identity,
            leaseDurationSeconds=round(self.timing.duration),
            acquireTime=stamp,
            renewTime=stamp,
            leaseTransitions=0,
        )
        try:
            found = await self._leases.get(self.name, self.namespace)
        except ApiError as error:
            if not error.is_not_found:
                raise
            meta = ObjectMeta(name=self.name, namespace=self.namespace)
            return await self._leases.create(Lease(metadata=meta, spec=spec))
        self._observe(found, now)
        holder = found.spec.holderIdentity or ""
        if holder and holder != self.identity and not self._has_expired(found, now):
            return None
        spec.leaseTransitions = found.spec.leaseTransitions or 0
        if holder == self.identity:
            spec.acquireTime = found.spec.acquireTime
        else:
            spec.leaseTransitions += 1
        lease = copy_object(found)
        lease.spec = spec
        return await self._leases.update(lease)

    def _observe(self, lease: Lease, now: float) -> None:
        seen = self._seen
        if seen is None or seen.metadata.resourceVersion != lease.metadata.resourceVersion:
            self._seen, self._seen_at = lease, now
        self.leader = lease.spec.holderIdentity or ""

    def _has_expired(self, lease: Lease, now: float) -> bool:
        duration = float(lease.spec.leaseDurationSeconds or self.timing.duration)
        return now - self._seen_at > duration

    async def _release(self) -> None:
        """Give the lease up, so that the next one need not wait for it to expire."""
        self._held_until = float("-inf")
        if self._seen is None:
            return
        lease = copy_object(self._seen)
        lease.spec.holderIdentity = ""
        lease.spec.leaseDurationSeconds = 1
        lease.spec.renewTime = format_micro_time(self._clock.now())
        try:
            async with timeout(self._clock, RELEASE_SECONDS):
                await self._leases.update(lease)
        except (ApiError, TimeoutError) as error:
            what = str(error) or "no answer"
            log.info("lease %s/%s not released: %s", self.namespace, self.name, what)
