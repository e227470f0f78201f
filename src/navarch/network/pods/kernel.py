"""A node's routes, neighbours and tunnel in the kernel, through netlink.

The kernel is the only memory: what is there is read, compared with what shall be, and the
difference applied. Routes of ours bear a protocol number of their own, so that those of others are
never touched; on the tunnel's device everything is ours. `events` tells when somebody has taken
something away.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import secrets
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from navarch.network.pods.plan import (
    FORWARD,
    NEIGHBOUR,
    ROUTE,
    Change,
    Entry,
    pod_mtu,
    tunnel_address,
)

log = logging.getLogger("navarch.podnetwork")

PROTOCOL = 77
"""Of our routes (rtm_protocol): free for whoever wants it."""
NTF_SELF, NUD_PERMANENT, ONLINK = 0x02, 0x80, 0x04
_GROUPS = (1 << 0) | (1 << 2) | (1 << 6) | (1 << 10)  # links, neighbours, IPv4 and IPv6 routes
_NEWLINK, _DELLINK, _DELROUTE, _DELNEIGH = 16, 17, 25, 29
_HEADER = struct.Struct("=IHHII")


@dataclass(frozen=True, slots=True)
class TunnelDevice:
    """The one VXLAN device of a node. The number and port are IANA's and the same on all nodes."""

    name: str = "navarch-vxlan"
    identifier: int = 1
    port: int = 4789


def own_mac(file: Path) -> str:
    """The MAC address of this node's tunnel end: made once and kept, so that no other node has to
    learn a new one when this one starts again."""
    with suppress(FileNotFoundError):
        text = file.read_text().strip()
        if len(text) == 17:
            return text
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = octets[0] & 0xFC | 0x02  # locally administered, for one station
    text = ":".join(f"{octet:02x}" for octet in octets)
    partial = file.with_name(f".{file.name}")
    partial.write_text(text + "\n")
    partial.replace(file)
    return text


def events() -> socket.socket:
    """A socket that tells of changes to links, routes and neighbours of this namespace."""
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    found.bind((0, _GROUPS))
    return found


def drain(source: socket.socket, links: Collection[int]) -> bool:
    """Read what has come. Returns whether anything of it may be a loss of ours: one of our routes,
    something about one of our links. After an overflow it may always be."""
    relevant = False
    while True:
        try:
            data = source.recv(1 << 16)
        except BlockingIOError:
            return relevant
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            relevant = True
            continue
        relevant |= any(_matters(kind, body, links) for kind, body in _messages(data))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _matters(kind: int, body: bytes, links: Collection[int]) -> bool:
    if kind == _DELROUTE:
        # Pods that go take routes along that are not ours, which are told by their protocol.
        return len(body) >= 6 and body[5] == PROTOCOL
    about_links = kind in (_NEWLINK, _DELLINK, _DELNEIGH) and len(body) >= 8
    return about_links and struct.unpack_from("=i", body, 4)[0] in links


class Kernel:
    """This namespace's pod network, for one look at it and in one thread. `link` is the node's
    interface, empty for the one that bears its address."""

    def __init__(self, addresses: Sequence[str], mac: str, link: str = "") -> None:
        from pyroute2 import IPRoute  # only clusters of several nodes need it, and its memory

        self._netlink: Any = IPRoute()
        self._addresses = tuple(addresses)
        self._mac = mac
        self._link = link
        self._device = TunnelDevice()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def uplink(self) -> int:
        """The index of the node's own interface, 0 while there is none."""
        if self._link:
            return int((self._netlink.link_lookup(ifname=self._link) or [0])[0])
        for message in self._netlink.get_addr():
            if message.get_attr("IFA_ADDRESS") in self._addresses:
                return int(message["index"])
        return 0

    def links(self) -> frozenset[int]:
        """The indices of the links that matter here."""
        return frozenset({self.uplink(), self._tunnel_index()} - {0})

    def link_mtu(self) -> int:
        index = self.uplink()
        return int(self._netlink.get_links(index)[0].get_attr("IFLA_MTU")) if index else 1500

    def is_direct(self, address: str) -> bool:
        """Whether an address is on the node's own link: the way there has no gateway."""
        try:
            found = self._netlink.route("get", dst=address)[0]
        except _netlink_error() as error:
            if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return False
            raise
        return (
            found.get_attr("RTA_GATEWAY") is None
            and found["type"] == 1
            and found.get_attr("RTA_OIF") == self.uplink()
        )

    def present(self) -> set[Entry]:
        """What there is of ours."""
        tunnel = self._tunnel_index()
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._netlink.get_routes(family=family):
                if message["proto"] == PROTOCOL and message.get_attr("RTA_GATEWAY"):
                    target = f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
                    tunnelled = message.get_attr("RTA_OIF") == tunnel
                    found.add(Entry(ROUTE, target, message.get_attr("RTA_GATEWAY"), tunnelled))
            if tunnel:
                for message in self._netlink.get_neighbours(family, ifindex=tunnel):
                    if message["state"] & NUD_PERMANENT:
                        mac = message.get_attr("NDA_LLADDR")
                        found.add(Entry(NEIGHBOUR, message.get_attr("NDA_DST"), mac))
        if tunnel:
            for message in self._netlink.fdb("dump", ifindex=tunnel):
                target = message.get_attr("NDA_DST")
                if message["ifindex"] == tunnel and target:
                    found.add(Entry(FORWARD, message.get_attr("NDA_LLADDR"), target))
        return found

    def ensure_tunnel(self, cidrs: Iterable[str]) -> None:
        """The device with its MAC address and one address for each range of the node's pods."""
        index = self._tunnel_index()
        if index and not self._fits(index):
            self._netlink.link("del", index=index)
            index = 0
        local = self._addresses[0]
        mtu = pod_mtu(self.link_mtu(), local, wrapped=True)
        if not index:
            version = ipaddress.ip_address(local).version
            self._netlink.link(
                "add",
                ifname=self._device.name,
                kind="vxlan",
                address=self._mac,
                vxlan_id=self._device.identifier,
                vxlan_port=self._device.port,
                vxlan_link=self.uplink(),
                vxlan_learning=0,
                **{"vxlan_local" if version == 4 else "vxlan_local6": local},
            )
            index = self._tunnel_index()
            for setting in (
                f"net/ipv4/conf/{self._device.name}/rp_filter",
                f"net/ipv6/conf/{self._device.name}/accept_ra",
                f"net/ipv6/conf/{self._device.name}/accept_dad",
            ):
                with suppress(FileNotFoundError):
                    Path("/proc/sys", setting).write_text("0")
        # The daemon of a distribution may have given it another MAC address meanwhile. Only what
        # differs is set: a MAC address that is set makes the kernel forget all neighbours.
        link = self._netlink.get_links(index)[0]
        names = {"address": "IFLA_ADDRESS", "mtu": "IFLA_MTU"}
        wrong = {
            name: value
            for name, value in (("address", self._mac), ("mtu", mtu))
            if link.get_attr(names[name]) != value
        }
        self._netlink.link("set", index=index, state="up", **wrong)
        wanted = {tunnel_address(each) for each in cidrs}
        there = {
            message.get_attr("IFA_ADDRESS"): message["prefixlen"]
            for message in self._netlink.get_addr(index=index)
        }
        for address, length in there.items():
            if address not in wanted and not address.startswith("fe80:"):
                self._netlink.addr("del", index=index, address=address, prefixlen=length)
        for address in sorted(wanted - set(there)):
            length = ipaddress.ip_address(address).max_prefixlen
            self._netlink.addr("add", index=index, address=address, prefixlen=length)

    def remove_tunnel(self) -> None:
        if index := self._tunnel_index():
            self._netlink.link("del", index=index)

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            try:
                self._change(change)
            except _netlink_error() as error:
                missing = error.code in (errno.ESRCH, errno.ENOENT, errno.ENODEV)
                if not (change.remove and missing):
                    # A node that cannot be reached just now costs the others nothing: the next
                    # look comes with the next event, or after a while.
                    log.warning("%s: %s", change, os.strerror(error.code))

    def _change(self, change: Change) -> None:
        entry = change.entry
        index = self._tunnel_index() if entry.tunnelled else self.uplink()
        if entry.kind == ROUTE:
            flags = ONLINK if entry.tunnelled else 0
            self._netlink.route(
                "del" if change.remove else "replace",
                dst=entry.target,
                gateway=entry.via,
                oif=index,
                proto=PROTOCOL,
                flags=flags,
            )
        elif entry.kind == NEIGHBOUR:
            self._netlink.neigh(
                "del" if change.remove else "replace",
                ifindex=index,
                dst=entry.target,
                lladdr=entry.via,
                state=NUD_PERMANENT,
            )
        else:
            self._netlink.fdb(
                "del" if change.remove else "replace",
                ifindex=index,
                lladdr=entry.target,
                dst=entry.via,
                flags=NTF_SELF,
                state=NUD_PERMANENT,
            )

    def _tunnel_index(self) -> int:
        return int((self._netlink.link_lookup(ifname=self._device.name) or [0])[0])

    def _fits(self, index: int) -> bool:
        """Whether the device is as it would be made now."""
        info = self._netlink.get_links(index)[0].get_attr("IFLA_LINKINFO")
        data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
        if info is None or info.get_attr("IFLA_INFO_KIND") != "vxlan" or data is None:
            return False
        local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6")
        names = ("IFLA_VXLAN_ID", "IFLA_VXLAN_PORT", "IFLA_VXLAN_LINK")
        found = [*(data.get_attr(name) for name in names), local]
        device = self._device
        return found == [device.identifier, device.port, self.uplink(), self._addresses[0]]


def _netlink_error() -> type[Any]:
    from pyroute2.netlink.exceptions import NetlinkError

    return NetlinkError  # type: ignore[no-any-return]
