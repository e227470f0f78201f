"""Running a script, and finding the shortest one that still goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .converged import problems
from .safety import Safety
from .steps import Step
from .virtual import run_virtually
from .wire import Request
from .world import NODES, USER, World, running_world

QUIET_SECONDS = 330.0
"""So long without a write is rest: longer than the deadlines and the waits that there are."""
PATIENCE_SECONDS = 7200.0
IDLE_SECONDS = 330.0
IDLE_READS = 30
IDLE_REFUSALS = 32
"""What a quota or a stranger of the same name prevents is asked for again, ever less often; for a
Job every minute."""
HOT = 100
"""So often nobody has reason to write the same thing in one history."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a script."""

    problems: tuple[str, ...]
    requests: int
    seconds: float
    """Virtual ones."""


def run(script: Sequence[Step], seed: int) -> Outcome:
    """Take the steps in a new world, wait for rest, and look."""
    return run_virtually(_run(script, seed), seed)


async def _run(script: Sequence[Step], seed: int) -> Outcome:
    async with running_world(seed) as world:
        safety = Safety(world)
        for step in script:
            await step.take(world)
        found = await _settle(world)
        found += problems(world)
        found += await _idle(world)
        found += _hot(world)
        found += safety.broken
        found += world.failures
        return Outcome(tuple(dict.fromkeys(found)), len(world.wire.requests), world.now)


def is_work(request: Request) -> bool:
    """Whether it is a write that was not refused: heartbeats and Events apart."""
    return _is_asked(request) and request.status < 300


def _is_asked(request: Request) -> bool:
    if not request.is_write or request.who == USER or "/events" in request.path:
        return False
    is_beat = "/leases/" in request.path or request.path.startswith("/api/v1/nodes/")
    return not (is_beat and request.who == NODES)


async def _settle(world: World) -> list[str]:
    """Wait until nothing has been written for long."""
    began = world.now
    while True:
        last = next((each.at for each in reversed(world.wire.requests) if is_work(each)), 0.0)
        last = max(last, began)
        if world.now - last >= QUIET_SECONDS:
            return []
        if world.now - began >= PATIENCE_SECONDS:
            recent = [each for each in world.wire.requests if is_work(each)][-6:]
            return [f"no rest: {each.method} {each.path}" for each in recent]
        await asyncio.sleep(last + QUIET_SECONDS - world.now + 0.001)


async def _idle(world: World) -> list[str]:
    """Whoever has nothing to do does nothing."""
    before = len(world.wire.requests)
    await asyncio.sleep(IDLE_SECONDS)
    new = world.wire.requests[before:]
    asked = [each for each in new if _is_asked(each)]
    refused = sum(each.status >= 300 for each in asked)
    if refused <= IDLE_REFUSALS:
        asked = [each for each in asked if each.status < 300]
    if refused:
        # Admission counts what the store then refuses, and the quota is counted anew.
        asked = [each for each in asked if not each.path.endswith("/resourcequotas/limit/status")]
    found = [f"a write at rest: {each.method} {each.path} {each.status}" for each in asked]
    reads = [each for each in new if not each.is_write and each.who != USER]
    if len(reads) > IDLE_READS:
        found.append(f"{len(reads)} reads at rest, such as {reads[-1].path}")
    return found


def _hot(world: World) -> list[str]:
    """Writes that go round and round."""
    asked = ((each.who, each.method, each.path) for each in world.wire.requests if _is_asked(each))
    return [
        f"{count} times {who} asked for {method} {path}"
        for (who, method, path), count in Counter(asked).items()
        if count > HOT and not path.endswith(("/pods", "/jobs"))
    ]


def shrink(script: Sequence[Step], seed: int, patience: int = 200) -> list[Step]:
    """The shortest script found that goes wrong in any way: parts are left out, ever smaller. The
    last step stays: it mends the faults, and without it nearly everything goes wrong."""
    best, last = [*script[:-1]], [*script[-1:]]
    size = len(best) // 2
    while size and patience:
        start = 0
        while start < len(best) and patience:
            patience -= 1
            shorter = best[:start] + best[start + size :]
            if run([*shorter, *last], seed).problems:
                best = shorter
            else:
                start += size
        size //= 2
    return best + last
