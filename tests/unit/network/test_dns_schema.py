"""Cluster DNS against the schema of the specification 1.1.0."""

from __future__ import annotations

from collections.abc import Callable

import dns.flags
import dns.rcode
import dns.rdatatype
import pytest
from tests.unit.network.dns_builders import (
    BASE,
    ask,
    data,
    ingress,
    query,
    responder,
    service,
    shop,
    slice_of,
)

from navarch.api.types.networking_v1 import IngressLoadBalancerIngress
from navarch.network.dns.default import DEFAULT_COREFILE
from navarch.network.dns.names import Host, hosts_of
from navarch.network.dns.responder import Via, Waiting
from navarch.network.dns.zone import PodNames, Zone

NOERROR, NXDOMAIN, SERVFAIL = dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        pytest.param(f"web.shop.{BASE}", "A", ["10.96.0.20"], id="cluster IP"),
        pytest.param(f"WEB.Shop.{BASE}", "A", ["10.96.0.20"], id="any case"),
        pytest.param(f"web.shop.{BASE}", "AAAA", [], id="no IPv6 is no data"),
        pytest.param(f"both.shop.{BASE}", "A", ["10.96.0.21"], id="dual stack A"),
        pytest.param(f"both.shop.{BASE}", "AAAA", ["fd00:96::21"], id="dual stack AAAA"),
        pytest.param(
            f"_http._tcp.web.shop.{BASE}", "SRV", [f"0 100 80 web.shop.{BASE}."], id="named port"
        ),
        pytest.param(f"web.shop.{BASE}", "SRV", [f"0 100 80 web.shop.{BASE}."], id="all ports"),
        pytest.param(f"_tcp.web.shop.{BASE}", "A", [], id="a protocol is no data"),
        pytest.param(f"_http._tcp.web.shop.{BASE}", "A", [], id="a port has no address"),
        pytest.param(f"db.shop.{BASE}", "A", ["10.244.0.5", "10.244.0.6"], id="headless"),
        pytest.param(f"db-0.db.shop.{BASE}", "A", ["10.244.0.5"], id="hostname"),
        pytest.param(f"10-244-0-6.db.shop.{BASE}", "A", ["10.244.0.6"], id="dashed address"),
        pytest.param(
            f"_http._tcp.db.shop.{BASE}",
            "SRV",
            [f"0 50 8080 10-244-0-6.db.shop.{BASE}.", f"0 50 8080 db-0.db.shop.{BASE}."],
            id="headless port",
        ),
        pytest.param(f"early.shop.{BASE}", "A", ["10.244.0.8"], id="published though not ready"),
        pytest.param(f"out.shop.{BASE}", "CNAME", ["foo.example.com."], id="external name"),
        pytest.param(
            f"alias.shop.{BASE}", "A", [f"web.shop.{BASE}.", "10.96.0.20"], id="alias inside"
        ),
        pytest.param("10-1-2-3.shop.pod.cluster.local", "A", ["10.1.2.3"], id="pod"),
        pytest.param("fd00--5.shop.pod.cluster.local", "AAAA", ["fd00::5"], id="pod by IPv6"),
        pytest.param("10-1-2-3.shop.pod.cluster.local", "AAAA", [], id="pod, the other family"),
        pytest.param("20.0.96.10.in-addr.arpa", "PTR", [f"web.shop.{BASE}."], id="reverse"),
        pytest.param("20.0.96.10.in-addr.arpa", "A", [], id="reverse, another type"),
        pytest.param("5.0.244.10.in-addr.arpa", "PTR", [f"db-0.db.shop.{BASE}."], id="reverse pod"),
        pytest.param(
            "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa",
            "PTR",
            [f"both.shop.{BASE}."],
            id="reverse IPv6",
        ),
        pytest.param("dns-version.cluster.local", "TXT", ['"1.1.0"'], id="version"),
        pytest.param("ns.dns.cluster.local", "A", ["10.96.0.10"], id="ourselves"),
        pytest.param("cluster.local", "NS", ["ns.dns.cluster.local."], id="name server"),
        pytest.param(
            "cluster.local",
            "SOA",
            ["ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"],
            id="start of authority",
        ),
        *(
            pytest.param(name, "A", [], id=f"{name} only leads to others")
            for name in ("cluster.local", BASE, f"shop.{BASE}", "pod.cluster.local",
                         "shop.pod.cluster.local", "dns.cluster.local", "dns-version.cluster.local")
        ),
    ],
)  # fmt: skip
def test_answers(name: str, type_: str, expected: list[str]) -> None:
    answer = ask(responder(), name, type_)
    assert answer.rcode() == NOERROR
    assert answer.flags & dns.flags.AA
    assert sorted(data(answer)) == sorted(expected)
    if not expected:
        assert answer.authority[0].rdtype == dns.rdatatype.SOA


@pytest.mark.parametrize(
    "name",
    [
        f"nothing.shop.{BASE}",
        f"nothing.nowhere.{BASE}",
        f"nowhere.{BASE}",
        "nowhere.pod.cluster.local",
        "10-1-2-3.nowhere.pod.cluster.local",
        f"db-2.db.shop.{BASE}",
        f"idle.shop.{BASE}",
        f"_ftp._tcp.web.shop.{BASE}",
        f"_udp.web.shop.{BASE}",
        f"_http._tcp.out.shop.{BASE}",
        f"x.out.shop.{BASE}",
        f"a.b.c.web.shop.{BASE}",
        f"*.shop.{BASE}",
        "what.cluster.local",
        "1-2-3.shop.pod.cluster.local",
        f"www.example.com.shop.{BASE}",
    ],
)
def test_names_that_do_not_exist(name: str) -> None:
    answer = ask(responder(), name)
    assert (answer.rcode(), answer.answer) == (NXDOMAIN, [])
    assert answer.authority[0].rdtype == dns.rdatatype.SOA
    assert answer.authority[0].ttl == answer.authority[0][0].minimum == 5


def test_ports_bring_their_targets_addresses() -> None:
    answer = ask(responder(), f"_http._tcp.db.shop.{BASE}", "SRV")
    found = {str(each.name): str(each[0]) for each in answer.additional}
    assert found == {
        f"db-0.db.shop.{BASE}.": "10.244.0.5",
        f"10-244-0-6.db.shop.{BASE}.": "10.244.0.6",
    }


def test_a_port_without_a_name_has_no_name_in_dns() -> None:
    zone = shop()
    zone.put_service(service("bare", "10.96.0.30", ports=[{"port": 80, "protocol": "TCP"}]))
    answer = ask(responder(zone), f"_._tcp.bare.shop.{BASE}", "SRV")
    assert answer.rcode() == NXDOMAIN


def test_case_of_the_question_is_kept() -> None:
    name = f"wEb.sHop.{BASE}."
    packet = query(name).to_wire()
    answer = responder().begin(packet, Via())
    assert isinstance(answer, bytes)
    assert packet[12:-4] in answer


@pytest.mark.parametrize("name", ["example.com", "1.1.1.1.in-addr.arpa", "cluster.local.example"])
def test_foreign_names_are_passed_on(name: str) -> None:
    assert isinstance(ask(responder(upstreams=(("192.0.2.1", 53),)), name), Waiting)


def test_an_external_name_waits_for_its_target() -> None:
    waiting = ask(responder(upstreams=(("192.0.2.1", 53),)), f"out.shop.{BASE}")
    assert waiting.name == b"\3foo\7example\3com\0"
    assert ask(responder(), f"circle.shop.{BASE}").rcode() == SERVFAIL


def test_nothing_is_denied_before_everything_is_known() -> None:
    target = responder(Zone(synced=False))
    for name in (f"web.shop.{BASE}", "20.0.96.10.in-addr.arpa"):
        assert ask(target, name).rcode() == SERVFAIL
    target.zone.synced = True
    assert ask(target, f"web.shop.{BASE}").rcode() == NXDOMAIN
    assert ask(target, f"shop.{BASE}").rcode() == SERVFAIL  # namespaces are still being read


def test_names_of_pods_by_their_setting() -> None:
    target = responder()
    target.zone.pod_names = PodNames.VERIFIED
    name = "10-244-0-5.shop.pod.cluster.local"
    assert ask(target, name).rcode() == NXDOMAIN
    target.zone.set_pod("shop", "10.244.0.5", exists=True)
    assert data(ask(target, name)) == ["10.244.0.5"]
    target.zone.set_pod("shop", "10.244.0.5", exists=False)
    assert ask(target, name).rcode() == NXDOMAIN
    target.zone.pod_names = PodNames.DISABLED
    assert ask(target, "10-244-0-6.shop.pod.cluster.local").rcode() == NXDOMAIN


def test_an_external_name_becomes_a_cluster_ip() -> None:
    target = responder()
    name = f"out.shop.{BASE}"
    assert data(ask(target, name, "CNAME")) == ["foo.example.com."]
    target.zone.put_service(service("out", type="ExternalName", externalName="bar.example.com"))
    assert data(ask(target, name, "CNAME")) == ["bar.example.com."]
    target.zone.put_service(service("out", "10.96.0.40"))
    assert data(ask(target, name)) == ["10.96.0.40"]


def test_what_stands_for_a_name_that_cannot_be_one() -> None:
    """The API sees to the length of names, not to that of their labels."""
    target, impossible = responder(), f"{'a' * 64}.example.com"
    name = f"out.shop.{BASE}"
    target.zone.put_service(service("out", type="ExternalName", externalName=impossible))
    answer = ask(target, name)
    assert (answer.rcode() in (NOERROR, NXDOMAIN), answer.answer) == (True, [])
    balanced = ingress("late", "late.shop.test", addresses=())
    balanced.status.loadBalancer.ingress = [IngressLoadBalancerIngress(hostname=impossible)]
    assert hosts_of(balanced) == {}
    balanced.status.loadBalancer.ingress.append(IngressLoadBalancerIngress(hostname="lb.test"))
    assert hosts_of(balanced) == {"late.shop.test": Host(alias="lb.test")}


def test_kept_answers_follow_every_change() -> None:
    """Each step's answers are kept, and the next change must take just those away."""
    target = responder()
    zone = target.zone
    new = f"new.shop.{BASE}"

    def put(*addresses: str) -> Callable[[], None]:
        return lambda: zone.put_service(service("new", *addresses))

    def endpoint(ready: bool) -> Callable[[], None]:
        return lambda: zone.put_slice(slice_of("new", ("10.244.1.1", "a", ready)))

    def nothing() -> None:
        """The answer to another question about the same state."""

    steps: list[tuple[Callable[[], None], str, str, list[str]]] = [
        (nothing, new, "A", []),
        (put("10.96.0.50"), new, "A", ["10.96.0.50"]),
        (nothing, "50.0.96.10.in-addr.arpa", "PTR", [f"{new}."]),
        (put("10.96.0.51"), new, "A", ["10.96.0.51"]),
        (nothing, "51.0.96.10.in-addr.arpa", "PTR", [f"{new}."]),
        (put("None"), new, "A", []),
        (endpoint(True), f"a.{new}", "A", ["10.244.1.1"]),
        (nothing, new, "A", ["10.244.1.1"]),
        (endpoint(False), new, "A", []),
        (nothing, f"a.{new}", "A", []),
        (lambda: zone.remove_service("shop", "new"), new, "A", []),
    ]
    for turn, (change, name, type_, expected) in enumerate(steps):
        change()
        for _ in range(2):
            assert data(ask(target, name, type_, id=7)) == expected, (turn, name)
    ask(target, f"web.shop.{BASE}")
    kept = len(target.quick)
    assert kept == 2
    zone.put_service(service("unrelated", "10.96.0.60"))
    assert len(target.quick) == kept


def test_addresses_come_in_turns() -> None:
    target = responder()
    packet = query(f"db.shop.{BASE}").to_wire()
    target.begin(packet, Via())
    payloads = target.quick[packet[2:]].payloads
    assert len(set(payloads)) == 2
    tcp = Via(tcp=True)
    wanted = {packet[:2] + payload for payload in payloads}
    assert {target.begin(packet, tcp) for _ in range(64)} == wanted
    fixed = responder(corefile=DEFAULT_COREFILE.replace("    loadbalance\n", ""))
    fixed.begin(packet, Via())
    assert len(fixed.quick[packet[2:]].payloads) == 1


def test_pods_are_not_denied_before_all_are_known() -> None:
    target = responder()
    target.zone.pod_names = PodNames.VERIFIED
    target.zone.pods_synced = lambda: False
    assert ask(target, "10-244-0-5.shop.pod.cluster.local").rcode() == SERVFAIL
