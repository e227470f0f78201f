"""A small cluster for the tests of its name server, and questions to it in dnspython's terms."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rdatatype

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.networking_v1 import Ingress
from navarch.client.clock import Clock, RealClock
from navarch.network.dns.corefile import Block, parse_corefile
from navarch.network.dns.default import DEFAULT_COREFILE
from navarch.network.dns.forward import Forwarder
from navarch.network.dns.names import IngressHosts
from navarch.network.dns.responder import Responder, Via, Waiting
from navarch.network.dns.zone import Zone

BASE = "svc.cluster.local"
HTTP = {"name": "http", "port": 80, "protocol": "TCP"}
UDP = Via()


def service(name: str, *addresses: str, namespace: str = "shop", **spec: Any) -> Service:
    if addresses:
        spec |= {"clusterIP": addresses[0], "clusterIPs": list(addresses)}
    return from_object(
        Service,
        {"metadata": {"name": name, "namespace": namespace}, "spec": {"ports": [HTTP], **spec}},
    )


def slice_of(
    name: str, *endpoints: tuple[str, str, bool], ports: list[dict[str, Any]] | None = None
) -> EndpointSlice:
    """Endpoints as address, hostname and readiness."""
    return from_object(
        EndpointSlice,
        {
            "metadata": {
                "name": f"{name}-x",
                "namespace": "shop",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{**HTTP, "port": 8080}] if ports is None else ports,
            "endpoints": [
                {
                    "addresses": [address],
                    **({"hostname": hostname} if hostname else {}),
                    "conditions": {"ready": ready},
                }
                for address, hostname, ready in endpoints
            ],
        },
    )


def ingress(name: str, *hosts: str, addresses: tuple[str, ...] = ("192.0.2.7",)) -> Ingress:
    return from_object(
        Ingress,
        {
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"rules": [{"host": host} for host in hosts]},
            "status": {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}},
        },
    )


def shop() -> Zone:
    zone = Zone()
    zone.set_namespace("shop", exists=True)
    zone.namespaces_synced = True
    zone.put_service(service("web", "10.96.0.20"))
    zone.put_service(service("both", "10.96.0.21", "fd00:96::21"))
    zone.put_service(service("kube-dns", "10.96.0.10", namespace="kube-system"))
    zone.put_service(service("db", "None"))
    zone.put_slice(
        slice_of(
            "db",
            ("10.244.0.5", "db-0", True),
            ("10.244.0.6", "", True),
            ("10.244.0.7", "db-2", False),
        )
    )
    zone.put_service(service("early", "None", publishNotReadyAddresses=True))
    zone.put_slice(slice_of("early", ("10.244.0.8", "", False)))
    zone.put_service(service("idle", "None"))
    zone.put_service(service("out", type="ExternalName", externalName="foo.example.com", ports=[]))
    zone.put_service(service("alias", type="ExternalName", externalName=f"web.shop.{BASE}"))
    zone.put_service(service("circle", type="ExternalName", externalName=f"circle.shop.{BASE}"))
    return zone


def responder(
    zone: Zone | None = None,
    corefile: str = DEFAULT_COREFILE,
    *,
    clock: Clock | None = None,
    upstreams: tuple[tuple[str, int], ...] = (),
) -> Responder:
    clock = clock or RealClock()
    result = Responder(zone or shop(), IngressHosts(), clock)

    def make(block: Block) -> Forwarder | None:
        rules = block.forward
        return Forwarder(rules, rules.upstreams or upstreams, clock) if rules else None

    result.configure(parse_corefile(corefile), make)
    return result


def query(name: str, type_: str = "A", **options: Any) -> dns.message.QueryMessage:
    return dns.message.make_query(name, type_, **options)


def ask(target: Responder, name: str, type_: str = "A", via: Via = UDP, **options: Any) -> Any:
    """The answer as a message, or Waiting. It repeats id and question, or this fails."""
    asked = query(name, type_, **options)
    answer = target.begin(asked.to_wire(), via)
    assert answer is not None
    if isinstance(answer, Waiting):
        return answer
    message = dns.message.from_wire(answer)
    assert asked.is_response(message)
    return message


def data(message: dns.message.Message) -> list[str]:
    """The answers' data as text."""
    return [str(item) for answer in message.answer for item in answer]
