"""A pod's conditions: what its statuses add up to, for those who wait for it. Pure.

Conditions of others (readiness gates, for example) are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from navarch.api.times import format_time
from navarch.api.types.core_v1 import ContainerStatus, Pod, PodCondition, PodStatus

from .cri.values import PodState
from .podspec import ContainerKind, containers_of, may_restart_all

if TYPE_CHECKING:
    from .status import StatusInputs

INIT_KINDS = (ContainerKind.INIT, ContainerKind.SIDECAR)
OWN_CONDITIONS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
)
"""The conditions the node agent owns: others' are left as they are."""

DISRUPTION = "DisruptionTarget"
"""A condition that others set as well: the agent only ever adds it."""


@dataclass(frozen=True, slots=True)
class ResizeCondition:
    """A condition of a resize, with the pod's generation it is about."""

    type: str
    reason: str
    message: str
    generation: int


def has_begun(status: ContainerStatus) -> bool:
    return status.state.waiting is None or status.lastState.terminated is not None


def conditions(
    pod: Pod, state: PodState, status: PodStatus, inputs: StatusInputs
) -> list[PodCondition]:
    before = {condition.type: condition for condition in pod.status.conditions}
    result = [each for each in pod.status.conditions if each.type not in OWN_CONDITIONS]
    foreign = {condition.type: condition for condition in result}
    sandbox = state.sandbox
    network = sandbox is not None and sandbox.ready
    containers_ready = _containers_ready(pod, status)
    ready = containers_ready
    if containers_ready.status == "True":
        ready = _readiness_gates(pod, foreign)
    own = [
        ("PodReadyToStartContainers", PodCondition(status="True" if network else "False")),
        ("Initialized", _initialized(pod, status)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", PodCondition(status="True")),
    ]
    if inputs.disruption and status.phase == "Failed":
        result = [each for each in result if each.type != DISRUPTION]
        disruption = PodCondition(
            status="True", reason="TerminationByKubelet", message=inputs.disruption
        )
        own.append((DISRUPTION, disruption))
    if may_restart_all(pod):
        own.append(("AllContainersRestarting", _restarting_all(status, inputs)))
    own = [
        *(
            (each.type, PodCondition(status="True", reason=each.reason, message=each.message))
            for each in inputs.resize
        ),
        *own,
    ]
    generations = {each.type: each.generation for each in inputs.resize}
    generations["AllContainersRestarting"] = 0
    for kind, condition in own:
        old = before.get(kind)
        since = old.lastTransitionTime if old and old.status == condition.status else None
        result.append(
            replace(
                condition,
                type=kind,
                observedGeneration=generations.get(kind, pod.metadata.generation),
                lastTransitionTime=since or format_time(inputs.now),
            )
        )
    return result


def _restarting_all(status: PodStatus, inputs: StatusInputs) -> PodCondition:
    ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(status.phase, "")
    if ended or not inputs.restarting_all:
        return PodCondition(status="False", reason=ended)
    return PodCondition(
        status="True",
        reason="RestartAllContainersStarted",
        message="container exited with restart policy rule",
    )


def _initialized(pod: Pod, status: PodStatus) -> PodCondition:
    if status.phase == "Succeeded":
        return PodCondition(status="True", reason="PodCompleted")
    if any(has_begun(each) for each in status.containerStatuses):
        return PodCondition(status="True")
    by_name = {each.name: each for each in status.initContainerStatuses}
    incomplete, unknown = [], []
    for spec in containers_of(pod):
        if spec.kind not in INIT_KINDS:
            continue
        container = by_name.get(spec.name)
        if container is None:
            unknown.append(spec.name)
        elif not (container.started if spec.kind is ContainerKind.SIDECAR else container.ready):
            incomplete.append(spec.name)
    return _unless("ContainersNotInitialized", {"unknown": unknown, "incomplete": incomplete})


def _unless(reason: str, missing: Mapping[str, Sequence[str]]) -> PodCondition:
    """True unless there are names of containers, by what is said of their status."""
    texts = [
        f"containers with {what} status: {_listed(names)}"
        for what, names in missing.items()
        if names
    ]
    if not texts:
        return PodCondition(status="True")
    return PodCondition(status="False", reason=reason, message=", ".join(texts))


def _containers_ready(pod: Pod, status: PodStatus) -> PodCondition:
    if status.phase == "Failed":
        return PodCondition(status="False", reason="PodFailed")
    statuses = {each.name: each for each in status.containerStatuses}
    statuses |= {each.name: each for each in status.initContainerStatuses}
    unready, unknown = [], []
    for spec in containers_of(pod):
        if spec.kind not in (ContainerKind.SIDECAR, ContainerKind.APP):
            continue
        container = statuses.get(spec.name)
        if container is None:
            unknown.append(spec.name)
        elif not container.ready:
            unready.append(spec.name)
    if status.phase == "Succeeded" and not unknown:
        return PodCondition(status="False", reason="PodCompleted")
    return _unless("ContainersNotReady", {"unknown": unknown, "unready": unready})


def _readiness_gates(pod: Pod, foreign: Mapping[str, PodCondition]) -> PodCondition:
    texts = []
    for gate in pod.spec.readinessGates:
        kind = gate.conditionType
        condition = foreign.get(kind)
        if condition is None:
            texts.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif condition.status != "True":
            texts.append(
                f'the status of pod readiness gate "{kind}" is not "True", but {condition.status}'
            )
    if texts:
        return PodCondition(
            status="False", reason="ReadinessGatesNotReady", message=", ".join(texts)
        )
    return PodCondition(status="True")


def _listed(names: Sequence[str]) -> str:
    """A list as Go prints it."""
    return f"[{' '.join(names)}]"
