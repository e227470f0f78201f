"""Runs the probes of every container on the node.

One object, no task or thread per probe: a timer per probe that is due, and a short task while it
runs. Results are told to the pod's worker at once through `on_change`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Pod
from navarch.client.clock import Clock, Timer

from ..cri.values import ContainerRecord
from ..events import PodEvents
from ..plan import ProbeKind
from ..podspec import ContainerKind, ContainerSpec
from .handlers import Handlers, Outcome, Target
from .tracker import InstanceProbes, Tracker, instance_probes

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a run that could not be made at all is tried before it counts as unknown."""


@dataclass
class _Watched:
    """A container instance under probes."""

    pod: Pod
    spec: ContainerSpec
    target: Target
    probes: InstanceProbes
    on_change: Callable[[], None]
    is_terminating: bool = False
    timers: dict[ProbeKind, Timer] = field(default_factory=dict)
    runs: dict[ProbeKind, asyncio.Task[None]] = field(default_factory=dict)


class ProbeManager:
    """The probes of this node, by container id."""

    def __init__(self, handlers: Handlers, events: PodEvents, clock: Clock) -> None:
        self._handlers = handlers
        self._events = events
        self._clock = clock
        self._random = random.Random()
        self._watched: dict[str, _Watched] = {}

    def watch(
        self,
        pod: Pod,
        spec: ContainerSpec,
        record: ContainerRecord,
        host: str,
        on_change: Callable[[], None],
        *,
        is_terminating: bool = False,
    ) -> InstanceProbes:
        """Begins (or goes on) probing a running container instance; returns its results."""
        is_terminating |= pod.metadata.deletionTimestamp is not None
        known = self._watched.get(record.id)
        if known is not None:
            known.pod, known.spec = pod, spec
            known.is_terminating = is_terminating
            return known.probes
        now = self._clock.monotonic()
        before = next(
            (
                status
                for status in (*pod.status.containerStatuses, *pod.status.initContainerStatuses)
                if status.containerID.endswith("://" + record.id)
            ),
            None,
        )
        started_ago = max(0.0, self._clock.now().timestamp() - record.started_at / 1e9)
        probes = instance_probes(
            spec.container,
            record.id,
            started_ago=started_ago,
            now=now,
            was_ready=before is not None and before.ready,
            was_started=before is not None and bool(before.started),
        )
        if spec.kind in (ContainerKind.INIT, ContainerKind.EPHEMERAL):
            probes.trackers.clear()
        if probes.trackers:
            target = Target(spec.container, record.id, host)
            watched = _Watched(pod, spec, target, probes, on_change, is_terminating)
            self._watched[record.id] = watched
            for kind, tracker in probes.trackers.items():
                if before is not None and started_ago > 10.0:
                    # After a restart of the agent all containers of the node come at once.
                    tracker.due += self._random.random() * tracker.period
                self._schedule(watched, kind)
        return probes

    def watched(self) -> Iterator[tuple[Pod, ContainerSpec, InstanceProbes]]:
        """Everything under probes, for those who count."""
        for each in self._watched.values():
            yield each.pod, each.spec, each.probes

    def results(self, container_id: str) -> InstanceProbes | None:
        watched = self._watched.get(container_id)
        return watched.probes if watched is not None else None

    def forget(self, container_id: str) -> None:
        """The instance is over (or about to be): no more runs."""
        watched = self._watched.pop(container_id, None)
        if watched is not None:
            for timer in watched.timers.values():
                timer.cancel()
            for task in watched.runs.values():
                task.cancel()

    async def close(self) -> None:
        runs = [task for watched in self._watched.values() for task in watched.runs.values()]
        for container_id in list(self._watched):
            self.forget(container_id)
        await asyncio.gather(*runs, return_exceptions=True)
        await self._handlers.close()

    def _schedule(self, watched: _Watched, kind: ProbeKind) -> None:
        timer = watched.timers.pop(kind, None)
        if timer is not None:
            timer.cancel()
        delay = watched.probes.trackers[kind].due - self._clock.monotonic()
        watched.timers[kind] = self._clock.call_later(
            max(0.0, delay), lambda: self._begin(watched, kind)
        )

    def _begin(self, watched: _Watched, kind: ProbeKind) -> None:
        tracker = watched.probes.trackers[kind]
        tracker.advance(self._clock.monotonic())
        if kind in watched.runs:
            tracker.is_overdue = True
        elif watched.probes.may_run(kind, terminating=watched.is_terminating):
            self._start_run(watched, tracker)
        if not tracker.on_hold:
            self._schedule(watched, kind)

    def _start_run(self, watched: _Watched, tracker: Tracker) -> None:
        kind = tracker.kind
        name = f"probe {kind.value} {watched.target.container_id[:12]}"
        task = asyncio.get_running_loop().create_task(self._run(watched, tracker), name=name)
        watched.runs[kind] = task
        task.add_done_callback(lambda done: self._ended(watched, tracker, done))

    def _ended(self, watched: _Watched, tracker: Tracker, task: asyncio.Task[None]) -> None:
        watched.runs.pop(tracker.kind, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("probe failed unexpectedly", exc_info=error)
        if tracker.is_overdue:
            # It took longer than its period: the next one follows at once.
            tracker.is_overdue = False
            if watched.probes.may_run(tracker.kind, terminating=watched.is_terminating):
                self._start_run(watched, tracker)

    async def _run(self, watched: _Watched, tracker: Tracker) -> None:
        outcome = Outcome(False)
        for _ in range(ATTEMPTS):
            outcome = await self._handlers.probe(tracker.probe, watched.target)
            if not outcome.discarded:
                break
        name = tracker.kind.value
        if outcome.discarded:
            state = f"{outcome.discarded} state: {outcome.message}"
            text = f"{name} probe errored and resulted in {state}"
            self._event(watched, "Warning", "Unhealthy", text)
            return
        tracker.totals["successful" if outcome.success else "failed"] += 1
        if outcome.warning:
            text = f"{name} probe warning: {outcome.message}"
            self._event(watched, "Warning", "ProbeWarning", text)
        if not outcome.success:
            text = f"{name} probe failed: {outcome.message}"
            self._event(watched, "Warning", "Unhealthy", text)
        if tracker.record(outcome.success):
            if tracker.kind is ProbeKind.STARTUP and outcome.success:
                self._after_startup(watched)
            watched.on_change()

    def _after_startup(self, watched: _Watched) -> None:
        """The container is up: its other probes need not wait for their next turn, only for the
        end of their initial delay."""
        for kind, tracker in watched.probes.trackers.items():
            if kind is not ProbeKind.STARTUP:
                tracker.due = max(tracker.not_before, self._clock.monotonic())
                self._schedule(watched, kind)

    def _event(self, watched: _Watched, kind: str, reason: str, message: str) -> None:
        self._events.container(watched.pod, watched.spec, kind, reason, message)
