"""What was gathered about a pod. Everything that is judged is in here; judging reads no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.objects import Object
from navarch.api.types.core_v1 import (
    Container,
    ContainerStatus,
    Event,
    Node,
    PersistentVolumeClaim,
    Pod,
)
from navarch.cli.why.words import Happening, condensed
from navarch.scheduler.explanation import Explanation


@dataclass(frozen=True, slots=True)
class Log:
    """The last lines of a container, of this run and of the one before."""

    current: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    problem: str = ""
    """Why there are none."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One link of the chain of owners."""

    kind: str
    name: str
    object: Object | None
    """None: it is named, but gone."""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    now: datetime
    pod: Pod
    events: tuple[Event, ...] = ()
    owners: tuple[Owner, ...] = ()
    """The outermost first."""
    budgets: tuple[Object, ...] = ()
    """Disruption budgets that select the pod."""
    node: Node | None = None
    node_known: bool = True
    """False: nodes could not be read, so that there is none means nothing."""
    claims: Mapping[str, PersistentVolumeClaim | None] = field(default_factory=dict)
    claim_events: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    logs: Mapping[str, Log] = field(default_factory=dict)
    explanation: Explanation | None = None
    unexplained: str = ""
    """Why there is no explanation."""
    knows_scheduler: bool = True
    """Whether a scheduler that is known goes by the pod's `spec.schedulerName`."""
    notes: tuple[str, ...] = ()
    """What was not looked at, and why."""

    @property
    def happenings(self) -> list[Happening]:
        return condensed(self.events)


@dataclass(frozen=True, slots=True)
class Part:
    """A container of a pod, with what the node says of it."""

    spec: Container
    status: ContainerStatus | None
    is_init: bool

    @property
    def title(self) -> str:
        kind = "container"
        if self.is_init:
            kind = "sidecar" if self.spec.restartPolicy == "Always" else "init container"
        return f"{kind} {self.spec.name}"


def parts_of(pod: Pod) -> list[Part]:
    """The containers in the order in which they start."""
    spec, status = pod.spec, pod.status
    return [
        Part(each, next((s for s in statuses if s.name == each.name), None), is_init)
        for containers, statuses, is_init in (
            (spec.initContainers, status.initContainerStatuses, True),
            (spec.containers, status.containerStatuses, False),
        )
        for each in containers
    ]


def condition(pod: Pod | Node, kind: str) -> tuple[str, str, str, str | None] | None:
    """Status, reason, message and time of a condition."""
    for each in pod.status.conditions:
        if each.type == kind:
            return each.status, each.reason, each.message, each.lastTransitionTime
    return None
