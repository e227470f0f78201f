"""Rotates the log files of containers, so that a talkative container does not fill the disk.

`<n>.log` that has grown too large is renamed and the runtime opens a new one; older files are
compressed, the oldest deleted. Readers of logs see the newest file.
"""

from __future__ import annotations

import gzip
import os
import shutil
from datetime import datetime
from pathlib import Path

from .cri.runtime import Runtime
from .cri.values import ContainerRecord, RuntimeFailure


async def rotate_if_large(
    runtime: Runtime, record: ContainerRecord, max_size: int, max_files: int, now: datetime
) -> bool:
    """Rotates a running container's log if it is larger than `max_size`."""
    import asyncio

    path = Path(record.log_path)
    try:
        size = os.stat(path).st_size
    except OSError:
        return False
    if size < max_size:
        return False
    rotated = path.with_name(f"{path.name}.{now:%Y%m%d-%H%M%S}")
    os.rename(path, rotated)
    try:
        await runtime.reopen_log(record.id)
    except RuntimeFailure:
        # The runtime still writes to the renamed file: give it its name back.
        os.rename(rotated, path)
        raise
    await asyncio.to_thread(_compress_and_drop, path, rotated, max_files)
    return True


def _compress_and_drop(path: Path, newest: Path, max_files: int) -> None:
    """Keeps `max_files` in all; the newest rotated one stays plain, for `kubectl logs -f`."""
    old = sorted(each for each in path.parent.glob(f"{path.name}.*") if each != newest)
    for each in old:
        if each.suffix == ".tmp":
            each.unlink()
        elif each.suffix != ".gz":
            partial = each.with_name(each.name + ".tmp")
            with open(each, "rb") as source, gzip.open(partial, "wb") as target:
                shutil.copyfileobj(source, target)
            partial.rename(each.with_name(each.name + ".gz"))
            each.unlink()
    kept = sorted(path.parent.glob(f"{path.name}.*"))
    for each in kept[: max(0, len(kept) - (max_files - 1))]:
        each.unlink()
