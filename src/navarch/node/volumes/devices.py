"""Block volumes: how a container finds its disk, and disks made of files.

As upstream a link stands for the device in the pod's directory, and one for each pod in the
volume's own, so that it is seen who still uses it. A regular file becomes a loop device, found
again by what it is made of.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .kernel import run_command
from .plugin import VolumeProblem


def map_device(source: Path, link: Path, shared: Path) -> Path:
    """Makes the links to a device and returns the device."""
    mode = source.stat().st_mode
    device = source
    if stat.S_ISREG(mode):
        device = loop_device(source)
    elif not stat.S_ISBLK(mode):
        raise VolumeProblem(f"{source} is not a block device")
    for each in (link, shared):
        each.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        each.unlink(missing_ok=True)
        each.symlink_to(device)
    return device


def unmap_device(link: Path, shared: Path) -> None:
    """Removes the links; with the last of them goes a loop device that was made for them."""
    device = ""
    for each in (shared, link):
        try:
            device = os.readlink(each)
        except OSError:
            continue
    shared.unlink(missing_ok=True)
    if device.startswith("/dev/loop") and not _has_entries(shared.parent):
        release_loop_device(device)
    link.unlink(missing_ok=True)
    if shared.parent.is_dir() and not _has_entries(shared.parent):
        shared.parent.rmdir()


def _has_entries(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def loop_device(file: Path) -> Path:
    """The loop device of a file; made if there is none."""
    real = str(file.resolve())
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().rstrip("\n") == real:
                return Path("/dev", backing.parts[3])
        except OSError:
            continue
    return Path(run_command("losetup", "--find", "--show", real))


def release_loop_device(device: str) -> None:
    if Path("/sys/block", Path(device).name, "loop/backing_file").exists():
        run_command("losetup", "--detach", device)
