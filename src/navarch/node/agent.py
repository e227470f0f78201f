"""The node agent: gives every pod of this node its worker, and keeps the house.

Pods come from the API (those bound to this node) and from the manifest directory. Each gets a
`PodWorker` task, owned here. Beside them run: the runtime's event stream, which wakes the worker
whose container has ended; a relist as safety net for events that were missed; the clean-up of what
belongs to no pod; log rotation.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Node, Pod
from navarch.client.batches import together

from .admission import Refusal, load_of, problems
from .admitting import Admitter
from .backoff import format_seconds
from .cri.values import ContainerRecord, PodState, RuntimeFailure
from .devices.records import ANNOTATION
from .evicting import EvictionManager
from .figures import relist_seconds
from .node_object import NodeReport
from .orphans import remembered
from .plan import StopContainer
from .podapi import PodApi
from .podspec import find_container, is_mirror, is_terminal, pod_key, termination_grace
from .probes.manager import ProbeManager
from .reservations import Reservations
from .resizing import consider
from .resources import class_limits
from .rotation import keep_rotating
from .shutdown import PROBLEM, ShutdownManager
from .starting import NodeServices
from .stopping import StopOrder, Stopper
from .volumes.plugin import VolumeProblem
from .worker import PodWorker

log = logging.getLogger(__name__)

RELIST_SECONDS = 10.0
BLIND_RELIST_SECONDS = 1.0
"""Without an event stream an end is only seen by looking."""
HEALTHY_SECONDS = 120.0
"""As upstream: longer without a look at the runtime, and something is wrong with the agent."""
BLIND_SECONDS = 180.0
"""As upstream: longer without a look at the runtime, and the node is not ready."""
HOUSEKEEPING_SECONDS = 30.0


@dataclass
class _Running:
    """A pod's worker and its task."""

    worker: PodWorker
    task: asyncio.Task[None]


class NodeAgent:
    """All pods of one node."""

    def __init__(self, services: NodeServices, api: PodApi, probes: ProbeManager) -> None:
        self._services, self._api, self._probes = services, api, probes
        self._clock = services.clock
        self._pods: dict[str, _Running] = {}
        self._owner_of: dict[str, str] = {}
        """The pod (uid) of each container and sandbox id that was seen in the runtime."""
        self.on_ended: Callable[[], None] = lambda: None
        """Called when nothing of a pod is left on the node."""
        self.storage_problems: Callable[[], Iterable[str]] = tuple
        """Why the node's storage is not ready."""
        self._hears_events = False
        self._in_runtime: dict[str, PodState] = {}
        self._relisted_at = self._clock.monotonic()
        self.evictions = EvictionManager(services, self.workers)
        self.evictions.remove_dead = self.remove_dead
        self.reservations = Reservations(services)
        self._classes_due = asyncio.Event()
        self.shutdown = ShutdownManager(services, self.workers)
        self.admitter = Admitter(services, self.workers, self.evictions, self.shutdown)

    @property
    def services(self) -> NodeServices:
        """What the workers share."""
        return self._services

    def is_healthy(self) -> bool:
        """Whether the agent still looks at its pods: what `/healthz` calls the sync loop."""
        return self._clock.monotonic() - self._relisted_at < HEALTHY_SECONDS

    @property
    def node(self) -> Node | None:
        """The node's object as it was last seen."""
        return self.admitter.node

    @node.setter
    def node(self, node: Node) -> None:
        self.admitter.node = node

    # Pods, as their source tells of them. Synchronous: they are called by informers.

    def pod_present(self, pod: Pod) -> None:
        """The pod is new or has changed."""
        if is_mirror(pod):
            return
        running = self._pods.get(pod.metadata.uid)
        if running is None:
            self._begin(pod)
        else:
            running.worker.update(pod)

    def pod_gone(self, pod: Pod) -> None:
        """The pod is no longer in its source."""
        running = self._pods.get(pod.metadata.uid)
        if running is not None:
            running.worker.remove(pod)

    def refresh_volumes(self, uid: str) -> None:
        """An object that files of the pod are made of has changed."""
        running = self._pods.get(uid)
        if running is not None:
            running.worker.refresh_volumes()

    def report(self) -> NodeReport:
        """What the node's status is to say of pressure, shutdown and devices."""
        devices = self._services.devices
        return NodeReport(
            pressures=self.evictions.conditions,
            problems=(
                *self._blindness(),
                *self.reservations.problems,
                *self.storage_problems(),
                *((PROBLEM,) if self.shutdown.is_shutting_down else ()),
            ),
            devices=devices.counts() if devices is not None else {},
        )

    def _blindness(self) -> Iterable[str]:
        seconds = self._clock.monotonic() - self._relisted_at
        if seconds >= BLIND_SECONDS:
            yield (
                f"PLEG is not healthy: pleg was last seen active {format_seconds(seconds)} ago; "
                f"threshold is {format_seconds(BLIND_SECONDS)}"
            )

    def on_report(self, changed: Callable[[], None]) -> None:
        """Has `changed` called whenever `report` says something new."""
        self.evictions.on_change = self.shutdown.on_change = changed
        devices = self._services.devices
        if devices is not None:
            devices.on_change, devices.on_health = changed, self._devices_changed
        claims = self._services.claims
        if claims is not None:
            claims.on_health = self._devices_changed

    def _devices_changed(self, uids: set[str]) -> None:
        for uid in uids & self._pods.keys():
            self._pods[uid].worker.wake(runtime_changed=False)

    def tell_oom(self, message: str) -> None:
        """The kernel has killed one of the system's own processes for want of memory."""
        self._services.events.node("Warning", "SystemOOM", message)

    def active_pods(self) -> list[Pod]:
        return [each.pod for each in self.workers() if each.active]

    def workers(self) -> list[PodWorker]:
        return [running.worker for running in self._pods.values()]

    def _running_containers(self) -> list[ContainerRecord]:
        found = (each for worker in self.workers() for each in worker.state.containers)
        return [each for each in found if each.running]

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of the newest pod of that name."""
        found = [
            each
            for each in self.workers()
            if each.pod.metadata.name == name and each.pod.metadata.namespace == namespace
        ]
        return max(found, key=lambda each: each.pod.metadata.creationTimestamp or "", default=None)

    def begin_all(self, pods: Iterable[Pod]) -> None:
        """The pods there are when the agent starts. Those that have been here before keep their
        places; of the others the older is taken first."""
        for pod in sorted(
            pods, key=lambda each: (self._is_new(each), each.metadata.creationTimestamp or "")
        ):
            self.pod_present(pod)

    def _is_new(self, pod: Pod) -> bool:
        return (
            pod.metadata.uid not in self._in_runtime
            and not pod.status.startTime
            and not is_terminal(pod)
        )

    def _begin(self, pod: Pod) -> None:
        worker = PodWorker(pod, self._services, self._api, self._probes)
        if pod.metadata.deletionTimestamp is None and self._is_new(pod):
            worker.is_unknown()
            self.admitter.admit(worker)
        self._start(worker)
        self._classes_due.set()
        if worker.resizer.is_waiting:
            self._consider_resizes()

    def _start(self, worker: PodWorker) -> None:
        uid = worker.pod.metadata.uid
        worker.on_resize = self._consider_resizes
        task = asyncio.get_running_loop().create_task(
            worker.run(), name=f"pod {pod_key(worker.pod)}"
        )
        self._pods[uid] = _Running(worker, task)
        task.add_done_callback(lambda done: self._ended(worker, done))

    def _ended(self, worker: PodWorker, task: asyncio.Task[None]) -> None:
        uid = worker.pod.metadata.uid
        self._pods.pop(uid, None)
        if task.cancelled():
            return
        task.result()
        self._in_runtime.pop(uid, None)
        self._owner_of = {key: pod for key, pod in self._owner_of.items() if pod != uid}
        self._classes_due.set()
        self._consider_resizes()
        self.on_ended()

    def _consider_resizes(self) -> None:
        def decide(pod: Pod, others: list[Pod]) -> Refusal | None:
            return next(iter(problems(pod, load_of(others), self.admitter.view())), None)

        consider(self.workers(), decide)

    async def _keep_classes(self) -> None:
        """Weighs the classes of service anew when pods come and go. Where systemd keeps cgroups it
        takes its time, for which nobody waits."""
        services, known = self._services, None
        options = services.options
        reserved = options.qos_reserved if options.feature_gates.get("QOSReserved") else {}
        while True:
            await self._classes_due.wait()
            self._classes_due.clear()
            classes = class_limits(self.active_pods(), services.node, reserved)
            if classes == known:
                continue
            try:
                await asyncio.to_thread(services.cgroups.set_classes, classes)
                known = classes
            except OSError as error:
                log.warning("cgroups of the classes of service: %s", error)

    # The loops

    async def prepare(self) -> None:
        """Looks at what runs already, before the first pod comes."""
        await self.reservations.make()
        await self._relist()
        devices = self._services.devices
        if devices is None:
            return
        for uid, state in self._in_runtime.items():
            for name, record in state.latest().items():
                if record.running and ANNOTATION in record.annotations:
                    devices.adopt(uid, name, record.annotations[ANNOTATION])

    async def run(self) -> None:
        """Runs until cancelled; then workers end and containers go on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name="runtime-events")
                tasks.create_task(self._keep_listing(), name="runtime-relist")
                tasks.create_task(self._keep_house(), name="housekeeping")
                tasks.create_task(self._keep_classes(), name="classes-of-service")
                services = self._services
                rotation = keep_rotating(
                    services.runtime, services.options, self._clock, self._running_containers
                )
                tasks.create_task(rotation, name="log-rotation")
                tasks.create_task(self._services.collector.run(), name="image-collection")
                tasks.create_task(self.evictions.run(), name="evictions")
                tasks.create_task(self.shutdown.run(), name="node-shutdown")
        finally:
            tasks_of_pods = [running.task for running in self._pods.values()]
            for task in tasks_of_pods:
                task.cancel()
            await asyncio.gather(*tasks_of_pods, return_exceptions=True)

    async def _listen(self) -> None:
        """Wakes the worker of each container that has ended."""
        while True:
            try:
                self._hears_events = True
                async for container_id in self._services.runtime.events():
                    self._wake_owner(container_id)
            except RuntimeFailure as failure:
                log.info("runtime events: %s", failure.message)
            self._hears_events = False
            await self._clock.sleep(BLIND_RELIST_SECONDS)

    def _wake_owner(self, container_id: str) -> None:
        uid = self._owner_of.get(container_id)
        if uid is None:
            for running in self._pods.values():
                state = running.worker.state
                if container_id in state.ids:
                    uid = running.worker.pod.metadata.uid
                    self._owner_of[container_id] = uid
        if uid is not None and uid in self._pods:
            self._pods[uid].worker.wake()
        elif uid is None:
            # It ended before anybody had seen it begin: whoever starts containers looks again.
            for running in self._pods.values():
                if running.worker.is_moving:
                    running.worker.wake()

    async def _keep_listing(self) -> None:
        while True:
            await self._clock.sleep(RELIST_SECONDS if self._hears_events else BLIND_RELIST_SECONDS)
            try:
                await self._relist()
            except RuntimeFailure as failure:
                log.warning("container runtime: %s", failure.message)

    async def _relist(self) -> None:
        """Looks at everything and wakes the workers whose pods differ from what they know."""
        begin = self._clock.monotonic()
        states = {state.uid: state for state in await self._services.runtime.pods()}
        relist_seconds.observe(self._clock.monotonic() - begin)
        self._in_runtime = states
        self._relisted_at = self._clock.monotonic()
        self._owner_of = {each: state.uid for state in states.values() for each in state.ids}
        for uid, running in self._pods.items():
            if states.get(uid, PodState(uid)) != running.worker.state:
                running.worker.wake()

    async def _keep_house(self) -> None:
        """Removes what belongs to no pod: its pod was deleted while the agent was away."""
        while True:
            try:
                await self.clean_up()
            except (RuntimeFailure, OSError) as failure:
                log.warning("housekeeping: %s", failure)
            self._consider_resizes()
            await self._clock.sleep(HOUSEKEEPING_SECONDS)

    async def clean_up(self) -> None:
        """Ends orphaned pods and deletes orphaned directories and cgroups."""
        await self.reservations.enforce()
        states = await self._services.runtime.pods()
        orphans = [state for state in states if state.uid not in self._pods]
        outcomes = await asyncio.gather(
            *(self._end_orphan(state) for state in orphans), return_exceptions=True
        )
        for state, outcome in zip(orphans, outcomes, strict=True):
            if isinstance(outcome, RuntimeFailure):
                log.warning("ending %s/%s: %s", state.namespace, state.name, outcome.message)
            elif outcome is not None:
                raise outcome
        for uid in self._services.volumes.known_pods():
            if uid not in self._pods:
                try:
                    await self._services.volumes.take_down_orphan(uid)
                except (VolumeProblem, OSError) as failure:
                    # Its driver may not be there yet; others need not wait for that.
                    log.warning("volumes of the deleted pod %s: %s", uid, failure)
        for uid in await asyncio.to_thread(self._services.cgroups.pods):
            if uid not in self._pods:
                await asyncio.to_thread(self._services.cgroups.remove_pod, uid)
        await asyncio.to_thread(self._remove_orphaned_logs)

    async def remove_dead(self) -> None:
        """Removes what the runtime still has of pods that are over: their logs and layers."""
        over = [each for each in self.workers() if each.is_cleaned]
        for worker in over:
            for container in worker.state.containers:
                await self._services.runtime.remove_container(container.id)
                await asyncio.to_thread(_remove_log, container.log_path)
            for sandbox in worker.state.sandboxes:
                await self._services.runtime.remove_sandbox(sandbox.id)
            worker.wake()

    async def _end_orphan(self, state: PodState) -> None:
        log.info("pod %s/%s (%s) is no longer wanted", state.namespace, state.name, state.uid)
        runtime, pod = self._services.runtime, remembered(state)
        host = next(iter(state.sandbox.ips), "") if state.sandbox is not None else ""
        order = StopOrder(self._clock.monotonic() + termination_grace(pod), host=host)
        stopper = Stopper(self._services)
        await together(
            *(
                stopper.stop(
                    pod,
                    find_container(pod, each.name),
                    StopContainer(each.id, each.name, f"Stopping container {each.name}"),
                    order,
                )
                for each in state.containers
                if each.running
            )
        )
        for sandbox in state.sandboxes:
            await runtime.stop_sandbox(sandbox.id)
        for container in state.containers:
            await runtime.remove_container(container.id)
        for sandbox in state.sandboxes:
            await runtime.remove_sandbox(sandbox.id)

    def _remove_orphaned_logs(self) -> None:
        root = self._services.options.pod_logs_directory
        uids = set(self._pods)
        for path in root.iterdir() if root.is_dir() else ():
            if path.name.count("_") == 2 and path.name.rpartition("_")[2] not in uids:
                shutil.rmtree(path, ignore_errors=True)


def _remove_log(path: str) -> None:
    """A container's log, with what rotation has made of it."""
    if path:
        log_file = Path(path)
        for each in (log_file, *log_file.parent.glob(f"{log_file.name}.*")):
            each.unlink(missing_ok=True)
