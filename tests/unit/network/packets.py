"""What nf_tables' text does with a packet: enough of its language for the Service proxy's table.

Where chance decides, every way is followed, each with its share. Written from the meaning of nft's
statements (nft(8)), not from the code that makes them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from navarch.network.nftables.memory import MemoryTable

LOOPBACK = {"ip": "127.0.0.0/8", "ip6": "::1"}


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection."""

    source: str
    destination: str
    protocol: str
    port: int
    mark: int = 0
    is_dnat: bool = False
    is_masqueraded: bool = False
    share: Fraction = Fraction(1)
    learned: tuple[tuple[str, str], ...] = ()
    """(set, address) that a rule has put into a set."""


@dataclass(frozen=True)
class Ending:
    """Where a packet ends: verdict "accept", "drop" or "reject", and how it looks by then."""

    verdict: str
    packet: Packet


@dataclass
class Walk:
    """A node with one table: its own addresses, and what its sets have learned."""

    table: MemoryTable
    local: frozenset[str]
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def endings(self, packet: Packet) -> list[Ending]:
        """All ends of a packet, through the hooks in order of priority."""
        first = "output" if packet.source in self.local else "prerouting"
        ended: list[Ending] = []
        going = self._hook(first, [packet], ended, lambda priority: priority < 0)
        for one in going:
            if first == "output":
                after = self._hook("output", [one], ended, lambda priority: priority >= 0)
                after = self._hook("postrouting", after, ended, lambda _: True)
            elif one.destination not in self.local:
                after = self._hook("forward", [one], ended, lambda _: True)
                after = self._hook("postrouting", after, ended, lambda _: True)
            else:
                after = [one]
            # What the node sends to itself comes back in, as the same new connection.
            for last in after:
                inside = last.destination in self.local
                passed = self._hook("input", [last], ended, lambda _: True) if inside else [last]
                ended += [Ending("accept", packet) for packet in passed]
        return ended

    def _hook(
        self,
        hook: str,
        packets: list[Packet],
        ended: list[Ending],
        wanted: Callable[[int], bool],
    ) -> list[Packet]:
        chains = []
        for name, text in self.table.hooks.items():
            words = text.split()
            if words[3] == hook and wanted(int(words[5])):
                chains.append((int(words[5]), name))
        for _, name in sorted(chains):
            left = []
            for packet in packets:
                for verdict, after in self._chain(name, packet):
                    if verdict in ("drop", "reject"):
                        ended.append(Ending(verdict, after))
                    else:
                        left.append(after)
            packets = left
        return packets

    def _chain(self, name: str, packet: Packet) -> list[tuple[str, Packet]]:
        """Verdicts "continue" (came to its end or returned), "drop", "reject" and "stop"."""
        done: list[tuple[str, Packet]] = []
        packets = [packet]
        for rule in self.table.chains[name]:
            left = []
            for one in packets:
                for verdict, after in self._rule(rule.split(), one):
                    if verdict == "next":
                        left.append(after)
                    else:
                        done.append((verdict, after))
            packets = left
        return done + [("continue", one) for one in packets]

    def _rule(self, words: list[str], packet: Packet) -> list[tuple[str, Packet]]:
        match words:
            case []:
                return [("next", packet)]
            case ["drop", *_]:
                return [("drop", packet)]
            case ["return", *_]:
                return [("continue", packet)]
            case ["reject", *_]:
                return [("reject", packet)]
            case ["goto" | "jump" as how, chain, *_]:
                return self._enter(how, chain, packet)
            case ["ct", "state", "new", *rest]:
                return self._rule(rest, packet)
            case ["ct", "status", "dnat", *rest]:
                return self._rule(rest, packet) if packet.is_dnat else [("next", packet)]
            case ["mark", "and", mask, "!=", "0", *rest]:
                holds = packet.mark & int(mask, 0)
                return self._rule(rest, packet) if holds else [("next", packet)]
            case ["mark", "set", "mark", "or", mask, *rest]:
                return self._rule(rest, replace(packet, mark=packet.mark | int(mask, 0)))
            case ["mark", "set", "mark", "xor", mask, *rest]:
                return self._rule(rest, replace(packet, mark=packet.mark ^ int(mask, 0)))
            case ["masquerade", "fully-random"]:
                return [("stop", replace(packet, is_masqueraded=True))]
            case ["fib", which, "type", "local", *rest]:
                address = packet.source if which == "saddr" else packet.destination
                return self._rule(rest, packet) if address in self.local else [("next", packet)]
            case ["update", name, "{", _, "saddr", "}", *rest]:
                learned = (*packet.learned, (name[1:], packet.source))
                return self._rule(rest, replace(packet, learned=learned))
            case ["dnat", "to", socket]:
                return [("stop", _sent(packet, socket))]
            case ["dnat", _, "addr", ".", "port", "to", "numgen", "random", "mod", n, "map", *rest]:
                share = packet.share / int(n)
                return [
                    ("stop", _sent(replace(packet, share=share), to.replace(" . ", ":", 1)))
                    for to in _choices(rest, int(n))
                ]
            case ["numgen", "random", "mod", n, "vmap", *rest]:
                every = []
                for verdict in _choices(rest, int(n)):
                    chosen = replace(packet, share=packet.share / int(n))
                    every += self._rule(verdict.split(), chosen)
                return every
            case ["numgen", "random", "mod", n, value, *rest]:
                assert 0 <= int(value) < int(n)
                hit = replace(packet, share=packet.share / int(n))
                missed = replace(packet, share=packet.share - hit.share)
                return [*self._rule(rest, hit), *([("next", missed)] if int(n) > 1 else [])]
        return self._match(words, packet)

    def _enter(self, how: str, chain: str, packet: Packet) -> list[tuple[str, Packet]]:
        came_back = "next" if how == "jump" else "continue"
        return [
            (came_back if verdict == "continue" else verdict, after)
            for verdict, after in self._chain(chain, packet)
        ]

    def _match(self, words: list[str], packet: Packet) -> list[tuple[str, Packet]]:
        values = []
        while True:
            values.append(_field(words[0], words[1], packet))
            words = words[2:]
            if words[0] != ".":
                break
            words = words[1:]
        key = " . ".join(values)
        match words:
            case ["vmap", name]:
                verdict = self.table.elements[name[1:]].get(key)
                return (
                    [("next", packet)] if verdict is None else self._rule(verdict.split(), packet)
                )
            case ["!=", value, *rest]:
                return [("next", packet)] if _in(key, value) else self._rule(rest, packet)
            case [name, *rest] if name.startswith("@"):
                members = {*self.table.elements[name[1:]], *self.members.get(name[1:], ())}
                return self._rule(rest, packet) if key in members else [("next", packet)]
            case [value, *rest]:
                return self._rule(rest, packet) if _in(key, value) else [("next", packet)]
        raise AssertionError(words)


def _field(first: str, second: str, packet: Packet) -> str:
    match first, second:
        case (("ip" | "ip6"), "saddr"):
            return packet.source
        case (("ip" | "ip6"), "daddr"):
            return packet.destination
        case "meta", "l4proto":
            return packet.protocol
        case "th", "dport":
            return str(packet.port)
    raise AssertionError((first, second))


def _in(address: str, value: str) -> bool:
    if "/" not in value:
        return address == value
    return ipaddress.ip_address(address) in ipaddress.ip_network(value)


def _choices(words: list[str], count: int) -> list[str]:
    inside = " ".join(words).strip("{} ")
    pairs = [element.split(" : ") for element in inside.split(", ")]
    assert [index for index, _ in pairs] == [str(number) for number in range(count)]
    return [target for _, target in pairs]


def _sent(packet: Packet, socket: str) -> Packet:
    address, _, port = socket.rpartition(":")
    return replace(packet, destination=address.strip("[]"), port=int(port), is_dnat=True)
