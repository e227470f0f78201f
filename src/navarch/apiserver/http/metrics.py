"""What the server counts about its requests, and `/metrics` in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from navarch.api.kinds import STANDARD_VERBS, Kind
from navarch.apiserver.contracts import RequestInfo

BUCKETS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
Labels = tuple[str, str, str, str, str]
_LONG = "longRunning"
_LONG_RUNNING = frozenset({"watch"})
_LONG_SUBRESOURCES = frozenset({"proxy", "exec", "attach", "portforward", "log"})
READING = frozenset({"get", "list", "watch", "head", "options"})
_VERBS = frozenset({*STANDARD_VERBS, "head", "post", "put", "options"})


class RequestMetrics:
    """Counters and histograms of requests."""

    def __init__(self) -> None:
        self._in_flight = {"mutating": 0, "readOnly": 0, _LONG: 0}
        self._requests: Counter[tuple[Labels, int]] = Counter()
        self._buckets: dict[Labels, list[int]] = {}
        self._sums: Counter[Labels] = Counter()

    @property
    def in_flight(self) -> int:
        """Requests under way, of any kind."""
        return sum(self._in_flight.values())

    def count_of(self, info: RequestInfo) -> int:
        """Requests under way that count as this one does, itself among them."""
        return self._in_flight[_flight(info)]

    def begin(self, info: RequestInfo) -> None:
        self._in_flight[_flight(info)] += 1

    def end(self, info: RequestInfo) -> None:
        self._in_flight[_flight(info)] -= 1

    def observe(
        self, info: RequestInfo, resource: Kind | None, status: int, seconds: float
    ) -> None:
        """Count a request. What is not served counts as one thing: clients choose its name, and
        every name would be kept."""
        verb = info.verb.upper() if info.verb in _VERBS else "OTHER"
        if resource is None:
            labels = (verb, "", "", "", "")
        else:
            known = info.subresource if resource.subresource(info.subresource) else ""
            labels = (verb, resource.group, resource.version, resource.plural, known)
        self._requests[labels, status] += 1
        if _flight(info) is _LONG:
            return
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = [0] * (len(BUCKETS) + 1)
        buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sums[labels] += seconds  # type: ignore[assignment]

    def render(self) -> list[str]:
        """The lines of this module's metrics."""
        lines = [
            "# TYPE apiserver_current_inflight_requests gauge",
            *(
                f'apiserver_current_inflight_requests{{request_kind="{kind}"}} {count}'
                for kind, count in self._in_flight.items()
                if kind is not _LONG
            ),
            "# TYPE apiserver_request_total counter",
        ]
        for (labels, status), count in sorted(self._requests.items()):
            lines.append(f'apiserver_request_total{{{_labels(labels)},code="{status}"}} {count}')
        lines.append("# TYPE apiserver_request_duration_seconds histogram")
        name = "apiserver_request_duration_seconds"
        for labels, buckets in sorted(self._buckets.items()):
            text = _labels(labels)
            total = 0
            for bound, count in zip((*BUCKETS, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{text},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{text}}} {self._sums[labels]:.6f}")
            lines.append(f"{name}_count{{{text}}} {total}")
        return lines


def is_long_running(info: RequestInfo) -> bool:
    """Whether the request may go on for ever."""
    return info.verb in _LONG_RUNNING or info.subresource in _LONG_SUBRESOURCES


def _flight(info: RequestInfo) -> str:
    """What a request under way counts as. Those that may last for ever are nobody's load."""
    if is_long_running(info):
        return _LONG
    return "readOnly" if info.verb in READING else "mutating"


def _labels(labels: Labels) -> str:
    names = ("verb", "group", "version", "resource", "subresource")
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, labels, strict=True))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
