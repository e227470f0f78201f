"""From single probe runs to a result: thresholds, initial values, who may run when. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Container, Probe

from ..plan import ProbeKind

DEFAULT_PERIOD, DEFAULT_TIMEOUT, DEFAULT_FAILURES, DEFAULT_SUCCESSES = 10, 1, 3, 1


@dataclass
class Tracker:
    """One probe of one container instance."""

    kind: ProbeKind
    probe: Probe
    result: bool | None
    """The verdict so far. Readiness begins as False, liveness as True, startup as None."""
    last: bool | None = None
    run: int = 0
    """How many times in a row `last` has come."""
    due: float = 0.0
    """When (monotonic) the next run is due."""
    not_before: float = 0.0
    """When the initial delay is over."""
    is_overdue: bool = False
    """A run came due while the one before it had not ended."""
    totals: Counter[str] = field(default_factory=Counter)
    """How many runs have ended how: successful, failed, unknown."""
    on_hold: bool = False
    """The verdict is final for this instance: a failed liveness or a startup either way."""

    @property
    def period(self) -> float:
        return float(self.probe.periodSeconds or DEFAULT_PERIOD)

    @property
    def timeout(self) -> float:
        return float(self.probe.timeoutSeconds or DEFAULT_TIMEOUT)

    def advance(self, now: float) -> None:
        """Sets the time of the next run: on the beat of the first, whatever has been late."""
        missed = max(0, int((now - self.due) // self.period))
        self.due += self.period * (missed + 1)

    def record(self, success: bool) -> bool:
        """Takes one outcome; returns whether the verdict has changed."""
        if success == self.last:
            self.run += 1
        else:
            self.last, self.run = success, 1
        needed = (
            (self.probe.successThreshold or DEFAULT_SUCCESSES)
            if success
            else (self.probe.failureThreshold or DEFAULT_FAILURES)
        )
        if self.run < needed:
            return False
        changed = self.result != success
        self.result = success
        if self.kind is not ProbeKind.READINESS and not success:
            # The container will be killed: another run could only confuse.
            self.on_hold = True
            self.run = 0
        if self.kind is ProbeKind.STARTUP:
            self.on_hold = True
        return changed


@dataclass
class InstanceProbes:
    """All probes of one running container instance."""

    container_id: str
    trackers: dict[ProbeKind, Tracker] = field(default_factory=dict)

    @property
    def started(self) -> bool:
        startup = self.trackers.get(ProbeKind.STARTUP)
        return startup is None or startup.result is True

    @property
    def ready(self) -> bool:
        readiness = self.trackers.get(ProbeKind.READINESS)
        return self.started and (readiness is None or readiness.result is True)

    @property
    def failed(self) -> ProbeKind | None:
        """The probe that wants the container killed."""
        for kind in (ProbeKind.LIVENESS, ProbeKind.STARTUP):
            tracker = self.trackers.get(kind)
            if tracker is not None and tracker.result is False:
                return kind
        return None

    def may_run(self, kind: ProbeKind, *, terminating: bool) -> bool:
        """Startup first; and nobody kills a pod that is going away by itself."""
        tracker = self.trackers[kind]
        if tracker.on_hold or (terminating and kind is not ProbeKind.READINESS):
            return False
        return kind is ProbeKind.STARTUP or self.started


def instance_probes(
    container: Container,
    container_id: str,
    *,
    started_ago: float,
    now: float,
    was_ready: bool,
    was_started: bool,
) -> InstanceProbes:
    """The probes of an instance that has been running for `started_ago` seconds.

    An agent that has been restarted goes on from what the API says of the very same instance
    (`was_...`), so that its own restart makes no container unready.
    """
    result = InstanceProbes(container_id)
    for kind, probe, initial in (
        (ProbeKind.STARTUP, container.startupProbe, True if was_started else None),
        (ProbeKind.LIVENESS, container.livenessProbe, True),
        (ProbeKind.READINESS, container.readinessProbe, was_ready),
    ):
        if probe is not None:
            due = now + max(0.0, probe.initialDelaySeconds - started_ago)
            on_hold = kind is ProbeKind.STARTUP and was_started
            result.trackers[kind] = Tracker(
                kind, probe, initial, due=due, not_before=due, on_hold=on_hold
            )
    return result
