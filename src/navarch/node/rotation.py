"""Rotates the log files of containers, so that a talkative container does not fill the disk.

`<n>.log` that has grown too large is renamed and the runtime opens a new one; older files are
compressed, the oldest deleted. Readers of logs see the newest file; those who follow, all of them.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import shutil
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from navarch.client.batches import together
from navarch.client.clock import Clock

from .cri.runtime import Runtime
from .cri.values import ContainerRecord, RuntimeFailure
from .server.logs import open_log
from .settings import NodeOptions

log = logging.getLogger(__name__)

HURRY_SECONDS = 1.0


async def keep_rotating(
    runtime: Runtime,
    options: NodeOptions,
    clock: Clock,
    running: Callable[[], list[ContainerRecord]],
) -> None:
    """Looks after the logs of all running containers until cancelled."""
    size, files = options.container_log_max_size, options.container_log_max_files
    slots = asyncio.Semaphore(max(1, options.container_log_max_workers))

    async def rotate(record: ContainerRecord) -> int:
        async with slots:
            try:
                return await rotate_if_large(runtime, record, size, files, clock.now())
            except (RuntimeFailure, OSError) as failure:
                log.warning("rotating %s: %s", record.log_path, failure)
                return 0

    interval = options.container_log_monitor_interval
    delay = interval
    while True:
        await clock.sleep(delay)
        sizes = await together(*map(rotate, running()))
        # Who fills the disk faster than we look is looked at more often.
        delay = min(interval, HURRY_SECONDS) if max(sizes, default=0) > 2 * size else interval


async def rotate_if_large(
    runtime: Runtime, record: ContainerRecord, max_size: int, max_files: int, now: datetime
) -> int:
    """Rotates a running container's log if it is larger than `max_size`; returns how large it was
    then, or 0."""
    path = Path(record.log_path)
    try:
        size = os.lstat(path).st_size
    except FileNotFoundError:
        # An agent was killed after the renaming: the runtime writes to the old file still.
        await runtime.reopen_log(record.id)
        return 0
    if size < max_size:
        return 0
    rotated = path.with_name(f"{path.name}.{now:%Y%m%d-%H%M%S}")
    os.rename(path, rotated)
    try:
        await runtime.reopen_log(record.id)
    except RuntimeFailure:
        # The runtime still writes to the renamed file: give it its name back.
        os.rename(rotated, path)
        raise
    await asyncio.to_thread(_compress_and_drop, path, rotated, max_files)
    return size


def _compress_and_drop(path: Path, newest: Path, max_files: int) -> None:
    """Keeps `max_files` in all; the newest rotated one stays plain, for `kubectl logs -f`."""
    old = sorted(each for each in path.parent.glob(f"{path.name}.*") if each != newest)
    for each in old:
        if each.suffix == ".tmp" or not stat.S_ISREG(each.lstat().st_mode):
            each.unlink(missing_ok=True)  # of an agent that was killed; or nothing of ours
        elif each.suffix != ".gz":
            partial = each.with_name(each.name + ".tmp")
            partial.unlink(missing_ok=True)
            with (
                open_log(each) as source,
                open(partial, "xb") as file,
                gzip.open(file, "wb") as target,
            ):
                shutil.copyfileobj(source, target)
            partial.rename(each.with_name(each.name + ".gz"))
            each.unlink()
    kept = sorted(path.parent.glob(f"{path.name}.*"))
    for each in kept[: max(0, len(kept) - (max_files - 1))]:
        each.unlink()
