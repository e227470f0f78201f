"""Which node answers for an address. Pure.

There is no election by votes: every node knows who could answer and all take the one whose name,
hashed with the address, comes first. So addresses spread over the nodes, and one that goes away
moves its own addresses and no others. Source: MetalLB's layer 2 mode (`speaker/layer2_controller`).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from navarch.api.load_balancers import is_ours
from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.network.announce.packets import Address

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Claim:
    """An address of one or several Services, and where traffic for it may come in."""

    address: Address
    services: frozenset[str] = frozenset()
    is_served: bool = False
    """Some endpoint serves, anywhere."""
    nodes: frozenset[str] | None = None
    """Under the Local policy: those with an endpoint that serves. None: any node will do."""
    draining: frozenset[str] = frozenset()
    """Those of them whose endpoints all terminate (their health check node port fails as well): to
    be left while they still serve, so that nobody notices."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes as the API shows them."""

    names: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    """Not to be used at all."""
    lost: frozenset[str] = frozenset()
    """Not ready: to be used where there is no other."""


@dataclass(frozen=True, slots=True)
class View:
    """All that an election depends on, but for who is heard on the link."""

    claims: Mapping[Address, Claim] = field(default_factory=dict)
    nodes: Nodes = Nodes()


def winner(claim: Claim, nodes: Nodes, heard: Set[str]) -> str | None:
    """The node that answers; None while nobody could serve what comes."""
    if not claim.is_served:
        return None
    able = (nodes.names & heard) - nodes.barred
    if claim.nodes is not None:
        able &= claim.nodes
    able = (able - nodes.lost) or able
    able = (able - claim.draining) or able
    text = f"#{claim.address}"
    return min(able, key=lambda name: hashlib.sha256((name + text).encode()).digest(), default=None)


def nodes_of(nodes: Iterable[Node]) -> Nodes:
    names, barred, lost = set(), set(), set()
    for node in nodes:
        name = node.metadata.name
        names.add(name)
        conditions = {each.type: each.status for each in node.status.conditions}
        if (
            EXCLUDE_LABEL in node.metadata.labels
            or node.metadata.deletionTimestamp
            or conditions.get("NetworkUnavailable") == "True"
        ):
            barred.add(name)
        if conditions.get("Ready") != "True":
            lost.add(name)
    return Nodes(frozenset(names), frozenset(barred), frozenset(lost))


def claims_of(
    services: Iterable[Service], slices: Mapping[str, Iterable[EndpointSlice]]
) -> dict[Address, Claim]:
    """The addresses that this cluster gave; `slices` are by the Services' keys. Of Services that
    share an address any that is served is enough, but one with the Local policy binds it."""
    found: dict[Address, Claim] = {}
    for service in services:
        meta = service.metadata
        key = f"{meta.namespace}/{meta.name}"
        if not is_ours(service) or PROXY_NAME_LABEL in meta.labels:
            continue
        serving = [
            endpoint
            for each in slices.get(key, ())
            for endpoint in each.endpoints
            if endpoint.conditions.serving is not False
        ]
        local = service.spec.externalTrafficPolicy == "Local"
        for address in _addresses(service):
            before = found.get(address, Claim(address))
            nodes, draining = before.nodes, before.draining
            if local and serving:
                here = frozenset(each.nodeName for each in serving if each.nodeName)
                nodes = here if nodes is None else nodes & here
                ready = {each.nodeName for each in serving if each.conditions.ready is not False}
                draining |= here - ready
            found[address] = Claim(
                address, before.services | {key}, before.is_served or bool(serving), nodes, draining
            )
    return found


def _addresses(service: Service) -> Iterable[Address]:
    for ingress in service.status.loadBalancer.ingress:
        if ingress.ip and (ingress.ipMode or "VIP") == "VIP":
            try:
                yield ipaddress.ip_address(ingress.ip)
            except ValueError:
                continue
