"""systemd's logind over D-Bus: it tells that the machine is about to go, and waits a while for us.

A lock of the kind "delay" holds a shutdown up until it is released, but no longer than
`InhibitDelayMaxSec` of logind's configuration, which is raised if it is less than the pods need
(https://systemd.io/INHIBITOR_LOCKS). The D-Bus library is imported here alone, which nodes without
graceful shutdown never import.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dbus_fast import AuthError, BusType, DBusError, Message, MessageType
from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

NAME, PATH, MANAGER = (
    "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager",
)  # fmt: skip
OVERRIDE = Path("/etc/systemd/logind.conf.d/99-kubelet.conf")
RELOAD_WAITS = (0.1, 0.2, 0.4, 0.8, 1.6)


class NoLogind(Exception):
    """Nobody will tell this node of the machine's end; `is_final` says that it is no use to ask
    again."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


async def watch(seconds: int, override: Path = OVERRIDE) -> AsyncIterator[bool]:
    """Yields True when the machine begins to shut down and False when it has changed its mind. It
    waits (for up to `seconds`) until the next value is asked for. Raises `NoLogind`."""
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    except (OSError, AuthError) as error:
        raise NoLogind(f"there is no system bus ({error})", is_final=True) from error
    try:
        logind = _Logind(bus)
        await logind.allow(seconds, override)
        async for begins in logind.events():
            yield begins
    finally:
        bus.disconnect()


class _Logind:
    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._lock: int | None = None

    async def events(self) -> AsyncIterator[bool]:
        told: asyncio.Queue[bool] = asyncio.Queue()

        def hear(message: Message) -> None:
            if message.message_type is MessageType.SIGNAL and (
                message.member == "PrepareForShutdown" and message.interface == MANAGER
            ):
                told.put_nowait(bool(message.body[0]))

        self._bus.add_message_handler(hear)
        await self._call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch",
            "s", [f"type='signal',interface='{MANAGER}',member='PrepareForShutdown'"],
        )  # fmt: skip
        ended = asyncio.ensure_future(self._bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        try:
            await self._take_lock()
            while True:
                getter = asyncio.ensure_future(told.get())
                done, _ = await asyncio.wait({getter, ended}, return_when=asyncio.FIRST_COMPLETED)
                if getter not in done:
                    getter.cancel()
                    raise NoLogind("the system bus has gone away")
                begins = getter.result()
                yield begins
                if begins:
                    self._release_lock()
                else:
                    await self._take_lock()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            self._release_lock()

    async def allow(self, seconds: int, override: Path) -> None:
        """Sees to it that a lock holds a shutdown up for so long."""
        if await self._delay() >= seconds:
            return
        text = f"# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n"
        try:
            await asyncio.to_thread(_write, override, text)
        except OSError as error:
            raise NoLogind(f"{override}: {error}", is_final=True) from error
        # logind reads its configuration anew when it is told to hang up.
        await self._call(
            "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager", "KillUnit", "ssi",
            ["systemd-logind.service", "all", int(signal.SIGHUP)],
        )  # fmt: skip
        delay = 0.0
        for wait in RELOAD_WAITS:
            await asyncio.sleep(wait)
            delay = await self._delay()
            if delay >= seconds:
                return
        raise NoLogind(
            "node shutdown manager was timed out after 5 attempts waiting for logind "
            f"InhibitDelayMaxSec to update to {seconds}s (ShutdownGracePeriod), current value is "
            f"{delay:g}s",
            is_final=True,
        )

    async def _delay(self) -> float:
        body = await self._call(
            NAME, PATH, "org.freedesktop.DBus.Properties", "Get", "ss",
            [MANAGER, "InhibitDelayMaxUSec"],
        )  # fmt: skip
        return float(body[0].value) / 1e6

    async def _take_lock(self) -> None:
        message = await self._ask(
            NAME, PATH, MANAGER, "Inhibit", "ssss",
            ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"],
        )  # fmt: skip
        self._release_lock()
        self._lock = message.unix_fds[message.body[0]]

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _call(self, *call: Any) -> list[Any]:
        return list((await self._ask(*call)).body)

    async def _ask(
        self, name: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> Message:
        request = Message(
            destination=name, path=path, interface=interface, member=member,
            signature=signature, body=body,
        )  # fmt: skip
        try:
            answer = await self._bus.call(request)
        except (OSError, EOFError, DBusError) as error:
            raise NoLogind(str(error)) from error
        if answer is None or answer.message_type is MessageType.ERROR:
            text = answer.body[0] if answer is not None and answer.body else "no answer"
            raise NoLogind(f"{interface}.{member}: {text}", is_final=True)
        return answer


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
