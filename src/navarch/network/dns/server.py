"""The DNS server's sockets: UDP and TCP on every address it is given.

UDP is read straight from the socket, many questions at a turn of the event loop, and an answer that
is kept goes out without anything else being touched: this loop is what decides how many questions a
second one core answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

from navarch.network.dns import wire
from navarch.network.dns.responder import Responder, Via, Waiting

log = logging.getLogger("navarch.network.dns")

BATCH = 64
"""Questions answered in one turn of the event loop, so that others in the process have theirs."""
MAX_QUERY = 4096
RECEIVE_BUFFER = 4 << 20
"""What the kernel keeps of a burst, and of what comes while this process starts anew."""
TCP_IDLE_SECONDS = 10.0
MAX_CONNECTIONS = 512
MAX_PER_CLIENT = 64
MAX_PIPELINED = 100
"""Questions of one connection that wait for others at once."""
MAX_FORWARDS = 4096
"""Questions that wait for others at once, whatever the blocks' own limits; further ones are
dropped, as a full socket would."""
PRIVATE = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16",
    "fc00::/7", "fe80::/10",
)  # fmt: skip
"""Who may ask where nothing else is said."""
LOCAL = ("127.0.0.0/8", "::1/128")


@dataclass(slots=True)
class Clients:
    """Who is answered: a name server that answers the whole world is an amplifier for attacks, and
    tells strangers what runs here."""

    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
    known: set[str] = field(default_factory=set)
    """Addresses that were let in before."""

    @classmethod
    def of(cls, networks: Sequence[str]) -> Clients:
        allowed = (*LOCAL, *(networks or PRIVATE))
        return cls([ipaddress.ip_network(each, strict=False) for each in allowed])

    def admit(self, address: str) -> bool:
        if address in self.known:
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if not any(parsed in network for network in self.networks):
            return False
        if len(self.known) >= 65536:
            self.known.clear()
        self.known.add(address)
        return True


class DnsServer:
    """Answers what a responder can answer."""

    def __init__(self, responder: Responder, clients: Clients) -> None:
        self.responder = responder
        self.clients = clients
        self._sockets: list[socket.socket] = []
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[str, int] = {}

    def bind(self, addresses: Sequence[str], port: int) -> None:
        """Take the ports. From now on the kernel keeps what is asked until `serve`. Raises OSError
        when one is taken."""
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for kind, kept in (
                (socket.SOCK_DGRAM, self._sockets),
                (socket.SOCK_STREAM, self._listeners),
            ):
                sock = socket.socket(family, kind)
                kept.append(sock)
                sock.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    # For UDP this would let two servers share a port without noticing.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                else:
                    _widen(sock)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(1024)

    async def serve(self) -> None:
        """Answer from now on."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.add_reader(sock, self._readable, sock, Via(family=_family(sock)))
        for sock in self._listeners:
            self._servers.append(await asyncio.start_server(self._serve_tcp, sock=sock))

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        for server in self._servers:
            server.close()
        for sock in self._listeners:
            sock.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sockets.clear()
        self._listeners.clear()
        self._servers.clear()

    # UDP -----------------------------------------------------------------------------------------

    def _readable(self, sock: socket.socket, via: Via) -> None:
        responder = self.responder
        quick, known = responder.quick, self.clients.known
        receive, send = sock.recvfrom, sock.sendto
        now = responder.clock.monotonic()
        answered = 0
        try:
            for _ in range(BATCH):
                packet, peer = receive(MAX_QUERY)
                kept = quick.get(packet[2:])
                if kept is not None and kept.until > now and peer[0] in known:
                    payloads = kept.payloads
                    send(packet[:2] + payloads[kept.hits % len(payloads)], peer)
                    kept.hits += 1
                    answered += 1
                else:
                    self._answer(sock, packet, peer, via)
        except BlockingIOError:
            pass  # all is read; or the way out is full, and the question will come again
        except OSError as error:
            responder.figures.dropped += 1
            log.debug("an answer could not be delivered: %s", error)
        if answered:
            spent = responder.clock.monotonic() - now
            responder.figures.durations.add(spent / answered, answered)

    def _answer(self, sock: socket.socket, packet: bytes, peer: tuple[str, int], via: Via) -> None:
        started = self.responder.clock.monotonic()
        if not self.clients.admit(peer[0]):
            answer: bytes | Waiting | None = self._refused(packet)
        else:
            answer = self._begin(packet, via)
        if isinstance(answer, Waiting):
            if len(self._tasks) < MAX_FORWARDS:
                self._spawn(self._answer_later(sock, peer, answer, started))
            return
        if answer is not None:
            sock.sendto(answer, peer)
            self.responder.figures.durations.add(self.responder.clock.monotonic() - started)

    def _refused(self, packet: bytes) -> bytes | None:
        try:
            return wire.failure(wire.parse_query(packet), wire.REFUSED)
        except (wire.Ignored, wire.Malformed):
            return None

    def _begin(self, packet: bytes, via: Via) -> bytes | Waiting | None:
        """Whatever is sent to it, a name server goes on."""
        try:
            return self.responder.begin(packet, via)
        except Exception:
            self.responder.figures.panics += 1
            log.exception("a question met a fault: %s", packet[:300].hex())
            return wire.format_error(packet, wire.SERVFAIL)

    async def _answer_later(
        self, sock: socket.socket, peer: tuple[str, int], waiting: Waiting, started: float
    ) -> None:
        answer = await self.responder.finish(waiting)
        try:
            sock.sendto(answer, peer)
        except OSError as error:
            self.responder.figures.dropped += 1
            log.debug("an answer could not be delivered: %s", error)
        self.responder.figures.durations.add(self.responder.clock.monotonic() - started)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="dns answer")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.responder.figures.panics += 1
            log.error("a question met a fault: %s", error, exc_info=error)

    # TCP -----------------------------------------------------------------------------------------

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        host = peer[0] if peer else ""
        count = self._connections.get(host, 0)
        if (
            count >= MAX_PER_CLIENT
            or sum(self._connections.values()) >= MAX_CONNECTIONS
            or not self.clients.admit(host)
        ):
            writer.close()
            return
        self._connections[host] = count + 1
        via = Via(tcp=True, family=2 if ":" in host else 1)
        try:
            async with asyncio.TaskGroup() as group:
                await self._questions(reader, writer, via, group)
        except* (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the peer is done, gone or too slow
        finally:
            self._connections[host] -= 1
            if not self._connections[host]:
                del self._connections[host]
            writer.close()

    async def _questions(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        via: Via,
        group: asyncio.TaskGroup,
    ) -> None:
        """Answer what comes, out of order too (RFC 7766): who waits for others holds up nobody."""
        room = asyncio.Semaphore(MAX_PIPELINED)

        async def later(waiting: Waiting) -> None:
            try:
                _frame(writer, await self.responder.finish(waiting))
            finally:
                room.release()

        while True:
            async with asyncio.timeout(TCP_IDLE_SECONDS):
                await writer.drain()  # who reads no answers is asked no questions
                size = int.from_bytes(await reader.readexactly(2), "big")
                packet = await reader.readexactly(size)
            answer = self._begin(packet, via)
            if answer is None:
                return
            if isinstance(answer, Waiting):
                await room.acquire()
                group.create_task(later(answer), name="dns answer by tcp")
                continue
            _frame(writer, answer)


def _frame(writer: asyncio.StreamWriter, answer: bytes) -> None:
    if not writer.is_closing():
        writer.write(len(answer).to_bytes(2, "big") + answer)


def _family(sock: socket.socket) -> int:
    return 2 if sock.family == socket.AF_INET6 else 1


def _widen(sock: socket.socket) -> None:
    """As large a buffer as root may have, or else as the system allows."""
    forced = getattr(socket, "SO_RCVBUFFORCE", 33)
    for option in (forced, socket.SO_RCVBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
            return
        except OSError:
            continue
