"""The statuses of classes, Gateways and routes. Every condition says which generation of its object
it is about, and keeps the time of its last change as long as it says the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from navarch.api.objects import Object
from navarch.network.gateway import CONTROLLER, GROUP
from navarch.network.gateway.listeners import Condition, GatewayState
from navarch.network.gateway.objects import GatewayClass, HTTPRoute, Reference
from navarch.network.gateway.translate import RouteState

_FEATURES = """
    Gateway GatewayAddressEmpty GatewayHTTPListenerIsolation
    GatewayHTTPSListenerDetectMisdirectedRequests GatewayInfrastructurePropagation
    GatewayPort8080 GatewayStaticAddresses HTTPRoute HTTPRoute303RedirectStatusCode
    HTTPRoute307RedirectStatusCode HTTPRoute308RedirectStatusCode
    HTTPRouteBackendProtocolWebSocket HTTPRouteBackendRequestHeaderModification
    HTTPRouteBackendTimeout HTTPRouteCORS HTTPRouteDestinationPortMatching HTTPRouteHostRewrite
    HTTPRouteMethodMatching
    HTTPRouteNamedRouteRule HTTPRouteParentRefPort HTTPRoutePathRedirect HTTPRoutePathRewrite
    HTTPRoutePortRedirect HTTPRouteQueryParamMatching HTTPRouteRequestMirror
    HTTPRouteRequestMultipleMirrors HTTPRouteRequestPercentageMirror HTTPRouteRequestTimeout
    HTTPRouteResponseHeaderModification HTTPRouteSchemeRedirect ReferenceGrant
"""
FEATURES = tuple(_FEATURES.split())
"""Not HTTPRouteBackendProtocolH2C: backends are spoken to in HTTP/2, but its test asks a listener
without TLS in HTTP/2 as well, which nginx before 1.25 takes only where it takes nothing else."""


def conditions(
    wanted: Iterable[Condition], generation: int, old: Sequence[Mapping[str, Any]], now: str
) -> list[Object]:
    known = {each.get("type"): each for each in old}
    found = []
    for each in wanted:
        status = "True" if each.status else "False"
        before = known.get(each.type, {})
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        found.append(
            {
                "type": each.type,
                "status": status,
                "reason": each.reason,
                "message": each.message[:32768],
                "observedGeneration": generation,
                "lastTransitionTime": since or now,
            }
        )
    return found


def class_status(each: GatewayClass, now: str) -> Object:
    old = each.status.get("conditions") or []
    if each.spec.parametersRef is not None:
        text = "parametersRef: there are no parameters"
        accepted = Condition("Accepted", False, "InvalidParameters", text)
    else:
        accepted = Condition("Accepted", True, "Accepted")
    supported = Condition("SupportedVersion", True, "SupportedVersion")
    return {
        "conditions": conditions((accepted, supported), each.metadata.generation, old, now),
        "supportedFeatures": [{"name": name} for name in sorted(FEATURES)],
    }


def programmed(state: GatewayState, addresses: Sequence[str], problem: str) -> Condition:
    """Whether a Gateway can be reached. `problem` is nginx's."""
    if state.refused is not None or not state.served:
        why = state.refused.message if state.refused else "no listener can be served"
        return Condition("Programmed", False, "Invalid", why)
    if problem:
        return Condition("Programmed", False, "NoResources", problem)
    wanted = {each.value for each in state.gateway.spec.addresses if each.value}
    if missing := sorted(wanted.difference(addresses)):
        text = f"not given: {', '.join(missing)}"
        return Condition("Programmed", False, "AddressNotUsable", text)
    if not addresses:
        text = "the Service of the Gateway has no address of a load balancer yet"
        return Condition("Programmed", False, "AddressNotAssigned", text)
    return Condition("Programmed", True, "Programmed")


def gateway_status(state: GatewayState, addresses: Sequence[str], problem: str, now: str) -> Object:
    gateway = state.gateway
    generation, old = gateway.metadata.generation, gateway.status
    before = {each.get("name"): each for each in old.get("listeners") or ()}
    own = (state.accepted(), programmed(state, addresses, problem))
    return {
        "addresses": [{"type": "IPAddress", "value": each} for each in addresses],
        "conditions": conditions(own, generation, old.get("conditions") or (), now),
        "listeners": [
            {
                "name": each.listener.name,
                "supportedKinds": [{"group": GROUP, "kind": kind} for kind in each.kinds],
                "attachedRoutes": each.attached,
                "conditions": conditions(
                    each.conditions(),
                    generation,
                    before.get(each.listener.name, {}).get("conditions") or (),
                    now,
                ),
            }
            for each in state.listeners
        ],
    }


def route_status(route: HTTPRoute, state: RouteState | None, now: str) -> Object:
    """What we say of a route, next to what other controllers say of it; no state: nothing."""
    old: list[Object] = route.status.get("parents") or []
    own = [each for each in old if each.get("controllerName") == CONTROLLER]
    found = [each for each in old if each.get("controllerName") != CONTROLLER]
    for attached in state.attached if state is not None else ():
        parent = parent_of(attached.parent)
        before = next((each for each in own if each.get("parentRef") == parent), {})
        found.append(
            {
                "parentRef": parent,
                "controllerName": CONTROLLER,
                "conditions": conditions(
                    state.conditions(attached) if state is not None else (),
                    route.metadata.generation,
                    before.get("conditions") or (),
                    now,
                ),
            }
        )
    return {"parents": found}


def parent_of(reference: Reference) -> Object:
    """A parentRef as its user wrote it."""
    found = {
        "group": reference.group,
        "kind": reference.kind,
        "namespace": reference.namespace,
        "name": reference.name,
        "sectionName": reference.sectionName,
        "port": reference.port,
    }
    return {key: value for key, value in found.items() if value}
