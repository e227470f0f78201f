"""Termination messages and log rotation."""

from __future__ import annotations

import asyncio
import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.builders import make_pod, record
from tests.unit.node.fake_runtime import FakeRuntime

from navarch.client.clock import FakeClock
from navarch.node.cri.values import (
    CONTAINER_NAME,
    POD_UID,
    TERMINATION_PATH,
    TERMINATION_POLICY,
    ContainerRecord,
    ContainerState,
)
from navarch.node.messages import (
    log_tail,
    prepare_termination_log,
    read_message,
    termination_log_path,
)
from navarch.node.rotation import _compress_and_drop, keep_rotating, rotate_if_large
from navarch.node.settings import NodeOptions

STAMP = "2026-01-01T00:00:00.000000000Z"
FALLBACK = {TERMINATION_PATH: "/dev/termination-log", TERMINATION_POLICY: "FallbackToLogsOnError"}
FILE = {TERMINATION_PATH: "/dev/termination-log", TERMINATION_POLICY: "File"}


def ended(log: Path, exit_code: int, annotations: dict[str, str]) -> ContainerRecord:
    return record(make_pod(), exit_code=exit_code, log_path=str(log), annotations=annotations)


@pytest.mark.parametrize(
    ("written", "exit_code", "annotations", "expected"),
    [
        pytest.param("DONE", 0, FILE, "DONE", id="file"),
        pytest.param("", 1, FILE, "", id="no message"),
        pytest.param("OK", 1, FALLBACK, "OK", id="file before log"),
        pytest.param("", 1, FALLBACK, "one\ntwo\n", id="log"),
        pytest.param("", 0, FALLBACK, "", id="success says nothing"),
        pytest.param("x" * 5000, 0, FILE, "x" * 4096, id="cut"),
    ],
)
def test_messages(
    tmp_path: Path, written: str, exit_code: int, annotations: dict[str, str], expected: str
) -> None:
    log = tmp_path / "0.log"
    log.write_text(f"{STAMP} stdout F one\n{STAMP} stderr P tw\n{STAMP} stderr F o\n")
    path = prepare_termination_log(termination_log_path(tmp_path, "main", 0))
    assert path.stat().st_mode & 0o777 == 0o666
    path.write_text(written)
    assert read_message(ended(log, exit_code, annotations), tmp_path, 1) == expected


def test_many_containers_share_the_room(tmp_path: Path) -> None:
    path = prepare_termination_log(termination_log_path(tmp_path, "main", 0))
    path.write_text("x" * 5000)
    assert len(read_message(ended(tmp_path, 0, FILE), tmp_path, 12)) == 1024


def test_the_tail_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{STAMP} stdout F line {number}\n" for number in range(1000)))
    tail = log_tail(log, 2048)
    assert tail.startswith("line 920\n") and tail.endswith("line 999\n")
    assert log_tail(tmp_path / "none", 2048) == ""


async def test_rotation(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    import navarch.node.cri.runtime_pb2 as pb

    identity = {POD_UID: "u", CONTAINER_NAME: "main"}
    sandbox = pb.PodSandboxConfig(labels=identity, log_directory=str(tmp_path))
    sandbox.metadata.uid = "u"
    sandbox_id = await runtime.run_sandbox(sandbox, "")
    config = pb.ContainerConfig(labels=identity, log_path="0.log")
    container_id = await runtime.create_container(sandbox_id, config, sandbox)
    await runtime.start_container(container_id)
    log = tmp_path / "0.log"
    for hour in range(6):
        log.write_text("x" * 100)
        moment = datetime(2026, 1, 1, hour, tzinfo=UTC)
        arguments: dict[str, Any] = {"max_size": 100, "max_files": 3, "now": moment}
        assert await rotate_if_large(runtime, runtime.container("main"), **arguments)
    assert sorted(os.listdir(tmp_path)) == [
        "0.log.20260101-040000.gz",
        "0.log.20260101-050000",
    ]
    assert runtime.calls.count("reopen_log") == 6
    log.write_text("x" * 99)
    assert not await rotate_if_large(runtime, runtime.container("main"), **arguments)
    assert ended(log, 0, FILE).log_path == str(log)
    # An agent that was killed half-way: the file is renamed, the runtime has not been told.
    log.unlink()
    assert not await rotate_if_large(runtime, runtime.container("main"), **arguments)
    assert runtime.calls.count("reopen_log") == 7


def test_rotation_follows_nothing_that_was_put_among_the_logs(tmp_path: Path) -> None:
    """Whoever may write to the directory of all logs reads and overwrites nothing else by it."""
    secret, precious, logs = tmp_path / "secret", tmp_path / "precious", tmp_path / "a/b"
    logs.mkdir(parents=True)
    for each in (secret, precious):
        each.write_text("of the node")
    (logs / "0.log.20260101-000000").symlink_to(secret)
    os.mkfifo(logs / "0.log.20260101-000001")
    (logs / "0.log.20260101-000002").write_text("plain")
    (logs / "0.log.20260101-000002.tmp").symlink_to(precious)
    (logs / "0.log.20260101-000003").write_text("newest")
    _compress_and_drop(logs / "0.log", logs / "0.log.20260101-000003", 5)
    assert sorted(os.listdir(logs)) == ["0.log.20260101-000002.gz", "0.log.20260101-000003"]
    assert gzip.decompress((logs / "0.log.20260101-000002.gz").read_bytes()) == b"plain"
    assert secret.read_text() == precious.read_text() == "of the node"


def test_no_message_is_taken_from_what_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "node").write_text(f"{STAMP} stdout F of the node\n")
    link, pipe, below = (tmp_path / "a/b" / name for name in ("link", "pipe", "c"))
    link.symlink_to(tmp_path / "node")
    os.mkfifo(pipe)
    below.symlink_to(tmp_path)
    for path in (link, pipe, below / "node", tmp_path / "a/b"):
        assert log_tail(path, 2048) == "", path
    records = {name: ended(link, 1, FILE) for name in ("link", "pipe")}
    for path in (link, pipe):
        target = termination_log_path(tmp_path, "main", 0)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        assert read_message(records[path.name], tmp_path, 1) == ""


async def test_a_talkative_container_is_looked_at_more_often(tmp_path: Path) -> None:
    class Talkative(FakeRuntime):
        """A runtime whose container has written as much again by the time it is looked at."""

        async def reopen_log(self, container_id: str) -> None:
            rotated_at.append(clock.monotonic())
            path.write_bytes(b"x" * next(sizes))

    path, clock, rotated_at = tmp_path / "0.log", FakeClock(), list[float]()
    sizes = iter([500, 0, 0])
    path.write_bytes(b"x" * 500)
    options = NodeOptions(kubeconfig=tmp_path, node_name="n", container_log_max_size=200)
    made = ContainerRecord("c", "main", 0, "s", ContainerState.RUNNING, log_path=str(path))
    task = asyncio.create_task(keep_rotating(Talkative(), options, clock, lambda: [made]))
    async with asyncio.timeout(60):
        while len(rotated_at) < 2:
            await clock.advance(0.5)
            await asyncio.sleep(0.05)  # packing takes real time
    task.cancel()
    assert rotated_at[0] == 10 and rotated_at[1] < 19
