"""The connections that the kernel tracks: reading them, and forgetting some.

Each is known by what its first packet said (original) and what its answer must say (reply), between
which the addresses may have been translated: the answer comes from whom the connection really goes
to (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

from navarch.network.nftables.netlink import (
    CONNTRACK,
    NESTED,
    Connection,
    Message,
    NetlinkError,
    attribute,
    fields,
    integer,
    nested,
)

_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_BY_PROTOCOL = attribute(1, (1 << 3).to_bytes(4, sys.byteorder))


class Tracked(NamedTuple):
    """A connection. Ports are 0 where the protocol has none."""

    protocol: int
    source: str
    target: str
    """Who answers: the destination after its translation."""
    port: int
    """Of the target."""
    asked: str
    """What the first packet was addressed to."""
    asked_port: int
    family: int
    name: bytes
    """What a request calls it."""


def tracked(connection: Connection, family: int, protocol: int = 0) -> Iterator[Tracked]:
    """All of a family (AF_INET, AF_INET6) and, unless 0, of a protocol. Raises NetlinkError."""
    for entry in _dump(connection, family, protocol):
        known = fields(entry.body)
        if _ORIGINAL not in known or _REPLY not in known:
            continue
        original, reply = _direction(known[_ORIGINAL]), _direction(known[_REPLY])
        if original is None or reply is None or (protocol and original.protocol != protocol):
            continue
        name = attribute(_ORIGINAL | NESTED, bytes(known[_ORIGINAL]))
        for kind in (_ID, _ZONE):
            if kind in known:
                name += attribute(kind, bytes(known[kind]))
        yield Tracked(
            protocol=original.protocol,
            source=original.source,
            target=reply.source,
            port=reply.source_port,
            asked=original.destination,
            asked_port=original.destination_port,
            family=family,
            name=name,
        )


def _dump(connection: Connection, family: int, protocol: int) -> list[Message]:
    """The kernel's entries; it leaves other protocols out where it can (Linux 5.8)."""
    if protocol:
        wanted = nested(_ORIGINAL, nested(2, attribute(1, bytes((protocol,)))))
        try:
            return connection.dump(
                CONNTRACK, Message(_GET, family, wanted + nested(_FILTER, _BY_PROTOCOL))
            )
        except NetlinkError as error:
            if error.code not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return connection.dump(CONNTRACK, Message(_GET, family, b""))


def forget(connection: Connection, entry: Tracked) -> bool:
    """Whether the connection was still there. Raises NetlinkError."""
    try:
        connection.request(CONNTRACK, Message(_DELETE, entry.family, entry.name))
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    return True


class _Direction(NamedTuple):
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int


def _direction(tuple_: memoryview) -> _Direction | None:
    parts = fields(tuple_)
    if 1 not in parts or 2 not in parts:
        return None
    ip, protocol = fields(parts[1]), fields(parts[2])
    kind, source, destination = (socket.AF_INET, 1, 2) if 1 in ip else (socket.AF_INET6, 3, 4)
    if source not in ip or destination not in ip or 1 not in protocol:
        return None
    return _Direction(
        protocol[1][0],
        socket.inet_ntop(kind, bytes(ip[source])),
        integer(protocol.get(2, b"")),
        socket.inet_ntop(kind, bytes(ip[destination])),
        integer(protocol.get(3, b"")),
    )
