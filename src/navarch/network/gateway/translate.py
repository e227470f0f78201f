"""Gateways and HTTPRoutes, with what they refer to, as a model of the data plane.

Each port of a Gateway has a table of its own, so that Gateways know nothing of one another. In a
table each hostname leads to one listener, the most specific that it fits, as if listeners were
isolated from one another (GEP-1713): a request gets the routes of that listener only. There the
routes of the most specific hostname come first, then those of wider ones.

nginx listens on a port of the node for each port of a Gateway; the Gateway's Service leads there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from navarch.network.gateway import CONTROLLER
from navarch.network.gateway.around import Around
from navarch.network.gateway.attach import Attached, attach
from navarch.network.gateway.listeners import (
    Condition,
    GatewayState,
    ListenerState,
    condition,
    covers,
    examine,
)
from navarch.network.gateway.objects import Gateway, GatewayClass, HTTPRoute
from navarch.network.gateway.rules import Candidate, Converted, convert
from navarch.network.nginx.model import Certificate, DataPlane, Host, Listener, Route

FIRST_PORT, PORTS = 24000, 4000
"""Below the range of node ports, and below the ports that the kernel gives to clients."""


@dataclass(frozen=True, slots=True)
class View:
    """All that is translated."""

    classes: Sequence[GatewayClass]
    gateways: Sequence[Gateway]
    routes: Sequence[HTTPRoute]
    around: Around
    held: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Where nginx listened so far."""
    is_taken: Callable[[int], object] = frozenset[int]().__contains__
    """Whether something else has a port of the node."""


@dataclass(frozen=True, slots=True)
class RouteState:
    """A route, and what is said of it to each parent."""

    route: HTTPRoute
    attached: tuple[Attached, ...]
    converted: Converted

    def conditions(self, parent: Attached) -> list[Condition]:
        converted, problem = self.converted, parent.problem
        if problem is None and converted.bad_rules and len(converted.bad_rules) >= converted.rules:
            problem = converted.bad_rules[0]
        found = [condition("Accepted", problem), condition("ResolvedRefs", converted.unresolved)]
        if problem is None and converted.bad_rules:
            first = converted.bad_rules[0]
            found.append(Condition("PartiallyInvalid", True, first.reason, first.message))
        return found


@dataclass(frozen=True, slots=True)
class Translation:
    plane: DataPlane
    gateways: Mapping[str, GatewayState]
    routes: tuple[RouteState, ...]
    ports: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Where nginx listens, by a Gateway's key and port; some have no place while all are taken."""

    def unplaced(self, gateway: GatewayState) -> list[int]:
        return [port for port in gateway.ports if (gateway.key, port) not in self.ports]

    def hostnames(self, gateway: GatewayState) -> set[str]:
        """The names that routes have at what is served of a Gateway."""
        served = {id(each) for each in gateway.served}
        return {
            name
            for route in self.routes
            for attached in route.attached
            for place in attached.places
            if id(place.state) in served
            for name in place.hostnames
            if name
        }


def translate(view: View) -> Translation:
    classes = {
        each.metadata.name for each in view.classes if is_ours(each) and not each.spec.parametersRef
    }
    gateways = {
        state.key: state
        for gateway in sorted(view.gateways, key=_age)
        if gateway.spec.gatewayClassName in classes and not gateway.metadata.deletionTimestamp
        for state in (examine(gateway, view.around),)
    }
    routes = []
    for route in sorted(view.routes, key=_age):
        if attached := attach(route, gateways, view.around):
            routes.append(RouteState(route, tuple(attached), convert(route, view.around)))
    _count(routes)
    wanted = [(state.key, port) for state in gateways.values() for port in state.ports]
    ports = allocate(wanted, view.held, view.is_taken)
    tables = {f"{key} {port}": _Table(gateways[key], port, routes) for key, port in ports}
    plane = DataPlane(
        listeners=tuple(
            Listener(
                port=inner,
                public_port=port,
                tls=(is_tls := tables[f"{key} {port}"].is_tls),
                table=f"{key} {port}",
                strict_sni=is_tls,
            )
            for (key, port), inner in ports.items()
        ),
        tables={name: table.hosts() for name, table in tables.items()},
        upstreams=view.around.upstreams,
        certificates=_certificates(gateways.values()),
    )
    return Translation(plane, gateways, tuple(routes), ports)


def is_ours(each: GatewayClass) -> bool:
    return each.spec.controllerName == CONTROLLER


def _age(each: Gateway | HTTPRoute) -> tuple[str, str, str]:
    metadata = each.metadata
    return metadata.creationTimestamp or "", metadata.namespace, metadata.name


def _count(routes: Iterable[RouteState]) -> None:
    """How many routes each listener has, whatever else may be wrong with them."""
    for route in routes:
        states = {id(place.state): place.state for each in route.attached for place in each.places}
        for state in states.values():
            state.attached += 1


def allocate(
    wanted: Sequence[tuple[str, int]],
    held: Mapping[tuple[str, int], int],
    is_taken: Callable[[int], object],
) -> dict[tuple[str, int], int]:
    """Ports of the node for ports of Gateways. They follow from names, so they are the same after
    a restart; where two fall together, the younger Gateway's moves on, and where something else
    has one, until it has found another. What has a place keeps it."""
    kept = {each: held[each] for each in wanted if each in held and not is_taken(held[each])}
    used = {*kept.values()}
    found: dict[tuple[str, int], int] = {}
    for each in wanted:
        start = int.from_bytes(hashlib.sha256("{} {}".format(*each).encode()).digest()[:4])
        places = (FIRST_PORT + (start + step) % PORTS for step in range(PORTS))
        free = (place for place in places if place not in used and not is_taken(place))
        if (place := kept.get(each) or next(free, None)) is not None:
            used.add(place)
            found[each] = place
    return found


def _certificates(gateways: Iterable[GatewayState]) -> dict[str, Certificate]:
    return {
        pair.name: pair.certificate
        for gateway in gateways
        for state in gateway.served
        for pair in state.pairs
    }


_ByHostname = dict[str, dict[int, Sequence[Candidate]]]
"""The routes of a listener: by hostname, once each."""


class _Table:
    """The hosts of one port of a Gateway."""

    def __init__(self, gateway: GatewayState, port: int, routes: Iterable[RouteState]) -> None:
        self.listeners = [each for each in gateway.served if each.listener.port == port]
        self.is_tls = any(each.is_tls for each in self.listeners)
        self._routes: dict[int, _ByHostname] = {id(each): {} for each in self.listeners}
        for route in routes:
            for each in route.attached:
                for place in each.places:
                    found = self._routes.get(id(place.state))
                    for name in place.hostnames if found is not None else ():
                        if found is not None:
                            found.setdefault(name, {})[id(route)] = route.converted.candidates

    def hosts(self) -> tuple[Host, ...]:
        found = {
            name: self._host(state, name)
            for state in self.listeners
            for name in self._names(state)
            if self._owner(name) is state
        }
        return tuple(found[name] for name in sorted(found))

    def _names(self, state: ListenerState) -> set[str]:
        names = {state.listener.hostname, *self._routes[id(state)]}
        if len(state.pairs) > 1:
            # Clients that ask for another of its names shall get the certificate that has it.
            of_pairs = {name for pair in state.pairs for name in pair.hosts}
            names |= {name for name in of_pairs if covers(state.listener.hostname, name)}
        return names

    def _owner(self, name: str) -> ListenerState | None:
        fitting = [each for each in self.listeners if covers(each.listener.hostname, name)]
        return max(fitting, key=lambda each: specificity(each.listener.hostname), default=None)

    def _host(self, state: ListenerState, name: str) -> Host:
        found = self._routes[id(state)]
        routes: dict[int, Route] = {}
        for wide in widening(name):
            candidates = [each for some in found.get(wide, {}).values() for each in some]
            for each in sorted(candidates, key=lambda each: each.order):
                routes.setdefault(id(each), each.route)
        return Host(
            name=name,
            deep=True,
            group=state.listener.name,
            certificate=_certificate_for(state, name),
            routes=tuple(routes.values()),
        )


def specificity(hostname: str) -> tuple[bool, int]:
    """An exact hostname before a wildcard, a longer one before a shorter."""
    return bool(hostname) and not hostname.startswith("*."), len(hostname)


def widening(name: str) -> Iterator[str]:
    """A hostname and all that cover it, the most specific first."""
    yield name
    rest = name.removeprefix("*.")
    while dot := rest.find(".") + 1:
        rest = rest[dot:]
        yield f"*.{rest}"
    if name:
        yield ""


def _certificate_for(state: ListenerState, name: str) -> str:
    if not state.pairs:
        return ""
    return next((pair.name for pair in state.pairs if pair.covers(name)), state.pairs[0].name)
