"""Plug-ins of the node: who puts a socket into `plugins_registry` is asked what it is, and used.

CSI drivers and DRA drivers, and device plug-ins that like it better than calling the kubelet, put a
unix socket into that directory. The kubelet sees it appear, asks it (`GetInfo`) for its type, name,
endpoint and versions, hands these to whoever handles that type, and tells the plug-in whether it is
accepted (`NotifyRegistrationStatus`). When the socket goes, the plug-in is gone; a socket that is
made anew is a plug-in that was restarted. What fails is tried again after growing waits.

Nothing is remembered over a restart of the agent: the sockets that are there say who is there.
Source: upstream's `pkg/kubelet/pluginmanager`, plug-in registration API v1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from navarch.client.clock import Clock

from .cri.values import RuntimeFailure
from .inotify import Change, Mask, Watcher

log = logging.getLogger(__name__)

CSI_PLUGIN, DEVICE_PLUGIN, DRA_PLUGIN = "CSIPlugin", "DevicePlugin", "DRAPlugin"
DIAL_SECONDS = 10.0
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 122.0
_SERVICE = "/pluginregistration.Registration/"
_CHANGES = Mask.CREATE | Mask.MOVED_TO | Mask.DELETE | Mask.MOVED_FROM


class PluginRefused(Exception):
    """Why a plug-in cannot be used; it is told so."""


class PluginHandler(Protocol):
    """Whoever uses plug-ins of one type."""

    def validate(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        """Raises PluginRefused for one that is not to be registered."""
        ...

    async def register(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        """From now on the plug-in may be used. Raises PluginRefused."""
        ...

    async def deregister(self, name: str, endpoint: str) -> None:
        """The plug-in is gone."""
        ...


@dataclass(frozen=True, slots=True)
class _Registered:
    """A plug-in that was accepted, and by which making of its socket."""

    handler: PluginHandler
    name: str
    endpoint: str
    making: int


@dataclass(slots=True)
class _Socket:
    """A socket as the directory shows it; one task looks after each."""

    making: int = 0
    """Counts how often the socket was made: a new one is another plug-in."""
    identity: tuple[int, int] = (0, 0)
    """Inode and time of change: a making that both a walk and its event tell of is one."""
    is_present: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class PluginManager:
    """Finds plug-ins below a directory and gives them to the handlers of their types."""

    def __init__(self, directory: Path, handlers: Mapping[str, PluginHandler], clock: Clock):
        self._directory, self._handlers, self._clock = directory, handlers, clock
        self._sockets: dict[Path, _Socket] = {}
        self._watches: dict[int, Path] = {}
        self._makings = 0

    async def run(self) -> None:
        """Runs until cancelled; what is registered then stays so."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        with Watcher() as watcher:
            async with asyncio.TaskGroup() as tasks:
                self._walk(self._directory, watcher, tasks)
                while True:
                    for change in await watcher.wait():
                        self._note(change, watcher, tasks)

    def _note(self, change: Change, watcher: Watcher, tasks: asyncio.TaskGroup) -> None:
        directory = self._watches.get(change.watch)
        if change.watch < 0:
            # So much happened at once that the kernel dropped some of it.
            for path in [each for each in self._sockets if not each.is_socket()]:
                self._gone(path)
            self._walk(self._directory, watcher, tasks)
        elif directory is not None and change.name:
            path = directory / change.name
            if change.mask & (Mask.DELETE | Mask.MOVED_FROM):
                self._gone(path)
            else:
                self._found(path, watcher, tasks, is_new=True)

    def _walk(self, directory: Path, watcher: Watcher, tasks: asyncio.TaskGroup) -> None:
        """Watches a directory, then looks what it holds: what comes in between is seen twice."""
        try:
            self._watches[watcher.add(str(directory), _CHANGES)] = directory
            names = sorted(os.listdir(directory))
        except OSError as error:
            log.warning("plug-in directory %s: %s", directory, error)
            return
        for name in names:
            self._found(directory / name, watcher, tasks, is_new=False)

    def _found(
        self, path: Path, watcher: Watcher, tasks: asyncio.TaskGroup, *, is_new: bool
    ) -> None:
        try:
            status = path.lstat()
        except OSError:
            return  # gone again
        if path.name.startswith("."):
            return
        if stat.S_ISDIR(status.st_mode):
            self._walk(path, watcher, tasks)
        elif stat.S_ISSOCK(status.st_mode):
            identity = (status.st_ino, status.st_ctime_ns)
            socket = self._sockets.get(path)
            if socket is None:
                socket = self._sockets[path] = _Socket()
                tasks.create_task(self._look_after(path, socket), name=f"plug-in {path.name}")
            elif socket.is_present and (not is_new or identity == socket.identity):
                return
            self._makings += 1
            socket.making, socket.identity, socket.is_present = self._makings, identity, True
            socket.changed.set()

    def _gone(self, path: Path) -> None:
        for socket_path, socket in self._sockets.items():
            if socket_path == path or path in socket_path.parents:
                socket.is_present = False
                socket.changed.set()

    async def _look_after(self, path: Path, socket: _Socket) -> None:
        """Registers the plug-in behind a socket, again when it is made anew, until it is gone."""
        registered: _Registered | None = None
        failures = tried = 0
        while True:
            socket.changed.clear()
            if registered is not None and not (
                socket.is_present and socket.making == registered.making
            ):
                await self._deregister(registered)
                registered = None
                continue
            if not socket.is_present:
                del self._sockets[path]
                return
            if registered is None:
                failures = failures if tried == socket.making else 0
                tried = socket.making
                try:
                    registered = await self._register(path, tried)
                except (PluginRefused, RuntimeFailure) as failure:
                    log.warning("registration of plug-in %s: %s", path, failure)
                    failures += 1
            if registered is not None:
                await socket.changed.wait()
                continue
            delay = min(RETRY_SECONDS * 2 ** (failures - 1), LONGEST_RETRY_SECONDS)
            timer = self._clock.call_later(delay, socket.changed.set)
            await socket.changed.wait()
            timer.cancel()

    async def _deregister(self, registered: _Registered) -> None:
        log.info("plug-in %s is gone", registered.name)
        await registered.handler.deregister(registered.name, registered.endpoint)

    async def _register(self, path: Path, making: int) -> _Registered:
        # A node without plug-ins does without their protocol.
        from . import pluginregistration_pb2 as pb
        from .cri.calls import Calls

        calls = Calls(str(path), DIAL_SECONDS)
        calls.open()

        async def tell(error: str = "") -> None:
            status = pb.RegistrationStatus(plugin_registered=not error, error=error)
            method = _SERVICE + "NotifyRegistrationStatus"
            await calls.call(method, status, pb.RegistrationStatusResponse)

        try:
            info = await calls.call(_SERVICE + "GetInfo", pb.InfoRequest(), pb.PluginInfo)
            endpoint, versions = info.endpoint or str(path), tuple(info.supported_versions)
            handler = self._handlers.get(info.type)
            try:
                if handler is None:
                    raise PluginRefused(
                        "RegisterPlugin error -- no handler registered for plugin type: "
                        f"{info.type} at socket {path}"
                    )
                with _explained("validation"):
                    handler.validate(info.name, endpoint, versions)
                with _explained("registration"):
                    await handler.register(info.name, endpoint, versions)
            except PluginRefused as refused:
                with suppress(RuntimeFailure):
                    await tell(str(refused))
                raise
            try:
                await tell()
            except RuntimeFailure:
                await handler.deregister(info.name, endpoint)
                raise
        finally:
            await calls.close()
        log.info("plug-in %s of type %s at %s", info.name, info.type, endpoint)
        return _Registered(handler, info.name, endpoint, making)


@contextmanager
def _explained(step: str) -> Iterator[None]:
    try:
        yield
    except PluginRefused as refused:
        text = f"RegisterPlugin error -- plugin {step} failed with err: {refused}"
        raise PluginRefused(text) from refused
