"""Tells of the machine running out of memory: the kernel says in its log whom it has killed.

A container over its own limit is its pod's matter and shows in its status. When all memory is gone,
the kernel takes a process wherever it is; if that was one of the system's own, the node tells
(`SystemOOM`, upstream's `pkg/kubelet/oom`). The log is read as it grows, without looking for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

KERNEL_LOG = Path("/dev/kmsg")
_KILLED = re.compile(r"oom-kill:constraint=.*,task_memcg=(?P<group>.*),task=(?P<task>.*),"
                     r"pid=(?P<pid>\d+),uid=\d+")  # fmt: skip
RECORD = 8192


def system_oom(line: str) -> str:
    """What the event says, if a record of the kernel's log tells that it killed one of the
    system's own processes for want of memory."""
    found = _KILLED.search(line)
    if found is None or found["group"] != "/":
        return ""
    return f"System OOM encountered, victim process: {found['task']}, pid: {found['pid']}"


async def watch(tell: Callable[[str], None], path: Path = KERNEL_LOG) -> None:
    """Calls `tell` for each, until cancelled. A kernel log that is not ours to read is left."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        log.info("the machine's memory running out will not be told of: %s", error)
        return
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
        loop.add_reader(descriptor, ready.set)
        while True:
            await ready.wait()
            ready.clear()
            for record in _records(descriptor):
                message = system_oom(record)
                if message:
                    tell(message)
    except OSError as error:
        log.warning("kernel log: %s", error)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _records(descriptor: int) -> list[str]:
    """What has been added; each read gives one record."""
    result: list[str] = []
    while True:
        try:
            record = os.read(descriptor, RECORD)
        except BlockingIOError:
            return result
        except BrokenPipeError:
            continue  # records were overwritten before they were read; those after them follow
        if not record:
            return result
        result.append(record.decode("utf-8", "replace"))
