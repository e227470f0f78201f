"""Netlink as netfilter speaks it: attributes, batches, dumps and the socket. Standard library only.

A message is a header, netfilter's own header of four bytes, and attributes (length, kind, value,
padding to four bytes), which nest. nf_tables takes its changes in batches: all of one or nothing
(Linux, Documentation/userspace-api/netlink/intro.rst; include/uapi/linux/netfilter/).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NFTABLES, CONNTRACK = 10, 1
"""Subsystems of netfilter's netlink."""
NETLINK_NETFILTER = 12
REQUEST, ACK, DUMP, CREATE, APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
DUMP_INTERRUPTED = 0x10
NESTED = 0x8000
ERROR, DONE = 2, 3
BATCH_BEGIN, BATCH_END = 0x10, 0x11
FAMILIES = {"inet": 1, "ip": int(socket.AF_INET), "ip6": int(socket.AF_INET6)}

_ATTRIBUTE = struct.Struct("=HH")
_HEADER = struct.Struct("=IHHIIBBH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_RECEIVE = 1 << 18
_SEND_ROOM, _RECEIVE_ROOM = 1 << 26, 1 << 24
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_NETLINK, _CAP_ACK = 270, 10
_DUMP_ATTEMPTS = 5
NAMES_OF_ERRORS = {
    errno.EEXIST: "it exists already and is different",
    errno.ENOENT: "no such object",
    errno.EBUSY: "it is in use",
}


class NetlinkError(Exception):
    """The kernel refused a request; nothing of its batch was done."""

    def __init__(self, code: int, index: int = -1) -> None:
        self.code = code
        self.index = index
        """Which message of the batch it was; -1: the whole of it."""
        said = NAMES_OF_ERRORS.get(code)
        super().__init__(f"{os.strerror(code)}{f' ({said})' if said else ''}")


class Message(NamedTuple):
    """One request or answer. `kind` is the subsystem's own number."""

    kind: int
    family: int
    body: bytes
    flags: int = REQUEST
    sender: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    length = len(value) + 4
    return _ATTRIBUTE.pack(length, kind) + value + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def attributes(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The attributes in a value: kind and value of each."""
    view = memoryview(data)
    position, end = 0, len(view)
    while position + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(view, position)
        if length < 4:
            return
        yield kind & 0x3FFF, view[position + 4 : position + length]
        position += (length + 3) & ~3


def fields(data: bytes | memoryview) -> dict[int, memoryview]:
    return dict(attributes(data))


def string(value: bytes | memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode()


def integer(value: bytes | memoryview) -> int:
    return int.from_bytes(value, "big")


def pack(message: Message, subsystem: int, sequence: int) -> bytes:
    return (
        _HEADER.pack(
            20 + len(message.body),
            subsystem << 8 | message.kind,
            message.flags,
            sequence,
            0,
            message.family,
            0,
            0,
        )
        + message.body
    )


def messages(data: bytes | memoryview) -> Iterator[tuple[int, int, Message]]:
    """The messages in what was received: type, sequence number and the message."""
    view = memoryview(data)
    position = 0
    while position + 16 <= len(view):
        length, type_, flags, sequence, sender = struct.unpack_from("=IHHII", view, position)
        if length < 16:
            return
        if type_ in (ERROR, DONE):
            body = bytes(view[position + 16 : position + length])
            yield type_, sequence, Message(type_, 0, body, flags, sender)
        else:
            body = bytes(view[position + 20 : position + length])
            yield type_, sequence, Message(type_ & 0xFF, view[position + 16], body, flags, sender)
        position += (length + 3) & ~3


def open_socket() -> socket.socket:
    """A socket to netfilter in this thread's network namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)
    try:
        opened.bind((0, 0))
        opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_ROOM)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_ROOM)
        opened.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    except OSError:
        opened.close()
        raise
    return opened


class Connection:
    """A socket to netfilter that is used by one caller at a time."""

    def __init__(self) -> None:
        self._socket = open_socket()
        self._sequence = 0

    @property
    def port(self) -> int:
        """Which sender the kernel names in what it tells of our changes."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def batch(self, changes: Sequence[Message]) -> None:
        """Do all of these nf_tables changes, or none. Raises NetlinkError."""
        first = self._reserve(len(changes) + 2)
        frame = struct.pack(">H", NFTABLES)
        begin = struct.pack("=IHHII", 20, BATCH_BEGIN, REQUEST, first, 0) + b"\0\0" + frame
        last = first + len(changes) + 1
        end = struct.pack("=IHHII", 20, BATCH_END, REQUEST, last, 0) + b"\0\0" + frame
        parts = [begin]
        parts += [pack(change, NFTABLES, first + 1 + at) for at, change in enumerate(changes)]
        parts.append(end)
        self._send(b"".join(parts))
        self._raise_refusal(first)

    def request(self, subsystem: int, message: Message) -> None:
        """One request that is answered by yes or no. Raises NetlinkError."""
        sequence = self._reserve(1)
        asked = message._replace(flags=message.flags | ACK)
        self._send(pack(asked, subsystem, sequence))
        self._raise_refusal(sequence)

    def dump(self, subsystem: int, message: Message) -> list[Message]:
        """All objects that a request names. One that the kernel interrupts, because they change
        meanwhile, is tried again; the last attempt gives what it got. Raises NetlinkError."""
        found: list[Message] = []
        for _ in range(_DUMP_ATTEMPTS):
            sequence = self._reserve(1)
            self._send(pack(message._replace(flags=REQUEST | DUMP), subsystem, sequence))
            found, interrupted = [], False
            for type_, answer in self._answers(sequence):
                interrupted |= bool(answer.flags & DUMP_INTERRUPTED)
                if type_ == DONE:
                    break
                found.append(answer)
            if not interrupted:
                break
        return found

    def _reserve(self, count: int) -> int:
        first = self._sequence + 1
        self._sequence = first + count
        if self._sequence > 0x7FFFFFFF:
            self._sequence, first = count + 1, 1
        return first

    def _send(self, data: bytes) -> None:
        self._drain()
        self._socket.send(data)

    def _drain(self) -> None:
        """Forget answers that nobody waited for: those of a caller that was cancelled."""
        for _ in self._received():
            pass

    def _received(self) -> Iterable[tuple[int, int, Message]]:
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from messages(data)

    def _raise_refusal(self, first: int) -> None:
        # The kernel works while we send: what it has to say is there when `send` returns.
        for type_, sequence, answer in self._received():
            if type_ == ERROR and sequence >= first:
                code = -int.from_bytes(answer.body[:4], "little", signed=True)
                if code:
                    raise NetlinkError(code, sequence - first - 1)

    def _answers(self, sequence: int) -> Iterator[tuple[int, Message]]:
        while True:
            for type_, number_, answer in messages(self._socket.recv(_RECEIVE)):
                if number_ != sequence:
                    continue
                if type_ == ERROR:
                    raise NetlinkError(-int.from_bytes(answer.body[:4], "little", signed=True))
                yield type_, answer
                if type_ == DONE:
                    return
