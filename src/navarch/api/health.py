"""Health checks as every component of Kubernetes answers them: `/healthz`, `/livez`, `/readyz`.

A check is a name and a question. The summary says `ok`, or at length what failed, and does not say
why: the paths are open to many. How each check came out is counted for `/metrics/slis` (KEP-3466).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

Check = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What to answer, in plain text."""

    status: int
    text: str


class HealthChecks:
    """Runs checks, words the answers and keeps count."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], bool] = {}
        self._total: Counter[tuple[str, str, bool]] = Counter()

    def _run(self, path: str, name: str, check: Check) -> bool:
        is_good = check()
        self._last[name, path] = is_good
        self._total[name, path, is_good] += 1
        return is_good

    def summary(
        self, path: str, checks: Mapping[str, Check], excluded: Iterable[str], *, verbose: bool
    ) -> HealthAnswer:
        """All checks of a path (`healthz`) but those the caller leaves out."""
        skipped = set(excluded)
        lines, failed = [], []
        for name, check in checks.items():
            if name in skipped:
                lines.append(f"[+]{name} excluded: ok")
            elif self._run(path, name, check):
                lines.append(f"[+]{name} ok")
            else:
                failed.append(name)
                lines.append(f"[-]{name} failed: reason withheld")
        unknown = ", ".join(f'"{each}"' for each in sorted(skipped - checks.keys()))
        if unknown:
            lines.append(f"warn: some health checks cannot be excluded: no matches for {unknown}")
        # Whoever asks what is wrong is told at length.
        if failed:
            return HealthAnswer(500, "\n".join([*lines, f"{path} check failed"]) + "\n")
        if verbose:
            return HealthAnswer(200, "\n".join([*lines, f"{path} check passed"]) + "\n")
        return HealthAnswer(200, "ok")

    def one(self, path: str, name: str, checks: Mapping[str, Check]) -> HealthAnswer:
        """One check of a path by its name (`/healthz/ping`)."""
        check = checks.get(name)
        if check is None:
            return HealthAnswer(404, "404 page not found\n")
        if check():
            return HealthAnswer(200, "ok")
        return HealthAnswer(500, f"internal server error: {name} failed\n")

    def metrics(self) -> Iterator[str]:
        """The lines of `/metrics/slis`."""
        yield (
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single "
            "healthcheck."
        )
        yield "# TYPE kubernetes_healthcheck gauge"
        for (name, path), is_good in sorted(self._last.items()):
            yield f'kubernetes_healthcheck{{name="{name}",type="{path}"}} {int(is_good)}'
        yield (
            "# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all "
            "healthcheck."
        )
        yield "# TYPE kubernetes_healthchecks_total counter"
        for (name, path, is_good), count in sorted(self._total.items()):
            status = "success" if is_good else "error"
            yield (
                f'kubernetes_healthchecks_total{{name="{name}",status="{status}",type="{path}"}} '
                f"{count}"
            )
