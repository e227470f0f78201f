"""What all tests share: the marker that names the conformance tests a test covers.

The names of a marker are checked against the list of the official suite, so that a name spelled
wrong fails at once. With `--conformance-results FILE` the outcome of each marked test is written
down for `tools/conformance.py`, which makes `docs/conformance.md` of it; with `--collect-only` as
well, which tests would run.

Whatever a test does, it fails if an object in an informer's cache was changed meanwhile.
"""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.caches import CacheGuard
from tests.hang import HangGuard

# How long it takes to think of an example says nothing on a machine that does other work. The same
# examples are drawn every time, so that a change is judged by what it changed; others are searched
# with `--hypothesis-profile search`.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")

SUITE = Path(__file__).parents[1] / "tools" / "conformance.tsv"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-results", metavar="FILE", help="write outcomes to FILE (JSON)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(HangGuard(), "hang-guard")
    if not hasattr(config, "workerinput"):
        # Like Ctrl-C: fixtures take away what they made when a time limit ends the run.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    target = config.getoption("--conformance-results")
    if target and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(Path(target)), "conformance-outcomes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known: set[str] | None = None
    for item in items:
        for marker in item.iter_markers("conformance"):
            known = known or {line.split("\t")[1] for line in SUITE.read_text().splitlines()}
            unknown = [name for name in marker.args if name not in known]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: no conformance test is named {unknown}")
            item.user_properties.append(("conformance", list(marker.args)))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going over thousands of collected tests again and again: one
    such round takes a good part of what a request may take where processor time is measured."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cache_guard() -> Iterator[CacheGuard]:
    guard = CacheGuard()
    yield guard
    guard.stop()


@pytest.fixture(autouse=True)
def caches_stay_unchanged(cache_guard: CacheGuard) -> Iterator[None]:
    yield
    changed = cache_guard.changed()
    assert not changed, "\n".join(changed)


class Outcomes:
    """For each test of the suite, the tests of ours that cover it and how they ended."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.outcomes: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self._note(report, report.outcome)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items if session.config.option.collectonly else ():
            self._note(item, "passed")

    def _note(self, test: pytest.Item | pytest.TestReport, outcome: str) -> None:
        function = test.nodeid.partition("[")[0]
        covered: list[Any] = [names for key, names in test.user_properties if key == "conformance"]
        for name in chain.from_iterable(covered):
            tests = self.outcomes.setdefault(name, {})
            if tests.get(function) in (None, "passed"):
                tests[function] = outcome

    def pytest_sessionfinish(self) -> None:
        self.target.write_text(json.dumps(self.outcomes, indent=1, sort_keys=True))
