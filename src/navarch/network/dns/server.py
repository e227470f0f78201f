"""The DNS server's sockets: UDP and TCP on every address it is given."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import cast

from dnslib import RCODE, DNSRecord

from navarch.network.dns.forward import Forwarder, NoAnswer
from navarch.network.dns.responder import NotForUs, Responder, failure, fit, resource

log = logging.getLogger("navarch.network.dns")
TCP_IDLE_SECONDS = 10.0
MAX_FORWARDS = 1000
"""Questions to upstream resolvers at once; further ones are dropped, as a full socket would."""


class DnsServer:
    """Answers from a zone, and passes the rest on."""

    def __init__(self, responder: Responder, forwarder: Forwarder) -> None:
        self.responder = responder
        self.forwarder = forwarder
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._forwards: set[asyncio.Task[None]] = set()

    async def start(self, addresses: Sequence[str], port: int) -> None:
        """Listen on every address. Raises OSError when one is taken."""
        loop = asyncio.get_running_loop()
        for address in addresses:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Udp(self), local_addr=(address, port)
            )
            self._transports.append(transport)
            self._servers.append(await asyncio.start_server(self._serve_tcp, address, port))

    async def stop(self) -> None:
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        self._transports.clear()
        self._servers.clear()
        for task in self._forwards:
            task.cancel()
        await asyncio.gather(*self._forwards, return_exceptions=True)

    def answer_datagram(
        self, transport: asyncio.DatagramTransport, packet: bytes, peer: tuple[str, int]
    ) -> None:
        try:
            transport.sendto(self.responder.respond(packet, udp=True), peer)
        except ValueError:
            return  # not a query: answering would help a forger
        except NotForUs as question:
            if len(self._forwards) >= MAX_FORWARDS:
                return
            task = asyncio.get_running_loop().create_task(
                self._forward_datagram(transport, packet, peer, question), name="dns forward"
            )
            self._forwards.add(task)
            task.add_done_callback(self._forwards.discard)

    async def _forward_datagram(
        self,
        transport: asyncio.DatagramTransport,
        packet: bytes,
        peer: tuple[str, int],
        question: NotForUs,
    ) -> None:
        answer = await self.forward(packet, question, udp=True)
        if not transport.is_closing():
            transport.sendto(answer, peer)

    async def forward(self, packet: bytes, question: NotForUs, *, udp: bool) -> bytes:
        """What the upstream resolvers say, behind the aliases found here."""
        if not self.forwarder.upstreams and not question.alias:
            return failure(question.query, RCODE.REFUSED)
        asked = packet
        if question.alias:
            further = DNSRecord.question(question.name, "A")
            further.q.qtype = question.query.q.qtype
            further.header.id = question.query.header.id
            asked = bytes(further.pack())
        try:
            answer = await self.forwarder.ask(asked, udp=udp)
        except NoAnswer:
            if not question.alias:
                return failure(question.query, RCODE.SERVFAIL)
            answer = b""
        if not question.alias:
            return answer
        reply = question.query.reply(aa=0)
        reply.add_answer(*map(resource, question.alias))
        if answer:
            with contextlib.suppress(Exception):  # what a stranger sent may be no DNS at all
                reply.add_answer(*DNSRecord.parse(answer).rr)
        return fit(reply, question.query, udp=udp)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    packet = await reader.readexactly(size)
                try:
                    answer = self.responder.respond(packet, udp=False)
                except NotForUs as question:
                    answer = await self.forward(packet, question, udp=False)
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (ValueError, TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the peer is done, gone or speaks no DNS
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Event loops' datagram transports are not all subclasses of the abstract one.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.answer_datagram(self._transport, data, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("an answer could not be delivered: %s", exc)
