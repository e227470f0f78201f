"""A pod's status as the API shows it: a pure function of what is known on the node.

Phase and conditions follow from the container statuses, and these from the runtime's records, the
plan's waits and the probes' results; what nobody knows any more (a container that the runtime has
lost) is taken from the status before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from navarch.api.objects import to_object
from navarch.api.pod_resources import pod_limits, pod_requests
from navarch.api.quantity import Quantity
from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    ContainerUser,
    HostIP,
    ImageVolumeStatus,
    LinuxContainerUser,
    Pod,
    PodIP,
    PodStatus,
    ResourceHealth,
    ResourceRequirements,
    ResourceStatus,
    VolumeMountStatus,
    VolumeStatus,
)

from .conditions import INIT_KINDS, ResizeCondition, conditions, has_begun
from .cri.values import IMAGE_VOLUMES, ContainerRecord, PodState
from .cri.values import ContainerState as RuntimeState
from .plan import NANOSECONDS, Waiting
from .podspec import (
    RESTART_ALL,
    ContainerKind,
    ContainerSpec,
    containers_of,
    qos_class,
    restart_rule,
    should_restart,
)
from .resize import Applied, shown_resources
from .resources import pod_cgroup_limits

STATUS_UNKNOWN_EXIT = 137
RESTARTING_ALL = "RestartingAllContainers"
"""The reason of containers that were removed because another one's exit restarts the pod."""


@dataclass(frozen=True)
class StatusInputs:
    """What a status is computed from, beside the pod and the runtime's state."""

    now: datetime
    host_ips: Sequence[str]
    runtime_name: str = "containerd"
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    """Containers that are to start but wait, and why."""
    ready: frozenset[str] = frozenset()
    """Ids of the running containers that are ready."""
    started: frozenset[str] = frozenset()
    """Ids of the running containers that have started (startup probe and postStart passed)."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """Termination messages by container id."""
    hidden: frozenset[str] = frozenset()
    """Ids of containers whose postStart hook still runs: they are shown as being created."""
    applied: Mapping[str, Applied] = field(default_factory=dict)
    """The cpu and memory running containers (by id) have, where that is known."""
    pod_resources: ResourceRequirements | None = None
    """What the pod as a whole really has, where that is known."""
    resize: Sequence[ResizeCondition] = ()
    """What is to be said of a resize that is not done."""
    ended: bool = False
    """All containers are over and none will be started again."""
    failure: tuple[str, str] | None = None
    """Reason and message if the pod was failed from outside (deadline, eviction, admission)."""
    refused: bool = False
    """The node never took the pod in: its containers have no status (kubectl would show theirs,
    a wait, in place of the pod's reason)."""
    restarting_all: bool = False
    """Containers are being removed because an exit restarts the whole pod in place."""
    replaced: frozenset[str] = frozenset()
    """Ids of containers that were stopped so that a new instance takes their place."""
    recursive_read_only: bool = False
    """Whether the pod's runtime handler can mount whole trees read-only."""
    disruption: str = ""
    """The message of the condition DisruptionTarget, for a pod that had to make room."""
    devices: Mapping[str, Mapping[str, Mapping[str, bool]]] = field(default_factory=dict)
    """The health of the devices plug-ins have given, by container, resource and device."""
    claims: Mapping[str, Sequence[ResourceStatus]] = field(default_factory=dict)
    """The health of the devices of claims, by container."""
    start_time: datetime | None = None
    """When the agent first saw the pod, for a pod whose status does not say so."""


def compute_status(pod: Pod, state: PodState, inputs: StatusInputs) -> PodStatus:
    """The whole status; conditions of others and fields of the server are carried over."""
    before = pod.status
    specs = containers_of(pod)
    builder = _ContainerStatuses(pod, state, inputs)
    init = [builder.build(each) for each in specs if each.kind in INIT_KINDS]
    apps = [builder.build(each) for each in specs if each.kind is ContainerKind.APP]
    ephemeral = [builder.build(each) for each in specs if each.kind is ContainerKind.EPHEMERAL]
    phase = pod_phase(pod, [*init, *apps], inputs)
    reason, message = before.reason, before.message
    if inputs.failure is not None:
        phase, (reason, message) = "Failed", inputs.failure
    elif before.phase in ("Failed", "Succeeded"):
        phase = before.phase
    else:
        if inputs.ended and phase in ("Pending", "Running"):
            phase = "Failed"  # the pod was ended from outside before it was done
        if phase != before.phase:
            reason, message = "", ""
    if phase in ("Failed", "Succeeded"):
        for status in (*init, *apps):
            if status.state.running is not None or (
                status.state.terminated is None or status.name not in builder.init_names
            ):
                status.ready = False
            status.started = False if status.state.running is None else status.started
    start = inputs.start_time or inputs.now
    ips = _pod_ips(pod, state, inputs)
    held = _sizes(pod, inputs.pod_resources or pod.spec.resources)
    result = PodStatus(
        observedGeneration=pod.metadata.generation,
        phase=phase,
        reason=reason,
        message=message,
        nominatedNodeName=before.nominatedNodeName,
        hostIP=next(iter(inputs.host_ips), ""),
        hostIPs=[HostIP(ip=ip) for ip in inputs.host_ips],
        podIP=next(iter(ips), ""),
        podIPs=[PodIP(ip=ip) for ip in ips],
        startTime=before.startTime or format_time(start),
        initContainerStatuses=init,
        containerStatuses=apps,
        ephemeralContainerStatuses=ephemeral,
        qosClass=qos_class(pod),
        allocatedResources=_amounts(pod_requests(_sizes(pod, pod.spec.resources))),
        resources=ResourceRequirements(
            requests=_amounts(pod_requests(held)), limits=_amounts(_enforced(pod, pod_limits(held)))
        ),
        resourceClaimStatuses=before.resourceClaimStatuses,
        extendedResourceClaimStatus=before.extendedResourceClaimStatus,
    )
    result.conditions = conditions(pod, state, result, inputs)
    was_refused = before.phase == "Failed" and not (before.containerStatuses or state.containers)
    if inputs.refused or was_refused:
        result.initContainerStatuses = []
        result.containerStatuses = []
    return result


_OF_AN_INSTANCE = (
    "image",
    "imageID",
    "containerID",
    "resources",
    "allocatedResources",
    "user",
    "stopSignal",
)


class _ContainerStatuses:
    """Builds the statuses of one pod's containers."""

    def __init__(self, pod: Pod, state: PodState, inputs: StatusInputs) -> None:
        self._pod, self._inputs = pod, inputs
        self._latest, self._previous = state.latest(), state.previous()
        self.init_names = {each.name for each in pod.spec.initContainers}
        status = pod.status
        self._before = {
            each.name: each
            for each in (
                *status.initContainerStatuses,
                *status.containerStatuses,
                *status.ephemeralContainerStatuses,
            )
        }

    def build(self, spec: ContainerSpec) -> ContainerStatus:
        record = self._latest.get(spec.name)
        if record is not None and (
            record.id in self._inputs.hidden or record.state is RuntimeState.CREATED
        ):
            record = None  # it does not count before it runs
        if record is None:
            status = self._without_record(spec)
        else:
            status = self._from_record(spec, record)
        self._apply_wait(spec, status)
        if not status.volumeMounts:
            recursive = self._inputs.recursive_read_only
            images = image_volumes(record)
            status.volumeMounts = _mount_statuses(spec.container, images, recursive=recursive)
        status.allocatedResourcesStatus = [
            *_device_statuses(self._inputs.devices.get(spec.name, {})),
            *self._inputs.claims.get(spec.name, ()),
        ]
        return status

    def _from_record(self, spec: ContainerSpec, record: ContainerRecord) -> ContainerStatus:
        container = spec.container
        prefix = self._inputs.runtime_name
        status = ContainerStatus(
            name=spec.name,
            image=record.image or container.image,
            imageID=record.image_ref,
            containerID=f"{prefix}://{record.id}",
            restartCount=record.attempt,
            started=False,
        )
        applied = self._inputs.applied.get(record.id) if record.running else None
        status.resources = shown_resources(container, applied)
        status.allocatedResources = dict(status.resources.requests)
        status.stopSignal = container.lifecycle.stopSignal if container.lifecycle else None
        if record.user is not None:
            status.user = ContainerUser(
                linux=LinuxContainerUser(
                    uid=record.user.uid,
                    gid=record.user.gid,
                    supplementalGroups=list(record.user.groups),
                )
            )
        if record.running:
            status.state.running = ContainerStateRunning(startedAt=_time(record.started_at))
            started = record.id in self._inputs.started
            status.started = started
            status.ready = started and record.id in self._inputs.ready
            if spec.kind is ContainerKind.INIT:
                status.ready = False
        elif record.exited:
            status.state.terminated = self._terminated(record)
            status.ready = (
                spec.kind is ContainerKind.INIT
                and record.state is RuntimeState.EXITED
                and record.exit_code == 0
            )
        previous = self._previous.get(spec.name)
        if previous is not None and previous.exited:
            status.lastState.terminated = self._terminated(previous)
        elif spec.name in self._before:
            status.lastState = _last_state(self._before[spec.name], status.containerID)
        return status

    def _terminated(self, record: ContainerRecord) -> ContainerStateTerminated:
        reason, code = record.reason, record.exit_code
        if record.state is RuntimeState.UNKNOWN:
            reason, code = "ContainerStatusUnknown", STATUS_UNKNOWN_EXIT
        if not reason:
            reason = "Completed" if code == 0 else "Error"
        return ContainerStateTerminated(
            exitCode=code,
            reason=reason,
            # What the runtime says comes before what the container left itself.
            message=": ".join(filter(None, (record.message, self._inputs.messages.get(record.id)))),
            # One that could not be started began at the epoch, as upstream shows it.
            startedAt=_time(record.started_at, zero=record.state is RuntimeState.EXITED),
            finishedAt=_time(record.finished_at),
            containerID=f"{self._inputs.runtime_name}://{record.id}",
        )

    def _without_record(self, spec: ContainerSpec) -> ContainerStatus:
        before = self._before.get(spec.name)
        status = ContainerStatus(name=spec.name, image=spec.container.image, started=False)
        if before is not None and before.state.waiting is None and self._is_removed(spec, before):
            text = "The container is removed because RestartAllContainers in place"
            status.restartCount = before.restartCount + 1
            status.state.waiting = ContainerStateWaiting(reason=RESTARTING_ALL, message=text)
            status.lastState.terminated = ContainerStateTerminated(
                exitCode=STATUS_UNKNOWN_EXIT, reason=RESTARTING_ALL, message=text
            )
            return status
        if before is not None and before.state.terminated is not None:
            # It has ended, and the runtime (or this agent) has cleared it away since.
            status.state = before.state
            status.ready = before.ready
            for name in (*_OF_AN_INSTANCE, "restartCount", "lastState"):
                setattr(status, name, getattr(before, name))
            return status
        status.state.waiting = ContainerStateWaiting(reason=self._default_reason())
        if before is None:
            return status
        status.restartCount = before.restartCount
        status.lastState = before.lastState
        if before.state.waiting is not None and before.lastState.terminated is not None:
            for name in _OF_AN_INSTANCE:
                setattr(status, name, getattr(before, name))
            return status  # it is being started again
        if before.state.running is not None and spec.kind is not ContainerKind.EPHEMERAL:
            lost = ContainerStateTerminated(
                exitCode=STATUS_UNKNOWN_EXIT,
                reason="ContainerStatusUnknown",
                message="The container could not be located when the pod was terminated",
                startedAt=before.state.running.startedAt,
                containerID=before.containerID,
            )
            if self._inputs.ended:
                status.state = ContainerState(terminated=lost)
            else:
                lost.message = (
                    "The container could not be located when the pod was deleted.  "
                    "The container used to be Running"
                )
                status.lastState = ContainerState(terminated=lost)
        return status

    def _is_removed(self, spec: ContainerSpec, before: ContainerStatus) -> bool:
        """Whether a container without a record is one that a restart of all has removed. Those
        that caused the restart are removed last, and known by how they ended."""
        if spec.kind is ContainerKind.EPHEMERAL or self._inputs.ended:
            return False
        end = before.state.terminated
        return self._inputs.restarting_all or (
            end is not None and restart_rule(spec.container, end.exitCode) == RESTART_ALL
        )

    def _default_reason(self) -> str:
        """Upstream says so of the init containers themselves, too."""
        return "PodInitializing" if self._pod.spec.initContainers else "ContainerCreating"

    def _apply_wait(self, spec: ContainerSpec, status: ContainerStatus) -> None:
        """A container that cannot be started (again) yet is shown waiting, with the reason."""
        wait = self._inputs.waiting.get(spec.name) or self._last_wait(status)
        if wait is None and status.containerID.rpartition("/")[2] in self._inputs.replaced:
            # What it was stopped for may restart what the policy would not: it must not be seen
            # to have ended, which would be final.
            wait = Waiting(self._default_reason())
        if wait is None or status.state.running is not None or self._inputs.ended:
            return
        terminated = status.state.terminated
        if terminated is not None:
            if not _comes_again(self._pod, spec, terminated, self._inputs):
                return
            status.lastState = ContainerState(terminated=terminated)
            status.ready = False
        status.state = ContainerState(
            waiting=ContainerStateWaiting(reason=wait.reason, message=wait.message)
        )

    def _last_wait(self, status: ContainerStatus) -> Waiting | None:
        """While an ended container is being started again, the wait that is over is still shown."""
        before = self._before.get(status.name)
        if before is None or before.containerID != status.containerID or not status.containerID:
            return None
        waiting = before.state.waiting
        return Waiting(waiting.reason, waiting.message) if waiting is not None else None


def _device_statuses(devices: Mapping[str, Mapping[str, bool]]) -> list[ResourceStatus]:
    return [
        ResourceStatus(
            name=resource,
            resources=[
                ResourceHealth(resourceID=each, health="Healthy" if is_well else "Unhealthy")
                for each, is_well in sorted(health.items())
            ],
        )
        for resource, health in devices.items()
    ]


def _last_state(before: ContainerStatus, container_id: str) -> ContainerState:
    if before.containerID != container_id and before.state.terminated is not None:
        return before.state
    return before.lastState


def _comes_again(
    pod: Pod, spec: ContainerSpec, end: ContainerStateTerminated, inputs: StatusInputs
) -> bool:
    return (
        end.reason == RESTARTING_ALL
        or end.containerID.rpartition("/")[2] in inputs.replaced
        or should_restart(pod, spec, end.exitCode)
    )


def image_volumes(record: ContainerRecord | None) -> dict[str, str]:
    """By volume, the id of the image that the container has mounted there."""
    noted = record.annotations.get(IMAGE_VOLUMES, "") if record is not None else ""
    images: dict[str, str] = json.loads(noted) if noted else {}
    return images


def _mount_statuses(
    container: Container, images: Mapping[str, str], *, recursive: bool
) -> list[VolumeMountStatus]:
    shown = ("Enabled", "IfPossible") if recursive else ()
    return [
        VolumeMountStatus(
            name=mount.name,
            mountPath=mount.mountPath,
            readOnly=mount.readOnly,
            recursiveReadOnly=(
                ("Enabled" if mount.recursiveReadOnly in shown else "Disabled")
                if mount.readOnly
                else None
            ),
            volumeStatus=(
                VolumeStatus(image=ImageVolumeStatus(imageRef=images[mount.name]))
                if mount.name in images
                else None
            ),
        )
        for mount in container.volumeMounts
    ]


def _time(nanoseconds: int, *, zero: bool = False) -> str | None:
    if nanoseconds <= 0 and not zero:
        return None
    return format_time(datetime.fromtimestamp(nanoseconds / NANOSECONDS, UTC))


def _pod_ips(pod: Pod, state: PodState, inputs: StatusInputs) -> list[str]:
    if pod.spec.hostNetwork:
        return list(inputs.host_ips)
    sandbox = state.sandbox
    if sandbox is not None and sandbox.ips:
        return list(sandbox.ips)
    return [each.ip for each in pod.status.podIPs]


def _sizes(pod: Pod, whole: ResourceRequirements | None) -> dict[str, Any]:
    """As much of the pod's object as is needed to sum up what it asks for or has."""
    spec = pod.spec

    def sized(containers: Sequence[Container]) -> list[dict[str, Any]]:
        return [
            {"resources": to_object(each.resources), "restartPolicy": each.restartPolicy}
            for each in containers
        ]

    return {
        "spec": {
            "containers": sized(spec.containers),
            "initContainers": sized(spec.initContainers),
            "resources": to_object(whole) if whole is not None else {},
            "overhead": spec.overhead,
        }
    }


def _amounts(resources: Mapping[str, Quantity]) -> dict[str, str]:
    return {name: str(amount) for name, amount in resources.items()}


def _enforced(pod: Pod, limits: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """The limits that the pod's cgroup has: only what all containers are limited in."""
    cgroup = pod_cgroup_limits(pod)
    absent = {
        name for name, value in (("cpu", cgroup.quota), ("memory", cgroup.memory)) if not value
    }
    return {name: limit for name, limit in limits.items() if name not in absent}


# The phase


def pod_phase(pod: Pod, statuses: Sequence[ContainerStatus], inputs: StatusInputs) -> str:
    by_name = {status.name: status for status in statuses}
    apps_begun = any(
        has_begun(by_name[each.name]) for each in pod.spec.containers if each.name in by_name
    )
    pending_init = pending_sidecar = False
    for spec in containers_of(pod):
        status = by_name.get(spec.name)
        if status is None:
            continue
        end = status.state.terminated or (
            status.lastState.terminated if status.state.waiting is not None else None
        )
        if spec.kind is ContainerKind.INIT:
            if end is None or status.state.running is not None:
                pending_init = True
            elif end.exitCode != 0:
                if not _comes_again(pod, spec, end, inputs) or inputs.ended:
                    return "Failed"
                pending_init = True
        elif spec.kind is ContainerKind.SIDECAR and end is None:
            pending_sidecar |= status.state.running is None or not status.started
    if (pending_init or pending_sidecar) and not apps_begun:
        return "Pending"
    return _app_phase(pod, by_name, inputs)


def _app_phase(pod: Pod, by_name: Mapping[str, ContainerStatus], inputs: StatusInputs) -> str:
    running = waiting = succeeded = restarting = stopped = 0
    for spec in containers_of(pod):
        if spec.kind is ContainerKind.SIDECAR:
            # It does not keep a pod from being done, but the pod is not done while it runs.
            running += by_name[spec.name].state.running is not None
        if spec.kind is not ContainerKind.APP:
            continue
        status = by_name[spec.name]
        end = status.state.terminated
        if status.state.running is not None:
            running += 1
            continue
        if end is None:
            end = status.lastState.terminated
        if end is None:
            waiting += 1
            continue
        stopped += 1
        if not inputs.ended and _comes_again(pod, spec, end, inputs):
            restarting += 1
        elif end.exitCode == 0:
            succeeded += 1
    if waiting:
        # A pod that ends before all of its containers could begin has not done its work.
        return "Failed" if inputs.ended and stopped else "Pending"
    if running or restarting:
        return "Running"
    return "Succeeded" if succeeded == stopped else "Failed"
