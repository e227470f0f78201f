"""Components that share a process share its end, and nobody ends in silence."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from navarch.api.component_config import ConfigurationError
from navarch.cluster.components import Run
from navarch.cluster.daemon import RecordFormatter, run_components
from navarch.node.settings import REPLACED


async def for_ever(started: list[str]) -> None:
    started.append("for ever")
    await asyncio.Event().wait()


async def returns(_: Any) -> None:
    return


async def fails(_: Any) -> None:
    raise OSError("no disk")


@pytest.mark.parametrize(("other", "reason"), [(returns, "ended by itself"), (fails, "no disk")])
def test_one_that_ends_ends_all(other: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    assert run_components({"a": lambda: (for_ever, []), "b": lambda: (other, None)}) == 1
    assert reason in caplog.text


async def misconfigured(_: Any) -> None:
    raise ConfigurationError("parallelism: Invalid value: 0")


def test_bad_configuration_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert run_components({"a": lambda: (misconfigured, None)}) == 1
    (record,) = (each for each in caplog.records if each.levelname == "ERROR")
    assert (record.getMessage(), record.exc_info) == ("parallelism: Invalid value: 0", None)


def test_the_first_runs_while_the_next_is_read() -> None:
    """The proxy of a killed agent does not wait for all that a kubelet imports."""
    is_running = threading.Event()

    async def first(_: Any) -> None:
        is_running.set()
        await asyncio.Event().wait()

    def load() -> tuple[Run, Any]:
        assert is_running.wait(60), "nothing runs yet"
        return returns, None

    assert run_components({"first": lambda: (first, None), "second": load}) == 1
    assert is_running.is_set()


@pytest.mark.parametrize(("number", "replaced"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_them_cleanly(
    number: int, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says whether that is their end or another process takes over."""
    monkeypatch.setenv(REPLACED, "")
    monkeypatch.delenv(REPLACED)

    async def ask(_: Any) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    assert run_components({"a": lambda: (for_ever, []), "b": lambda: (ask, None)}) == 0
    assert (REPLACED in os.environ) == replaced


def test_a_record_is_one_line_whatever_it_tells() -> None:
    """Names and errors of strangers can neither begin a record nor command a terminal."""
    formatter = RecordFormatter("%(levelname).1s %(name)s: %(message)s")
    forged = "x\n2026-11-21T00:00:00Z I navarch: all is well\x1b[2J\r\u2028"
    record = logging.LogRecord("n", logging.INFO, "", 1, "pod %s failed", (forged,), None)
    assert formatter.format(record) == (
        "I n: pod x\\n2026-11-21T00:00:00Z I navarch: all is well\\x1b[2J\\r\\u2028 failed"
    )
    try:
        raise ValueError(forged)
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *others = formatter.format(record).splitlines()
    assert first.startswith("I n: pod x")
    assert others and all(line.startswith("    ") for line in others)
    assert "\x1b" not in formatter.format(record)


HANGING = """
import asyncio, sys, threading
from concurrent.futures import ThreadPoolExecutor
from navarch.cluster import daemon

async def hangs(_):
    pool = ThreadPoolExecutor(1)
    for each in (pool, None):
        asyncio.get_running_loop().run_in_executor(each, threading.Event().wait)
    print("begun", flush=True)
    await asyncio.Event().wait()

daemon.HUNG_SECONDS = 0.2
daemon.start_logging("INFO")
sys.exit(daemon.run_components({"a": lambda: (hangs, None)}, daemon.leave_hung_threads))
"""


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.terminate()
            _, log = process.communicate(timeout=30)
        finally:
            process.kill()
    assert "ending though threads hang" in log
    assert process.returncode == 1
