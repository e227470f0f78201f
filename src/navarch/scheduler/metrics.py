"""The scheduler's figures under upstream's names (`pkg/scheduler/metrics`).

They are counted in plain numbers, thousands of times a second, and put into words only when
somebody asks (`/metrics`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from navarch.client.clock import Clock

if TYPE_CHECKING:
    from navarch.scheduler.cluster import Cluster
    from navarch.scheduler.framework import Profile
    from navarch.scheduler.queue import SchedulingQueue

SCHEDULED, UNSCHEDULABLE, ERROR = "scheduled", "unschedulable", "error"
MANY_ATTEMPTS = 15


def doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2.0**number for number in range(count))


ATTEMPT = doubling(0.001, 15)
POINT = doubling(0.0001, 12)
SLI = doubling(0.01, 20)
ATTEMPTS = doubling(1, 5)
VICTIMS = doubling(1, 7)


class Histogram:
    """How often values came up to each of some bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        result, total = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            result.append((bound, float(total)))
        return result


class Histograms:
    """One per combination of labels."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]
    ) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._of: dict[tuple[str, ...], Histogram] = {}

    def observe(self, value: float, *labels: str) -> None:
        found = self._of.get(labels)
        if found is None:
            found = self._of[labels] = Histogram(self._bounds)
        found.observe(value)

    def family(self) -> Metric:
        family = HistogramMetricFamily(f"scheduler_{self._name}", self._text, labels=self._labels)
        for labels, found in self._of.items():
            family.add_metric(labels, found.cumulative(), found.sum)
        return family


class Figures(Collector):
    """The figures of one scheduler."""

    def __init__(
        self, queue: SchedulingQueue, cluster: Cluster, assumed: Callable[[], int]
    ) -> None:
        self._queue, self._cluster, self._assumed = queue, cluster, assumed
        self.attempts: Counter[tuple[str, str]] = Counter()
        """By result and profile."""
        self.preemptions = 0
        self.attempt_seconds = Histograms(
            "scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            ("result", "profile"),
            ATTEMPT,
        )
        self.algorithm_seconds = Histograms(
            "scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds",
            (),
            ATTEMPT,
        )
        self.point_seconds = Histograms(
            "framework_extension_point_duration_seconds",
            "Latency for running all plugins of a specific extension point.",
            ("extension_point", "status", "profile"),
            POINT,
        )
        self.sli_seconds = Histograms(
            "pod_scheduling_sli_duration_seconds",
            "E2e latency for a pod being scheduled, from the time the pod enters the scheduling "
            "queue and might involve multiple scheduling attempts.",
            ("attempts",),
            SLI,
        )
        self.attempts_needed = Histograms(
            "pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod.",
            (),
            ATTEMPTS,
        )
        self.victims = Histograms(
            "preemption_victims", "Number of selected preemption victims", (), VICTIMS
        )

    def attempted(self, result: str, profile: str, seconds: float) -> None:
        self.attempts[result, profile] += 1
        self.attempt_seconds.observe(seconds, result, profile)

    def scheduled(self, attempts: int, seconds: float) -> None:
        """A pod has got its node, so long after it was first tried."""
        self.attempts_needed.observe(attempts)
        label = str(attempts) if attempts < MANY_ATTEMPTS else f"{MANY_ATTEMPTS}+"
        self.sli_seconds.observe(seconds, label)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would refuse a second scheduler's."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield _counter(
            "schedule_attempts",
            "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could "
            "not be scheduled, while 'error' means an internal scheduler problem.",
            ("result", "profile"),
            self.attempts.items(),
        )
        yield _counter(
            "preemption_attempts",
            "Total preemption attempts in the cluster till now",
            (),
            [((), self.preemptions)],
        )
        yield _counter(
            "queue_incoming_pods",
            "Number of pods added to scheduling queues by event and queue type.",
            ("queue", "event"),
            self._queue.incoming().items(),
        )
        for each in (
            self.attempt_seconds,
            self.algorithm_seconds,
            self.point_seconds,
            self.sli_seconds,
            self.attempts_needed,
            self.victims,
        ):
            yield each.family()
        yield _gauge(
            "pending_pods",
            "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; "
            "'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in "
            "unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the "
            "number of unschedulable pods that the scheduler never attempted to schedule because "
            "they are gated.",
            ("queue",),
            [((name,), value) for name, value in self._queue.pending().items()],
        )
        yield _gauge(
            "unschedulable_pods",
            "The number of unschedulable pods broken down by plugin name. A pod will increment the "
            "gauge for all plugins that caused it to not schedule and so this metric have meaning "
            "only when broken down by plugin.",
            ("plugin", "profile"),
            [
                ((plugin, profile), value)
                for key, value in self._queue.rejected().items()
                for plugin, _, profile in [key.partition(" of ")]
            ],
        )
        sizes = {
            "nodes": self._cluster.count,
            "pods": len(self._cluster.pods),
            "assumed_pods": self._assumed(),
        }
        yield _gauge(
            "cache_size",
            "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
            ("type",),
            [((name,), value) for name, value in sizes.items()],
        )


class Stopwatch:
    """Times the points of one attempt."""

    __slots__ = ("_clock", "_figures", "_last", "_profile", "began")

    def __init__(self, clock: Clock, figures: Figures, profile: Profile) -> None:
        self._clock, self._figures, self._profile = clock, figures, profile
        self.began = self._last = clock.monotonic()

    def mark(self, point: str, is_success: bool) -> None:
        """A point is through; the next begins."""
        now = self._clock.monotonic()
        status = "Success" if is_success else "Unschedulable"
        self._figures.point_seconds.observe(now - self._last, point, status, self._profile.name)
        self._last = now
        if point == "PostFilter" and "DefaultPreemption" in self._profile.post_filters:
            self._figures.preemptions += 1

    def total(self) -> float:
        return self._clock.monotonic() - self.began


Samples = Iterable[tuple[tuple[str, ...], int]]


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"scheduler_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"scheduler_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
