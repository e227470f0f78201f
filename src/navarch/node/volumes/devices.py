"""Block volumes: how a container finds its disk, and disks made of files.

As upstream a link stands for the device in the pod's directory, and one for each pod in the
volume's own, so that it is seen who still uses it. A regular file becomes a loop device, found
again by what it is made of. That the node made it is known by the latter links, which name the
file: a loop device that somebody else made is his, also when the last pod is gone.
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
    device, named = source, source
    if stat.S_ISREG(mode):
        named = source.resolve()
        there = loop_device(named)
        if there is not None and not _is_used(named, shared):
            named = there
        _link(shared, named)
        device = there or Path(run_command("losetup", "--find", "--show", str(named)))
    elif stat.S_ISBLK(mode):
        _link(shared, device)
    else:
        raise VolumeProblem(f"{source} is not a block device")
    _link(link, device)
    return device


def unmap_device(link: Path, shared: Path) -> None:
    """Removes the links; with the last of a file's goes the loop device that was made for them."""
    try:
        named = Path(os.readlink(shared))
    except OSError:
        named = None
    shared.unlink(missing_ok=True)
    if named is not None and not named.is_block_device() and not _is_used(named, shared):
        device = loop_device(named)
        if device is not None:
            run_command("losetup", "--detach", str(device))
    link.unlink(missing_ok=True)
    if shared.parent.is_dir() and not any(shared.parent.iterdir()):
        shared.parent.rmdir()


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _is_used(file: Path, shared: Path) -> bool:
    """Whether a pod uses the file as a disk, be it by another volume."""
    return any(
        each.is_symlink() and os.readlink(each) == str(file)
        for each in shared.parent.parent.glob("*/*")
    )


def loop_device(file: Path) -> Path | None:
    """The loop device of a file, which may have been removed since."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().rstrip("\n").removesuffix(" (deleted)") == str(file):
                return Path("/dev", backing.parts[3])
        except OSError:
            continue
    return None
