"""The proxy's hands: transactions into nf_tables, and connections taken out of conntrack.

Nothing else of the proxy touches the kernel. Both are spoken to over netlink: starting `nft` costs
more than the whole change, and it reads the table before it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

from navarch.network.nftables import conntrack
from navarch.network.nftables.dialect import compile_commands
from navarch.network.nftables.listing import Listing, list_table
from navarch.network.nftables.memory import MemoryTables, Refused
from navarch.network.nftables.netlink import FAMILIES, Connection, Message, NetlinkError
from navarch.network.nftables.strangers import Strangers
from navarch.network.proxy.rules import CONTENTS, TABLE

UDP = 17
T = TypeVar("T")


class NftError(Exception):
    """The kernel refused a transaction; nothing of it was done."""


class Flow(NamedTuple):
    """A tracked UDP connection: where the client sent it, and who answers."""

    destination: str
    port: int
    backend: str
    backend_port: int


class Kernel(Protocol):
    async def apply(self, commands: Sequence[str]) -> None:
        """Apply as a whole or not at all. Raises NftError."""
        ...

    async def read(self, family: str) -> Listing:
        """The proxy's table as it is. Raises NftError."""
        ...

    async def delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        """Forget the tracked UDP connections for which `is_stale` holds; how many they were.
        Raises NftError."""
        ...


class LinuxKernel:
    """The kernel of the network namespace this process runs in."""

    def __init__(self) -> None:
        self._connection = Connection()
        # One thread of its own: nobody's slow disk is before the rules, and two never use the
        # connection at once, even if the first's caller was cancelled.
        self._worker = ThreadPoolExecutor(1, "nftables")

    def close(self) -> None:
        self._worker.shutdown()
        self._connection.close()

    def strangers(self, on_change: Callable[[str], None]) -> Strangers:
        """Tells of changes of the proxy's tables by others."""
        return Strangers(self._connection.port, TABLE, on_change)

    async def apply(self, commands: Sequence[str]) -> None:
        await self._in_thread(self._apply, commands)

    async def read(self, family: str) -> Listing:
        return await self._in_thread(self._read, family)

    async def delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        return await self._in_thread(self._delete_udp_flows, family, is_stale)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _apply(self, commands: Sequence[str]) -> None:
        batch = compile_commands(commands)
        try:
            self._connection.batch(batch)
        except (NetlinkError, OSError) as error:
            raise NftError(f"{error}: {_refused(commands, batch, error)}") from error

    def _read(self, family: str) -> Listing:
        try:
            return list_table(self._connection, family, TABLE, CONTENTS)
        except (NetlinkError, OSError) as error:
            raise NftError(f"the table cannot be read: {error}") from error

    def _delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        try:
            found = list(conntrack.tracked(self._connection, FAMILIES[family], UDP))
            return sum(
                conntrack.forget(self._connection, entry)
                for entry in found
                if is_stale(Flow(entry.asked, entry.asked_port, entry.target, entry.port))
            )
        except (NetlinkError, OSError) as error:
            raise NftError(f"connection tracking: {error}") from error


class MemoryKernel:
    """A kernel for tests: tables in memory, and the UDP connections that are put in."""

    def __init__(self) -> None:
        self.tables = MemoryTables()
        self.flows: list[Flow] = []

    async def apply(self, commands: Sequence[str]) -> None:
        try:
            self.tables.apply(commands)
        except Refused as error:
            raise NftError(str(error)) from error

    async def read(self, family: str) -> Listing:
        table = self.tables.tables.get((family, TABLE))
        return table.listing(CONTENTS) if table is not None else Listing()

    async def delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        before = len(self.flows)
        self.flows = [flow for flow in self.flows if not is_stale(flow)]
        return before - len(self.flows)


def _refused(commands: Sequence[str], batch: Sequence[Message], error: Exception) -> str:
    """The command that a refusal is about, as far as it can be told."""
    index = getattr(error, "index", -1)
    if not 0 <= index < len(batch):
        return f"a transaction of {len(commands)} commands"
    seen = 0
    for command in commands:
        seen += len(compile_commands([command]))
        if index < seen:
            return command[:500]
    return f"a transaction of {len(commands)} commands"
