"""A pod's way from one size to another: asked for, granted or put off, under way, done.

Who is granted what, and in which order, the agent decides with `consider`: all pods of the node are
weighed by what they have been granted, not by what they would like to have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod
from navarch.client.clock import Clock

from .admission import Refusal
from .conditions import ResizeCondition
from .events import PodEvents
from .resize import (
    DEFERRED,
    INFEASIBLE,
    allocation_of,
    precedence,
    recorded_allocation,
    summary,
    with_allocation,
)

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"


class Resizer:
    """What one pod has been granted, and how far it is with it."""

    def __init__(self, pod: Pod, events: PodEvents, clock: Clock) -> None:
        self._events, self._clock = events, clock
        self._wanted = pod
        self._allocation = recorded_allocation(pod)
        self.pod = with_allocation(pod, self._allocation)
        """The pod as it is to run: with the resources it has been granted."""
        self._pending: ResizeCondition | None = None
        self._progress: ResizeCondition | None = None
        self.since = 0.0
        """When (seconds since the epoch) the resize that waits has been put off first."""
        for each in pod.status.conditions:
            told = ResizeCondition(
                each.type, each.reason, each.message, each.observedGeneration or 0
            )
            if each.type == PENDING:
                self._pending = told
                if each.lastTransitionTime:
                    self.since = parse_time(each.lastTransitionTime).timestamp()
            elif each.type == IN_PROGRESS:
                self._progress = told

    @property
    def wanted(self) -> Pod:
        return self._wanted

    @property
    def is_waiting(self) -> bool:
        """Whether the pod wants other resources than it has been granted."""
        return allocation_of(self._wanted) != self._allocation

    def update(self, pod: Pod) -> None:
        """A new version of the pod has come."""
        self._wanted = pod
        self.pod = with_allocation(pod, self._allocation)
        if not self.is_waiting:
            self._pending = None  # it was granted, or its wish was taken back

    def answer(self, refusal: Refusal | None) -> None:
        """Grants the pod what it wants, or says why not (yet)."""
        pod, generation = self._wanted, self._wanted.metadata.generation
        if refusal is None:
            self._allocation, self.pod = allocation_of(pod), pod
            self._pending = None
            self._progress = ResizeCondition(IN_PROGRESS, "", "", generation)
            self._tell("Normal", "ResizeStarted", f"started: {summary(pod, generation)}")
            return
        reason = INFEASIBLE if refusal.reason == INFEASIBLE else DEFERRED
        before = self._pending
        self._pending = ResizeCondition(PENDING, reason, refusal.message, generation)
        if before is None:
            self.since = self._clock.now().timestamp()
        if before is None or (before.reason, before.generation) != (reason, generation):
            text = f"{reason}: {summary(pod, generation, refusal.message)}"
            self._tell("Warning", f"Resize{reason}", text)

    def look(self, *, under_way: bool) -> None:
        """Notes whether some container still differs from what has been granted."""
        if under_way:
            generation = self.pod.metadata.generation
            self._progress = self._progress or ResizeCondition(IN_PROGRESS, "", "", generation)
        elif self._progress is not None:
            text = summary(self.pod, self._progress.generation)
            self._progress = None
            self._tell("Normal", "ResizeCompleted", f"completed: {text}")

    def fail(self, message: str) -> None:
        """What has been granted cannot be done (now)."""
        before = self._progress
        generation = before.generation if before else self.pod.metadata.generation
        self._progress = ResizeCondition(IN_PROGRESS, "Error", message, generation)
        if self._progress != before:
            text = summary(self.pod, generation, message)
            self._tell("Warning", "ResizeError", f"error: {text}")

    def conditions(self) -> tuple[ResizeCondition, ...]:
        return tuple(each for each in (self._pending, self._progress) if each is not None)

    def _tell(self, kind: str, reason: str, text: str) -> None:
        self._events.pod(self._wanted, kind, reason, f"Pod resize {text}")


class Resizable(Protocol):
    """A pod's worker, as far as resizes concern it."""

    @property
    def active(self) -> bool: ...

    @property
    def resizer(self) -> Resizer: ...

    def wake(self, *, runtime_changed: bool = True) -> None: ...


def consider(
    workers: Iterable[Resizable], decide: Callable[[Pod, list[Pod]], Refusal | None]
) -> None:
    """Answers every wish there is; `decide` says what speaks against a pod beside others."""
    active = [each for each in workers if each.active]
    waiting = [each for each in active if each.resizer.is_waiting]
    for worker in sorted(
        waiting,
        key=lambda each: precedence(each.resizer.wanted, each.resizer.pod, each.resizer.since),
    ):
        others = [each.resizer.pod for each in active if each is not worker]
        worker.resizer.answer(decide(worker.resizer.wanted, others))
        worker.wake(runtime_changed=False)
