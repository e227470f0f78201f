"""No test can hang the run.

pytest-timeout raises an exception in the main thread, once. A test that waits for a thread, for a
child that never ends or for a task that swallows the exception goes on waiting after that, most
often while its fixtures are taken down: the loop's end waits for its executor's threads. So a
thread of the interpreter's own, which needs no lock to run, ends the process a while later and
prints where it stood. With pytest-xdist the test then counts as failed and another worker goes on;
without, the run is over, and red.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

GRACE = 60.0
"""What a test may take longer than its time limit, and its teardown again."""


def limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout"))


class HangGuard:
    def __init__(self) -> None:
        # What a test writes is captured by putting another file in place of this descriptor.
        self._stderr = os.dup(2)

    def _arm(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._arm(limit(item) + GRACE)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Once more: pytest gives up such a guard when a test has failed."""
        self._arm(limit(item) + GRACE)
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """The interpreter waits for threads when it ends; this is given up when it does end. A
        worker waits for the others, and is ended by who began it."""
        if not hasattr(config, "workerinput"):
            self._arm(GRACE)
