"""Keeps the supervisor running, as the supervisor keeps everything else.

A supervisor that is told to end removes its pid file; one that was killed leaves it behind. The
processes of the control plane look for such a file now and then and start another supervisor, which
takes over what runs (`supervisor.py`). They need not agree on who does it: the supervisor's lock
lets one be it, the others end. A node's processes live in other namespaces and stay out of this: a
machine that has joined, which has no others, runs a guardian by itself (`main`).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from navarch.cluster import processes

log = logging.getLogger("navarch.guardian")
SOURCE = str(Path(__file__).parents[2])
"""Where modules are found by a Python that leaves out everything installed (-S)."""


@dataclass(frozen=True, slots=True)
class GuardianOptions:
    """`description` is what the supervisor is told, `log` where it writes."""

    description: Path
    log: Path
    interval: float = 1.0


def is_lost(run: Path) -> bool:
    """Whether the supervisor has ended without having been told to."""
    file = run / "supervisor.pid"
    return file.exists() and processes.read_pid_file(file) is None and file.exists()


def start_supervisor(description: Path, log_file: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor in a session of its own."""
    output = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-S", "-m", "navarch.cluster.supervisor", str(description)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**clean_environment(), "PYTHONPATH": SOURCE},
        )
    finally:
        os.close(output)


def clean_environment() -> dict[str, str]:
    """The caller's environment without Python's own settings: what suits a shell (no byte code
    written, say) would make every restart of a process slower."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Guardian:
    """Looks once in a while whether there is a supervisor."""

    def __init__(self, options: GuardianOptions) -> None:
        self._options = options
        self._started: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        if self._started is not None and self._started.poll() is None:
            return  # it works, or finds out that another one does
        self._started = None
        if is_lost(self._options.description.parent):
            log.warning("the supervisor is gone: starting another")
            try:
                self._started = start_supervisor(self._options.description, self._options.log)
            except OSError as error:
                log.error("the supervisor cannot be started: %s", error)

    def let_go(self) -> None:
        if self._started is not None and self._started.poll() is None:
            self._started.returncode = 0  # it lives on by itself: nobody here is to wait for it


async def run(options: GuardianOptions) -> None:
    import asyncio

    guardian = Guardian(options)
    try:
        while True:
            await asyncio.sleep(options.interval)
            guardian.look()
    finally:
        guardian.let_go()


def main(arguments: Sequence[str]) -> int:
    """A process of its own: as small as Python itself, like the supervisor."""
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(name)s: %(message)s")
    description, log_file = map(Path, arguments)
    options = GuardianOptions(description, log_file)
    guardian = Guardian(options)
    while True:
        time.sleep(options.interval)
        guardian.look()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
