"""At most one leader acts: take-over, loss, release and a leader that was frozen."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import cast

import pytest

from navarch.api.errors import ApiError, already_exists, conflict, not_found
from navarch.api.objects import copy_object
from navarch.api.types.coordination_v1 import Lease
from navarch.client.client import ApiConnectionError, Client
from navarch.client.clock import FakeClock
from navarch.client.leader import (
    RELEASE_SECONDS,
    LeaderElector,
    LeadershipLost,
    LeaseTiming,
)


class Leases:
    """One lease with compare-and-swap; `away` cuts named candidates off."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.revision = 0
        self.away: set[str] = set()

    def as_seen_by(self, identity: str, clock: FakeClock) -> Client:
        view = SimpleNamespace()

        async def get(name: str, namespace: str) -> Lease:
            self._answer(identity)
            if self.lease is None:
                raise not_found("leases", "coordination.k8s.io", name)
            return copy_object(self.lease)

        async def create(lease: Lease) -> Lease:
            self._answer(identity)
            if self.lease is not None:
                raise already_exists("leases", "coordination.k8s.io", "l")
            return self._store(lease)

        async def update(lease: Lease) -> Lease:
            self._answer(identity)
            assert self.lease is not None
            if lease.metadata.resourceVersion != self.lease.metadata.resourceVersion:
                raise conflict("leases", "coordination.k8s.io", "l", "modified")
            return self._store(lease)

        view.get, view.create, view.update = get, create, update
        return cast("Client", SimpleNamespace(clock=clock, resource=lambda kind: view))

    def _answer(self, identity: str) -> None:
        if identity in self.away:
            raise ApiConnectionError("cut off")

    def _store(self, lease: Lease) -> Lease:
        self.revision += 1
        self.lease = copy_object(lease)
        self.lease.metadata.resourceVersion = str(self.revision)
        return copy_object(self.lease)


class Candidate:
    def __init__(self, leases: Leases, identity: str, clock: FakeClock) -> None:
        self.client = leases.as_seen_by(identity, clock)
        self.elector = LeaderElector(self.client, "l", identity, rng=random.Random(1))
        self.works = False
        self.task = asyncio.create_task(self.elector.run(self.work))

    async def work(self) -> None:
        self.works = True
        try:
            await asyncio.Event().wait()
        finally:
            self.works = False

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_one_leads_the_other_takes_over_only_after_the_lease_expired() -> None:
    clock, leases = FakeClock(), Leases()
    first = Candidate(leases, "a", clock)
    await clock.settle()
    second = Candidate(leases, "b", clock)
    await clock.advance(120)
    assert (first.works, second.works) == (True, False)
    assert second.elector.leader == "a"
    leases.away.add("a")
    await clock.advance(10.5)
    assert (first.works, second.works) == (False, False)
    with pytest.raises(LeadershipLost):
        await first.task
    await clock.advance(10)
    assert second.works
    assert leases.lease is not None
    assert leases.lease.spec.leaseTransitions == 1
    await second.stop()


async def test_stopping_gives_the_lease_up_at_once() -> None:
    clock, leases = FakeClock(), Leases()
    first = Candidate(leases, "a", clock)
    await clock.settle()
    second = Candidate(leases, "b", clock)
    await clock.settle()
    await first.stop()
    assert not first.works
    await clock.advance(2.5)
    assert second.works
    await second.stop()


async def test_a_short_outage_is_survived() -> None:
    clock, leases = FakeClock(), Leases()
    first = Candidate(leases, "a", clock)
    await clock.advance(5)
    leases.away.add("a")
    await clock.advance(6)
    leases.away.clear()
    await clock.advance(60)
    assert first.works
    await first.stop()


async def test_a_frozen_leader_knows_it_may_not_act_and_its_late_renewal_fails() -> None:
    leases = Leases()
    frozen_clock, clock = FakeClock(), FakeClock()
    frozen = Candidate(leases, "a", frozen_clock)
    await frozen_clock.settle()
    other = Candidate(leases, "b", clock)
    await clock.advance(60)  # time passes for everybody but the frozen process
    assert other.works
    fence = frozen.client.fence
    assert fence is not None
    fence("/api/v1/nodes/n")  # as long as it is unaware of time passing, it may
    frozen_clock._elapsed += 60  # it thaws: its clock has moved on, its tasks did not run
    assert frozen.works
    assert not frozen.elector.is_leader
    with pytest.raises(LeadershipLost, match="may not write /api/v1/nodes/n"):
        fence("/api/v1/nodes/n")
    fence("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l")
    await frozen_clock.advance(0.1)
    assert not frozen.works
    with pytest.raises(LeadershipLost):
        await frozen.task
    assert leases.lease is not None
    assert leases.lease.spec.holderIdentity == "b"
    assert frozen.client.fence == fence
    assert other.works
    await other.stop()
    assert other.client.fence is None


async def test_wall_clocks_do_not_matter() -> None:
    clock, leases = FakeClock(), Leases()
    first = Candidate(leases, "a", clock)
    await clock.settle()
    second = Candidate(leases, "b", clock)
    for jump in (3600.0, -7200.0):
        clock.jump_wall_clock(jump)
        await clock.advance(60)
        assert (first.works, second.works) == (True, False)
    await first.stop()
    await second.stop()


async def test_of_many_candidates_never_two_work() -> None:
    clock, leases = FakeClock(), Leases()
    candidates = [Candidate(leases, name, clock) for name in "abcd"]
    rng = random.Random(7)
    led: set[str] = set()
    for _ in range(300):
        leases.away = {name for name in "abcd" if rng.random() < 0.4}
        await clock.advance(rng.random() * 12)
        working = [candidate for candidate in candidates if candidate.works]
        assert len(working) <= 1
        led |= {candidate.elector.identity for candidate in working}
        for index, candidate in enumerate(candidates):
            if candidate.task.done():
                assert isinstance(candidate.task.exception(), LeadershipLost)
                candidates[index] = Candidate(leases, candidate.elector.identity, clock)
    assert led == {*"abcd"}
    for candidate in candidates:
        await candidate.stop()


async def test_work_that_fails_ends_the_run_and_gives_the_lease_up() -> None:
    clock, leases = FakeClock(), Leases()
    elector = LeaderElector(leases.as_seen_by("a", clock), "l", "a")

    async def fail() -> None:
        raise ApiError(500, "InternalError", "broken")

    with pytest.raises(ApiError, match="broken"):
        await elector.run(fail)
    assert leases.lease is not None
    assert leases.lease.spec.holderIdentity == ""


def test_timings_that_would_let_two_act_are_refused() -> None:
    with pytest.raises(ValueError, match="duration > renew > retry"):
        LeaseTiming(duration=10, renew=10)


async def test_who_ends_waits_not_long_for_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, leases = FakeClock(), Leases()
    candidate = Candidate(leases, "a", clock)
    await clock.settle()

    async def silent(lease: Lease) -> Lease:
        await asyncio.Event().wait()
        return lease

    monkeypatch.setattr(candidate.elector._leases, "update", silent)
    candidate.task.cancel()
    await clock.advance(RELEASE_SECONDS + 0.1)
    assert candidate.task.cancelled()
