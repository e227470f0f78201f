"""Questions about the rest of the world, passed on to other resolvers.

An answer is believed only if it came from the resolver's address and port to a random port of
ours, bears the random id of the question, and repeats it in the very case it was asked in (0x20): a
forger who cannot read the wire has to guess all of that (RFC 5452). An answer that differs in case
alone may come from an old resolver, so it is asked again by TCP rather than believed or lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from navarch.client.clock import Clock
from navarch.network.dns import wire
from navarch.network.dns.cache import Question
from navarch.network.dns.corefile import Address, Forward

log = logging.getLogger("navarch.network.dns")

ATTEMPT_SECONDS = 2.0
TOTAL_SECONDS = 5.0
ROUNDS = 2
"""How often each resolver is asked: datagrams get lost."""


class NoAnswer(Exception):
    """No resolver answered in time."""


class TooMany(Exception):
    """As many questions are under way as may be."""


@dataclass(slots=True)
class Upstream:
    """One resolver and how it does."""

    address: Address
    fails: int = 0
    requests: int = 0
    probe: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Exchange:
    """A question to another server, as bytes, and what an answer to it must look like."""

    packet: bytes
    question: bytes

    def is_answered_by(self, packet: bytes, *, any_case: bool = False) -> bool:
        end = wire.HEADER + len(self.question)
        said, asked = packet[wire.HEADER : end], self.question
        if any_case:
            said, asked = said.lower(), asked.lower()
        return (
            len(packet) >= end
            and packet[:2] == self.packet[:2]
            and bool(packet[2] & 0x80)
            and packet[4:6] == b"\0\1"
            and said == asked
        )


def exchange(name: bytes, type_: int, flags: int, *, dnssec_ok: bool) -> Exchange:
    """A question under a random id and in random case."""
    coins = secrets.randbits(8 * len(name))
    mixed = bytes(
        byte ^ 0x20 if 97 <= byte | 0x20 <= 122 and coins >> index & 1 else byte
        for index, byte in enumerate(name)
    )
    # Lengths of labels are below 64, so no length is taken for a letter.
    question = wire.question_bytes(mixed, type_)
    packet = wire.ask(secrets.token_bytes(2), question, flags=flags, dnssec_ok=dnssec_ok)
    return Exchange(packet, question)


class Forwarder:
    """Asks the resolvers of one `forward`. One that fails is left out until it answers a probe."""

    def __init__(self, rules: Forward, upstreams: Sequence[Address], clock: Clock) -> None:
        self.rules = rules
        self.upstreams = [Upstream(address) for address in dict.fromkeys(upstreams)]
        self.under_way = 0
        self.rejected = 0
        self.looping = False
        """Whether our own question came back to us."""
        self._clock = clock
        self._next = 0
        self._same: dict[tuple[Question, bool], asyncio.Task[wire.Reply]] = {}
        self._probes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        tasks = [*self._same.values(), *self._probes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, question: Question, *, tcp: bool = False) -> wire.Reply:
        """What the resolvers say. Equal questions at the same time are asked once. Raises NoAnswer
        or TooMany."""
        key = (question, tcp)
        task = self._same.get(key)
        if task is None:
            if self.looping or not self.upstreams:
                raise NoAnswer("there is no resolver to ask")
            if self.rules.max_concurrent and self.under_way >= self.rules.max_concurrent:
                self.rejected += 1
                raise TooMany
            self.under_way += 1
            task = asyncio.get_running_loop().create_task(
                self._ask_all(question, tcp or self.rules.force_tcp), name="dns forward"
            )
            self._same[key] = task
            task.add_done_callback(lambda _: self._done(key))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # we were closed; whoever asked was not
                raise NoAnswer("the resolvers were changed") from None
            raise

    def _done(self, key: tuple[Question, bool]) -> None:
        self.under_way -= 1
        task = self._same.pop(key, None)
        if task is not None and not task.cancelled():
            task.exception()  # whoever asked may be gone

    def _order(self) -> list[Upstream]:
        """Those to ask, one after the other; all being down, any."""
        able = [each for each in self.upstreams if not self._is_down(each)] or self.upstreams
        match self.rules.policy:
            case "sequential":
                return list(able)
            case "round_robin":
                self._next += 1
                start = self._next % len(able)
                return [*able[start:], *able[:start]]
        return secrets.SystemRandom().sample(able, len(able))

    def _is_down(self, upstream: Upstream) -> bool:
        return 0 < self.rules.max_fails <= upstream.fails

    async def _ask_all(self, question: Question, tcp: bool) -> wire.Reply:
        name, type_, dnssec_ok, unchecked = question
        flags = wire.RD | (wire.CD if unchecked else 0)
        deadline = self._clock.monotonic() + TOTAL_SECONDS
        for _ in range(ROUNDS):
            for upstream in self._order():
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise NoAnswer("no resolver answered in time")
                asked = exchange(name, type_, flags, dnssec_ok=dnssec_ok)
                upstream.requests += 1
                try:
                    async with asyncio.timeout(min(ATTEMPT_SECONDS, left)):
                        packet = await ask_once(upstream.address, asked, tcp=tcp)
                    reply = wire.parse_reply(packet)
                except (TimeoutError, OSError, wire.Malformed, asyncio.IncompleteReadError):
                    self._failed(upstream)
                    continue
                upstream.fails = 0
                return reply
        raise NoAnswer("no resolver answered")

    def _failed(self, upstream: Upstream) -> None:
        upstream.fails += 1
        if upstream.probe is None and self.rules.max_fails:
            task = asyncio.get_running_loop().create_task(self._probe(upstream), name="dns probe")
            upstream.probe = task
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _probe(self, upstream: Upstream) -> None:
        """Ask a resolver that failed for the root's servers until it says anything."""
        try:
            while upstream.fails:
                await self._clock.sleep(self.rules.health_check)
                with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(1.0):
                        asked = exchange(b"\0", wire.NS, 0, dnssec_ok=False)
                        await ask_once(upstream.address, asked, tcp=self.rules.force_tcp)
                    upstream.fails = 0
        finally:
            upstream.probe = None


async def ask_once(address: Address, asked: Exchange, *, tcp: bool) -> bytes:
    """One question to one server; a cut answer is fetched whole by TCP. Raises OSError, and does
    not end by itself when nothing comes."""
    if not tcp:
        packet = await _by_udp(address, asked)
        if packet is not None and not packet[2] & 0x02:
            return packet
    return await _by_tcp(address, asked)


async def _by_udp(address: Address, asked: Exchange) -> bytes | None:
    """The answer; None if it has to be asked for by TCP."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        # Connected: the kernel picks a random port and drops what comes from elsewhere.
        sock.connect(address)
        sock.send(asked.packet)
        arrived: asyncio.Future[bytes | None] = loop.create_future()

        def read() -> None:
            try:
                packet = sock.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError as error:
                if not arrived.done():
                    arrived.set_exception(error)
                return
            if arrived.done():
                return
            if asked.is_answered_by(packet):
                arrived.set_result(packet)
            elif asked.is_answered_by(packet, any_case=True):
                arrived.set_result(None)

        loop.add_reader(sock, read)
        try:
            return await arrived
        finally:
            loop.remove_reader(sock)


async def _by_tcp(address: Address, asked: Exchange) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(len(asked.packet).to_bytes(2, "big") + asked.packet)
        size = int.from_bytes(await reader.readexactly(2), "big")
        packet = await reader.readexactly(size)
    finally:
        writer.close()
    if not asked.is_answered_by(packet, any_case=True):
        raise OSError("an answer to another question")
    return packet


@dataclass(slots=True)
class LoopProbe:
    """Finds out whether a resolver asks us in turn: a random name that only we would ask for
    (CoreDNS' `loop`). Seen again at our own door, forwarding there is given up."""

    forwarder: Forwarder
    seen: Callable[[], None] = lambda: None
    is_sent: bool = False
    labels: tuple[str, str] = field(
        default_factory=lambda: (str(secrets.randbits(62)), str(secrets.randbits(62)))
    )

    async def run(self) -> None:
        self.is_sent = True
        name = wire.encode_name(".".join((*self.labels, self.forwarder.rules.zone)))
        with contextlib.suppress(NoAnswer, TooMany):
            await self.forwarder.ask((name, wire.HINFO, False, False))
