"""Which routes belong to which listeners. A route names its Gateways (parentRefs); a listener says
from which namespaces it takes routes; and their hostnames must have something in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from navarch.api.selectors import label_selector_from_object
from navarch.network.gateway import GROUP
from navarch.network.gateway.around import Around, Problem
from navarch.network.gateway.listeners import ROUTE_KIND, GatewayState, ListenerState, common
from navarch.network.gateway.objects import HTTPRoute, Listener, Reference


@dataclass(frozen=True, slots=True)
class Attachment:
    """A route at a listener, and the hostnames it has there."""

    state: ListenerState
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """A route at a parent: at no listener if there is a problem."""

    parent: Reference
    gateway: GatewayState
    places: tuple[Attachment, ...] = ()
    problem: Problem | None = None


def attach(
    route: HTTPRoute, gateways: Mapping[str, GatewayState], around: Around
) -> list[Attached]:
    """A route at those of its parents that are Gateways of ours."""
    found = []
    for parent in route.spec.parentRefs:
        if (parent.group, parent.kind) != (GROUP, "Gateway"):
            continue
        key = f"{parent.namespace or route.metadata.namespace}/{parent.name}"
        if (gateway := gateways.get(key)) is not None:
            found.append(_attach_to(route, parent, gateway, around))
    return found


def _attach_to(
    route: HTTPRoute, parent: Reference, gateway: GatewayState, around: Around
) -> Attached:
    named = [
        state
        for state in gateway.listeners
        if parent.sectionName in ("", state.listener.name)
        and parent.port in (0, state.listener.port)
    ]
    if not named:
        text = f"Gateway {gateway.key} has no listener of that name and port"
        return Attached(parent, gateway, problem=Problem("NoMatchingParent", text))
    allowing = [state for state in named if allows(state, gateway, route, around)]
    if not allowing:
        text = f"Gateway {gateway.key} takes no HTTPRoutes from {route.metadata.namespace}"
        return Attached(parent, gateway, problem=Problem("NotAllowedByListeners", text))
    places = tuple(
        Attachment(state, names)
        for state in allowing
        if (names := hostnames(state.listener, route.spec.hostnames))
    )
    if not places:
        text = "no hostname of the route is one of a listener"
        return Attached(parent, gateway, problem=Problem("NoMatchingListenerHostname", text))
    return Attached(parent, gateway, places)


def allows(state: ListenerState, gateway: GatewayState, route: HTTPRoute, around: Around) -> bool:
    if ROUTE_KIND not in state.kinds:
        return False
    namespaces = state.listener.allowedRoutes.namespaces
    own = route.metadata.namespace
    if namespaces.from_ == "All":
        return True
    if namespaces.from_ == "Selector" and namespaces.selector is not None:
        labels = around.labels(own)
        try:
            selector = label_selector_from_object(namespaces.selector)
        except ValueError:
            return False
        return labels is not None and selector.matches(labels)
    return namespaces.from_ == "Same" and own == gateway.gateway.metadata.namespace


def hostnames(listener: Listener, names: Sequence[str]) -> tuple[str, ...]:
    """The hostnames of a route at a listener: the common part of both. A route without any has the
    listener's."""
    if not names:
        return (listener.hostname,)
    found = (common(listener.hostname, name) for name in names)
    return tuple(dict.fromkeys(name for name in found if name is not None))
