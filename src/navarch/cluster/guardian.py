"""Keeps the supervisor running, as the supervisor keeps everything else.

A supervisor that is told to end removes its pid file; one that was killed leaves it behind. The
processes of the control plane look for such a file now and then and start another supervisor, which
takes over what runs (`supervisor.py`). They need not agree on who does it: the supervisor's lock
lets one be it, the others end. A node's processes live in other namespaces and stay out of this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from navarch.cluster import processes

log = logging.getLogger("navarch.guardian")


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
            env={**clean_environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    finally:
        os.close(output)


def clean_environment() -> dict[str, str]:
    """The caller's environment without Python's own settings: what suits a shell (no byte code
    written, say) would make every restart of a process slower."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


async def run(options: GuardianOptions) -> None:
    started: subprocess.Popen[bytes] | None = None
    try:
        while True:
            await asyncio.sleep(options.interval)
            if started is not None and started.poll() is None:
                continue  # it works, or finds out that another one does
            started = None
            if is_lost(options.description.parent):
                log.warning("the supervisor is gone: starting another")
                try:
                    started = start_supervisor(options.description, options.log)
                except OSError as error:
                    log.error("the supervisor cannot be started: %s", error)
    finally:
        if started is not None and started.poll() is None:
            started.returncode = 0  # it lives on by itself: nobody here is to wait for it
