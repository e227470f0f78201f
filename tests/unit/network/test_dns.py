"""Cluster DNS against the schema of the specification, in messages and over real sockets."""

import asyncio
import random

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from navarch.api.types.core_v1 import Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.network.dns.forward import Forwarder
from navarch.network.dns.main import upstreams_of
from navarch.network.dns.responder import NotForUs, Responder
from navarch.network.dns.server import DnsServer
from navarch.network.dns.zone import Zone

BASE = "svc.cluster.local"


def service(name: str, **spec: object) -> Service:
    ports = [ServicePort(name="http", port=80, protocol="TCP")]
    return Service(
        metadata=ObjectMeta(name=name, namespace="shop"),
        spec=ServiceSpec(**{"ports": ports, **spec}),  # type: ignore[arg-type]
    )


def slice_of(name: str, *endpoints: tuple[str, str, bool]) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name=f"{name}-x", namespace="shop", labels={"kubernetes.io/service-name": name}
        ),
        addressType="IPv4",
        ports=[EndpointPort(name="http", port=8080, protocol="TCP")],
        endpoints=[
            Endpoint(
                addresses=[address],
                hostname=hostname or None,
                conditions=EndpointConditions(ready=ready),
            )
            for address, hostname, ready in endpoints
        ],
    )


@pytest.fixture
def zone() -> Zone:
    zone = Zone()
    zone.put_service(service("web", clusterIP="10.96.0.20", clusterIPs=["10.96.0.20"]))
    zone.put_service(service("db", clusterIP="None", clusterIPs=["None"]))
    zone.put_slice(
        slice_of(
            "db",
            ("10.244.0.5", "db-0", True),
            ("10.244.0.6", "", True),
            ("10.244.0.7", "db-2", False),
        )
    )
    zone.put_service(
        service("early", clusterIP="None", clusterIPs=["None"], publishNotReadyAddresses=True)
    )
    zone.put_slice(slice_of("early", ("10.244.0.8", "", False)))
    zone.put_service(service("idle", clusterIP="None", clusterIPs=["None"]))
    zone.put_service(service("out", type="ExternalName", externalName="foo.example.com", ports=[]))
    zone.put_service(
        service("alias", type="ExternalName", externalName=f"web.shop.{BASE}", ports=[])
    )
    return zone


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        pytest.param(f"web.shop.{BASE}", "A", ["10.96.0.20"], id="cluster IP"),
        pytest.param(f"WEB.Shop.{BASE}", "A", ["10.96.0.20"], id="any case"),
        pytest.param(f"web.shop.{BASE}", "AAAA", [], id="no IPv6 is no data"),
        pytest.param(
            f"_http._tcp.web.shop.{BASE}", "SRV", [f"0 100 80 web.shop.{BASE}."], id="named port"
        ),
        pytest.param(f"web.shop.{BASE}", "SRV", [f"0 100 80 web.shop.{BASE}."], id="all ports"),
        pytest.param(f"db.shop.{BASE}", "A", ["10.244.0.5", "10.244.0.6"], id="headless"),
        pytest.param(f"db-0.db.shop.{BASE}", "A", ["10.244.0.5"], id="hostname"),
        pytest.param(f"10-244-0-6.db.shop.{BASE}", "A", ["10.244.0.6"], id="dashed address"),
        pytest.param(
            f"_http._tcp.db.shop.{BASE}",
            "SRV",
            [f"0 100 8080 10-244-0-6.db.shop.{BASE}.", f"0 100 8080 db-0.db.shop.{BASE}."],
            id="headless port",
        ),
        pytest.param(f"early.shop.{BASE}", "A", ["10.244.0.8"], id="published though not ready"),
        pytest.param(f"out.shop.{BASE}", "CNAME", ["foo.example.com."], id="external name"),
        pytest.param(
            f"alias.shop.{BASE}", "A", [f"web.shop.{BASE}.", "10.96.0.20"], id="alias inside"
        ),
        pytest.param("10-1-2-3.shop.pod.cluster.local", "A", ["10.1.2.3"], id="pod"),
        pytest.param("20.0.96.10.in-addr.arpa", "PTR", [f"web.shop.{BASE}."], id="reverse"),
        pytest.param("5.0.244.10.in-addr.arpa", "PTR", [f"db-0.db.shop.{BASE}."], id="reverse pod"),
        pytest.param("dns-version.cluster.local", "TXT", ['"1.1.0"'], id="version"),
        pytest.param(f"shop.{BASE}", "A", [], id="a namespace is no data"),
    ],
)
def test_answers(zone: Zone, name: str, type_: str, expected: list[str]) -> None:
    query = DNSRecord.question(name, type_)
    answer = DNSRecord.parse(Responder(zone).respond(bytes(query.pack()), udp=True))
    assert answer.header.id == query.header.id
    assert answer.header.rcode == RCODE.NOERROR
    assert answer.header.aa == 1
    found = [str(record.rdata) for record in answer.rr]
    assert sorted(found) == sorted(expected)
    if not expected:
        assert answer.auth[0].rtype == QTYPE.SOA


@pytest.mark.parametrize(
    "name",
    [
        f"nothing.shop.{BASE}",
        f"nothing.nowhere.{BASE}",
        f"nowhere.{BASE}",
        f"db-2.db.shop.{BASE}",
        f"idle.shop.{BASE}",
        f"_ftp._tcp.web.shop.{BASE}",
        "what.cluster.local",
        "1-2-3.shop.pod.cluster.local",
    ],
)
def test_names_that_do_not_exist(zone: Zone, name: str) -> None:
    query = DNSRecord.question(name)
    answer = DNSRecord.parse(Responder(zone).respond(bytes(query.pack()), udp=True))
    assert answer.header.rcode == RCODE.NXDOMAIN
    assert answer.auth[0].rtype == QTYPE.SOA


@pytest.mark.parametrize("name", ["example.com", "1.1.1.1.in-addr.arpa", "cluster.local.example"])
def test_foreign_names_are_passed_on(zone: Zone, name: str) -> None:
    with pytest.raises(NotForUs):
        Responder(zone).respond(bytes(DNSRecord.question(name).pack()), udp=True)


def test_kept_answers_follow_the_zone(zone: Zone) -> None:
    responder = Responder(zone)
    question = bytes(DNSRecord.question(f"web.shop.{BASE}").pack())
    assert responder.respond(question, udp=True) == responder.respond(question, udp=True)
    zone.put_service(service("web", clusterIP="10.96.0.21", clusterIPs=["10.96.0.21"]))
    responder.zone_changed()
    answer = DNSRecord.parse(responder.respond(b"\1\2" + question[2:], udp=True))
    assert (answer.header.id, str(answer.rr[0].rdata)) == (0x0102, "10.96.0.21")
    zone.remove_service("shop", "web")
    responder.zone_changed()
    gone = DNSRecord.parse(responder.respond(question, udp=True))
    assert gone.header.rcode == RCODE.NXDOMAIN
    assert zone.lookup("21.0.96.10.in-addr.arpa", "PTR").records == ()


def test_long_answers_are_cut_for_udp_only(zone: Zone) -> None:
    zone.put_slice(slice_of("db", *((f"10.244.1.{i}", "", True) for i in range(1, 200))))
    question = bytes(DNSRecord.question(f"db.shop.{BASE}").pack())
    cut = DNSRecord.parse(Responder(zone).respond(question, udp=True))
    assert (cut.header.tc, cut.rr) == (1, [])
    whole = DNSRecord.parse(Responder(zone).respond(question, udp=False))
    assert (whole.header.tc, len(whole.rr)) == (0, 199)


@pytest.mark.parametrize("packet", [b"", b"x", b"\0" * 12, b"\xff" * 40])
def test_garbage_is_no_query(zone: Zone, packet: bytes) -> None:
    with pytest.raises(ValueError):
        Responder(zone).respond(packet, udp=True)


def test_upstreams_leave_out_ourselves() -> None:
    text = "search a\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver 192.168.49.2\n"
    assert upstreams_of(text, ("192.168.49.2",)) == [("10.0.0.2", 53)]


async def listening(server: DnsServer) -> int:
    """Start a server on a port that is free for UDP and TCP, below those the kernel gives out."""
    for port in random.sample(range(20_000, 30_000), 50):
        try:
            await server.start(["127.0.0.1"], port)
        except OSError:
            await server.stop()
            continue
        return port
    raise RuntimeError("no free port")


async def test_sockets_and_forwarding(zone: Zone) -> None:
    outside = Zone("example.com")
    outside.put_service(service("x", clusterIP="192.0.2.1", clusterIPs=["192.0.2.1"]))
    far = DnsServer(Responder(outside), Forwarder([]))
    far_port = await listening(far)
    near = DnsServer(Responder(zone), Forwarder([("127.0.0.1", far_port)]))
    near_port = await listening(near)
    try:
        for name, tcp, expected in [
            (f"web.shop.{BASE}", False, "10.96.0.20"),
            (f"web.shop.{BASE}", True, "10.96.0.20"),
            ("x.shop.svc.example.com", False, "192.0.2.1"),
            ("x.shop.svc.example.com", True, "192.0.2.1"),
        ]:
            query = DNSRecord.question(name)
            packet = await asyncio.to_thread(query.send, "127.0.0.1", near_port, tcp=tcp, timeout=5)
            assert str(DNSRecord.parse(packet).rr[0].rdata) == expected
        refused = await asyncio.to_thread(
            DNSRecord.question("other.org").send, "127.0.0.1", near_port, timeout=5
        )
        assert DNSRecord.parse(refused).header.rcode == RCODE.REFUSED
    finally:
        await near.stop()
        await far.stop()
