"""What cluster DNS counts, under CoreDNS' names.

The answers that are only copied pay one addition each: they count on themselves, and are added up
here when somebody asks or when they are forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from navarch.network.dns import wire

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3)
SECONDS = tuple(0.00025 * 2**power for power in range(16))


@dataclass(frozen=True, slots=True)
class Kind:
    """What answers are told apart by."""

    protocol: str
    family: int
    type: int
    code: int
    plugin: str
    request_size: int
    response_size: int


@dataclass(slots=True)
class Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def buckets(self) -> Iterator[tuple[str, float]]:
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            yield ("+Inf" if bound == float("inf") else f"{bound:g}"), float(running)


@dataclass(slots=True)
class Figures:
    """The counters of one server. `collectable` tells the rest when somebody asks."""

    requests: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    responses: Counter[tuple[int, str]] = field(default_factory=Counter)
    request_sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    response_sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    durations: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    programming: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    panics: int = 0
    dropped: int = 0

    def answered(self, kind: Kind, count: int = 1) -> None:
        if not count:
            return
        self.requests[(kind.protocol, kind.family, kind.type)] += count
        self.responses[(kind.code, kind.plugin)] += count
        self.request_sizes.add(kind.request_size, count)
        self.response_sizes.add(kind.response_size, count)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What only others know at the moment of asking."""

    cache_entries: dict[str, int]
    cache_hits: int
    cache_misses: int
    forwarded: dict[str, int]
    """Requests by upstream's address."""
    rejected: int
    plugins: tuple[str, ...]


class Collector:
    """Hands the figures to Prometheus' library."""

    def __init__(self, figures: Figures, gather: Callable[[], Gathered]) -> None:
        self._figures = figures
        self._gather = gather

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        gathered, figures = self._gather(), self._figures
        server = "dns://:53"
        requests = CounterMetricFamily(
            "coredns_dns_requests",
            "Counter of DNS requests made per zone, protocol and family.",
            labels=["server", "zone", "view", "proto", "family", "type"],
        )
        for (protocol, family, type_), count in figures.requests.items():
            labels = [server, ".", "", protocol, str(family), wire.TYPE_NAMES.get(type_, "other")]
            requests.add_metric(labels, count)
        responses = CounterMetricFamily(
            "coredns_dns_responses",
            "Counter of response status codes.",
            labels=["server", "zone", "view", "rcode", "plugin"],
        )
        for (code, plugin), count in figures.responses.items():
            labels = [server, ".", "", wire.RCODE_NAMES.get(code, str(code)), plugin]
            responses.add_metric(labels, count)
        yield from (requests, responses)
        for name, histogram in (
            ("coredns_dns_request_size_bytes", figures.request_sizes),
            ("coredns_dns_response_size_bytes", figures.response_sizes),
            ("coredns_dns_request_duration_seconds", figures.durations),
            ("coredns_kubernetes_dns_programming_duration_seconds", figures.programming),
        ):
            yield _histogram(name, histogram)
        entries = GaugeMetricFamily(
            "coredns_cache_entries", "The number of elements in the cache.", labels=["type"]
        )
        for kind, count in gathered.cache_entries.items():
            entries.add_metric([kind], count)
        yield entries
        plugins = GaugeMetricFamily(
            "coredns_plugin_enabled", "Whether a plugin is enabled.", labels=["name"]
        )
        for plugin in gathered.plugins:
            plugins.add_metric([plugin], 1)
        yield plugins
        proxied = CounterMetricFamily(
            "coredns_proxy_requests", "Questions passed on, per upstream.", labels=["to"]
        )
        for address, count in gathered.forwarded.items():
            proxied.add_metric([address], count)
        yield proxied
        for name, value, text in (
            ("coredns_panics", figures.panics, "Questions that met a fault of the server."),
            ("coredns_cache_hits", gathered.cache_hits, "The count of cache hits."),
            ("coredns_cache_misses", gathered.cache_misses, "The count of cache misses."),
            (
                "coredns_forward_max_concurrent_rejects",
                gathered.rejected,
                "Questions refused because too many were under way.",
            ),
            ("navarch_dns_dropped", figures.dropped, "Answers that could not be sent."),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], value)
            yield counter


def _histogram(name: str, histogram: Histogram) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, name.replace("_", " ") + ".", labels=["server", "zone"])
    family.add_metric(["dns://:53", "."], list(histogram.buckets()), histogram.total)
    return family
