"""Processes as the kernel knows them: told apart by start time, found by control group.

A process number alone proves nothing, since numbers are used again. With the moment the process
started beside it, it does: that is what pid files here hold. Nothing but the standard library is
imported, since the supervisor lives on this module and shall stay small.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, for all time until the next boot."""

    pid: int
    started: int
    """Clock ticks since boot (field 22 of proc(5) stat)."""
    digest: str = ""
    """What it was started from, so that a change is seen."""

    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal to this very process; nothing happens if it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def start_time(pid: int) -> int | None:
    """When a process started, None when there is none (or only its zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may contain anything.
    words = text.rpartition(")")[2].split()
    return None if words[0] in "ZX" else int(words[19])


def myself(digest: str = "") -> ProcessId:
    pid = os.getpid()
    return ProcessId(pid, start_time(pid) or 0, digest)


def write_pid_file(path: Path, process: ProcessId) -> None:
    temporary = path.with_name(f".{path.name}.{process.pid}")
    temporary.write_text(json.dumps([process.pid, process.started, process.digest]))
    temporary.replace(path)


def read_pid_file(path: Path) -> ProcessId | None:
    """The living process a pid file names, else None."""
    try:
        pid, started, digest = json.loads(path.read_bytes())
        process = ProcessId(int(pid), int(started), str(digest))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return process if process.is_alive() else None


def is_running(run: Path, name: str) -> bool:
    """Whether a process of a profile lives, by the directory of its pid files."""
    return read_pid_file(run / f"{name}.pid") is not None


def wait_gone(pids: Iterable[int], timeout: float) -> list[int]:
    """Wait until processes have ended; returns those that have not by then."""
    deadline = time.monotonic() + timeout
    waiting: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            waiting[os.pidfd_open(pid)] = pid
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    try:
        while waiting:
            left = deadline - time.monotonic()
            ready = poll.poll(max(0.0, left) * 1000)
            for descriptor, _ in ready:
                poll.unregister(descriptor)
                pid = waiting.pop(descriptor)
                os.close(descriptor)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if not ready and left <= 0:
                break
        return list(waiting.values())
    finally:
        for descriptor in waiting:
            os.close(descriptor)


def end(pids: Collection[int], grace: float) -> None:
    """Ask processes to end, and after a while no longer ask."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        pids = wait_gone(pids, patience)
        if not pids:
            return


def cgroup_mounts() -> list[Path]:
    """The root of every control group hierarchy: several with version 1, one with version 2,
    both on a hybrid machine."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(point))
    return found


def cgroup_directories(group: str, mounts: Iterable[Path] | None = None) -> list[Path]:
    """The directories of a control group and everything below it, innermost first."""
    found: list[Path] = []
    for mount in cgroup_mounts() if mounts is None else mounts:
        top = mount / group.lstrip("/")
        found += [Path(directory) for directory, _, _ in os.walk(top, topdown=False)]
    return found


def cgroup_processes(group: str, mounts: Iterable[Path] | None = None) -> set[int]:
    """Every process in a control group or below."""
    found: set[int] = set()
    for directory in cgroup_directories(group, mounts):
        with contextlib.suppress(FileNotFoundError, OSError):
            found |= {int(word) for word in (directory / "cgroup.procs").read_text().split()}
    return found


def drain_cgroup(group: str, grace: float) -> None:
    """End every process of a control group, those born meanwhile included.

    Processes frozen by version 1's freezer do not see signals, so they are thawed first."""
    for directory in cgroup_directories(group):
        with contextlib.suppress(OSError):
            (directory / "freezer.state").write_text("THAWED")
    found = cgroup_processes(group)
    deaf = {pid for pid in found if is_deaf(pid)}
    for pid in deaf:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end(found - deaf, grace)
    for _ in range(20):
        if not (left := cgroup_processes(group)):
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_gone(left, 1.0)


def is_deaf(pid: int) -> bool:
    """Whether a request to end would not be heard: the first process of a container gets only the
    signals it handles or waits for, so without a handler for TERM there is no use in waiting."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return hears_nothing(text)


def hears_nothing(status: str) -> bool:
    """`is_deaf`, from the text of proc(5) status."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    bit = 1 << (signal.SIGTERM - 1)
    heard = int(fields["SigCgt"], 16) | int(fields["SigBlk"], 16)
    return fields.get("NSpid", "").split()[-1:] == ["1"] and not heard & bit


def remove_cgroup(group: str) -> None:
    """Remove a control group that has no processes any more. The kernel lets go of one a moment
    after its last process, so a busy directory is tried again."""

    def remove() -> bool:
        left = False
        for directory in cgroup_directories(group):
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                left = True
        return not left

    wait_until(remove, timeout=5.0)


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.02) -> bool:
    """Wait for something the kernel gives no notice of."""
    deadline = time.monotonic() + timeout
    while not condition():
        if not time.monotonic() < deadline:  # nor for ever, should that be no number
            return False
        time.sleep(interval)
    return True
