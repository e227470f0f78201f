"""The kernel's word that memory is running out, between two looks at what is left.

cgroup v1 only (as upstream): the kernel counts an eventfd up when a cgroup's usage crosses a figure
(`Documentation/admin-guide/cgroup-v1/memory.rst`, 9). Usage contains file pages that can be dropped
at once, whose number changes, so the figure is set anew every ten seconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from .cgroups import Cgroups
from .machine import memory_total_and_available
from .thresholds import Threshold

REFRESH_SECONDS = 10.0


async def memory_events(cgroups: Cgroups, threshold: Threshold) -> AsyncIterator[None]:
    """Yields whenever usage crosses the threshold; raises OSError where the kernel cannot tell."""
    directory = cgroups.mount / "memory"
    while True:
        total, available = memory_total_and_available()
        # What counts as used now, moved by how far the machine still is from the threshold.
        usage = int((directory / "memory.usage_in_bytes").read_text())
        mark = usage + available - threshold.value.of(total).value()
        event = _arm(directory, max(0, mark))
        try:
            if await _rings(event):
                yield
        finally:
            os.close(event)


def _arm(directory: Path, mark: int) -> int:
    """An eventfd that counts when usage crosses the mark; closing it ends that."""
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        with open(directory / "memory.usage_in_bytes") as usage:
            text = f"{event} {usage.fileno()} {mark}"
            (directory / "cgroup.event_control").write_text(text)
    except OSError:
        os.close(event)
        raise
    return event


async def _rings(event: int) -> bool:
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()
    loop.add_reader(event, rung.set)
    try:
        async with asyncio.timeout(REFRESH_SECONDS):
            await rung.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(event)
