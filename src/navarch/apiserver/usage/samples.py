"""From a kubelet's `/metrics/resource` to what nodes and containers use. Pure.

Processor time is told as a sum since the container's start, so its use is the difference between
two samples. Each container keeps the newest sample and one between ten and twenty seconds older, if
it was asked about then: two people who ask shortly after each other do not make each other's window
too short to mean anything. A container that has just started is measured from its start, as
metrics-server does it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

STEADY_SECONDS = 10.0
"""The shortest window where there is a choice."""
OLDEST_SECONDS = 90.0
"""What happened further back says nothing about now."""
SHORTEST_SECONDS = 0.5
"""Less than this between two samples measures noise."""

Key = tuple[str, str, str]
"""Namespace, pod and container; all empty for the node itself."""
NODE: Key = ("", "", "")


class Point(NamedTuple):
    """One sample. Times are seconds since the epoch; `started` is 0 when it is not told."""

    time: float
    started: float
    cpu: float
    """Core-seconds since the start."""
    memory: float
    """The working set, in bytes."""


class Reading(NamedTuple):
    """The newest sample of something, the one it is measured against, and one in between, which
    will be the next to measure against."""

    last: Point
    base: Point | None
    next: Point


class Usage(NamedTuple):
    """What was used over the `window` seconds up to `time`."""

    time: float
    window: float
    nanocores: int
    memory: int


_LINE = re.compile(
    r"^(node|container)_(cpu_usage_seconds_total|memory_working_set_bytes|start_time_seconds)"
    r"(\{[^}\n]*\})? (\S+)(?: (-?\d+))?$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="([^"\\]*)"')
CPU, MEMORY, START = "cpu_usage_seconds_total", "memory_working_set_bytes", "start_time_seconds"


@lru_cache(maxsize=4096)
def _key(labels: str) -> Key:
    found = dict(_LABEL.findall(labels))
    return found.get("namespace", ""), found.get("pod", ""), found.get("container", "")


def parse(text: str, now: float) -> dict[Key, Point]:
    """The samples in an exposition; `now` is when those were taken that do not say it. What lacks
    processor time or memory is left out, as metrics-server leaves it out."""
    found: dict[Key, dict[str, tuple[float, float]]] = {}
    for scope, what, labels, value, stamp in _LINE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number) and number >= 0:
            key = NODE if scope == "node" else _key(labels)
            if all(key) or scope == "node":
                found.setdefault(key, {})[what] = number, int(stamp) / 1000 if stamp else now
    points = {}
    for key, each in found.items():
        if CPU in each and MEMORY in each:
            cpu, time = each[CPU]
            points[key] = Point(time, each.get(START, (0.0, 0.0))[0], cpu, each[MEMORY][0])
    return points


def fold(known: Mapping[Key, Reading], points: Mapping[Key, Point]) -> dict[Key, Reading]:
    """What is known after new samples. Whatever is not in them is forgotten."""
    return {key: _fold(known.get(key), point) for key, point in points.items()}


def _fold(known: Reading | None, point: Point) -> Reading:
    if known is None or _has_restarted(known.last, point):
        return Reading(point, _start_of(point), point)
    passed = point.time - known.last.time
    if passed <= 0:
        return known
    if passed > OLDEST_SECONDS:
        return Reading(point, None, point)
    if point.time - known.next.time >= STEADY_SECONDS:
        return Reading(point, known.next, point)
    return Reading(point, known.base, known.next)


def _has_restarted(before: Point, point: Point) -> bool:
    return point.cpu < before.cpu or point.started > before.time


def _start_of(point: Point) -> Point | None:
    """A young container's use can be measured from its start, when it had used nothing."""
    age = point.time - point.started
    if STEADY_SECONDS <= age <= OLDEST_SECONDS:
        return Point(point.started, point.started, 0.0, 0.0)
    return None


def usage_of(reading: Reading) -> Usage | None:
    """None while there is nothing to measure against."""
    last = reading.last
    base = reading.base or reading.next
    window = last.time - base.time
    if window < SHORTEST_SECONDS:
        return None
    return Usage(last.time, window, int((last.cpu - base.cpu) / window * 1e9), int(last.memory))
