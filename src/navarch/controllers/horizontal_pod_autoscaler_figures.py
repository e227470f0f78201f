"""The autoscaler's figures under upstream's names (`horizontal_pod_autoscaler_controller_*`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from navarch.client import Clock

PREFIX = "horizontal_pod_autoscaler_controller"
_SECONDS = tuple(0.001 * 2**n for n in range(15))
_LABELS = ("action", "error")

_reconciliations = Counter(f"{PREFIX}_reconciliations", "Turns of autoscalers", _LABELS)
_reconciling = Histogram(
    f"{PREFIX}_reconciliation_duration_seconds", "How long a turn took", _LABELS, buckets=_SECONDS
)
_computations = Counter(
    f"{PREFIX}_metric_computation", "Computations from one metric", (*_LABELS, "metric_type")
)
_computing = Histogram(
    f"{PREFIX}_metric_computation_duration_seconds",
    "How long a computation took",
    (*_LABELS, "metric_type"),
    buckets=_SECONDS,
)
_desired = Gauge(f"{PREFIX}_desired_replicas", "What was asked for", ("namespace", "hpa_name"))
_known: set[str] = set()
_number = Gauge(f"{PREFIX}_num_horizontal_pod_autoscalers", "Autoscalers at work")
_number.set_function(lambda: len(_known))


@dataclass
class Figure:
    """How it went: `action` is none, scale_up or scale_down, `error` none, spec or internal."""

    action: str = "none"
    error: str = "none"


def action(current: int, wanted: int) -> str:
    if wanted == current:
        return "none"
    return "scale_up" if wanted > current else "scale_down"


@contextmanager
def reconciliation(clock: Clock) -> Iterator[Figure]:
    figure, begin = Figure(), clock.monotonic()
    yield figure
    labels = figure.action, figure.error
    _reconciliations.labels(*labels).inc()
    _reconciling.labels(*labels).observe(clock.monotonic() - begin)


@contextmanager
def computation(clock: Clock, metric_type: str) -> Iterator[Figure]:
    figure, begin = Figure(), clock.monotonic()
    yield figure
    if figure.error != "none":
        figure.action = "none"
    labels = figure.action, figure.error, metric_type
    _computations.labels(*labels).inc()
    _computing.labels(*labels).observe(clock.monotonic() - begin)


def desired(key: str, replicas: int) -> None:
    _known.add(key)
    _desired.labels(*key.split("/")).set(replicas)


def forget(key: str) -> None:
    if key in _known:
        _known.discard(key)
        _desired.remove(*key.split("/"))
