"""What a machine lacks, and what its kernel's log tells."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from navarch.node.features import lacks
from navarch.node.oom import system_oom, watch

KILLED = (
    "6,1234,5678,-;oom-kill:constraint=CONSTRAINT_{where},nodemask=(null),cpuset=/,mems_allowed=0,"
    "{scope},task_memcg={group},task=postgres,pid=4711,uid=0"
)
GLOBAL = KILLED.format(where="NONE", scope="global_oom", group="/")
IN_POD = KILLED.format(where="MEMCG", scope="oom_memcg=/kubepods/poda", group="/kubepods/poda/c")


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_complete_machine(tmp_path: Path) -> None:
    for directory in ("proc/pressure", "sys/fs/cgroup"):
        (tmp_path / directory).mkdir(parents=True)
    root = machine(
        tmp_path,
        proc__sys__user__max_user_namespaces="1000",
        sys__module__apparmor__parameters__enabled="Y\n",
        proc__self__status="CapEff:\t000001ffffffffff\nSeccomp:\t0\n",
        dev__kmsg="",
    )
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids")
    assert [str(each) for each in lacks(root)] == []
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory")
    (root / "proc/self/status").write_text("CapEff:\t00000000a80425fb\nSeccomp:\t0\n")
    assert [each.what for each in lacks(root)] == [
        "no pids controller", "no hugetlb controller", "no CAP_SYS_RESOURCE",
    ]  # fmt: skip


def test_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    found = {each.what for each in lacks(tmp_path)}
    assert {"cgroup v1", "no control of swap", "no AppArmor", "no kernel log"} <= found
    assert "no memory controller" not in found and "no cpu controller" in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (GLOBAL, "System OOM encountered, victim process: postgres, pid: 4711"),
        (IN_POD, ""),
        ("6,1,1,-;usb 1-1: new device", ""),
    ],
)
def test_records_of_the_kernel(line: str, expected: str) -> None:
    assert system_oom(line) == expected


async def test_the_log_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a pipe in its place, which has no end to begin at."""
    monkeypatch.setattr(os, "lseek", lambda *position: 0)
    log = tmp_path / "kmsg"
    told: asyncio.Queue[str] = asyncio.Queue()
    await watch(told.put_nowait, log)  # there is none
    os.mkfifo(log)
    kernel = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    task = asyncio.create_task(watch(told.put_nowait, log))
    try:
        os.write(kernel, GLOBAL.encode())
        async with asyncio.timeout(60):
            assert (await told.get()).endswith("pid: 4711")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.close(kernel)
