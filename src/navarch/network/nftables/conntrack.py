"""The connections that the kernel tracks: reading them, and forgetting some.

Each is known by what its first packet said (original) and what its answer must say (reply), between
which the addresses may have been translated: the answer comes from whom the connection really goes
to (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
"""

from __future__ import annotations

import errno
import socket
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
)

_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18


class Tracked(NamedTuple):
    """A connection. Ports are 0 where the protocol has none."""

    protocol: int
    source: str
    target: str
    """Who answers: the destination after its translation."""
    port: int
    """Of the target."""
    family: int
    name: bytes
    """What a request calls it."""


def tracked(connection: Connection, family: int) -> Iterator[Tracked]:
    """All of a family (AF_INET, AF_INET6). Raises NetlinkError."""
    for entry in connection.dump(CONNTRACK, Message(_GET, family, b"")):
        known = fields(entry.body)
        if _ORIGINAL not in known or _REPLY not in known:
            continue
        original, reply = _end(known[_ORIGINAL]), _end(known[_REPLY])
        if original is None or reply is None:
            continue
        name = attribute(_ORIGINAL | NESTED, bytes(known[_ORIGINAL]))
        for kind in (_ID, _ZONE):
            if kind in known:
                name += attribute(kind, bytes(known[kind]))
        yield Tracked(original[0], original[1], reply[1], reply[2], family, name)


def forget(connection: Connection, entry: Tracked) -> bool:
    """Whether the connection was still there. Raises NetlinkError."""
    try:
        connection.request(CONNTRACK, Message(_DELETE, entry.family, entry.name))
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return False
    return True


def _end(tuple_: memoryview) -> tuple[int, str, int] | None:
    """Protocol, source and source port of one direction."""
    parts = fields(tuple_)
    if 1 not in parts or 2 not in parts:
        return None
    ip, protocol = fields(parts[1]), fields(parts[2])
    kind, source = (socket.AF_INET, 1) if 1 in ip else (socket.AF_INET6, 3)
    if source not in ip or 1 not in protocol:
        return None
    port = integer(protocol[2]) if 2 in protocol else 0
    return protocol[1][0], socket.inet_ntop(kind, bytes(ip[source])), port
