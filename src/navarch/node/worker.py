"""One pod's life on this node, from first sight to last clean-up, in one task.

The worker looks (the pod's newest specification, the runtime's state), asks `plan` what to do,
publishes the status and begins the actions; each action is a task of its own, so that a slow image
pull or a long grace period never keeps the pod from being looked at. It wakes for every change and
otherwise about once a minute. It keeps no record: a new worker after a restart of the agent sees
the same things and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime

from navarch.api.errors import ApiError
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod, ResourceStatus
from navarch.client.clock import end_if_told

from .acting import VOLUMES, Actor
from .cri.values import PodState, RuntimeFailure
from .dra.drivers import DraProblem
from .figures import count_terminations
from .memory import WorkerMemory
from .messages import read_message
from .plan import (
    CRASH_LOOP,
    RESIZE,
    Action,
    Plan,
    ProbeKind,
    StartContainer,
    View,
    applied_resources,
    plan,
    restart_sources,
    to_resize,
)
from .podapi import PodApi, StatusWriter
from .podspec import containers_of, find_container, full_name, is_static, is_terminal, pod_key
from .probes.manager import ProbeManager
from .resizing import Resizer
from .runtime_config import log_directory
from .starting import NodeServices
from .status import StatusInputs, compute_status

log = logging.getLogger(__name__)

RESYNC_SECONDS = 60.0
RUNTIME_RETRY_SECONDS = 1.0
FAULT_RETRY_SECONDS = 5.0
CLAIM_RETRY_SECONDS = 2.0
DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


class PodWorker:
    """Runs one pod. Its owner runs `run` as a task and calls `update`, `remove` and `wake`."""

    def __init__(self, pod: Pod, services: NodeServices, api: PodApi, probes: ProbeManager) -> None:
        self._memory = WorkerMemory(pod, PodState(pod.metadata.uid))
        self._services, self._api, self._probes = services, api, probes
        self._clock = services.clock
        self.resizer = Resizer(pod, services.events, services.clock)
        """What the pod has been granted."""
        self.on_resize: Callable[[], None] = lambda: None
        """Called when the pod wants another size, or gives back what it had."""
        self._actor = Actor(
            services,
            self._memory,
            self.resizer,
            probes,
            lambda changed: self.wake(runtime_changed=changed),
        )
        self.before_start: Callable[[], Awaitable[None]] | None = None
        """What has to be waited for before the pod may start: room, devices."""
        self._removed = False
        self._dirty = True
        self._is_observing = self._is_blind = False
        self._half_seen: frozenset[str] = frozenset()
        self._wake = asyncio.Event()
        self._seen_at = self._clock.now()
        self.writer = StatusWriter(api, self._clock)
        if not is_static(pod):
            # The API knows a static pod by its mirror only, which comes (and may go) by itself.
            self.writer.seen(pod)

    @property
    def pod(self) -> Pod:
        """The newest version of the pod."""
        return self._memory.pod

    @property
    def state(self) -> PodState:
        """What the runtime held of the pod when it was last looked at."""
        return self._memory.state

    # What the owner tells

    def is_unknown(self) -> None:
        """The runtime has nothing of the pod: no need to look before it is begun."""
        self._dirty, self._memory.interrupted = False, frozenset()

    def update(self, pod: Pod) -> None:
        """A new version of the pod has come from its source."""
        old, new = self.pod.metadata, pod.metadata
        if new.generation != old.generation:
            # The change may be the cure, and a debugging container may want another volume.
            self._memory.retry_at.clear()
            self._memory.volumes_at = float("-inf")
        if (new.labels, new.annotations) != (old.labels, old.annotations):
            self._memory.volumes_at = float("-inf")  # files may show them: refresh at once
        self._memory.pod = pod
        self.resizer.update(pod)
        if self.resizer.is_waiting:
            self.on_resize()
        self.writer.seen(pod)
        self._wake.set()

    def refresh_volumes(self) -> None:
        """An object that files of the pod are made of has changed."""
        self._memory.volumes_at, self._memory.volume_retry_at = float("-inf"), 0.0
        self._wake.set()

    def remove(self, pod: Pod | None = None) -> None:
        """The pod is gone from its source: end it, whatever its status says."""
        if pod is not None:
            self._memory.pod = pod
            self.resizer.update(pod)
        self._removed = True
        self._wake.set()

    def reject(
        self, reason: str, message: str, grace: int | None = None, disruption: str = ""
    ) -> None:
        """The pod may not run here any more: evicted or preempted. `disruption` is what its
        condition DisruptionTarget says, if it is to have one."""
        self._memory.failure = (reason, message)
        self._memory.grace = grace
        self._memory.disruption = disruption
        self._wake.set()

    def refuse(self, reason: str, message: str) -> None:
        """The pod may not run here at all: nothing is said of its containers."""
        self._memory.refused = True
        self.reject(reason, f"Pod was rejected: {message}")

    def wake(self, *, runtime_changed: bool = True) -> None:
        """Something may have happened; look again."""
        self._dirty |= runtime_changed
        self._wake.set()

    @property
    def active(self) -> bool:
        """Whether the pod still takes its share of the node."""
        return not (self._memory.cleaned or is_terminal(self.pod))

    @property
    def is_rejected(self) -> bool:
        """Whether the pod has been told to go (`reject`)."""
        return self._memory.failure is not None

    @property
    def is_removed(self) -> bool:
        """Whether the source has the pod no more, though it may still run: deleted by force."""
        return self._removed

    @property
    def is_cleaned(self) -> bool:
        """Whether nothing of the pod runs and its volumes are gone."""
        return self._memory.cleaned

    @property
    def shown_pod(self) -> Pod:
        """The pod with the newest status, whether or not the API has it by now."""
        status = self.writer.wanted or self.writer.status or self.pod.status
        return Pod(metadata=self.pod.metadata, spec=self.pod.spec, status=status)

    @property
    def is_moving(self) -> bool:
        """Whether something is being started, stopped or looked at right now: what ends meanwhile
        may be unknown here so far."""
        return self._is_observing or bool(self._actor.operations)

    # The loop

    async def run(self) -> None:
        """Returns when nothing of the pod is left on the node."""
        try:
            while not await self._step():
                pass
        finally:
            await self._actor.close()
            await self.writer.close()

    async def _step(self) -> bool:
        """One look, and the pause until the next is due. Whether it was the last one."""
        self._wake.clear()
        try:
            if self.before_start is not None:
                await self.before_start()
                self.before_start = None
            await self._observe()
            result = self._look()
            if await self._wind_up(result):
                return True
            self._is_blind, pause = False, self._seconds_until(result)
        except RuntimeFailure as failure:
            # Told once: a runtime that is away is away for every pod, and for long perhaps.
            level = logging.DEBUG if self._is_blind else logging.WARNING
            log.log(level, "%s: %s", pod_key(self.pod), failure.message)
            self._is_blind = self._dirty = True
            pause = RUNTIME_RETRY_SECONDS
        except Exception:
            end_if_told()
            # A fault must neither leave the pod alone nor forget that it is to end.
            log.exception("worker of %s failed", pod_key(self.pod))
            self._dirty = True
            await self._clock.sleep(FAULT_RETRY_SECONDS)
            return False
        await self._pause(pause)
        return False

    async def _observe(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        under_way = frozenset(self._actor.operations)
        self._is_observing = True
        try:
            states = await self._services.runtime.pods(self.pod.metadata.uid)
        finally:
            self._is_observing = False
        # What ended meanwhile may be seen half done: it counts as under way until the next look.
        self._half_seen = under_way - frozenset(self._actor.operations)
        self._memory.state = states[0] if states else PodState(self.pod.metadata.uid)
        if self._memory.interrupted is None:
            self._memory.interrupted = frozenset(
                each.id
                for each in self.state.containers
                if not each.started_at and not each.running
            )
        for record in self.state.containers:
            if record.started_at or (record.exited and record.id not in self._memory.interrupted):
                seen = self._memory.attempts.get(record.name, 0)
                self._memory.attempts[record.name] = max(seen, record.attempt + 1)
            if record.exited:
                self._probes.forget(record.id)
                if record.id not in self._memory.messages:
                    directory = self._services.volumes.pod_directory(self.pod.metadata.uid)
                    count = len(containers_of(self.pod))
                    self._memory.messages[record.id] = read_message(record, directory, count)

    def _look(self) -> Plan:
        """Decides, publishes and begins."""
        memory = self._memory
        self._check_deadline()
        stopping = self._is_stopping()
        if stopping and memory.stopping_since is None:
            memory.stopping_since = self._clock.monotonic()
            self._actor.cancel_starts()
        self._watch_probes()
        self.resizer.look(under_way=not stopping and self._is_resizing())
        result = plan(self.resizer.pod, self.state, self._view(stopping))
        memory.finished |= result.finished
        self._tell_back_off(result)
        self._publish(result)
        if not stopping and not result.finished:
            self._actor.care_for_volumes()
        for action in result.actions:
            if isinstance(action, StartContainer) and memory.volumes is None:
                continue
            if not self._is_held_off(action):
                self._actor.begin(action)
        self._actor.shorten_stops()
        return result

    def _tell_back_off(self, result: Plan) -> None:
        """One event for each wait, however often the pod is looked at meanwhile."""
        latest = self.state.latest()
        for name, wait in result.waiting.items():
            record, spec = latest.get(name), find_container(self.pod, name)
            told = self._memory.backed_off
            if wait.reason != CRASH_LOOP or record is None or spec is None or record.id in told:
                continue
            told.add(record.id)
            text = f"Back-off restarting failed container {name} in pod {full_name(self.pod)}"
            self._services.events.container(self.pod, spec, "Warning", "BackOff", text)

    def _is_held_off(self, action: Action) -> bool:
        """Whether the runtime has just failed to do this: it gets a moment to recover."""
        return self._memory.held_off.get(type(action), 0.0) > self._clock.monotonic()

    def _is_stopping(self) -> bool:
        return (
            self._removed
            or self._memory.finished
            or self._memory.failure is not None
            or self.pod.metadata.deletionTimestamp is not None
            or is_terminal(self.pod)
        )

    def _view(self, stopping: bool) -> View:
        memory = self._memory
        failed: dict[str, ProbeKind] = {}
        for record in self.state.containers:
            results = self._probes.results(record.id) if record.running else None
            if results is not None and results.failed is not None:
                failed[record.id] = results.failed
        now = self._clock.now().timestamp()
        # Waits go on as before when the clock is set: they end at moments of the monotonic clock.
        ahead = now - self._clock.monotonic()
        return View(
            now=now,
            backoff=self._actor.backoff,
            busy=(frozenset(self._actor.operations) | self._half_seen) - {VOLUMES},
            stopping=stopping,
            is_started=self._is_started,
            failed_probes=failed,
            retry_at={name: at + ahead for name, at in memory.retry_at.items()},
            next_attempts=memory.next_attempts(),
            replaced=frozenset(memory.replaced),
            resized=memory.resized,
            pod_resources=memory.pod_resources,
            sandbox_retry_at=memory.sandbox_retry_at + ahead,
            interrupted=memory.interrupted or frozenset(),
        )

    def _is_started(self, container_id: str) -> bool:
        if container_id in self._memory.hidden:
            return False
        results = self._probes.results(container_id)
        return results is None or results.started

    def _is_resizing(self) -> bool:
        """Whether a running container has other resources than the pod has been granted."""
        if RESIZE in self._actor.operations:
            return True
        view, pod = self._view(stopping=False), self.resizer.pod
        specs = {spec.name: spec for spec in containers_of(pod)}
        return any(
            to_resize(pod, view, specs[each.name], each)
            for each in self.state.containers
            if each.name in specs
        ) or view.pod_resources not in (None, pod.spec.resources)

    def _check_deadline(self) -> None:
        seconds = self.pod.spec.activeDeadlineSeconds
        if seconds is None or self._is_stopping():
            return
        if self._deadline_in(seconds) <= 0:
            self._memory.failure = ("DeadlineExceeded", DEADLINE_MESSAGE)
            self._services.events.pod(self.pod, "Normal", "DeadlineExceeded", DEADLINE_MESSAGE)

    def _deadline_in(self, seconds: int) -> float:
        started = self._start_time()
        return started.timestamp() + seconds - self._clock.now().timestamp()

    def _start_time(self) -> datetime:
        text = self.pod.status.startTime
        return parse_time(text) if text else self._seen_at

    def _watch_probes(self) -> None:
        specs = {spec.name: spec for spec in containers_of(self.pod)}
        addresses = self._actor.starter.addresses(self.pod, self.state.sandbox)
        host = next(iter(addresses.pod_ips), "")
        for record in self.state.containers:
            spec = specs.get(record.name)
            hidden = record.id in self._memory.hidden
            if record.running and spec is not None and not hidden:
                self._probes.watch(
                    self.pod,
                    spec,
                    record,
                    host,
                    lambda: self.wake(runtime_changed=False),
                    is_terminating=self._is_stopping(),
                )

    # The status

    def _publish(self, result: Plan) -> None:
        memory = self._memory
        view = self._view(self._is_stopping())
        running = [each for each in self.state.containers if each.running]
        started = {each.id for each in running if self._is_started(each.id)}
        ready = set()
        for record in running:
            results = self._probes.results(record.id)
            if record.id in started and (results is None or results.ready):
                ready.add(record.id)
        # Whoever waits for the pod's devices must not be told that it is over before they are free.
        claims = self._services.claims
        holds = claims is not None and claims.holds(self.pod.metadata.uid)
        is_busy = bool(running) or self._actor.containers_in_motion() or holds
        ended = memory.finished and not is_busy
        inputs = StatusInputs(
            now=self._clock.now(),
            host_ips=self._services.host_ips,
            waiting={**memory.waiting, **result.waiting},
            ready=frozenset(ready),
            started=frozenset(started),
            messages=memory.messages,
            hidden=frozenset(memory.hidden) | (memory.interrupted or frozenset()),
            applied={
                each.id: applied
                for each in running
                if (applied := applied_resources(view, each)) is not None
            },
            pod_resources=memory.pod_resources,
            resize=() if ended or self._is_stopping() else self.resizer.conditions(),
            ended=ended,
            # As upstream, a pod with running containers is not yet said to have failed: what it
            # holds is not free before they have ended.
            failure=None if is_busy else memory.failure,
            refused=memory.refused,
            recursive_read_only=self._actor.starter.can_mount_recursively(self.state.sandbox),
            restarting_all=not self._is_stopping() and bool(restart_sources(self.pod, self.state)),
            replaced=frozenset(memory.replaced),
            disruption=memory.disruption,
            devices=self._device_health(),
            claims=self._claim_health(),
            start_time=self._seen_at,
        )
        # What was written last counts as "before", also when the watch has not brought it back.
        pod = self._with_newest_status()
        status = compute_status(pod, self.state, inputs)
        count_terminations(pod.status, status)
        self.writer.submit(status)

    def _device_health(self) -> dict[str, dict[str, dict[str, bool]]]:
        devices = self._services.devices
        if devices is None or not devices.has_allocations:
            return {}
        names = [each.name for each in self.pod.spec.containers]
        found = {name: devices.health(self.pod, name) for name in names}
        return {name: health for name, health in found.items() if health}

    def _claim_health(self) -> dict[str, list[ResourceStatus]]:
        claims = self._services.claims
        if claims is None or not self.pod.spec.resourceClaims:
            return {}
        return {each.name: claims.health(self.pod, each) for each in self.pod.spec.containers}

    def _with_newest_status(self) -> Pod:
        pod, newest = self.resizer.pod, self.writer.wanted or self.writer.status
        if newest is None or newest is pod.status:
            return pod
        return Pod(metadata=pod.metadata, spec=pod.spec, status=newest)

    # The end

    async def _wind_up(self, result: Plan) -> bool:
        """Cleans up once nothing runs any more; True when the worker itself is done."""
        if not result.over or self._actor.operations or not self._is_stopping():
            return False
        memory = self._memory
        uid = self.pod.metadata.uid
        if not memory.cleaned:
            if not await self._release_claims():
                return False
            await self._services.volumes.release(uid)
            await asyncio.to_thread(self._services.cgroups.remove_pod, uid)
            self._services.puller.forget(uid)
            memory.cleaned = True
            self.on_resize()
        if self._removed or (self.writer.gone and not is_static(self.pod)):
            await self._remove_remains()
            return True
        if self.pod.metadata.deletionTimestamp is None:
            return False
        # Whoever watches must see how the containers ended before the pod is gone.
        await self.writer.flush()
        meta = self.pod.metadata
        if not self.writer.gone:
            try:
                await self._api.delete(meta.namespace, meta.name, meta.uid, 0)
            except ApiError as error:
                if not error.is_not_found and not error.is_conflict:
                    log.warning("deleting %s: %s", pod_key(self.pod), error)
                    await self._pause(1.0)
                    return False
        await self._remove_remains()
        return True

    async def _release_claims(self) -> bool:
        """Devices are given back before anybody is told that the pod is over."""
        claims, uid = self._services.claims, self.pod.metadata.uid
        if claims is None or not claims.holds(uid):
            return True
        try:
            await claims.release(uid)
        except DraProblem as problem:
            log.warning("%s: %s", pod_key(self.pod), problem)
            await self._pause(CLAIM_RETRY_SECONDS)
            return False
        self._wake.set()
        return True

    async def _remove_remains(self) -> None:
        """The runtime's records and the logs: kept until now so that people could read them."""
        runtime = self._services.runtime
        await self._services.volumes.take_down(self.pod.metadata.uid)
        for record in self.state.containers:
            self._probes.forget(record.id)
            await runtime.remove_container(record.id)
        for sandbox in self.state.sandboxes:
            await runtime.remove_sandbox(sandbox.id)
        meta = self.pod.metadata
        directory = log_directory(
            self._services.options.pod_logs_directory, meta.namespace, meta.name, meta.uid
        )
        import shutil

        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    # Waiting

    def _seconds_until(self, result: Plan) -> float:
        """Until something is due: a wait of the plan's, the volumes, the deadline, a resync."""
        now = self._clock.now().timestamp()
        seconds = RESYNC_SECONDS * (1.0 + 0.1 * random.random())
        if result.wake_at is not None:
            seconds = min(seconds, result.wake_at - now)
        memory = self._memory
        waits = [at - self._clock.monotonic() for at in memory.held_off.values()]
        seconds = min([seconds, *(wait for wait in waits if wait > 0)])
        if memory.volume_retry_at > self._clock.monotonic():
            seconds = min(seconds, memory.volume_retry_at - self._clock.monotonic())
        deadline = self.pod.spec.activeDeadlineSeconds
        if deadline is not None and not self._is_stopping():
            seconds = min(seconds, self._deadline_in(deadline))
        return max(seconds, 0.01)

    async def _pause(self, seconds: float) -> None:
        timer = self._clock.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
