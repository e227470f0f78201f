"""The life of a pod on a node that runs nothing: what its status is by the timetable.

Pure and level-triggered. Everything needed is in the pod: when it was started, and how often its
containers ended, stands in its status, so a new process goes on where the last one left off. The
order of things is the kubelet's: init containers one by one, sidecars among them as soon as they
have started, then the others all at once; restarts by the pod's policy and with growing waits;
sidecars end last, in reverse; a pod is gone when all its containers have stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from navarch.api.times import format_time, parse_time
from navarch.api.types.core_v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    HostIP,
    Pod,
    PodIP,
    PodStatus,
)

from ..admission import Refusal
from ..backoff import RESET_SECONDS, format_seconds
from ..conditions import OWN_CONDITIONS, conditions
from ..cri.values import PodState, SandboxRecord
from ..podspec import ContainerKind, ContainerSpec, containers_of, full_name, should_restart
from ..status import StatusInputs, pod_phase
from .timetable import Timetable, fraction

TERMINAL = ("Succeeded", "Failed")
KILLED, TERMINATED, LOST = 137, 143, 255
BACKING_OFF = "CrashLoopBackOff"
_MESSAGES = {
    "ImagePullBackOff": 'Back-off pulling image "{image}"',
    "ErrImagePull": 'failed to pull and unpack image "{image}"',
    "InvalidImageName": 'Failed to apply default image tag "{image}": invalid reference format',
    "ErrImageNeverPull": 'Container image "{image}" is not present with pull policy of Never',
}


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do, unless the pod changes, before so many seconds; None: for good."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """The status to be written. Once that is done `then` holds, if nobody else changed the pod."""

    status: PodStatus
    then: Wait | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """The pod has ended: take it away."""


Step = Wait | Write | Remove


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pod is."""

    node_ip: str
    pod_ip: str


@dataclass(frozen=True, slots=True)
class Moment:
    """What time it is. Times in objects are whole seconds; when this process wrote the last one is
    known better."""

    now: datetime
    wrote: datetime | None = None
    booted: datetime | None = None
    """When the node came back with nothing running."""

    def exact(self, text: str) -> datetime:
        """The time in an object, to the microsecond if it is the last one written."""
        time = parse_time(text)
        if self.wrote is not None and self.wrote.replace(microsecond=0) == time:
            return self.wrote
        return time


def next_step(pod: Pod, place: Place, timetable: Timetable, moment: Moment) -> Step:
    """What the node does with the pod now. The node has taken it in."""
    if pod.metadata.deletionTimestamp:
        return _Ending(pod, place, timetable, moment).step()
    if pod.status.phase in TERMINAL:
        return Wait()
    return _Living(pod, place, timetable, moment).step()


def refused(pod: Pod, place: Place, refusal: Refusal, now: datetime) -> Step:
    """A pod that the node does not take in."""
    inputs = StatusInputs(
        now,
        [place.node_ip],
        ended=True,
        failure=(refusal.reason, f"Pod was rejected: {refusal.message}"),
        refused=True,
    )
    return Write(_status(pod, place, (), inputs, began=now))


class _Container:
    """One container as it is moved on. Holds a status of its own."""

    def __init__(self, pod: Pod, spec: ContainerSpec, plan: Timetable, moment: Moment) -> None:
        self.pod, self.spec, self.plan, self.moment = pod, spec, plan, moment
        self.status = ContainerStatus(name=spec.name)
        self.due: datetime | None = None
        """When it will change by itself."""

    def take(self, old: ContainerStatus | None) -> None:
        """Begin from what the pod's status says."""
        creating = "PodInitializing" if self.pod.spec.initContainers else "ContainerCreating"
        status = self.status
        if old is None:
            status.state = ContainerState(waiting=ContainerStateWaiting(reason=creating))
        else:
            status.state, status.lastState = old.state, old.lastState
            status.restartCount = old.restartCount
        self._boot(creating)

    @property
    def ended(self) -> ContainerStateTerminated | None:
        return self.status.state.terminated

    @property
    def running(self) -> ContainerStateRunning | None:
        return self.status.state.running

    @property
    def is_over(self) -> bool:
        """Ended for good."""
        end = self.ended
        return end is not None and not should_restart(self.pod, self.spec, end.exitCode)

    def began_at(self) -> datetime:
        running = self.running
        assert running is not None
        return self.moment.exact(running.startedAt or format_time(self.moment.now))

    def go_on(self, gate: datetime) -> None:
        """Move on as far as time allows; the container may start from `gate` on."""
        while self._one_step(gate):
            pass
        self._judge()

    def stop(self, at: datetime, code: int) -> bool:
        """End at `at` at the latest; whether it has ended."""
        if self.running is None:
            return True
        now = self.moment.now
        if now >= at:
            self._end(code, self._stop_reason(code))
            self._judge()
            return True
        end = self._own_end()
        if end is not None and end <= now:
            self._end_by_itself()
        self._judge()
        self.due = at if self.running is not None else None
        return self.running is None

    def _stop_reason(self, code: int) -> str:
        return "Error" if code else "Completed"

    def _boot(self, creating: str) -> None:
        """What ran when the machine lost its power is started anew, from the first init container
        on; how it ended, nobody knows."""
        booted = self.moment.booted
        if booted is None or self.status.state.waiting is not None:
            return
        running = self.running
        if running is not None:
            if self.began_at() >= booted:
                return
            self._end(LOST, "Unknown")
            if self.is_over:
                return
        elif self.spec.kind is not ContainerKind.INIT or not self._others_run(booted):
            return
        self.status.lastState = self.status.state
        self.status.state = ContainerState(waiting=ContainerStateWaiting(reason=creating))

    def _others_run(self, booted: datetime) -> bool:
        return any(
            each.state.running is not None
            and each.state.running.startedAt
            and self.moment.exact(each.state.running.startedAt) < booted
            for each in self.pod.status.containerStatuses
        )

    def _one_step(self, gate: datetime) -> bool:
        self.due = None
        if self.running is not None:
            end = self._own_end()
            if end is None or self.moment.now < end:
                self.due = end
                return False
            self._end_by_itself()
            return True
        if self.ended is not None:
            if self.is_over:
                return False
            self._come_again()
            return True
        at = self._start_time(gate)
        if at is None or self.moment.now < at:
            self.due = at
            return False
        if self.status.lastState.terminated is not None:
            self.status.restartCount += 1
        now = format_time(self.moment.now)
        self.status.state = ContainerState(running=ContainerStateRunning(startedAt=now))
        return True

    def _start_time(self, gate: datetime) -> datetime | None:
        last = self.status.lastState.terminated
        if last is not None:
            ended = self.moment.exact(last.finishedAt or "")
            return max(gate, ended + timedelta(seconds=self._backoff(last)))
        at = gate + timedelta(seconds=self.plan.start.at(self._draw("start")))
        if not self.plan.waiting:
            return at
        until = None
        if self.plan.waiting_for is not None:
            until = at + timedelta(seconds=self.plan.waiting_for.at(self._draw("waiting")))
        if until is None or self.moment.now < until:
            reason = self.plan.waiting if self.moment.now >= at else ""
            if reason:
                text = self.plan.message or _MESSAGES.get(reason, "the timetable says so")
                text = text.replace("{image}", self.spec.container.image)
                self.status.state = ContainerState(
                    waiting=ContainerStateWaiting(reason=reason, message=text)
                )
                return until
            return at
        return until

    def _backoff(self, last: ContainerStateTerminated) -> float:
        """The wait after an end: none after the first, then 10 s, doubling."""
        restarts = self.status.restartCount
        if (
            not restarts
            or last.exitCode == LOST
            or (self.spec.kind is ContainerKind.INIT and not (last.exitCode))
        ):
            return 0.0
        began, ended = last.startedAt, last.finishedAt
        if began and ended:
            lasted = (parse_time(ended) - parse_time(began)).total_seconds()
            if lasted > RESET_SECONDS:
                return 0.0
        return float(min(self.plan.backoff * 2.0 ** min(restarts - 1, 30), self.plan.backoff_limit))

    def _come_again(self) -> None:
        ended = self.ended
        assert ended is not None
        self.status.lastState = self.status.state
        seconds = self._backoff(ended)
        waiting = ContainerStateWaiting(reason="ContainerCreating")
        if seconds:
            text = (
                f"back-off {format_seconds(seconds)} restarting failed "
                f"container={self.spec.name} pod={full_name(self.pod)}"
            )
            waiting = ContainerStateWaiting(reason=BACKING_OFF, message=text)
        self.status.state = ContainerState(waiting=waiting)

    def _own_end(self) -> datetime | None:
        """When it ends by itself."""
        span = self.plan.run
        policy = self.spec.container.restartPolicy or self.pod.spec.restartPolicy or "Always"
        if span is None or (self.plan.run_only_finite and policy == "Always"):
            return None
        return self.began_at() + timedelta(seconds=span.at(self._draw("run")))

    def _end_by_itself(self) -> None:
        plan, code = self.plan, self.plan.exit_code
        if plan.failure_chance and self._draw("failure") < plan.failure_chance:
            code = plan.failure_code
        self._end(code, (plan.reason or "Error") if code else "Completed", plan.message)

    def _end(self, code: int, reason: str, message: str = "") -> None:
        running = self.running
        ended = ContainerStateTerminated(
            exitCode=code,
            reason=reason,
            message=message if code else "",
            startedAt=running.startedAt if running is not None else None,
            finishedAt=format_time(self.moment.now),
            containerID=self._id(),
        )
        self.status.state = ContainerState(terminated=ended)

    def _judge(self) -> None:
        """Ready and started, and what else a status says."""
        status, container, running = self.status, self.spec.container, self.running
        status.image = container.image
        status.started = running is not None
        if self.spec.kind is ContainerKind.INIT:
            status.ready = self.ended is not None and self.ended.exitCode == 0
        else:
            status.ready = running is not None and self._is_ready()
        if running is not None or self.ended is not None or status.lastState.terminated is not None:
            status.imageID = f"simulated://{container.image}"
            status.containerID = self._id()
            status.resources = container.resources
            status.allocatedResources = container.resources.requests

    def _is_ready(self) -> bool:
        plan, now = self.plan, self.moment.now
        ready_at = self.began_at() + timedelta(seconds=plan.ready.at(self._draw("ready")))
        if now < ready_at:
            self._look_again(ready_at)
            return False
        if plan.unready_every is None:
            return True
        well = plan.unready_every.at(self._draw("every"))
        period = max(well + plan.unready_for.at(self._draw("for")), 1.0)
        rounds, position = divmod((now - ready_at).total_seconds(), period)
        turn = rounds * period + (well if position < well else period)
        self._look_again(ready_at + timedelta(seconds=turn))
        return position < well

    def _look_again(self, at: datetime) -> None:
        self.due = at if self.due is None else min(self.due, at)

    def _draw(self, purpose: str) -> float:
        return fraction(self.pod.metadata.uid, self.spec.name, purpose, self.status.restartCount)

    def _id(self) -> str:
        return f"simulated://{self.pod.metadata.uid}/{self.spec.name}/{self.status.restartCount}"


class _Life:
    """All containers of a pod."""

    def __init__(self, pod: Pod, place: Place, timetable: Timetable, moment: Moment) -> None:
        self.pod, self.place, self.timetable, self.moment = pod, place, timetable, moment
        status = pod.status
        known = {each.name: each for each in status.containerStatuses}
        known |= {each.name: each for each in status.initContainerStatuses}
        self.began = moment.exact(status.startTime) if status.startTime else moment.now
        self.containers = []
        for spec in containers_of(pod):
            plan = timetable.of(spec.name, is_init=spec.kind is not ContainerKind.APP)
            if spec.kind is ContainerKind.SIDECAR and "run" not in timetable.containers.get(
                spec.name, {}
            ):
                plan = replace(plan, run=None)
            container = _Container(pod, spec, plan, moment)
            container.take(known.get(spec.name))
            self.containers.append(container)
        self.inits = [each for each in self.containers if each.spec.kind is not ContainerKind.APP]
        self.apps = [each for each in self.containers if each.spec.kind is ContainerKind.APP]
        self.sidecars = [each for each in self.inits if each.spec.kind is ContainerKind.SIDECAR]

    def due(self) -> datetime | None:
        return _soonest(each.due for each in self.containers)

    def written(self, inputs: StatusInputs) -> Write | None:
        """The status, unless the pod has it already."""
        statuses = [each.status for each in self.containers]
        status = _status(self.pod, self.place, statuses, inputs, self.began)
        return None if _same(status, self.pod.status) else Write(status)

    def inputs(
        self, *, ended: bool = False, failure: tuple[str, str] | None = None
    ) -> StatusInputs:
        ips = [self.place.node_ip]
        return StatusInputs(self.moment.now, ips, ended=ended, failure=failure)

    def stop_sidecars(self, latest: datetime | None = None) -> bool:
        """One after the other, the last first; whether all have stopped."""
        at = max(
            (
                self.moment.exact(each.ended.finishedAt)
                for each in self.apps
                if each.ended is not None and each.ended.finishedAt
            ),
            default=self.moment.now,
        )
        for each in reversed(self.sidecars):
            at += timedelta(seconds=each.plan.stop.at(fraction(self.pod.metadata.uid, "stop")))
            limit = at if latest is None else min(at, latest)
            if not each.stop(limit, _stop_code(each.plan, late=latest is not None and at > latest)):
                return False
        return True


class _Living(_Life):
    """A pod that nobody has deleted."""

    def step(self) -> Step:
        now, spec = self.moment.now, self.pod.spec
        deadline = None
        if spec.activeDeadlineSeconds is not None:
            deadline = self.began + timedelta(seconds=spec.activeDeadlineSeconds)
            if now >= deadline:
                return self._past_its_deadline()
        start = self.timetable.start.at(fraction(self.pod.metadata.uid, "start"))
        gate = self.began + timedelta(seconds=start)
        if now >= gate:
            self._run(gate)
        else:
            for each in self.containers:
                each._judge()
        over = bool(self.apps) and (
            all(each.is_over for each in self.apps)
            or any(each.is_over and each.status.state.terminated.exitCode for each in self.inits)  # type: ignore[union-attr]
        )
        if over and self.stop_sidecars():
            for each in self.containers:
                each.due = None
        due = _soonest((deadline, gate if now < gate else self.due()))
        wait = Wait(None if due is None else max(0.0, (due - now).total_seconds()))
        write = self.written(self.inputs())
        return wait if write is None else replace(write, then=wait)

    def _run(self, gate: datetime) -> None:
        begun = any(each.running is not None or each.ended is not None for each in self.apps)
        for each in self.inits:
            each.go_on(gate)
            if each.running is not None and each.spec.kind is ContainerKind.SIDECAR:
                gate = max(gate, each.began_at())
            elif each.ended is not None and each.is_over and not each.ended.exitCode:
                gate = max(gate, self.moment.exact(each.ended.finishedAt or ""))
            elif not begun:
                for other in self.containers:
                    other._judge()
                return
        for each in self.apps:
            each.go_on(gate)

    def _past_its_deadline(self) -> Step:
        for each in self.containers:
            each.stop(self.moment.now, KILLED)
        text = "Pod was active on the node longer than the specified deadline"
        write = self.written(self.inputs(ended=True, failure=("DeadlineExceeded", text)))
        return write or Wait()


class _Ending(_Life):
    """A pod that is deleted: its containers have until its grace period is over."""

    def step(self) -> Step:
        meta, now = self.pod.metadata, self.moment.now
        if self.pod.status.phase in TERMINAL:
            return Remove()
        grace = meta.deletionGracePeriodSeconds or 0
        latest = parse_time(meta.deletionTimestamp or "")
        begun = latest - timedelta(seconds=grace)
        still = False
        for each in self.containers:
            if each.spec.kind is ContainerKind.SIDECAR:
                continue
            at = begun + timedelta(seconds=each.plan.stop.at(fraction(meta.uid, "stop")))
            late = at > latest or (at == latest and grace > 0)
            still |= not each.stop(min(at, latest), _stop_code(each.plan, late=late))
        still = still or not self.stop_sidecars(latest)
        for each in self.containers:
            each._judge()
        if still:
            write = self.written(self.inputs())
            due = self.due() or latest
            return write or Wait(max(0.0, (due - now).total_seconds()))
        if meta.finalizers or grace:
            # How it ended is said before it goes, as the kubelet does: the Job controller counts
            # by it, and endpoints are to leave a pod that is no longer ready.
            write = self.written(self.inputs(ended=True))
        else:
            write = None
        return write or Remove()


def _stop_code(plan: Timetable, *, late: bool) -> int:
    if late:
        return KILLED
    return TERMINATED if plan.stop_exit_code is None else plan.stop_exit_code


def _soonest(times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def _status(
    pod: Pod,
    place: Place,
    containers: Iterable[ContainerStatus],
    inputs: StatusInputs,
    began: datetime,
) -> PodStatus:
    inits = {each.name for each in pod.spec.initContainers}
    statuses = [*containers]
    before = pod.status
    phase = pod_phase(pod, statuses, inputs) if statuses else "Failed"
    if inputs.failure is not None or (inputs.ended and phase not in TERMINAL):
        phase = "Failed"
    is_made = bool(before.podIP) or any(map(_is_made, statuses))
    if phase in TERMINAL:
        for each in statuses:
            each.ready = each.name in inits and each.ready
            each.started = False
    address = place.node_ip if pod.spec.hostNetwork else place.pod_ip
    shown = is_made and not inputs.refused
    status = PodStatus(
        observedGeneration=pod.metadata.generation,
        phase=phase,
        reason=inputs.failure[0] if inputs.failure else "",
        message=inputs.failure[1] if inputs.failure else "",
        hostIP=place.node_ip,
        hostIPs=[HostIP(ip=place.node_ip)],
        podIP=address if shown else "",
        podIPs=[PodIP(ip=address)] if shown else [],
        startTime=before.startTime or format_time(began),
        initContainerStatuses=[each for each in statuses if each.name in inits],
        containerStatuses=[each for each in statuses if each.name not in inits],
    )
    alive = shown and phase not in TERMINAL
    status.conditions = conditions(pod, _SANDBOX if alive else _NOTHING, status, inputs)
    return status


_CREATING = ("ContainerCreating", "PodInitializing")


def _is_made(status: ContainerStatus) -> bool:
    waiting = status.state.waiting
    return waiting is None or waiting.reason not in _CREATING


_NOTHING = PodState("")
_SANDBOX = PodState("", sandboxes=(SandboxRecord("", "", "", "", 0, ready=True),))


def _same(wanted: PodStatus, actual: PodStatus) -> bool:
    """Whether the pod's status says already what it should; fields of others do not matter."""
    return (
        wanted.phase == actual.phase
        and wanted.podIP == actual.podIP
        and wanted.observedGeneration == actual.observedGeneration
        and _told(wanted.containerStatuses) == _told(actual.containerStatuses)
        and _told(wanted.initContainerStatuses) == _told(actual.initContainerStatuses)
        and _own(wanted) == _own(actual)
    )


def _told(statuses: Iterable[ContainerStatus]) -> list[object]:
    return [
        (each.name, each.ready, each.started, each.restartCount, each.state, each.lastState)
        for each in statuses
    ]


def _own(status: PodStatus) -> dict[str, object]:
    return {
        each.type: (each.status, each.reason, each.message, each.observedGeneration)
        for each in status.conditions
        if each.type in OWN_CONDITIONS
    }
