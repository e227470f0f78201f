"""Graceful shutdown of the node: its pods end before the machine does, critical ones last.

Who tells of the machine's end is `logind` (systemd's, over D-Bus), or, for a node that lives in
namespaces of its own, the end of the agent's process. From then on the node is not ready and takes
no pod; the running ones are told to end, group by group from the lowest priority up, each group
within its own time (KEP-2000, KEP-2712). Reasons and texts are upstream's
(`pkg/kubelet/nodeshutdown`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from navarch.api.times import format_micro_time, parse_time
from navarch.api.types.core_v1 import Pod
from navarch.client.batches import together
from navarch.client.clock import timeout

from .admission import Refusal
from .durable import write_durably
from .figures import shutdown_ended, shutdown_started
from .podspec import SYSTEM_CRITICAL_PRIORITY, pod_key
from .settings import NodeOptions
from .starting import NodeServices
from .worker import PodWorker

log = logging.getLogger(__name__)

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
PROBLEM = "node is shutting down"
REFUSAL = Refusal("NodeShutdown", "Pod was rejected as the node is shutting down.")
LOOK_SECONDS = 0.1


def grace_periods(options: NodeOptions) -> dict[int, int]:
    """Seconds by the lowest priority they are for, in the order the groups end; empty if graceful
    shutdown is off. The two older settings are one group for all and one for critical pods."""
    if options.shutdown_grace_period_by_pod_priority:
        stated = options.shutdown_grace_period_by_pod_priority
        return {priority: int(stated[priority]) for priority in sorted(stated)}
    whole, critical = options.shutdown_grace_period, options.shutdown_grace_period_critical_pods
    if not whole or critical > whole:
        return {}
    return {0: int(whole - critical), SYSTEM_CRITICAL_PRIORITY: int(critical)}


def by_group(periods: Mapping[int, int], pods: Sequence[Pod]) -> list[tuple[int, list[Pod]]]:
    """The seconds and the pods of each group, in order. A pod belongs to the highest group that is
    not above its priority, or to the lowest one."""
    groups: dict[int, list[Pod]] = {priority: [] for priority in periods}
    for pod in pods:
        own = pod.spec.priority or 0
        fitting = [priority for priority in groups if priority <= own]
        groups[max(fitting, default=min(groups))].append(pod)
    return [(periods[priority], found) for priority, found in groups.items() if found]


class ShutdownManager:
    """Ends the node's pods when the machine goes."""

    def __init__(self, services: NodeServices, workers: Callable[[], Sequence[PodWorker]]) -> None:
        self._services, self._workers = services, workers
        self._clock = services.clock
        self._file = services.options.root_directory / "graceful_node_shutdown_state"
        self.periods = grace_periods(services.options)
        self.is_shutting_down = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when the node begins or ceases to shut down."""

    def admit(self) -> Refusal | None:
        return REFUSAL if self.is_shutting_down else None

    @property
    def seconds(self) -> int:
        """How long a whole shutdown may take."""
        return sum(self.periods.values())

    async def run(self) -> None:
        """Listens to logind, where there is one, until cancelled."""
        show_last(self._file)
        if not self.periods or self._services.options.shutdown_on_terminate:
            return
        from .logind import NoLogind, watch

        while True:
            try:
                async for begins in watch(self.seconds):
                    if begins:
                        await self.shut_down()
                    else:
                        self.cancel()
            except NoLogind as reason:
                log.warning("graceful shutdown of this node is configured, but: %s", reason)
                if reason.is_final:
                    return
            await self._clock.sleep(1.0)

    def cancel(self) -> None:
        """The machine stays after all. Pods that were told to go do not come back."""
        self.is_shutting_down = False
        self._tell("Shutdown manager detected shutdown cancellation")

    def _tell(self, text: str) -> None:
        log.warning("%s", text)
        self._services.events.node("Normal", "NodeShutdown", text)
        self.on_change()

    async def at_the_end(self) -> None:
        """The agent's process is told to end, and the node with it."""
        if self.periods and not self.is_shutting_down:
            await self.shut_down()

    async def shut_down(self) -> None:
        """Ends all pods; returns when they are gone, or have had their time."""
        self.is_shutting_down = True
        self._tell("Shutdown manager detected shutdown event")
        started = self._clock.now()
        self._record(started, None)
        active = {each.pod.metadata.uid: each for each in self._workers() if each.active}
        for seconds, pods in by_group(self.periods, [each.pod for each in active.values()]):
            workers = [active[pod.metadata.uid] for pod in pods]
            for worker in workers:
                grace = seconds
                own = worker.pod.spec.terminationGracePeriodSeconds
                if own is not None:
                    grace = min(grace, own)
                worker.reject(REASON, MESSAGE, grace, MESSAGE)
            await self._wait(workers, seconds)
        self._record(started, self._clock.now())

    async def _wait(self, workers: Sequence[PodWorker], seconds: int) -> None:
        """Until nothing of them runs and their volumes are gone, but no longer than the group's
        time: the next group needs its own."""
        deadline = self._clock.monotonic() + seconds
        while not all(each.is_cleaned for each in workers):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                late = [pod_key(each.pod) for each in workers if not each.is_cleaned]
                log.error("pods that did not end within %d s: %s", seconds, late)
                return
            await self._clock.sleep(min(LOOK_SECONDS, left))
        # Whoever watches is to see how they ended, too.
        try:
            async with timeout(self._clock, max(1.0, deadline - self._clock.monotonic())):
                await together(*(each.writer.flush() for each in workers))
        except TimeoutError:
            log.error("the API does not hear how %d pods have ended", len(workers))

    def _record(self, started: datetime, ended: datetime | None) -> None:
        state = {"startTime": format_micro_time(started)}
        if ended is not None:
            state["endTime"] = format_micro_time(ended)
        try:
            write_durably(self._file, json.dumps(state).encode())
        except OSError as error:
            log.error("state of the shutdown: %s", error)
        show_last(self._file)


def show_last(file: Path) -> None:
    """Shows the last shutdown, which may have been the end of an agent before, in the metrics."""
    try:
        state = json.loads(file.read_bytes())
        started, ended = (
            parse_time(state[name]).timestamp() if state.get(name) else 0.0
            for name in ("startTime", "endTime")
        )
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log.error("%s does not tell of a shutdown (%s): it is written anew", file, error)
        return
    shutdown_started.set(started)
    shutdown_ended.set(ended)
