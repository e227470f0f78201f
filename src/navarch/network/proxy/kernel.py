"""The proxy's hands: one transaction of nft commands, and connections taken out of conntrack.

Nothing else of the proxy touches the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

log = logging.getLogger("navarch.network.proxy")
UDP = 17


class NftError(Exception):
    """nft refused a transaction; nothing of it was done."""


class Flow(NamedTuple):
    """A tracked UDP connection: where the client sent it, and who answers."""

    destination: str
    port: int
    backend: str
    backend_port: int


class Kernel(Protocol):
    async def apply(self, transaction: str) -> None:
        """Apply as a whole or not at all. Raises NftError."""
        ...

    async def delete_udp_flows(self, is_stale: Callable[[Flow], bool]) -> int:
        """Forget the tracked UDP connections for which `is_stale` holds; how many they were."""
        ...


class LinuxKernel:
    """The kernel of the network namespace this process runs in."""

    async def apply(self, transaction: str) -> None:
        # All of it is there before nft starts: should we be killed while we write to a pipe, nft
        # would take the part that it got for the whole, and the table would lack Services.
        with os.fdopen(os.memfd_create("nft"), "wb") as file:
            file.write(transaction.encode())
            file.flush()
            file.seek(0)
            process = await asyncio.create_subprocess_exec(
                "nft",
                "-f",
                "-",
                stdin=file.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        _, errors = await process.communicate()
        if process.returncode:
            raise NftError(errors.decode(errors="replace").strip()[:2000])

    async def delete_udp_flows(self, is_stale: Callable[[Flow], bool]) -> int:
        return await asyncio.to_thread(_delete_udp_flows, is_stale)


def _delete_udp_flows(is_stale: Callable[[Flow], bool]) -> int:
    from pyroute2 import NFCTSocket
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    deleted = 0
    with NFCTSocket() as conntrack:
        for _ in range(3):
            try:
                entries = list(conntrack.dump(tuple_orig=NFCTAttrTuple(proto=UDP)))
                break
            except NetlinkDumpInterrupted:
                continue
        else:
            return 0
        for entry in entries:
            original = _tuple(entry.get_attr("CTA_TUPLE_ORIG"))
            reply = _tuple(entry.get_attr("CTA_TUPLE_REPLY"))
            if original is None or reply is None:
                continue
            source, source_port, destination, port = original
            if not is_stale(Flow(destination, port, reply[0], reply[1])):
                continue
            found = NFCTAttrTuple(
                saddr=source, daddr=destination, proto=UDP, sport=source_port, dport=port
            )
            try:
                conntrack.entry("del", tuple_orig=found)
                deleted += 1
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise
    return deleted


def _tuple(attributes: object) -> tuple[str, int, str, int] | None:
    """(source, source port, destination, destination port) of one direction of a UDP entry."""
    if attributes is None:
        return None
    ip = attributes.get_attr("CTA_TUPLE_IP")  # type: ignore[attr-defined]
    proto = attributes.get_attr("CTA_TUPLE_PROTO")  # type: ignore[attr-defined]
    if ip is None or proto is None or proto.get_attr("CTA_PROTO_NUM") != UDP:
        return None
    source = ip.get_attr("CTA_IP_V4_SRC") or ip.get_attr("CTA_IP_V6_SRC")
    destination = ip.get_attr("CTA_IP_V4_DST") or ip.get_attr("CTA_IP_V6_DST")
    return (
        source,
        proto.get_attr("CTA_PROTO_SRC_PORT"),
        destination,
        proto.get_attr("CTA_PROTO_DST_PORT"),
    )
