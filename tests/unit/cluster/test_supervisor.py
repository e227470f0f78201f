"""The supervisor keeps processes running, and finds them again after it was killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from navarch.cluster import processes
from navarch.cluster.guardian import GuardianOptions, is_lost, run
from navarch.cluster.profile import Paths
from navarch.cluster.supervisor import Description, Spec, pause_after, rotate
from navarch.cluster.teardown import stop_processes

SLEEP = ("sleep", "300")


@pytest.mark.parametrize(
    ("failures", "pause"),
    [(0, 0.0), (1, 0.0), (2, 0.25), (3, 0.5), (4, 1.0), (8, 15.0), (100, 15.0)],
)
def test_pauses_grow_up_to_a_limit(failures: int, pause: float) -> None:
    assert pause_after(failures) == pause


def test_rotation_keeps_the_writer_and_one_old_file(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        rotate(log, 100)
        assert log.stat().st_size == 100
        writer.write(b"y")
        rotate(log, 100)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 100 + b"y"


class Harness:
    """A supervisor process and what it is told."""

    def __init__(self, directory: Path) -> None:
        self.run = directory
        self.file = directory / "supervisor.json"
        self.process: subprocess.Popen[bytes] | None = None

    def describe(self, *specs: Spec) -> None:
        description = Description(str(self.run), str(self.run / "ns"), specs)
        self.file.write_bytes(description.encode())

    def spec(self, name: str, argv: tuple[str, ...] = SLEEP, digest: str = "1") -> Spec:
        return Spec(name, argv, log=str(self.run / f"{name}.log"), digest=digest, grace=5.0)

    def start(self) -> None:
        command = [sys.executable, "-m", "navarch.cluster.supervisor", str(self.file)]
        with (self.run / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def pid(self, name: str) -> int:
        found = processes.read_pid_file(self.run / f"{name}.pid")
        return found.pid if found else 0

    def wait(self, condition: Callable[[], object]) -> None:
        assert processes.wait_until(lambda: bool(condition()), 60.0), (
            self.run / "supervisor.log"
        ).read_text()

    def command_line(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid(name)}/cmdline").read_text()
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()
        for file in self.run.glob("*.pid"):
            found = processes.read_pid_file(file)
            if found is not None:
                found.signal(signal.SIGKILL)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    found = Harness(tmp_path)
    yield found
    found.close()


def test_a_killed_process_comes_back_at_once(harness: Harness) -> None:
    harness.describe(harness.spec("a"))
    harness.start()
    harness.wait(lambda: "sleep" in harness.command_line("a"))
    first = harness.pid("a")
    os.kill(first, signal.SIGKILL)
    harness.wait(lambda: harness.pid("a") not in (0, first))


def test_a_killed_supervisor_leaves_its_processes_and_the_next_one_adopts_them(
    harness: Harness,
) -> None:
    harness.describe(harness.spec("a"), harness.spec("b"))
    harness.start()
    harness.wait(lambda: harness.pid("a") and harness.pid("b"))
    harness.wait(lambda: "sleep" in harness.command_line("b"))
    before = harness.pid("a"), harness.pid("b")
    harness.kill()
    assert (harness.pid("a"), harness.pid("b")) == before
    harness.start()
    harness.wait(lambda: harness.pid("supervisor") == harness.process.pid)  # type: ignore[union-attr]
    # It watches what it has not started: an adopted process comes back, too.
    os.kill(before[0], signal.SIGKILL)
    harness.wait(lambda: harness.pid("a") not in (0, before[0]))
    assert harness.pid("b") == before[1]


async def test_a_killed_supervisor_is_started_again_but_not_one_that_was_told_to_end(
    harness: Harness,
) -> None:
    harness.describe(harness.spec("a"))
    harness.start()
    harness.wait(lambda: "sleep" in harness.command_line("a"))
    before = harness.pid("a"), harness.pid("supervisor")
    assert not is_lost(harness.run)
    harness.kill()
    assert is_lost(harness.run)
    options = GuardianOptions(harness.file, harness.run / "supervisor.log", interval=0.01)
    guardian = asyncio.create_task(run(options))
    await asyncio.to_thread(harness.wait, lambda: harness.pid("supervisor") not in (0, before[1]))
    assert harness.pid("a") == before[0]
    supervisor = harness.pid("supervisor")
    os.kill(supervisor, signal.SIGTERM)
    await asyncio.to_thread(harness.wait, lambda: not harness.pid("supervisor"))
    assert not is_lost(harness.run)
    assert not processes.wait_gone([supervisor], 60.0)
    guardian.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guardian
    assert harness.pid("a") == 0


def test_a_supervisor_that_comes_too_late_starts_nothing(harness: Harness) -> None:
    """A guardian has started it, and before it ran the cluster was stopped."""
    harness.describe(harness.spec("a"))
    harness.start()
    harness.wait(lambda: "sleep" in harness.command_line("a"))
    harness.kill()
    stop_processes(cast(Paths, SimpleNamespace(run=harness.run)))
    assert harness.pid("a") == 0
    harness.start()
    assert harness.process is not None
    assert harness.process.wait(60) == 1
    assert harness.pid("a") == 0


def test_a_changed_description_replaces_only_what_has_changed(harness: Harness) -> None:
    harness.describe(harness.spec("a"), harness.spec("b"), harness.spec("c"))
    harness.start()
    harness.wait(lambda: all(harness.pid(name) for name in "abc"))
    harness.wait(lambda: "sleep" in harness.command_line("c"))
    before = {name: harness.pid(name) for name in "abc"}
    harness.describe(harness.spec("a"), harness.spec("b", digest="2"), harness.spec("d"))
    harness.send(signal.SIGHUP)
    harness.wait(lambda: harness.pid("d") and not harness.pid("c"))
    harness.wait(lambda: harness.pid("b") not in (0, before["b"]))
    assert harness.pid("a") == before["a"]


def test_an_outdated_process_is_replaced_when_adopted(harness: Harness) -> None:
    harness.describe(harness.spec("a"), harness.spec("gone"))
    harness.start()
    harness.wait(lambda: harness.pid("a") and harness.pid("gone"))
    harness.wait(lambda: "sleep" in harness.command_line("gone"))
    before = harness.pid("a")
    harness.kill()
    harness.describe(harness.spec("a", digest="2"))
    harness.start()
    harness.wait(lambda: harness.pid("a") not in (0, before))
    harness.wait(lambda: not harness.pid("gone"))


def test_termination_stops_everything(harness: Harness) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    spec = Spec("a", stubborn, log=str(harness.run / "a.log"), grace=0.3)
    harness.describe(spec, replace(harness.spec("b"), grace=0.3))
    harness.start()
    harness.wait(lambda: harness.pid("a") and harness.pid("b"))
    pids = [harness.pid("a"), harness.pid("b")]
    harness.send(signal.SIGTERM)
    assert harness.process is not None
    assert harness.process.wait(60) == 0
    assert not processes.wait_gone(pids, 20.0)
    assert not list(harness.run.glob("*.pid"))


def test_a_program_that_is_missing_is_reported(harness: Harness) -> None:
    harness.describe(harness.spec("a", ("/no/such/program",)))
    harness.start()
    harness.wait(lambda: '"failures": 2' in _text(harness.run / "state.json"))
    assert "a cannot be started" in (harness.run / "a.log").read_text()


def test_there_is_one_supervisor(harness: Harness) -> None:
    harness.describe()
    harness.start()
    harness.wait(lambda: harness.pid("supervisor"))
    second = subprocess.run(
        [sys.executable, "-m", "navarch.cluster.supervisor", str(harness.file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "another supervisor" in second.stderr


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_a_process_number_used_again_is_not_taken_for_the_process(tmp_path: Path) -> None:
    mine = processes.myself("digest")
    file = tmp_path / "a.pid"
    processes.write_pid_file(file, mine)
    assert processes.read_pid_file(file) == mine
    processes.write_pid_file(file, processes.ProcessId(mine.pid, mine.started + 1))
    assert processes.read_pid_file(file) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '["a", 2, ""]'])
def test_a_damaged_pid_file_names_nobody(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.pid"
    file.write_text(content)
    assert processes.read_pid_file(file) is None


def test_ending_processes_waits_and_then_insists() -> None:
    polite = subprocess.Popen(["sleep", "300"])
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    begin = time.monotonic()
    processes.end([polite.pid, stubborn.pid], grace=0.2)
    assert time.monotonic() - begin < 20
    assert polite.wait(20) is not None
    assert stubborn.wait(20) is not None
    stubborn.stdout.close()


def test_control_groups_of_every_hierarchy_are_found(tmp_path: Path) -> None:
    for hierarchy, pid in (("memory", 11), ("pids", 12)):
        inner = tmp_path / hierarchy / "navarch-dev" / "dev" / "pod1"
        inner.mkdir(parents=True)
        (inner / "cgroup.procs").write_text(f"{pid}\n")
    mounts = [tmp_path / "memory", tmp_path / "pids", tmp_path / "empty"]
    assert processes.cgroup_processes("/navarch-dev", mounts) == {11, 12}
    found = processes.cgroup_directories("/navarch-dev", mounts)
    assert [path.name for path in found] == ["pod1", "dev", "navarch-dev"] * 2


@pytest.mark.parametrize(
    ("caught", "blocked", "identities", "deaf"),
    [
        pytest.param("0000000000000000", "0000000000000000", "812\t1", True, id="no handler"),
        pytest.param("0000000000004000", "0000000000000000", "812\t1", False, id="handles TERM"),
        pytest.param("0000000000000000", "0000000000004000", "812\t1", False, id="waits for TERM"),
        pytest.param("0000000000000000", "0000000000000000", "812\t7", False, id="not the first"),
        pytest.param("0000000000000000", "0000000000000000", "812", False, id="the host's"),
    ],
)
def test_who_does_not_hear_a_request_to_end(
    caught: str, blocked: str, identities: str, deaf: bool
) -> None:
    text = f"Name:\tx\nNSpid:\t{identities}\nSigBlk:\t{blocked}\nSigCgt:\t{caught}\n"
    assert processes.hears_nothing(text) is deaf
