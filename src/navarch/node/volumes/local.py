"""local persistent volumes: a directory, a disk with files, or a whole disk of this node."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

from .kernel import bind, mounts_under, run_command, unmount
from .local_path import make
from .ownership import apply_fs_group
from .plugin import PreparedVolume, VolumePlugin, VolumeProblem, VolumeSpec, VolumeUsage, escaped
from .trees import file_system

DEFAULT_FILE_SYSTEM = "ext4"


class LocalPlugin(VolumePlugin):
    """A directory is bound into the pod's place; a disk is mounted once for the node (formatted, if
    it is blank) and bound from there."""

    name = "kubernetes.io/local-volume"
    field = "local"
    is_inline = False
    is_persistent = True
    supports_block = True
    supports_mount_options = True
    may_expand = True

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        prepared = PreparedVolume(target, read_only=spec.read_only, relabel=True)
        if await asyncio.to_thread(lambda: target in mounts_under(target)):
            return prepared
        source = await asyncio.to_thread(self._source, spec)
        others = await asyncio.to_thread(self._has_other_pods, spec.name, target)
        if others:
            await asyncio.to_thread(self._warn_of_groups, spec, source)
        elif not spec.read_only:
            # Before it is bound: a volume that is there counts as finished.
            await apply_fs_group(self.host, spec, source)
        await asyncio.to_thread(_bind, source, target, spec)
        return prepared

    def _source(self, spec: VolumeSpec) -> Path:
        make(self.host.root, spec.persistent)
        path = _path(spec)
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            return path
        if not stat.S_ISBLK(kind):
            raise VolumeProblem("only directory and block device are supported")
        staged = self._staged(spec.name)
        if staged in mounts_under(staged):
            return staged
        staged.mkdir(parents=True, exist_ok=True, mode=0o750)
        local = spec.source.local  # type: ignore[union-attr]
        format_and_mount(path, staged, (local.fsType if local else None) or DEFAULT_FILE_SYSTEM,
                         _options(spec))  # fmt: skip
        return staged

    def _staged(self, name: str) -> Path:
        return self.host.plugin_directory(self.name) / "mounts" / name

    def _has_other_pods(self, name: str, target: Path) -> bool:
        places = self.host.root.glob(f"pods/*/volumes/{escaped(self.name)}/{name}")
        return any(place != target and mounts_under(place) for place in places)

    def _warn_of_groups(self, spec: VolumeSpec, source: Path) -> None:
        group = os.stat(source).st_gid
        if spec.fs_group not in (None, group):
            self.host.events.pod(
                spec.pod,
                "Warning",
                "AlreadyMountedVolume",
                f"The requested fsGroup is {spec.fs_group}, but the volume {spec.name} has GID "
                f"{group}. The volume may not be shareable.",
            )

    async def unstage(self, name: str) -> None:
        await asyncio.to_thread(_unstage, self._staged(name))

    async def map_device(self, spec: VolumeSpec, target: Path) -> Path:
        return _path(spec)

    async def expand(self, spec: VolumeSpec, prepared: PreparedVolume, size: str) -> None:
        path = _path(spec)
        if not spec.is_block and path.is_block_device():
            await asyncio.to_thread(grow_file_system, path, self._staged(spec.name))

    async def usage(self, target: Path) -> VolumeUsage | None:
        return await asyncio.to_thread(file_system, target)


def _path(spec: VolumeSpec) -> Path:
    local = spec.source.local  # type: ignore[union-attr]
    path = Path(local.path if local is not None else "")
    if ".." in path.parts:
        raise VolumeProblem(f"invalid path: {path} must not contain '..'")
    if not path.exists():
        raise VolumeProblem(f'path "{path}" does not exist')
    return path


def _options(spec: VolumeSpec) -> str:
    return ",".join([*(["ro"] if spec.read_only else []), *spec.mount_options])


def _bind(source: Path, target: Path, spec: VolumeSpec) -> None:
    target.mkdir(parents=True, exist_ok=True, mode=0o750)
    bind(source, target, read_only=spec.read_only)


def _unstage(staged: Path) -> None:
    if staged in mounts_under(staged):
        unmount(staged, lazily=False)
    if staged.is_dir():
        staged.rmdir()


def format_and_mount(device: Path, target: Path, kind: str, options: str) -> None:
    """Mounts a disk; makes a file system on it first if it is certainly blank."""
    found = file_system_type(device)
    read_only = "ro" in options.split(",")
    if not found:
        if read_only:
            raise VolumeProblem(f"cannot mount unformatted disk {device} as we are manipulating it"
                                " in read-only mode")  # fmt: skip
        forced = ["-F", "-m0"] if kind.startswith("ext") else []
        run_command(f"mkfs.{kind}", *forced, str(device))
    elif found != kind:
        raise VolumeProblem(f"failed to mount the volume as {kind!r}, it already contains {found}")
    elif not read_only and kind.startswith("ext"):
        _check(device)
    try:
        run_command("mount", "-t", kind, *(["-o", options] if options else []),
                    str(device), str(target))  # fmt: skip
    except OSError as error:
        raise VolumeProblem(
            f"failed to mount device {device} at {target} (fstype: {kind}), error {error.strerror}"
        ) from error


def file_system_type(device: Path) -> str:
    """What a disk contains; "" if nothing is known to be on it."""
    try:
        values = run_command("blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export",
                             str(device))  # fmt: skip
    except OSError as error:
        # 2: nothing was found. Anything else is no proof that the disk may be written over.
        if error.errno == errno.EIO and "exit status 2:" in str(error.strerror):
            return ""
        raise
    found = dict(line.split("=", 1) for line in values.splitlines() if "=" in line)
    return found.get("TYPE") or ("a partition table" if "PTTYPE" in found else "")


def _check(device: Path) -> None:
    """Repairs what a lost machine has left; 1 means it did."""
    try:
        run_command("fsck", "-a", str(device))
    except OSError as error:
        if error.errno == errno.EIO and "exit status 4:" in str(error.strerror):
            raise VolumeProblem(
                f"'fsck' found errors on device {device} but could not correct them: "
                f"{error.strerror}"
            ) from error


def grow_file_system(device: Path, target: Path) -> None:
    """Lets the file system fill its disk, which has become larger."""
    kind = file_system_type(device)
    if kind.startswith("ext"):
        run_command("resize2fs", str(device))
    elif kind == "xfs":
        run_command("xfs_growfs", "-d", str(target))
    elif kind == "btrfs":
        run_command("btrfs", "filesystem", "resize", "max", str(target))
    else:
        raise VolumeProblem(f"resize of format {kind} is not supported for device {device}")
