"""Which zone's clients an endpoint serves, in Services with `service.kubernetes.io/topology-mode:
Auto`.

Traffic is to stay in its zone as far as no endpoint gets more than a fifth above its share for it.
How much traffic comes from a zone nobody knows; it is taken to be in proportion to the processors
of its nodes. So each zone has a claim to so many endpoints: first each serves its own zone, then
zones with too many give some to those with too few. Where that does not work out (too few
endpoints, zones that are not known), there are no hints at all, and everybody serves everybody.

Pure. Endpoints keep the zone that they serve as long as that is possible, so that slices do not
change with each pod. Source: KEP-2433; upstream's `staging/src/k8s.io/endpointslice/topologycache`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import Endpoint, EndpointHints, EndpointSlice, ForZone
from navarch.controllers.pods import find_condition

MODE = "service.kubernetes.io/topology-mode"
OLD_MODE = "service.kubernetes.io/topology-aware-hints"
ZONE_LABEL = "topology.kubernetes.io/zone"
OVERLOAD = 0.2
LEFT_OUT = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")


class NoHints(Exception):
    """Why there can be none."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many endpoints are to serve a zone."""

    least: int
    most: int
    wanted: float


def is_topology_aware(service: Service) -> bool:
    annotations = service.metadata.annotations
    return annotations.get(OLD_MODE, annotations.get(MODE)) in ("Auto", "auto")


def node_facts(node: Node) -> tuple[object, ...]:
    """What of a node counts: its zone and processors, and whether it takes part."""
    ready = find_condition(node.status.conditions, "Ready")
    labels = node.metadata.labels
    takes_part = not any(label in labels for label in LEFT_OUT)
    cpu = node.status.allocatable.get("cpu", "0")
    return takes_part and ready is not None and ready.status == "True", labels.get(ZONE_LABEL), cpu


def ratios(nodes: Iterable[Node]) -> dict[str, float]:
    """Each zone's share of the processors; nothing if one is not known, or there is one zone."""
    totals: dict[str, int] = {}
    for takes_part, zone, cpu in map(node_facts, nodes):
        if not takes_part:
            continue
        amount = parse_quantity(str(cpu)).milli_value()
        if not zone or not amount:
            return {}
        totals[str(zone)] = totals.get(str(zone), 0) + amount
    total = sum(totals.values())
    return {zone: each / total for zone, each in totals.items()} if len(totals) > 1 else {}


def shares(zones: Mapping[str, float], endpoints: int) -> dict[str, Share]:
    """Raises NoHints."""
    if not zones:
        raise NoHints(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more "
            "nodes"
        )
    counts = f"({endpoints} endpoints, {len(zones)} zones)"
    if len(zones) > endpoints:
        raise NoHints(f"Insufficient number of endpoints {counts}")
    wanted = {zone: ratio * endpoints for zone, ratio in zones.items()}
    least = {zone: math.ceil(each * (1 / (1 + OVERLOAD))) for zone, each in wanted.items()}
    spare = endpoints - sum(least.values())
    if spare < 0:
        raise NoHints(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload "
            f"threshold {counts}"
        )
    return {
        zone: Share(least[zone], least[zone] + spare, max(each, least[zone]))
        for zone, each in wanted.items()
    }


def serve_zones(
    endpoints: Mapping[str, Endpoint], slices: Iterable[EndpointSlice], zones: Mapping[str, float]
) -> str:
    """Give the endpoints of one address family their hints; `slices` are what there was. Why there
    are none, or nothing."""
    before = {
        endpoint.addresses[0]: endpoint.hints.forZones[0].name
        for slice_ in slices
        for endpoint in slice_.endpoints
        if endpoint.hints is not None and endpoint.hints.forZones
    }
    try:
        served = assign([*endpoints.values()], before, zones)
    except NoHints as error:
        return str(error)
    for address, zone in served.items():
        endpoints[address].hints = EndpointHints(forZones=[ForZone(name=zone)])
    return ""


def assign(
    endpoints: Sequence[Endpoint], before: Mapping[str, str], zones: Mapping[str, float]
) -> dict[str, str]:
    """The zone that each endpoint serves, by address; `before` is what it was. Raises NoHints."""
    ready = [each for each in endpoints if each.conditions.ready]
    wanted = shares(zones, len(ready))
    if not all(each.zone for each in ready):
        raise NoHints("One or more endpoints do not have a zone specified")
    own = {each.addresses[0]: each.zone or "" for each in ready}
    kept = {each: before[each] for each in own if before.get(each) in wanted}
    if any(count > wanted[zone].most for zone, count in Counter(kept.values()).items()):
        kept = {}
    served = {each: kept.get(each, zone) for each, zone in own.items()}
    counts = Counter(served.values())
    moves = _moves({zone: share.wanted - counts[zone] for zone, share in wanted.items()})
    for address, zone in served.items():
        if address not in kept and moves.get(zone):
            served[address] = moves[zone].pop()
    return served


def _moves(missing: dict[str, float]) -> dict[str, list[str]]:
    """To which zones each zone with too many gives endpoints; halves are not worth a move."""
    result: dict[str, list[str]] = {}
    while missing:
        giver, taker = min(missing, key=missing.__getitem__), max(missing, key=missing.__getitem__)
        surplus, need = -missing[giver], missing[taker]
        if min(surplus, need) < 0.5 or max(surplus, need) < 1.0:
            break
        result.setdefault(giver, []).append(taker)
        missing[giver] += 1
        missing[taker] -= 1
    return result
