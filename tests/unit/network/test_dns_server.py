"""The name server on real sockets of the loopback interface, with real resolvers behind it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from tests.ports import free_port
from tests.unit.network.dns_builders import BASE, data, ingress, query, responder, shop, slice_of

from navarch.network.dns.responder import Responder
from navarch.network.dns.server import Clients, DnsServer
from navarch.network.dns.zone import Zone

HOST = "127.0.0.1"
WEB = f"web.shop.{BASE}"
FORWARD = """. {
    kubernetes cluster.local in-addr.arpa {
        fallthrough in-addr.arpa
    }
    ingress
    cache 30
    forward . %s {
        max_concurrent 20
        health_check 50ms
    }
}
"""


@asynccontextmanager
async def serving(target: Responder, clients: tuple[str, ...] = ()) -> AsyncIterator[int]:
    server = DnsServer(target, Clients.of(clients))
    try:
        server.bind([HOST], port := free_port())
        await server.serve()
        yield port
    finally:
        await server.stop()
        for path in target.paths:
            if path.forwarder is not None:
                await path.forwarder.close()


Answering = Callable[[dns.message.Message], dns.message.Message | bytes | None]


class Resolver(asyncio.DatagramProtocol):
    """Somebody else's name server, which answers as a test says."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[dns.message.Message] = []
        self.ports: set[int] = set()
        self.peer = (HOST, 0)
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Event loops' datagram transports are not all subclasses of the abstract one.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asked = dns.message.from_wire(data)
        self.asked.append(asked)
        self.ports.add(addr[1])
        self.peer = addr
        answer = self.answering(asked)
        if answer is not None and self.transport is not None:
            packet = answer if isinstance(answer, bytes) else answer.to_wire()
            self.transport.sendto(packet, addr)


@asynccontextmanager
async def resolving(answering: Answering) -> AsyncIterator[tuple[Resolver, int]]:
    resolver = Resolver(answering)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: resolver, local_addr=(HOST, 0)
    )
    try:
        yield resolver, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def answered(
    asked: dns.message.Message, text: str = "192.0.2.1", ttl: int = 60
) -> dns.message.Message:
    answer = dns.message.make_response(asked)
    name = asked.question[0].name
    answer.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", text))
    return answer


def denied(asked: dns.message.Message) -> dns.message.Message:
    answer = dns.message.make_response(asked)
    answer.set_rcode(dns.rcode.NXDOMAIN)
    soa = "ns. admin. 1 2 3 4 60"
    answer.authority.append(dns.rrset.from_text("test.", 60, "IN", "SOA", soa))
    return answer


async def udp(name: str, port: int, type_: str = "A") -> dns.message.Message:
    return await dns.asyncquery.udp(query(name, type_), HOST, port=port, timeout=10)


async def tcp(name: str, port: int, type_: str = "A") -> dns.message.Message:
    return await dns.asyncquery.tcp(query(name, type_), HOST, port=port, timeout=10)


def cluster(*upstreams: int) -> Responder:
    return responder(corefile=FORWARD % " ".join(f"{HOST}:{port}" for port in upstreams))


@pytest.mark.parametrize("ask", [udp, tcp])
async def test_answers_and_truncation(
    ask: Callable[[str, int], Awaitable[dns.message.Message]],
) -> None:
    target = responder()
    target.zone.put_slice(slice_of("db", *((f"10.244.1.{i}", "", True) for i in range(1, 101))))
    async with serving(target) as port:
        for _ in range(3):
            assert data(await ask(WEB, port)) == ["10.96.0.20"]
        big = await ask(f"db.shop.{BASE}", port)
        assert bool(big.flags & dns.flags.TC) == (ask is udp)
        assert (len(big.answer[0]) == 100) == (ask is tcp)


async def test_strangers_are_refused() -> None:
    target = responder()
    server = DnsServer(target, Clients.of(["10.244.0.0/16"]))
    assert server.clients.admit("10.244.3.4")
    assert server.clients.admit("127.0.0.1")
    assert not server.clients.admit("10.245.0.1")
    assert not server.clients.admit("192.0.2.1")
    assert Clients.of(()).admit("192.168.49.1")
    assert not Clients.of(()).admit("2001:db8::1")
    refused = server._refused(query(WEB).to_wire())
    assert refused is not None
    assert dns.message.from_wire(refused).rcode() == dns.rcode.REFUSED


async def test_others_are_asked_and_their_answers_kept() -> None:
    async with resolving(answered) as (resolver, upstream), serving(cluster(upstream)) as port:
        for ask in (udp, tcp, udp):
            answer = await ask("Www.Example.test", port)
            assert data(answer) == ["192.0.2.1"]
            assert answer.answer[0].ttl <= 30
            assert not answer.flags & dns.flags.AA
        assert len(resolver.asked) == 1
        # An alias to the outside brings what is there.
        answer = await udp(f"out.shop.{BASE}", port)
        assert data(answer) == ["foo.example.com.", "192.0.2.1"]


async def test_denials_are_kept_and_an_ingress_ends_them() -> None:
    target_of: list[Responder] = []
    async with resolving(denied) as (resolver, upstream):
        target_of.append(target := cluster(upstream))
        async with serving(target) as port:
            for _ in range(3):
                answer = await udp("shop.test", port)
                assert answer.rcode() == dns.rcode.NXDOMAIN
                assert answer.authority[0].ttl <= 30
            assert len(resolver.asked) == 1
            target.ingresses.put(ingress("a", "shop.test"))
            assert data(await udp("shop.test", port)) == ["192.0.2.7"]


async def test_questions_cannot_be_guessed() -> None:
    async with resolving(answered) as (resolver, upstream), serving(cluster(upstream)) as port:
        names = [f"a-rather-long-name-{number}.example.test" for number in range(12)]
        await asyncio.gather(*(udp(name, port) for name in names))
        assert len({asked.id for asked in resolver.asked}) > 10
        assert len(resolver.ports) > 10
        cases = {str(asked.question[0].name).rpartition("-")[0] for asked in resolver.asked}
        assert len(cases) > 10


def forged(asked: dns.message.Message) -> dns.message.Message:
    """An answer by somebody who did not see the case of the question."""
    answer = answered(asked, "203.0.113.66")
    lower = asked.question[0].name.to_text().lower()
    answer.question[0].name = dns.name.from_text(lower)
    return answer


async def test_forged_answers_are_not_believed() -> None:
    """Wrong id, another question, other case: none of these is taken for the answer."""

    def answering(asked: dns.message.Message) -> dns.message.Message | None:
        assert resolver.transport is not None
        wrong_id = answered(asked, "203.0.113.66")
        wrong_id.id ^= 1
        other = answered(dns.message.make_query("other.test.", "A", id=asked.id), "203.0.113.66")
        for packet in (wrong_id.to_wire(), other.to_wire(), b"", b"x" * 40):
            resolver.transport.sendto(packet, resolver.peer)
        return answered(asked)

    async with resolving(answering) as (resolver, upstream), serving(cluster(upstream)) as port:
        assert data(await udp("www.example.test", port)) == ["192.0.2.1"]
    async with resolving(forged) as (_, upstream), serving(cluster(upstream)) as port:
        # Asked again by TCP, where nobody answers here.
        answer = await udp("another-long-name.example.test", port)
        assert answer.rcode() == dns.rcode.SERVFAIL


async def test_a_cut_answer_is_fetched_by_tcp() -> None:
    outside = Zone("example.test")
    far = responder(outside, ". {\n kubernetes example.test\n}\n")
    service = shop()
    outside._services, outside._endpoints = service._services, service._endpoints
    service.put_slice(slice_of("db", *((f"10.244.1.{i}", "", True) for i in range(1, 101))))
    async with serving(far) as far_port, serving(cluster(far_port)) as port:
        whole = await tcp("db.shop.svc.example.test", port)
        assert len(whole.answer[0]) == 100


async def test_a_dead_resolver_is_left_out() -> None:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind((HOST, 0))
    closed = silent.getsockname()[1]
    silent.close()
    async with resolving(answered) as (resolver, upstream):
        target = cluster(closed, upstream)
        async with serving(target) as port:
            for number in range(12):
                assert data(await udp(f"n{number}.example.test", port)) == ["192.0.2.1"]
            forwarder = target.paths[0].forwarder
            assert forwarder is not None
            dead = next(each for each in forwarder.upstreams if each.address[1] == closed)
            assert dead.requests <= 2
            assert len(resolver.asked) == 12


async def test_too_many_questions_at_once_are_refused() -> None:
    async with AsyncExitStack() as stack:
        _, upstream = await stack.enter_async_context(resolving(lambda asked: None))
        target = cluster(upstream)
        port = await stack.enter_async_context(serving(target))
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.connect((HOST, port))
            for number in range(25):
                asker.send(query(f"n{number}.example.test", id=number).to_wire())
            async with asyncio.timeout(60):
                refused = [
                    dns.message.from_wire(await loop.sock_recv(asker, 512)) for _ in range(5)
                ]
        assert {each.rcode() for each in refused} == {dns.rcode.REFUSED}
        # Names of the cluster are answered meanwhile.
        assert data(await udp(WEB, port)) == ["10.96.0.20"]


async def test_tcp_is_pipelined_and_out_of_order() -> None:
    release = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    def answering(asked: dns.message.Message) -> None:
        tasks.append(asyncio.create_task(later(asked)))

    async def later(asked: dns.message.Message) -> None:
        await release.wait()
        assert resolver.transport is not None
        resolver.transport.sendto(answered(asked).to_wire(), resolver.peer)

    async with resolving(answering) as (resolver, upstream), serving(cluster(upstream)) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        for identity, name in ((1, "slow.example.test"), (2, WEB), (3, WEB)):
            packet = query(name, id=identity).to_wire()
            writer.write(struct.pack("!H", len(packet)) + packet)

        async def next_id() -> int:
            size = struct.unpack("!H", await reader.readexactly(2))[0]
            return dns.message.from_wire(await reader.readexactly(size)).id

        async with asyncio.timeout(60):
            assert [await next_id(), await next_id()] == [2, 3]
            release.set()
            assert await next_id() == 1
        # What is no question ends the connection.
        writer.write(b"\0\5hello")
        assert await reader.read() == b""
        writer.close()


async def test_one_client_cannot_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("navarch.network.dns.server.MAX_PER_CLIENT", 3)
    monkeypatch.setattr("navarch.network.dns.server.TCP_IDLE_SECONDS", 0.2)
    async with serving(responder()) as port:
        opened = [await asyncio.open_connection(HOST, port) for _ in range(4)]
        async with asyncio.timeout(60):
            assert await opened[3][0].read() == b""
            # The others are idle, and are let go.
            for reader, _ in opened:
                assert await reader.read() == b""
        for _, writer in opened:
            writer.close()
        assert data(await tcp(WEB, port)) == ["10.96.0.20"]


async def test_what_is_asked_during_a_start_is_answered_after_it() -> None:
    target = responder()
    server = DnsServer(target, Clients.of(()))
    port = free_port()
    server.bind([HOST], port)
    try:
        early = [asyncio.create_task(ask(WEB, port)) for ask in (udp, tcp)]
        await asyncio.sleep(0)
        await server.serve()
        for answer in await asyncio.gather(*early):
            assert data(answer) == ["10.96.0.20"]
    finally:
        await server.stop()


async def test_a_loop_is_found() -> None:
    target = responder()
    async with serving(target) as port:
        corefile = FORWARD.replace("    cache 30\n", "    cache 30\n    loop\n") % f"{HOST}:{port}"
        looping = responder(corefile=corefile)
        target.paths, target._corefile = looping.paths, looping._corefile
        probe = target.paths[0].probe
        assert probe is not None
        async with asyncio.timeout(60):
            await probe.run()
        assert probe.forwarder.looping
        assert (await udp("www.example.test", port)).rcode() == dns.rcode.SERVFAIL
