"""NFS volumes: an export of a file server, mounted by the machine's own mount.nfs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .kernel import mounts_under, run_command, unmount
from .plugin import PreparedVolume, VolumePlugin, VolumeSpec, VolumeUsage
from .trees import file_system

UNMOUNT_SECONDS = 60.0


class NfsPlugin(VolumePlugin):
    """No fsGroup: the server decides who owns files."""

    name = "kubernetes.io/nfs"
    field = "nfs"
    is_persistent = True
    supports_mount_options = True

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        source = spec.source.nfs
        assert source is not None
        read_only = spec.read_only or (spec.persistent is None and source.readOnly)
        server = f"[{source.server}]" if ":" in source.server else source.server
        options = list(dict.fromkeys([*spec.mount_options, *(["ro"] if read_only else [])]))
        await asyncio.to_thread(_mount, f"{server}:{source.path}", target, options)
        return PreparedVolume(target, read_only)

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        """A server that is gone keeps an unmount waiting for ever; then it is done by force."""
        done = asyncio.create_task(asyncio.to_thread(_unmount, target), name=f"unmount {name}")
        timer = self.host.clock.call_later(UNMOUNT_SECONDS, lambda: unmount(target, by_force=True))
        try:
            await done
        finally:
            timer.cancel()

    async def usage(self, target: Path) -> VolumeUsage | None:
        return await asyncio.to_thread(file_system, target)


def _mount(source: str, target: Path, options: list[str]) -> None:
    target.mkdir(parents=True, exist_ok=True, mode=0o750)
    if target in mounts_under(target):
        return
    try:
        # By name: mount itself would try without the helper and complain of something else.
        run_command(
            "mount.nfs", source, str(target), *(["-o", ",".join(options)] if options else [])
        )
    except OSError:
        target.rmdir()
        raise


def _unmount(target: Path) -> None:
    if target in mounts_under(target):
        unmount(target, lazily=False)
