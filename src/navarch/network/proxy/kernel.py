"""The proxy's hands: transactions into nf_tables, and connections taken out of conntrack.

Nothing else of the proxy touches the kernel. Both are spoken to over netlink: starting `nft` costs
more than the whole change, and it reads the table before it writes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from navarch.network.nftables.dialect import compile_commands
from navarch.network.nftables.listing import Listing, list_table
from navarch.network.nftables.memory import MemoryTables, Refused
from navarch.network.nftables.netlink import (
    CONNTRACK,
    FAMILIES,
    NESTED,
    Connection,
    Message,
    NetlinkError,
    attribute,
    fields,
    integer,
    nested,
)
from navarch.network.nftables.strangers import Strangers
from navarch.network.proxy.rules import CONTENTS, TABLE

UDP = 17
_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_BY_PROTOCOL = (1 << 3).to_bytes(4, "little")


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
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def strangers(self, on_change: Callable[[str], None]) -> Strangers:
        """Tells of changes of the proxy's tables by others."""
        return Strangers(self._connection.port, TABLE, on_change)

    async def apply(self, commands: Sequence[str]) -> None:
        await asyncio.to_thread(self._apply, commands)

    async def read(self, family: str) -> Listing:
        return await asyncio.to_thread(self._read, family)

    async def delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        return await asyncio.to_thread(self._delete_udp_flows, family, is_stale)

    def _apply(self, commands: Sequence[str]) -> None:
        batch = compile_commands(commands)
        with self._lock:
            try:
                self._connection.batch(batch)
            except (NetlinkError, OSError) as error:
                raise NftError(f"{error}: {_refused(commands, batch, error)}") from error

    def _read(self, family: str) -> Listing:
        with self._lock:
            try:
                return list_table(self._connection, family, TABLE, CONTENTS)
            except (NetlinkError, OSError) as error:
                raise NftError(f"the table cannot be read: {error}") from error

    def _delete_udp_flows(self, family: str, is_stale: Callable[[Flow], bool]) -> int:
        with self._lock:
            try:
                found = self._udp_flows(FAMILIES[family])
                stale = [entry for flow, entry in found if is_stale(flow)]
                return sum(self._forget(FAMILIES[family], entry) for entry in stale)
            except (NetlinkError, OSError) as error:
                raise NftError(f"connection tracking: {error}") from error

    def _udp_flows(self, family: int) -> Iterator[tuple[Flow, bytes]]:
        """Each tracked UDP connection, and what names it in a request."""
        protocol = nested(2, attribute(1, bytes((UDP,))))
        only_udp = nested(_ORIGINAL, protocol) + nested(_FILTER, attribute(1, _BY_PROTOCOL))
        try:
            entries = self._connection.dump(CONNTRACK, Message(_GET, family, only_udp))
        except NetlinkError as error:
            # Before Linux 5.8 the kernel knows no such filter.
            if error.code not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            entries = self._connection.dump(CONNTRACK, Message(_GET, family, b""))
        for entry in entries:
            known = fields(entry.body)
            if _ORIGINAL not in known or _REPLY not in known:
                continue
            original, reply = _addresses(known[_ORIGINAL]), _addresses(known[_REPLY])
            if original is None or reply is None:
                continue
            named = attribute(_ORIGINAL | NESTED, bytes(known[_ORIGINAL]))
            for kind in (_ID, _ZONE):
                if kind in known:
                    named += attribute(kind, bytes(known[kind]))
            yield Flow(*original[2:], *reply[:2]), named

    def _forget(self, family: int, entry: bytes) -> bool:
        try:
            self._connection.request(CONNTRACK, Message(_DELETE, family, entry))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            return False
        return True


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


def _addresses(tuple_: memoryview) -> tuple[str, int, str, int] | None:
    """(source, source port, destination, destination port) of one direction of a UDP entry."""
    parts = fields(tuple_)
    if 1 not in parts or 2 not in parts:
        return None
    ip, protocol = fields(parts[1]), fields(parts[2])
    if bytes(protocol.get(1, b"")) != bytes((UDP,)) or 2 not in protocol or 3 not in protocol:
        return None
    kind, source, destination = (socket.AF_INET, 1, 2) if 1 in ip else (socket.AF_INET6, 3, 4)
    if source not in ip or destination not in ip:
        return None
    return (
        socket.inet_ntop(kind, bytes(ip[source])),
        integer(protocol[2]),
        socket.inet_ntop(kind, bytes(ip[destination])),
        integer(protocol[3]),
    )
