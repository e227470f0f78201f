"""What to do next for one pod: a pure function of what is wanted and what is there.

`plan` is called again after everything that happens (the pod changed, a container ended, a probe
found something, an action has been done, a wait is over), so it never has to remember: it looks at
the specification, the runtime's state and the worker's `View`, and names every action that can be
begun now. What is being done already is in `View.busy` and not named again.

The order of a pod's life, for a reader: sandbox; init containers one by one, sidecars among them
staying; app containers all at once; restarts by policy; and at the end app containers, then
sidecars in reverse order, then the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from navarch.api.types.core_v1 import Pod, ResourceRequirements

from .backoff import BackoffTable, format_seconds
from .cri.values import CONTAINER_HASH, ContainerRecord, ContainerState, PodState, SandboxRecord
from .podspec import (
    RESTART_ALL,
    ContainerKind,
    ContainerSpec,
    container_hash,
    containers_of,
    full_name,
    restart_rule,
    should_restart,
)
from .resize import (
    RESOURCES_ANNOTATION,
    Applied,
    decode_resources,
    encode_resources,
    needs_restart,
    wanted_resources,
)

NANOSECONDS = 1_000_000_000


class ProbeKind(Enum):
    """The value is how messages name the probe."""

    STARTUP = "Startup"
    LIVENESS = "Liveness"
    READINESS = "Readiness"


@dataclass(frozen=True, slots=True)
class StartSandbox:
    """Make the sandbox (and set up the volumes meanwhile)."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create and start an instance of a container."""

    spec: ContainerSpec
    attempt: int
    failed_at: float = 0.0
    """When the instance before it ended, 0 if there was none: back-off counts from there."""


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Hook, stop signal, and SIGKILL after the grace period."""

    id: str
    name: str
    message: str
    probe: ProbeKind | None = None
    """The probe whose failure asks for this (it may bring a grace period of its own)."""
    after: tuple[str, ...] = ()
    """Containers that must be over before the stop signal is sent (the hook runs at once)."""
    grace: int | None = None
    """Seconds, where neither the pod's nor the probe's grace period counts."""
    replace: bool = False
    """Whether a new instance follows, whatever the restart policy says."""


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Delete a dead instance that nobody needs any more."""

    id: str
    name: str
    attempt: int
    keep_logs: bool = False


@dataclass(frozen=True, slots=True)
class ResizePod:
    """Give the pod, and those of its running containers that have others (by id), the resources
    the specification now asks for."""

    containers: tuple[tuple[str, ContainerSpec], ...] = ()


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """End the sandbox and everything that may still run in it."""

    id: str


Action = StartSandbox | StartContainer | StopContainer | RemoveContainer | ResizePod | StopSandbox

CRASH_LOOP = "CrashLoopBackOff"
"""The reason of a container's wait between a failure and the next attempt."""

SANDBOX, RESIZE = "", "\0resize"
"""The names of the sandbox and of a resize in `View.busy` (no container can have them)."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running: reason and message of its `waiting` state."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class View:
    """What the pod's worker knows beside the specification and the runtime's state."""

    now: float
    """Seconds since the epoch."""
    backoff: BackoffTable
    busy: frozenset[str] = frozenset()
    """Containers (or `SANDBOX`) that an action is under way for."""
    stopping: bool = False
    """The pod is to end: deleted, evicted, past its deadline, refused or already terminal."""
    is_started: Callable[[str], bool] = lambda container_id: True
    """Whether a running container (by id) has passed its startup probe and postStart hook."""
    failed_probes: Mapping[str, ProbeKind] = field(default_factory=dict)
    """Containers (by id) that a probe wants killed."""
    retry_at: Mapping[str, float] = field(default_factory=dict)
    """Containers that could not be started for a reason of their own, and when to try again."""
    next_attempts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of next instances as the API's status has it, for what the runtime has forgotten."""
    sandbox_retry_at: float = 0.0
    resized: Mapping[str, Applied] = field(default_factory=dict)
    """What containers (by id) were given after they were made."""
    pod_resources: ResourceRequirements | None = None
    """What the pod as a whole was given, if it states that; None if that is not known."""
    interrupted: frozenset[str] = frozenset()
    """Containers (by id) that never ran because the agent before this one was killed while it
    started them: they are made again and count for nothing."""
    replaced: frozenset[str] = frozenset()
    """Containers (by id) that were stopped so that a new instance takes their place."""

    def never_ran(self, record: ContainerRecord) -> bool:
        return record.state is ContainerState.CREATED or record.id in self.interrupted


@dataclass
class Plan:
    """The actions to begin, and what the wait (if any) is for."""

    actions: list[Action] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    wake_at: float | None = None
    finished: bool = False
    """No app container runs and none will be started again."""
    over: bool = False
    """Nothing of the pod runs any more, and its sandbox is stopped."""

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def plan(pod: Pod, state: PodState, view: View) -> Plan:
    """The next actions for the pod."""
    if view.stopping:
        return _plan_end(pod, state, view)
    sandbox = state.sandbox
    if sandbox is None or not _is_fit(pod, state, sandbox):
        return _plan_sandbox(pod, state, view, sandbox)
    result = Plan()
    if restart_sources(pod, state):
        return _plan_restart_all(pod, state, view)
    _plan_ephemeral(pod, state, view, result)
    latest = _in_sandbox(state, sandbox)
    goes_on, initialized = _plan_init(pod, state, view, latest, result)
    if not goes_on:
        # An init container has failed for good: nothing else may start, what runs must end.
        return _merge_end(pod, state, view, result)
    if initialized:
        _plan_apps(pod, state, view, latest, result)
        if result.finished:
            return _merge_end(pod, state, view, result)
    _plan_resize(pod, latest, view, result)
    _prune(state, view, result)
    return result


def _merge_end(pod: Pod, state: PodState, view: View, result: Plan) -> Plan:
    end = _plan_end(pod, state, view)
    end.finished = True
    end.waiting = result.waiting
    return end


def _in_sandbox(state: PodState, sandbox: SandboxRecord) -> dict[str, ContainerRecord]:
    """The newest instances, without those of an earlier sandbox: they count as history only."""
    return {
        name: record for name, record in state.latest().items() if record.sandbox_id == sandbox.id
    }


def _is_fit(pod: Pod, state: PodState, newest: SandboxRecord) -> bool:
    """Whether the pod can live in its newest sandbox: it alone is up, and still has its network."""
    alone = sum(each.ready for each in state.sandboxes) == 1
    return newest.ready and alone and (pod.spec.hostNetwork or bool(newest.ips))


def _plan_sandbox(pod: Pod, state: PodState, view: View, sandbox: SandboxRecord | None) -> Plan:
    result = Plan()
    if SANDBOX in view.busy:
        return result
    if any(each.ready for each in state.sandboxes):
        result.actions = _plan_end(pod, state, view).actions
        return result
    latest = state.latest()
    if sandbox is not None and latest:
        if _nothing_left_to_run(pod, latest):
            return _merge_end(pod, state, view, result)
        if any(record.state is not ContainerState.EXITED for record in state.containers):
            # The sandbox died under its containers. Stopping it again makes the runtime end and
            # account for whatever is left in it.
            result.actions.append(StopSandbox(sandbox.id))
            return result
    if view.sandbox_retry_at > view.now:
        result.wake(view.sandbox_retry_at)
        return result
    attempt = 0 if sandbox is None else sandbox.attempt + 1
    result.actions.append(StartSandbox(attempt))
    return result


def _nothing_left_to_run(pod: Pod, latest: Mapping[str, ContainerRecord]) -> bool:
    """Whether a lost sandbox need not be replaced: the pod is not restarted, or has done its work.

    A pod that never got as far as having a container gets its new sandbox in any case.
    """
    apps = [each for each in containers_of(pod) if each.kind is ContainerKind.APP]
    if any(latest[each.name].running for each in apps if each.name in latest):
        return False
    ended = [each for each in apps if each.name in latest]
    if pod.spec.restartPolicy == "Never":
        return any(latest[name].exited for name in latest)
    return (
        bool(apps)
        and len(ended) == len(apps)
        and all(not should_restart(pod, each, latest[each.name].exit_code) for each in ended)
    )


def _plan_ephemeral(pod: Pod, state: PodState, view: View, result: Plan) -> None:
    latest = state.latest()
    for spec in containers_of(pod):
        if spec.kind is ContainerKind.EPHEMERAL:
            record = latest.get(spec.name)
            if record is None or view.never_ran(record):
                _start(pod, state, view, result, spec, record)


def _plan_init(
    pod: Pod, state: PodState, view: View, latest: Mapping[str, ContainerRecord], result: Plan
) -> tuple[bool, bool]:
    """Returns whether the pod goes on at all, and whether app containers may start."""
    specs = containers_of(pod)
    # Dead init containers may have been removed since; an app container proves them done.
    begun = any(each.kind is ContainerKind.APP and each.name in latest for each in specs)
    for spec in specs:
        record = latest.get(spec.name)
        if spec.kind is ContainerKind.SIDECAR:
            up = _keep_running(pod, state, view, result, spec, record)
            if not begun and not up:
                return True, False
        elif spec.kind is ContainerKind.INIT and not begun:
            if record is None or view.never_ran(record):
                _start(pod, state, view, result, spec, record)
                return True, False
            if record.running:
                return True, False
            if record.exit_code != 0 or record.state is ContainerState.UNKNOWN:
                if not should_restart(pod, spec, record.exit_code):
                    return False, False
                _start(pod, state, view, result, spec, record)
                return True, False
    return True, True


def _plan_apps(
    pod: Pod, state: PodState, view: View, latest: Mapping[str, ContainerRecord], result: Plan
) -> None:
    pending = False
    older = state.latest()
    for spec in containers_of(pod):
        if spec.kind is not ContainerKind.APP:
            continue
        record = latest.get(spec.name)
        if record is None:
            # It may have done its work in an earlier sandbox.
            record = older.get(spec.name)
            if record is not None and record.exited and not _comes_again(pod, view, spec, record):
                continue
            _start(pod, state, view, result, spec, record)
            pending = True
        elif (
            record.exited
            and not view.never_ran(record)
            and not _comes_again(pod, view, spec, record)
        ):
            continue
        else:
            _keep_running(pod, state, view, result, spec, record)
            pending = True
    result.finished = not pending


def _keep_running(
    pod: Pod,
    state: PodState,
    view: View,
    result: Plan,
    spec: ContainerSpec,
    record: ContainerRecord | None,
) -> bool:
    """For containers that are to run all the time; returns whether it is up (started)."""
    if record is None or not record.running:
        _start(pod, state, view, result, spec, record)
        return False
    stop = _reason_to_stop(pod, view, spec, record)
    if stop is not None:
        if spec.name not in view.busy:
            result.actions.append(stop)
        return False
    if spec.name in view.busy:
        return False
    return view.is_started(record.id)


def applied_resources(view: View, record: ContainerRecord) -> Applied | None:
    """What a running container has; None if that is not known."""
    known = view.resized.get(record.id)
    return known or decode_resources(record.annotations.get(RESOURCES_ANNOTATION, ""))


def to_resize(pod: Pod, view: View, spec: ContainerSpec, record: ContainerRecord) -> bool:
    """Whether the specification asks for other resources than the container has."""
    if not record.running or spec.kind is ContainerKind.EPHEMERAL:
        return False
    applied = applied_resources(view, record)
    return applied is not None and applied != wanted_resources(spec.container, pod.spec.resources)


def _plan_resize(pod: Pod, latest: Mapping[str, ContainerRecord], view: View, result: Plan) -> None:
    """All containers in one go: their pod has to have room for them in between."""
    stopping = {each.name for each in result.actions if isinstance(each, StopContainer)}
    if view.busy:
        return
    resizes = tuple(
        (record.id, spec)
        for spec in containers_of(pod)
        if (record := latest.get(spec.name)) is not None
        and spec.name not in stopping
        and to_resize(pod, view, spec, record)
    )
    if resizes or (pod.spec.resources is not None and view.pod_resources != pod.spec.resources):
        result.actions.append(ResizePod(resizes))


def _comes_again(pod: Pod, view: View, spec: ContainerSpec, record: ContainerRecord) -> bool:
    return record.id in view.replaced or should_restart(pod, spec, record.exit_code)


def _reason_to_stop(
    pod: Pod, view: View, spec: ContainerSpec, record: ContainerRecord
) -> StopContainer | None:
    word = "Init container" if spec.kind is ContainerKind.SIDECAR else "Container"

    def stop(text: str, probe: ProbeKind | None = None, *, again: bool = True) -> StopContainer:
        text = f"{word} {spec.name} {text}" + (", will be restarted" if again else "")
        return StopContainer(record.id, spec.name, text, probe, replace=probe is None)

    known_hash = record.annotations.get(CONTAINER_HASH)
    if known_hash is not None and known_hash != container_hash(spec.container):
        return stop("definition changed")
    probe = view.failed_probes.get(record.id)
    if probe is not None:
        # There is no exit code yet that a rule could cover: only the policies are asked.
        policy = spec.container.restartPolicy or pod.spec.restartPolicy
        return stop(f"failed {probe.value.lower()} probe", probe, again=policy != "Never")
    applied = applied_resources(view, record)
    wanted = wanted_resources(spec.container, pod.spec.resources)
    if applied is not None and needs_restart(spec.container, wanted, applied):
        return stop("resize requires restart")
    return None


def _start(
    pod: Pod,
    state: PodState,
    view: View,
    result: Plan,
    spec: ContainerSpec,
    record: ContainerRecord | None,
) -> None:
    """Starts a container now, or notes what it waits for."""
    if spec.name in view.busy or SANDBOX in view.busy:
        return
    if record is not None and view.never_ran(record):
        # The agent was killed in between: begin again, as if it were not there.
        _remove(view, result, record)
        return
    failed_at = 0.0
    if record is not None:
        failed_at = (record.finished_at or record.created_at) / NANOSECONDS
        key = backoff_key(pod, spec)
        remaining = view.backoff.remaining(key, failed_at, view.now)
        if remaining > 0:
            wait = format_seconds(view.backoff.seconds(key))
            result.waiting[spec.name] = Waiting(
                CRASH_LOOP,
                f"back-off {wait} restarting failed container={spec.name} pod={full_name(pod)}",
            )
            result.wake(view.now + remaining)
            return
    retry_at = view.retry_at.get(spec.name, 0.0)
    if retry_at > view.now:
        result.wake(retry_at)
        return
    result.actions.append(StartContainer(spec, _next_attempt(state, view, spec.name), failed_at))


def backoff_key(pod: Pod, spec: ContainerSpec) -> str:
    """A changed image starts with a clean slate, and so do changed resources and a pod of the same
    name."""
    resources = encode_resources(wanted_resources(spec.container, pod.spec.resources))
    return f"{pod.metadata.uid}/{spec.name}/{container_hash(spec.container)}/{resources}"


def _next_attempt(state: PodState, view: View, name: str) -> int:
    attempts = [record.attempt for record in state.containers if record.name == name]
    return max(attempts) + 1 if attempts else view.next_attempts.get(name, 0)


def _remove(view: View, result: Plan, record: ContainerRecord, *, keep_logs: bool = False) -> None:
    """One at a time of each name: the actions of a container never overlap."""
    begun = {each.name for each in result.actions if isinstance(each, RemoveContainer)}
    if record.name not in view.busy and record.name not in begun:
        removal = RemoveContainer(record.id, record.name, record.attempt, keep_logs)
        result.actions.append(removal)


def restart_sources(pod: Pod, state: PodState) -> list[ContainerRecord]:
    """The ended instances whose exit restarts the whole pod in place (KEP-5532)."""
    latest = state.latest()
    return [
        record
        for spec in containers_of(pod)
        if spec.kind is not ContainerKind.EPHEMERAL
        and (record := latest.get(spec.name)) is not None
        and record.state is ContainerState.EXITED
        and restart_rule(spec.container, record.exit_code) == RESTART_ALL
    ]


def _plan_restart_all(pod: Pod, state: PodState, view: View) -> Plan:
    """Every container is killed and removed, then the pod begins anew in its old sandbox.

    Whatever caused it goes last: while it is there an agent that is started again goes on with it.
    """
    result = Plan()
    if SANDBOX in view.busy:
        return result
    sources = {each.id for each in restart_sources(pod, state)}
    names = {each.name for each in containers_of(pod) if each.kind is not ContainerKind.EPHEMERAL}
    records = [each for each in state.containers if each.name in names]
    others = [each for each in records if each.id not in sources]
    for record in others or ([] if names & view.busy else records):
        if not record.running:
            _remove(view, result, record, keep_logs=True)
        elif record.name not in view.busy:
            result.actions.append(StopContainer(record.id, record.name, "killing", grace=0))
    return result


def _plan_end(pod: Pod, state: PodState, view: View) -> Plan:
    """All containers at once, but the stop signal comes to a sidecar only after the app containers
    and the sidecars behind it are over; then the sandbox."""
    result = Plan()
    running = {each.name: each for each in state.containers if each.running}
    apps = tuple(each.name for each in pod.spec.containers if each.name in running)
    sidecars = [
        spec.name
        for spec in containers_of(pod)
        if spec.kind is ContainerKind.SIDECAR and spec.name in running
    ]
    later = {name: apps + tuple(sidecars[at + 1 :]) for at, name in enumerate(sidecars)}
    for record in sorted(running.values(), key=lambda each: len(later.get(each.name, ()))):
        if record.name not in view.busy:
            message = f"Stopping container {record.name}"
            after = later.get(record.name, ())
            result.actions.append(StopContainer(record.id, record.name, message, after=after))
    if running or view.busy:
        return result
    ready = [each.id for each in state.sandboxes if each.ready]
    result.actions += [StopSandbox(each) for each in ready[:1]]
    result.over = not result.actions
    result.finished = True
    return result


def _prune(state: PodState, view: View, result: Plan) -> None:
    """Dead instances beyond the newest and the one before it: nothing refers to them any more."""
    seen: dict[str, int] = {}
    for record in state.containers:
        seen[record.name] = seen.get(record.name, 0) + 1
        if seen[record.name] > 2 and record.exited:
            _remove(view, result, record)
