"""Questions about the rest of the world, passed on to the resolvers the node itself uses."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import cast

TIMEOUT = 2.0
MAX_IN_FLIGHT = 1000


class NoAnswer(Exception):
    """No resolver answered in time."""


class _Exchange(asyncio.DatagramProtocol):
    def __init__(self, packet: bytes, answer: asyncio.Future[bytes]) -> None:
        self._packet = packet
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._packet)

    def datagram_received(self, data: bytes, addr: object) -> None:
        # Only an answer to this very question: same id, and the question repeated.
        if not self._answer.done() and data[:2] == self._packet[:2] and len(data) > 12:
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(NoAnswer(str(exc)))


class Forwarder:
    """Asks the upstream resolvers one after the other, each question from a port of its own."""

    def __init__(self, upstreams: Sequence[tuple[str, int]]) -> None:
        self.upstreams = list(upstreams)
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def ask(self, packet: bytes, *, udp: bool) -> bytes:
        """The answer to a query's bytes, under the query's own id. Raises NoAnswer."""
        own_id = secrets.token_bytes(2)
        question = own_id + packet[2:]
        async with self._slots:
            for address in self.upstreams:
                try:
                    async with asyncio.timeout(TIMEOUT):
                        answer = await (
                            self._by_udp(address, question)
                            if udp
                            else self._by_tcp(address, question)
                        )
                except (TimeoutError, OSError, NoAnswer, asyncio.IncompleteReadError):
                    continue
                return packet[:2] + answer[2:]
        raise NoAnswer("no upstream resolver answered")

    async def _by_udp(self, address: tuple[str, int], question: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Exchange(question, answer), remote_addr=address
        )
        try:
            return await answer
        finally:
            transport.close()

    async def _by_tcp(self, address: tuple[str, int], question: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(len(question).to_bytes(2, "big") + question)
            await writer.drain()
            size = int.from_bytes(await reader.readexactly(2), "big")
            return await reader.readexactly(size)
        finally:
            writer.close()
