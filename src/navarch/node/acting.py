"""The effects behind a plan's actions: each is a task of its own, and at most one per container.

A slow image pull or a long grace period never keeps the pod from being looked at. When an action
ends, well or not, the worker is woken to look again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Pod

from .backoff import BackoffTable
from .cri.values import PodState, RuntimeFailure
from .dra.drivers import DraProblem
from .figures import admission_rejections
from .memory import WorkerMemory
from .messages import termination_log_path
from .plan import (
    RESIZE,
    SANDBOX,
    Action,
    ProbeKind,
    RemoveContainer,
    ResizePod,
    StartContainer,
    StartSandbox,
    StopContainer,
    StopSandbox,
    backoff_key,
)
from .podspec import ContainerSpec, find_container, pod_key, termination_grace
from .probes.manager import ProbeManager
from .resize import (
    RESOURCES_ANNOTATION,
    Allocation,
    Applied,
    allocation_of,
    decode_resources,
    roomy,
    shown_resources,
    wanted_resources,
    with_allocation,
)
from .resizing import Resizer
from .resources import amount, container_resources, pod_cgroup_limits, sandbox_size
from .runtime_config import log_directory
from .security_context import ConfigProblem
from .starting import NodeServices, StartedIn, Starter, StartFailed
from .stopping import StopOrder, Stopper
from .volumes.manager import VolumesFailed

log = logging.getLogger(__name__)

ACTION_RETRY_SECONDS = 2.0
RESIZE_RETRY_SECONDS = 10.0
SANDBOX_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0)
VOLUME_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 122.0)
VOLUME_REFRESH_SECONDS = 54.0
VOLUME_LIMIT = "VolumeAttachmentLimitExceeded"
VOLUMES = "\0volumes"
"""The volumes' name among the operations under way (no container can have it)."""


@dataclass
class Operation:
    """An action under way."""

    action: Action | None
    task: asyncio.Task[None]
    deadline: float = 0.0


class Actor:
    """Does what one pod's plan asks for. `wake` is called whenever an operation has ended, and told
    whether it may have changed anything in the runtime."""

    def __init__(
        self,
        services: NodeServices,
        memory: WorkerMemory,
        resizer: Resizer,
        probes: ProbeManager,
        wake: Callable[[bool], None],
    ) -> None:
        self._services, self._memory, self._probes, self._wake = services, memory, probes, wake
        self._resizer = resizer
        self._clock = services.clock
        self._stopper = Stopper(services)
        self.starter = Starter(services)
        self.backoff = BackoffTable(
            services.options.crash_loop_back_off_max_container_restart_period
        )
        self.operations: dict[str, Operation] = {}

    @property
    def pod(self) -> Pod:
        """The pod as it is to run: with the resources it has been granted."""
        return self._resizer.pod

    @property
    def state(self) -> PodState:
        return self._memory.state

    async def close(self) -> None:
        """The agent ends (or the pod is gone): containers stay as they are."""
        tasks = [operation.task for operation in self.operations.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def containers_in_motion(self) -> bool:
        moves = (StartContainer, StopContainer)
        return any(isinstance(each.action, moves) for each in self.operations.values())

    def begin(self, action: Action) -> None:
        match action:
            case StartSandbox():
                self._operate(SANDBOX, action, self._start_sandbox(action))
            case StopSandbox():
                self._operate(SANDBOX, action, self._services.runtime.stop_sandbox(action.id))
            case StartContainer():
                self._operate(action.spec.name, action, self._start_container(action))
            case ResizePod():
                self._operate(RESIZE, action, self._resize(action))
            case RemoveContainer():
                self._operate(action.name, action, self._remove_container(action))
            case StopContainer():
                self._begin_stop(action)

    def _operate(
        self,
        name: str,
        action: Action | None,
        work: Coroutine[Any, Any, None],
        deadline: float = 0.0,
    ) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{pod_key(self.pod)} {name}")
        self.operations[name] = Operation(action, task, deadline)
        task.add_done_callback(lambda done: self._operation_ended(name, done))

    def _operation_ended(self, name: str, task: asyncio.Task[None]) -> None:
        current = self.operations.get(name)
        if current is not None and current.task is task:
            del self.operations[name]
        self._wake(name != VOLUMES)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, RuntimeFailure):
            log.warning("%s %s: %s", pod_key(self.pod), name, error.message)
        else:
            log.error("%s %s failed", pod_key(self.pod), name, exc_info=error)
        if current is not None and current.action is not None:
            retry_at = self._clock.monotonic() + ACTION_RETRY_SECONDS
            self._memory.held_off[type(current.action)] = retry_at
        else:
            self._memory.volume_retry_at = self._clock.monotonic() + ACTION_RETRY_SECONDS

    async def _start_sandbox(self, action: StartSandbox) -> None:
        memory = self._memory
        old, stale = self.state.sandbox, self.state.sandboxes[1:]
        if old is not None:
            self._services.events.pod(
                self.pod,
                "Normal",
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            )
            await self._services.runtime.stop_sandbox(old.id)
        try:
            await self.starter.sandbox(self.pod, action.attempt)
        except (RuntimeFailure, ConfigProblem, ApiError, OSError, DraProblem) as failure:
            reason, what = "FailedCreatePodSandBox", "create pod sandbox"
            if isinstance(failure, DraProblem):
                reason, what = "FailedPrepareDynamicResources", "prepare dynamic resources"
            text = f"Failed to {what}: {failure}"
            self._services.events.pod(self.pod, "Warning", reason, text)
            delays = SANDBOX_RETRY_SECONDS
            delay = delays[min(memory.sandbox_failures, len(delays) - 1)]
            memory.sandbox_failures += 1
            memory.sandbox_retry_at = self._clock.monotonic() + delay
            return
        memory.sandbox_failures, memory.pod_resources = 0, self.pod.spec.resources
        memory.limits = pod_cgroup_limits(self.pod)
        # Sandboxes before the last one are of no use any more; the containers in the last one
        # tell how they ended.
        for sandbox in stale:
            await self._services.runtime.remove_sandbox(sandbox.id)

    async def _start_container(self, action: StartContainer) -> None:
        memory, name = self._memory, action.spec.name
        sandbox = self.state.sandbox
        assert sandbox is not None and memory.volumes is not None, "planned without surroundings"
        now = self._clock.now().timestamp()
        if action.failed_at:
            self.backoff.advance(backoff_key(self.pod, action.spec), action.failed_at, now)
        limits = pod_cgroup_limits(self.pod)
        if action.attempt and limits != memory.limits:
            # What the pod has been granted has changed since its last container was made.
            await asyncio.to_thread(self._services.cgroups.ensure_pod, self.pod)
            memory.limits = limits
        created: list[str] = []
        lifecycle = action.spec.container.lifecycle
        has_hook = lifecycle is not None and lifecycle.postStart is not None

        def on_created(container_id: str) -> None:
            created.append(container_id)
            if has_hook:
                memory.hidden.add(container_id)

        place = StartedIn(sandbox, self.state, memory.volumes)
        try:
            await self.starter.container(self.pod, action, place, on_created)
        except StartFailed as failure:
            if failure.container_id:
                await self._end_after_hook(failure.container_id, action)
            memory.waiting[name] = failure.wait
            memory.retry_at[name] = self._clock.monotonic() + failure.retry_in
        else:
            memory.waiting.pop(name, None)
            memory.retry_at.pop(name, None)
        finally:
            memory.hidden.difference_update(created)

    async def _end_after_hook(self, container_id: str, action: StartContainer) -> None:
        """Ends a container whose postStart hook has failed, with all a container's end has."""
        stop = StopContainer(container_id, action.spec.name, "FailedPostStartHook")
        order = self._stop_order(stop, self._stop_deadline(stop))
        await self._stopper.stop(self.pod, action.spec, stop, order)

    async def _resize(self, action: ResizePod) -> None:
        """A limit that grows must grow in the pod's cgroup first, one that shrinks shrinks there
        last; and of the containers those that give go before those that take."""
        pod, services, whole = self.pod, self._services, self.pod.spec.resources
        problem = await self._too_small(action)
        if problem:
            self._resizer.fail(problem)
            self._memory.held_off[ResizePod] = self._clock.monotonic() + RESIZE_RETRY_SECONDS
            return
        before, after = pod_cgroup_limits(self._as_given(action)), pod_cgroup_limits(pod)
        if self.state.sandbox is not None:
            size = sandbox_size(pod, services.node.policy)
            await services.runtime.update_sandbox(
                self.state.sandbox.id, size.resources, size.overhead
            )
        await asyncio.to_thread(services.cgroups.ensure_pod, pod, roomy(before, after))
        for container_id, spec in sorted(action.containers, key=lambda each: self._grows(*each)):
            resources = container_resources(pod, spec.container, services.node)
            await services.runtime.update_resources(container_id, resources)
            self._memory.resized[container_id] = wanted_resources(spec.container, whole)
        await asyncio.to_thread(services.cgroups.ensure_pod, pod)
        self._memory.pod_resources, self._memory.limits = whole, after

    def _applied(self, container_id: str) -> Applied:
        known = self._memory.resized.get(container_id)
        if known is not None:
            return known
        record = next((each for each in self.state.containers if each.id == container_id), None)
        text = record.annotations.get(RESOURCES_ANNOTATION, "") if record is not None else ""
        return decode_resources(text) or {"limits": {}, "requests": {}}

    def _grows(self, container_id: str, spec: ContainerSpec) -> bool:
        return _limit(wanted_resources(spec.container)) > _limit(self._applied(container_id))

    def _as_given(self, action: ResizePod) -> Pod:
        """The pod with the resources its containers have now."""
        allocation = allocation_of(self.pod)
        given = {
            spec.name: shown_resources(spec.container, self._applied(container_id))
            for container_id, spec in action.containers
        }
        whole = self._memory.pod_resources or allocation.pod
        return with_allocation(self.pod, Allocation({**allocation.containers, **given}, whole))

    async def _too_small(self, action: ResizePod) -> str:
        """A memory limit below what is in use would be a death sentence: it has to wait."""
        shrinking = {
            container_id: (spec.name, limit)
            for container_id, spec in action.containers
            if (limit := _limit(wanted_resources(spec.container))) > 0
            and not 0 < _limit(self._applied(container_id)) <= limit
        }
        before, after = pod_cgroup_limits(self._as_given(action)), pod_cgroup_limits(self.pod)
        whole = after.memory if after.memory and not 0 < before.memory <= after.memory else 0
        if not shrinking and not whole:
            return ""
        uid = self.pod.metadata.uid
        used = {
            each.id: each.memory_usage
            for each in await self._services.runtime.usage()
            if each.pod_uid == uid
        }
        total = sum(used.values())
        problems = []
        if whole and total >= whole:
            text = f"attempting to set pod memory limit ({whole}) below current usage ({total})"
            problems.append(text)
        for container_id, (name, limit) in shrinking.items():
            if (usage := used.get(container_id, 0)) >= limit:
                problems.append(
                    f'attempting to set container "{name}" memory limit ({limit}) below current '
                    f"usage ({usage})"
                )
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        return f"cannot decrease memory limits: {text}" if problems else ""

    async def _remove_container(self, action: RemoveContainer) -> None:
        await self._services.runtime.remove_container(action.id)
        self._memory.messages.pop(action.id, None)
        self._memory.backed_off.discard(action.id)
        self._memory.replaced.discard(action.id)
        self._memory.hooked.discard(action.id)
        self._memory.resized.pop(action.id, None)
        meta = self.pod.metadata
        directory = self._services.volumes.pod_directory(meta.uid)
        termination_log_path(directory, action.name, action.attempt).unlink(missing_ok=True)
        if action.keep_logs:
            return
        logs = log_directory(
            self._services.options.pod_logs_directory, meta.namespace, meta.name, meta.uid
        )
        for path in (logs / action.name).glob(f"{action.attempt}.log*"):
            path.unlink(missing_ok=True)

    # Stopping

    def _begin_stop(self, action: StopContainer) -> None:
        memory = self._memory
        deadline = self._stop_deadline(action)
        order = self._stop_order(action, deadline)
        memory.hooked.add(action.id)
        if action.replace:
            memory.replaced.add(action.id)
        if memory.stopping_since is None:
            self._probes.forget(action.id)
        spec = find_container(self.pod, action.name)
        work = self._stopper.stop(self.pod, spec, action, order)
        self._operate(action.name, action, work, deadline)

    def _stop_order(self, action: StopContainer, deadline: float) -> StopOrder:
        addresses = self.starter.addresses(self.pod, self.state.sandbox)
        return StopOrder(
            deadline=deadline,
            with_hook=action.id not in self._memory.hooked,
            host=next(iter(addresses.pod_ips), ""),
            turn=lambda: self._until_over(action.after),
        )

    async def _until_over(self, names: tuple[str, ...]) -> None:
        """Until the stops of these containers are done (also those that were begun anew)."""
        while stops := [
            each.task
            for name in names
            if (each := self.operations.get(name)) and isinstance(each.action, StopContainer)
        ]:
            await asyncio.wait(stops)

    def _stop_deadline(self, action: StopContainer) -> float:
        now = self._clock.monotonic()
        if self._memory.stopping_since is not None:
            # All containers share the pod's grace period, also those that are stopped last.
            grace = self._memory.grace
            whole = termination_grace(self.pod) if grace is None else grace
            return self._memory.stopping_since + whole
        if action.grace is not None:
            return now + action.grace
        grace = termination_grace(self.pod)
        spec = find_container(self.pod, action.name)
        if action.probe is not None and spec is not None:
            container = spec.container
            probe = (
                container.livenessProbe
                if action.probe is ProbeKind.LIVENESS
                else container.startupProbe
            )
            if probe is not None and probe.terminationGracePeriodSeconds is not None:
                grace = probe.terminationGracePeriodSeconds
        return now + grace

    def shorten_stops(self) -> None:
        """A deletion with less grace than a stop under way has: stop again, without the hook."""
        if self._memory.stopping_since is None:
            return
        for name, operation in list(self.operations.items()):
            action = operation.action
            if not isinstance(action, StopContainer):
                continue
            if self._stop_deadline(action) < operation.deadline - 0.5:
                operation.task.cancel()
                del self.operations[name]
                self._begin_stop(action)

    def cancel_starts(self) -> None:
        for operation in self.operations.values():
            if isinstance(operation.action, StartContainer):
                operation.task.cancel()
        self._services.volumes.give_up(self.pod.metadata.uid)

    # Volumes

    def care_for_volumes(self) -> None:
        memory = self._memory
        now = self._clock.monotonic()
        if VOLUMES in self.operations or now < memory.volume_retry_at:
            return
        if memory.volumes is None or now - memory.volumes_at > VOLUME_REFRESH_SECONDS:
            self._operate(VOLUMES, None, self._prepare_volumes())

    async def _prepare_volumes(self) -> None:
        memory = self._memory
        first = memory.volumes is None
        # Set before reading: what changes meanwhile makes the refresh due again.
        memory.volumes_at = self._clock.monotonic()
        try:
            prepared = await self._services.volumes.prepare(self.pod, fresh=first)
        except VolumesFailed as failure:
            for reason, text in failure.problems:
                self._services.events.pod(self.pod, "Warning", reason, text)
            if failure.rejection and first:
                admission_rejections.labels(VOLUME_LIMIT).inc()
                self._services.events.pod(self.pod, "Warning", VOLUME_LIMIT, failure.rejection)
                memory.failure = (VOLUME_LIMIT, f"Pod was rejected: {failure.rejection}")
                memory.refused = True
                return
            delays = VOLUME_RETRY_SECONDS
            delay = delays[min(memory.volume_failures, len(delays) - 1)]
            memory.volume_failures += 1
            memory.volumes_at = float("-inf")
            memory.volume_retry_at = self._clock.monotonic() + delay
            return
        memory.volumes = prepared
        memory.volume_failures, memory.volume_retry_at = 0, 0.0


def _limit(resources: Applied) -> int:
    return amount(resources["limits"], "memory")
