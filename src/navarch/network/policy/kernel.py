"""The hands of enforcement: transactions into nf_tables, and connections that are cut.

Nothing else of it touches the kernel. What comes and goes with pods are elements of sets, which go
over netlink; rules, which come with policies, have ranges and flags in them and are left to `nft`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from navarch.network.nftables import conntrack
from navarch.network.nftables.dialect import DialectError, compile_commands
from navarch.network.nftables.netlink import Connection as Netlink
from navarch.network.nftables.netlink import NetlinkError
from navarch.network.nftables.strangers import Strangers
from navarch.network.policy.rules import TABLE
from navarch.network.policy.verdicts import Connection

T = TypeVar("T")
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


class NftError(Exception):
    """The kernel refused a transaction; nothing of it was done."""


class Kernel(Protocol):
    async def apply(self, commands: Sequence[str]) -> None:
        """Apply as a whole or not at all. Raises NftError."""
        ...

    async def cut(self, is_denied: Callable[[Connection], bool]) -> int:
        """Forget the tracked connections for which `is_denied` holds; how many they were. Raises
        NftError."""
        ...


class LinuxKernel:
    """The kernel of the network namespace this process runs in."""

    def __init__(self, on_stranger: Callable[[], None] = lambda: None) -> None:
        """`on_stranger` is called when somebody else has changed the table."""
        self._netlink = Netlink()
        self._worker = ThreadPoolExecutor(1, "policies")
        self._on_stranger = on_stranger
        self._programs = 0
        self._strangers = Strangers(
            self._netlink.port, TABLE.split()[1], lambda _: self._changed_by_others()
        )
        self._strangers.start()

    def close(self) -> None:
        self._strangers.close()
        self._worker.shutdown()
        self._netlink.close()

    def _changed_by_others(self) -> None:
        # What `nft` does for us looks like a stranger's doing.
        if not self._programs:
            self._on_stranger()

    async def apply(self, commands: Sequence[str]) -> None:
        try:
            batch = compile_commands(commands)
        except DialectError:
            await self._run_program("\n".join(commands) + "\n")
            return
        try:
            await self._in_thread(self._netlink.batch, batch)
        except (NetlinkError, OSError) as error:
            raise NftError(str(error)) from error

    async def _run_program(self, transaction: str) -> None:
        self._programs += 1
        try:
            await self._in_thread(_nft, transaction)
            # The kernel has told of it before the program ended.
            self._strangers.read()
        finally:
            self._programs -= 1

    async def cut(self, is_denied: Callable[[Connection], bool]) -> int:
        return await self._in_thread(self._cut, is_denied)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _cut(self, is_denied: Callable[[Connection], bool]) -> int:
        try:
            denied = [
                entry
                for family in (socket.AF_INET, socket.AF_INET6)
                for entry in conntrack.tracked(self._netlink, family)
                if is_denied(_connection(entry)) and not _is_own(entry)
            ]
            return sum(conntrack.forget(self._netlink, entry) for entry in denied)
        except (NetlinkError, OSError) as error:
            raise NftError(f"connection tracking: {error}") from error


def _connection(entry: conntrack.Tracked) -> Connection:
    protocol = PROTOCOLS.get(entry.protocol, "")
    return Connection(entry.source, entry.target, protocol, entry.port if protocol else 0)


def _is_own(entry: conntrack.Tracked) -> bool:
    """Whether the node itself began it. Such a connection passes no hook of ours."""
    with socket.socket(entry.family, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((entry.source, 0))
        except OSError:
            return False
        return True


def _nft(transaction: str) -> None:
    # All of it is there before nft starts: should we be killed while we write to a pipe, nft would
    # take the part that it got for the whole.
    with os.fdopen(os.memfd_create("nft"), "wb") as file:
        file.write(transaction.encode())
        file.flush()
        file.seek(0)
        try:
            done = subprocess.run(
                ["nft", "-f", "-"], stdin=file.fileno(), capture_output=True, check=False
            )
        except OSError as error:
            raise NftError(str(error)) from error
    if done.returncode:
        raise NftError(done.stderr.decode(errors="replace").strip()[:2000])
