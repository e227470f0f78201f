"""Noticing that somebody else has changed a table of ours.

The kernel tells everybody who listens of each change and its sender. A filter in the socket drops
what our own connection sent, so that ten thousand Services written at once do not come back to us;
of what is left only changes of the tables of our name count.
"""

from __future__ import annotations

import array
import asyncio
import errno
import socket
import struct
from collections.abc import Callable

from navarch.network.nftables.netlink import FAMILIES, fields, messages, open_socket, string

_GROUP = 7
_ADD_MEMBERSHIP, _SOL_NETLINK, _ATTACH_FILTER = 1, 270, 26
_NEW_GENERATION = 15
_FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}


class Strangers:
    """Calls `on_change` with the family whenever somebody but `own_port` changed `table`; with ""
    when so much was going on that the kernel left something out."""

    def __init__(self, own_port: int, table: str, on_change: Callable[[str], None]) -> None:
        self._table, self._on_change = table, on_change
        self._socket = open_socket()
        self._socket.setblocking(False)
        self._ignore(own_port)
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _ignore(self, port: int) -> None:
        # Classic BPF over the netlink header: its twelfth byte begins the sender, which the filter
        # reads as if it were in network order.
        swapped = struct.unpack(">I", struct.pack("=I", port))[0]
        program = (
            (0x20, 0, 0, 12),
            (0x15, 0, 1, swapped),
            (0x06, 0, 0, 0),
            (0x06, 0, 0, 0xFFFFFFFF),
        )
        code = array.array("B", b"".join(struct.pack("=HBBI", *line) for line in program))
        filter_ = struct.pack("HL", len(program), code.buffer_info()[0])
        self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)

    def read(self) -> None:
        changed: set[str] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed.add("")
                continue
            for _, _, message in messages(data):
                if message.kind == _NEW_GENERATION:
                    continue
                family = _FAMILY_NAMES.get(message.family)
                table = fields(message.body).get(1, b"")
                if family is not None and string(table) == self._table:
                    changed.add(family)
        for family in changed:
            self._on_change(family)
