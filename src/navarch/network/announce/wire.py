"""The link, as the announcer uses it: frames in and out. The one place with sockets.

Raw packet sockets see what the kernel would not hand to anybody, since the addresses are no node's
own: the proxy catches what is sent to them before the kernel asks whose they are. A socket is open
only while there is something to listen for, so that frames of no concern wake nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from navarch.network.announce.packets import (
    ETH_IPV6,
    SOLICITATION,
    Address,
    solicited_node,
)

log = logging.getLogger("navarch.network.announce")

PACKET_OUTGOING = 4
SO_ATTACH_FILTER = 26
SIOCGIFADDR = 0x8915
AT_ONCE = 64
"""Frames taken in one turn: a flood leaves others theirs."""
SOLICITATIONS = (
    (0x30, 0, 0, 20),  # load the byte 20: IPv6's next header
    (0x15, 0, 3, 58),  # ICMPv6, or nothing
    (0x30, 0, 0, 54),  # its type
    (0x15, 0, 1, SOLICITATION),
    (0x06, 0, 0, 0xFFFF),  # take it
    (0x06, 0, 0, 0),  # leave it
)
"""A program for the kernel's packet filter: of all IPv6 only neighbour solicitations."""

Take = Callable[[int, bytes], None]


class Wire(Protocol):
    """What an announcer needs of a link."""

    mac: bytes

    def listen(self, kinds: Set[int], take: Take) -> None:
        """Hand on frames of these EtherTypes from now on, and of no others. What cannot be
        listened to now is tried again at the next call."""

    def send(self, frame: bytes) -> None: ...

    def join(self, address: Address) -> None:
        """Be sent what is asked of an IPv6 address."""

    def leave(self, address: Address) -> None: ...

    def close(self) -> None: ...


def facing(addresses: Iterable[str]) -> str:
    """The interface that bears one of these addresses, by which other nodes know this one; where
    none does, the one by which the rest of the world is reached. Empty when there is neither."""
    wanted = {ipaddress.ip_address(address).packed for address in addresses}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("16s16s", name.encode(), b"")
            with suppress(OSError):
                answer = fcntl.ioctl(any_socket, SIOCGIFADDR, request)
                if answer[20:24] in wanted:
                    return name
    for line in _lines("/proc/net/if_inet6"):
        address, *_, name = line.split()
        if bytes.fromhex(address) in wanted:
            return name
    return _default_interface()


def _default_interface() -> str:
    for line in _lines("/proc/net/route")[1:]:
        name, destination, _, flags, *_ = line.split()
        if destination == "00000000" and int(flags, 16) & 1:
            return name
    for line in _lines("/proc/net/ipv6_route"):
        fields = line.split()
        if fields[0] == "0" * 32 and fields[1] == "00" and fields[-1] != "lo":
            return fields[-1]
    return ""


def _lines(file: str) -> list[str]:
    """Of a file that is not there when the kernel has no such family: none."""
    try:
        return Path(file).read_text().splitlines()
    except FileNotFoundError:
        return []


class LinuxWire:
    """One interface."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._sockets: dict[int, socket.socket] = {}
        self._groups: dict[Address, socket.socket] = {}
        self.mac = b""
        """Known from the first socket on."""
        self._is_down = False
        """Told once."""

    def listen(self, kinds: Set[int], take: Take) -> None:
        for kind in self._sockets.keys() - kinds:
            self._stop(kind)
        for kind in kinds - self._sockets.keys():
            try:
                self._sockets[kind] = self._open(kind)
            except OSError as error:
                log.warning("%s: cannot be listened on: %s", self._interface, error)
                return
            asyncio.get_running_loop().add_reader(
                self._sockets[kind].fileno(), self._readable, kind, take
            )

    def _open(self, kind: int) -> socket.socket:
        # Made for no protocol, so that nothing arrives before the filter is there.
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            if kind == ETH_IPV6:
                _attach_filter(opened)
            opened.bind((self._interface, kind))
        except BaseException:
            opened.close()
            raise
        self.mac = opened.getsockname()[4]
        return opened

    def _readable(self, kind: int, take: Take) -> None:
        for _ in range(AT_ONCE):
            receiver = self._sockets.get(kind)
            if receiver is None:
                return
            try:
                frame, source = receiver.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:
                # The interface went down, perhaps for good; the next look opens the socket again.
                log.debug("%s: %s", self._interface, error)
                self._stop(kind)
                return
            if source[2] != PACKET_OUTGOING:
                take(kind, frame)

    def send(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14])
        sender = self._sockets.get(kind) or next(iter(self._sockets.values()), None)
        if sender is None:
            return
        try:
            sender.send(frame)
        except OSError as error:
            log.log(
                logging.DEBUG if self._is_down else logging.WARNING,
                "%s: nothing can be sent: %s",
                self._interface,
                error,
            )
            self._is_down = True
        else:
            self._is_down = False

    def join(self, address: Address) -> None:
        """By a socket's membership: the kernel tells switches (MLD) and its own filters."""
        member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            index = struct.pack("@I", socket.if_nametoindex(self._interface))
            request = solicited_node(address).packed + index
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            log.warning("%s: the group of %s cannot be joined: %s", self._interface, address, error)
            member.close()
            return
        self._groups[address] = member

    def leave(self, address: Address) -> None:
        if (member := self._groups.pop(address, None)) is not None:
            member.close()

    def _stop(self, kind: int) -> None:
        closed = self._sockets.pop(kind)
        asyncio.get_running_loop().remove_reader(closed.fileno())
        closed.close()

    def close(self) -> None:
        for kind in [*self._sockets]:
            self._stop(kind)
        for address in [*self._groups]:
            self.leave(address)


def _attach_filter(opened: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *each) for each in SOLICITATIONS)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(SOLICITATIONS), ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
