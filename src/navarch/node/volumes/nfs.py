"""NFS volumes: an export of a file server, mounted by the machine's own mount.nfs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from navarch.client.clock import timeout

from .kernel import mounts_under, run_command, unmount
from .plugin import PreparedVolume, VolumeHost, VolumePlugin, VolumeSpec, VolumeUsage
from .trees import file_system

T = TypeVar("T")

UNMOUNT_SECONDS = 60.0
ANSWER_SECONDS = 5.0
"""Statistics of the whole node wait so long for a server."""
THREADS = 4


class NfsPlugin(VolumePlugin):
    """No fsGroup: the server decides who owns files.

    A server that is gone keeps every call waiting, for ever if it must. So all of them have threads
    of their own: nothing else of the agent waits behind them, and no mount behind a measurement.
    """

    name = "kubernetes.io/nfs"
    field = "nfs"
    is_persistent = True
    supports_mount_options = True

    def __init__(self, host: VolumeHost) -> None:
        super().__init__(host)
        self._mounting = ThreadPoolExecutor(THREADS, thread_name_prefix="nfs")
        self._measuring = ThreadPoolExecutor(THREADS, thread_name_prefix="nfs-usage")
        self._measured: set[Path] = set()
        """Where a look at the file system has not come back yet."""

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        source = spec.source.nfs
        assert source is not None
        read_only = spec.read_only or (spec.persistent is None and source.readOnly)
        server = f"[{source.server}]" if ":" in source.server else source.server
        options = list(dict.fromkeys([*spec.mount_options, *(["ro"] if read_only else [])]))
        await _run(self._mounting, _mount, f"{server}:{source.path}", target, options)
        return PreparedVolume(target, read_only)

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        """What does not come back in a minute is unmounted by force."""
        unmounted = _run(self._mounting, _unmount, target)
        try:
            async with timeout(self.host.clock, UNMOUNT_SECONDS):
                await asyncio.shield(unmounted)
        except TimeoutError:
            await asyncio.to_thread(unmount, target, by_force=True)
            await unmounted

    async def usage(self, target: Path) -> VolumeUsage | None:
        """None for a server that does not answer; it is not asked again until it has."""
        if target in self._measured:
            return None
        self._measured.add(target)
        measured = _run(self._measuring, self._measure, target)
        try:
            async with timeout(self.host.clock, ANSWER_SECONDS):
                return await asyncio.shield(measured)
        except TimeoutError:
            return None

    def _measure(self, target: Path) -> VolumeUsage:
        try:
            return file_system(target)
        finally:
            self._measured.discard(target)


def _run(
    threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: object
) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


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
