"""The life of a pod on a node that runs nothing: what its status is by the timetable.

Pure and level-triggered. Everything needed is in the pod: when it was started, and how often its
containers ended, stands in its status, so a new process goes on where the last one left off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from navarch.api.times import format_time, parse_time
from navarch.api.types.core_v1 import (
    Container,
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    HostIP,
    Pod,
    PodCondition,
    PodIP,
    PodStatus,
)

RUN_SECONDS = "simulated.navarch.dev/run-seconds"
"""Annotation: how long the pod's containers run before they end by themselves."""
EXIT_CODE = "simulated.navarch.dev/exit-code"
"""Annotation: what they end with."""
SHORTEST_RUN = 1.0
"""Containers that are restarted run at least so long."""
TERMINAL = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Timetable:
    """How long things take, in seconds."""

    start: float = 0.0
    """From a pod's arrival until all its containers run and are ready."""
    stop: float = 0.0
    """From a pod's deletion until it is gone; never more than its grace period."""
    run: float | None = None
    """How long containers of pods run that do not restart always; None: until they are deleted."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do, unless the pod changes, before so many seconds; None: for good."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """The status to be written."""

    status: PodStatus


@dataclass(frozen=True, slots=True)
class Remove:
    """The pod has ended: take it away."""


Step = Wait | Write | Remove


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pod is."""

    node_ip: str
    pod_ip: str


def next_step(pod: Pod, place: Place, timetable: Timetable, now: datetime) -> Step:
    """What the node does with the pod now."""
    if pod.metadata.deletionTimestamp:
        return _ending(pod, place, timetable, now)
    if pod.status.phase in TERMINAL:
        return Wait()
    deadline = _deadline(pod)
    if deadline is not None and now >= deadline:
        return Write(_failed_by_deadline(pod, place, now))
    wait = None if deadline is None else deadline - now
    began = pod.status.startTime
    if began is None and timetable.start > 0:
        return Write(_waiting(pod, place, now))
    ready_at = (parse_time(began) if began else now) + timedelta(seconds=timetable.start)
    if now < ready_at:
        return Wait(_seconds(_sooner(wait, ready_at - now)))
    ends, code = _end(pod, timetable, ready_at)
    if ends is not None and now >= ends:
        if code == 0 or pod.spec.restartPolicy == "Never":
            return Write(_finished(pod, place, code, now))
        return Write(_running(pod, place, now, restarted=code))
    status = _running(pod, place, now)
    if not _same(status, pod.status):
        return Write(status)
    return Wait(_seconds(_sooner(wait, None if ends is None else ends - now)))


def _ending(pod: Pod, place: Place, timetable: Timetable, now: datetime) -> Step:
    grace = pod.metadata.deletionGracePeriodSeconds or 0
    begun = parse_time(pod.metadata.deletionTimestamp or "") - timedelta(seconds=grace)
    gone = begun + timedelta(seconds=min(grace, timetable.stop))
    if now < gone:
        return Wait((gone - now).total_seconds())
    if (pod.metadata.finalizers or grace) and pod.status.phase not in TERMINAL:
        # How it ended is said before it goes, as the kubelet does: the Job controller counts by
        # it, and endpoints are to leave a pod that is no longer ready.
        return Write(_finished(pod, place, 137, now))
    return Remove()


def _end(pod: Pod, timetable: Timetable, ready_at: datetime) -> tuple[datetime | None, int]:
    """When the containers end by themselves, and with what."""
    annotations = pod.metadata.annotations
    seconds = _number(annotations.get(RUN_SECONDS))
    if seconds is None:
        if pod.spec.restartPolicy in ("", "Always"):
            return None, 0
        seconds = timetable.run
    if seconds is None or pod.spec.restartPolicy in ("", "Always"):
        return None, 0
    began = [
        parse_time(status.state.running.startedAt)
        for status in pod.status.containerStatuses
        if status.state.running is not None and status.state.running.startedAt
    ]
    code = int(_number(annotations.get(EXIT_CODE)) or 0)
    if code and pod.spec.restartPolicy == "OnFailure":
        seconds = max(seconds, SHORTEST_RUN)
    return max(began, default=ready_at) + timedelta(seconds=seconds), code


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _deadline(pod: Pod) -> datetime | None:
    seconds, began = pod.spec.activeDeadlineSeconds, pod.status.startTime
    if seconds is None or began is None:
        return None
    return parse_time(began) + timedelta(seconds=seconds)


def _sooner(first: timedelta | None, second: timedelta | None) -> timedelta | None:
    return min((t for t in (first, second) if t is not None), default=None)


def _seconds(delay: timedelta | None) -> float | None:
    return None if delay is None else delay.total_seconds()


def _waiting(pod: Pod, place: Place, now: datetime) -> PodStatus:
    """Accepted by the node; containers are being made."""
    state = ContainerState(waiting=ContainerStateWaiting(reason="ContainerCreating"))
    statuses = [
        ContainerStatus(name=c.name, image=c.image, state=state, started=False)
        for c in pod.spec.containers
    ]
    return _status(pod, place, now, "Pending", statuses, ready=False)


def _running(pod: Pod, place: Place, now: datetime, restarted: int | None = None) -> PodStatus:
    """All containers run; with `restarted`, they have just ended with that code and run again."""
    known = {status.name: status for status in pod.status.containerStatuses}
    statuses = []
    for container in pod.spec.containers:
        old = known.get(container.name, ContainerStatus())
        status = _container_status(pod, container, _since(old, now))
        status.restartCount, status.lastState = old.restartCount, old.lastState
        if restarted is not None:
            status.restartCount += 1
            status.lastState = _terminated(pod, container, restarted, _since(old, now), now)
            status.state = ContainerState(running=ContainerStateRunning(startedAt=format_time(now)))
        statuses.append(status)
    return _status(pod, place, now, "Running", statuses, ready=True)


def _finished(pod: Pod, place: Place, code: int, now: datetime) -> PodStatus:
    """All containers ended with this code."""
    known = {status.name: status for status in pod.status.containerStatuses}
    statuses = []
    for container in pod.spec.containers:
        old = known.get(container.name, ContainerStatus())
        status = _container_status(pod, container, "")
        status.restartCount, status.lastState = old.restartCount, old.lastState
        status.ready = status.started = False
        status.state = _terminated(pod, container, code, _since(old, now), now)
        statuses.append(status)
    phase = "Failed" if code else "Succeeded"
    return _status(pod, place, now, phase, statuses, ready=False)


def _failed_by_deadline(pod: Pod, place: Place, now: datetime) -> PodStatus:
    status = _finished(pod, place, 137, now)
    status.reason = "DeadlineExceeded"
    status.message = "Pod was active on the node longer than the specified deadline"
    return status


def _since(status: ContainerStatus, now: datetime) -> str:
    running = status.state.running
    return running.startedAt if running is not None and running.startedAt else format_time(now)


def _container_status(pod: Pod, container: Container, since: str) -> ContainerStatus:
    return ContainerStatus(
        name=container.name,
        image=container.image,
        imageID=f"simulated://{container.image}",
        containerID=_container_id(pod, container),
        ready=True,
        started=True,
        state=ContainerState(running=ContainerStateRunning(startedAt=since)),
    )


def _terminated(
    pod: Pod, container: Container, code: int, since: str, now: datetime
) -> ContainerState:
    ended = ContainerStateTerminated(
        exitCode=code,
        reason="Error" if code else "Completed",
        startedAt=since,
        finishedAt=format_time(now),
        containerID=_container_id(pod, container),
    )
    return ContainerState(terminated=ended)


def _container_id(pod: Pod, container: Container) -> str:
    return f"simulated://{pod.metadata.uid}/{container.name}"


def _init_statuses(pod: Pod, now: datetime) -> list[ContainerStatus]:
    """Init containers are through, sidecars run."""
    known = {status.name: status for status in pod.status.initContainerStatuses}
    statuses = []
    for container in pod.spec.initContainers:
        old = known.get(container.name)
        if old is None or (old.state.running is None and old.state.terminated is None):
            old = _container_status(pod, container, format_time(now))
            if container.restartPolicy != "Always":
                old.started = False
                old.state = _terminated(pod, container, 0, format_time(now), now)
        statuses.append(old)
    return statuses


def _status(
    pod: Pod,
    place: Place,
    now: datetime,
    phase: str,
    containers: Sequence[ContainerStatus],
    ready: bool,
) -> PodStatus:
    address = place.node_ip if pod.spec.hostNetwork else place.pod_ip
    running = phase != "Pending"
    return PodStatus(
        observedGeneration=pod.metadata.generation,
        phase=phase,
        conditions=_conditions(pod, phase, ready, now),
        hostIP=place.node_ip,
        hostIPs=[HostIP(ip=place.node_ip)],
        podIP=address if running else "",
        podIPs=[PodIP(ip=address)] if running else [],
        startTime=pod.status.startTime or format_time(now),
        initContainerStatuses=_init_statuses(pod, now) if running else [],
        containerStatuses=[*containers],
    )


def _conditions(pod: Pod, phase: str, ready: bool, now: datetime) -> list[PodCondition]:
    """The kubelet's conditions; the moment one turned is kept while it stays as it is."""
    known = {condition.type: condition for condition in pod.status.conditions}
    names = ", ".join(c.name for c in pod.spec.containers)
    reason, message = "", ""
    if phase == "Succeeded":
        reason = "PodCompleted"
    elif phase == "Failed":
        reason = "PodFailed"
    elif not ready:
        reason, message = "ContainersNotReady", f"containers with unready status: [{names}]"
    gates = [
        gate.conditionType
        for gate in pod.spec.readinessGates
        if (found := known.get(gate.conditionType)) is None or found.status != "True"
    ]
    pod_ready, pod_reason, pod_message = ready, reason, message
    if ready and gates:
        pod_ready, pod_reason = False, "ReadinessGatesNotReady"
        pod_message = f"the status of pod readiness gate {gates[0]} is not True"
    wanted = (
        ("PodReadyToStartContainers", phase == "Running", "", ""),
        ("Initialized", phase != "Pending" or not pod.spec.initContainers, "", ""),
        ("Ready", pod_ready, pod_reason, pod_message),
        ("ContainersReady", ready, reason, message),
        ("PodScheduled", True, "", ""),
    )
    conditions = []
    for kind, holds, why, text in wanted:
        status = "True" if holds else "False"
        old = known.get(kind)
        turned = old.lastTransitionTime if old is not None and old.status == status else None
        conditions.append(
            PodCondition(
                type=kind,
                status=status,
                observedGeneration=pod.metadata.generation,
                reason=why,
                message=text,
                lastTransitionTime=turned or format_time(now),
            )
        )
    return conditions


def _same(wanted: PodStatus, actual: PodStatus) -> bool:
    """Whether the pod's status says already what it should; fields of others do not matter."""
    mine = {condition.type for condition in wanted.conditions}
    conditions = {c.type: c for c in actual.conditions if c.type in mine}
    return (
        conditions == {c.type: c for c in wanted.conditions}
        and wanted.phase == actual.phase
        and wanted.podIP == actual.podIP
        and wanted.observedGeneration == actual.observedGeneration
        and wanted.containerStatuses == actual.containerStatuses
        and wanted.initContainerStatuses == actual.initContainerStatuses
    )
