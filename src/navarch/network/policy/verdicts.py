"""What the table says of a connection, worked out without the kernel. No I/O.

The kernel asks the rules about a connection once, when it begins. Where rules have changed, those
that exist already are judged here by the same chains and sets; and tests compare this with the
words of the API.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from navarch.network.policy.model import family_of
from navarch.network.policy.rules import (
    ARRIVING,
    EGRESS,
    FAMILIES,
    INGRESS,
    ISOLATED,
    MAPS,
    SELF,
    Rule,
    for_family,
)
from navarch.network.policy.table import Table


class Connection(NamedTuple):
    """The first packet of a connection as the hooks see it: the destination is no Service any
    more. `port` is 0 where the protocol has none."""

    source: str
    target: str
    protocol: str
    port: int


class Verdicts:
    """The judge of connections, by the table as it is now."""

    def __init__(self, table: Table) -> None:
        self._chains = table.chains
        self._elements: Mapping[str, Mapping[str, str]] = table.elements

    @property
    def isolate_any(self) -> bool:
        return any(self._set(ISOLATED, family) for family in FAMILIES)

    def concerns(self, address: str) -> bool:
        """Whether any policy isolates the pod of this address, on this node."""
        return address in self._set(ISOLATED, family_of(address))

    def allows(self, packet: Connection) -> bool:
        family = family_of(packet.source)
        if f"{packet.source} . {packet.target}" in self._set(SELF, family):
            return True
        verdict = self._set(MAPS[EGRESS], family).get(packet.source)
        return self._follow(verdict or f"goto {ARRIVING}", packet) == "accept"

    def _set(self, name: str, family: str) -> Mapping[str, str]:
        return self._elements.get(for_family(name, family), {})

    def _follow(self, verdict: str, packet: Connection) -> str:
        """Where a verdict leads in the end: `accept`, `drop`, or nowhere (empty)."""
        action, _, chain = verdict.rpartition(" ")
        if action not in ("goto", "jump"):
            return chain
        if chain == ARRIVING:
            found = self._set(MAPS[INGRESS], family_of(packet.target)).get(packet.target)
            return self._follow(found, packet) if found else "accept"
        for rule in self._chains[chain]:
            if self._matches(rule, packet):
                result = self._follow(rule.verdict, packet)
                if result or rule.verdict.startswith("goto"):
                    return result
        return ""

    def _matches(self, rule: Rule, packet: Connection) -> bool:
        peer = packet.source if rule.side == "saddr" else packet.target
        if rule.family and rule.family != family_of(packet.source):
            return False
        if rule.peers and peer not in self._elements.get(rule.peers, {}):
            return False
        if rule.blocks:
            number = int(ipaddress.ip_address(peer))
            if not any(each.first <= number <= each.last for each in rule.blocks):
                return False
        if rule.target and rule.target != packet.target:
            return False
        if rule.protocol and rule.protocol != packet.protocol:
            return False
        if rule.ports and not any(first <= packet.port <= last for first, last in rule.ports):
            return False
        place = f"{packet.target} . {packet.protocol} . {packet.port}"
        return not rule.named or place in self._elements.get(rule.named, {})
