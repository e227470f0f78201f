"""What the server counts about webhooks and admission policies, under upstream's names."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

PREFIX = "apiserver_"
DURATION = "admission_webhook_admission_duration_seconds"
CONVERSION = "conversion_webhook_duration_seconds"
BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0)
POLICY_BUCKETS = (5e-07, 0.001, 0.01, 0.1, 1.0)
Labels = tuple[tuple[str, str], ...]

NO_ERROR = "no_error"
CALLING_ERROR = "calling_webhook_error"
SERVER_ERROR = "apiserver_internal_error"


class WebhookMetrics:
    """Counters and histograms, by webhook and by policy."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Labels]] = {}
        self._buckets: dict[tuple[str, Labels], list[int]] = {}
        self._sums: dict[tuple[str, Labels], float] = {}

    def observe(self, labels: dict[str, str], seconds: float, code: int, is_rejected: bool) -> None:
        """One call; `labels` are its name, type and operation."""
        rejected = {"rejected": str(is_rejected).lower()}
        self.count("admission_webhook_request_total", {**labels, "code": _code(code), **rejected})
        self._time(DURATION, {**labels, **rejected}, seconds)

    def converted(self, seconds: float, failure: str) -> None:
        """One call of a conversion webhook; `failure` says what kind of failure it was."""
        labels = {"result": "failure" if failure else "success", "failure_type": failure}
        self.count("conversion_webhook_request_total", labels)
        self._time(CONVERSION, labels, seconds)

    def checked(self, kind: str, labels: dict[str, str], seconds: float) -> None:
        """One check of a policy (`kind` is validating or mutating)."""
        self.count(f"{kind}_admission_policy_check_total", labels)
        self._time(f"{kind}_admission_policy_check_duration_seconds", labels, seconds)

    def _time(self, name: str, labels: dict[str, str], seconds: float) -> None:
        key = name, tuple(labels.items())
        bounds = _bounds(name)
        buckets = self._buckets.setdefault(key, [0] * (len(bounds) + 1))
        buckets[bisect_left(bounds, seconds)] += 1
        self._sums[key] = self._sums.get(key, 0.0) + seconds

    def rejected(self, labels: dict[str, str], error: str, code: int) -> None:
        more = {"error_type": error, "rejection_code": _code(code)}
        self.count("admission_webhook_rejection_count", {**labels, **more})

    def count(self, name: str, labels: dict[str, str]) -> None:
        """Count something under `apiserver_<name>`."""
        self._counts.setdefault(name, Counter())[tuple(labels.items())] += 1

    def render(self) -> Iterable[str]:
        """The lines for `/metrics`."""
        for name, counts in sorted(self._counts.items()):
            yield f"# TYPE {PREFIX}{name} counter"
            for labels, value in sorted(counts.items()):
                yield f"{PREFIX}{name}{{{_text(labels)}}} {value}"
        named = ""
        for (name, labels), buckets in sorted(self._buckets.items()):
            total, key, bounds, name = 0, (name, labels), _bounds(name), PREFIX + name
            if name != named:
                yield f"# TYPE {name} histogram"
                named = name
            for bound, value in zip((*bounds, "+Inf"), buckets, strict=True):
                total += value
                yield f'{name}_bucket{{{_text(labels)},le="{bound}"}} {total}'
            yield f"{name}_sum{{{_text(labels)}}} {self._sums[key]:.6f}"
            yield f"{name}_count{{{_text(labels)}}} {total}"


def _code(code: int) -> str:
    return str(min(code, 600))


def _text(labels: Labels) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels)


def _bounds(name: str) -> tuple[float, ...]:
    return POLICY_BUCKETS if "policy" in name else BUCKETS
