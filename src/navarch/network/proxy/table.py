"""The table as it should be against the table as it is: the commands between them. No I/O.

Chains and sets come before what points to them, and go after it. A chain that nothing points to any
more is emptied at once and deleted in a later transaction: before Linux 6.2 the kernel frees the
reference of a deleted map element late, and a refused deletion would undo the whole transaction.

All of it can be laid again over what is there (`begin`, then `change` for every port, then
`finish`): each transaction leaves whole Services, and what is right already stays in place, so that
traffic goes on and clients stay with their endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navarch.network.nftables.listing import Listing
from navarch.network.proxy.model import PortKey
from navarch.network.proxy.rules import (
    BASE_CHAINS,
    CONTENTS,
    FIXED_CHAINS,
    MAPS,
    NODE_PORT_SET,
    PORT_MAPS,
    PRIMARY,
    TABLE,
    Element,
    Network,
    PortRules,
    fixed,
)

NOTHING = PortRules()
_SIBLINGS = dict.fromkeys(MAPS, MAPS) | dict.fromkeys(PORT_MAPS, PORT_MAPS)
Place = tuple[str, str]
"""What a Service port claims: the first of the maps (or the set) where a key may be, and the key.
One port has the key in all of them, or somebody without endpoints would lose it to another."""


def _place(element: Element) -> Place:
    name, key = element
    return (_SIBLINGS[name][0] if name in _SIBLINGS else name, key)


def _elements(places: Iterable[Place]) -> list[Element]:
    return sorted((name, key) for first, key in places for name in _SIBLINGS.get(first, (first,)))


class Table:
    """The mirror of one family's table. Every method's commands are one transaction, which the
    kernel has to take before the next is asked for; if it refuses, begin anew."""

    def __init__(self, family: str, network: Network) -> None:
        self.family = family
        self.network = network
        self.is_known = False
        """Whether the kernel's table is what the mirror says; False at start and after a failure.
        Whoever applies the commands keeps it."""
        self._ports: dict[PortKey, PortRules] = {}
        self._claims: dict[Place, tuple[PortKey, ...]] = {}
        self._present: dict[Element, str] = {}
        """What the kernel's maps and sets hold."""
        self._leftovers: Listing | None = None
        """What was there before us, until `finish` has removed what nobody wants."""
        self._stale: dict[str, float] = {}
        """Emptied chains, and since when."""

    def begin(self, existing: Listing) -> list[str]:
        """All that no Service changes."""
        self._ports, self._claims, self._stale = {}, {}, {}
        self._present = dict(existing.elements)
        self._leftovers = existing
        expected = dict.fromkeys(FIXED_CHAINS, "") | BASE_CHAINS
        wrong = [
            f"delete chain {self.family} {TABLE} {name}"
            for name, hook in existing.chains.items()
            if hook != expected.get(name, hook)
        ]
        # Type, hook and priority of a chain cannot be changed.
        emptied = [line.replace("delete", "flush", 1) for line in wrong]
        return [*emptied, *wrong, *fixed(self.family, self.network)]

    def remake(self) -> list[str]:
        """As `begin` where what is there stands in the way: everything goes first. The commands of
        all ports have to follow in the same transaction."""
        table = f"{self.family} {TABLE}"
        return [f"add table {table}", f"delete table {table}", *self.begin(Listing())]

    def refix(self, network: Network) -> list[str]:
        """Another network for the parts that no Service changes."""
        self.network = network
        return fixed(self.family, network)

    def change(self, ports: Mapping[PortKey, PortRules | None], now: float) -> list[str]:
        """The ports that changed (None: gone); empty where nothing differs."""
        table = f"{self.family} {TABLE}"
        create: list[str] = []
        fill: list[str] = []
        empty: list[str] = []
        drop: list[str] = []
        touched: set[Place] = set()
        for key, new in ports.items():
            old, wanted = self._ports.get(key, NOTHING), new or NOTHING
            create += self._new_sets(old, wanted)
            for name, rules in wanted.chains.items():
                if old.chains.get(name) == rules:
                    continue
                create.append(f"add chain {table} {name}")
                fill.append(f"flush chain {table} {name}")
                fill += [f"add rule {table} {name} {rule}" for rule in rules]
                self._stale.pop(name, None)
            for name in old.chains.keys() - wanted.chains.keys():
                empty.append(f"flush chain {table} {name}")
                self._stale[name] = now
            drop += [f"delete set {table} {s}" for s in old.sets.keys() - wanted.sets.keys()]
            left, taken = set(map(_place, old.elements)), set(map(_place, wanted.elements))
            touched |= left | taken
            self._claim(key, left - taken, taken)
            if new is None:
                self._ports.pop(key, None)
            else:
                self._ports[key] = new
        return [*create, *fill, *self._element_changes(_elements(touched)), *empty, *drop]

    def finish(self, now: float) -> list[str]:
        """After all ports: what was there before and nobody wants."""
        before, self._leftovers = self._leftovers or Listing(), None
        table = f"{self.family} {TABLE}"
        lines = self._element_changes(sorted(self._present))
        chains = {*BASE_CHAINS, *FIXED_CHAINS}
        sets = set(CONTENTS)
        if PRIMARY in self.network.node_port_addresses:
            sets.add(NODE_PORT_SET)
        for rules in self._ports.values():
            chains |= rules.chains.keys()
            sets |= rules.sets.keys()
        for name in sorted(before.chains.keys() - chains):
            lines.append(f"flush chain {table} {name}")
            self._stale[name] = now
        return [*lines, *(f"delete set {table} {name}" for name in sorted(before.sets - sets))]

    def sweep(self, before: float) -> list[str]:
        """Delete the chains that were emptied until then."""
        old = [name for name, since in self._stale.items() if since <= before]
        for name in old:
            del self._stale[name]
        return [f"delete chain {self.family} {TABLE} {name}" for name in old]

    @property
    def oldest_leftover(self) -> float | None:
        """Since when the first of the emptied chains waits for its deletion."""
        return min(self._stale.values(), default=None)

    def _new_sets(self, old: PortRules, wanted: PortRules) -> list[str]:
        addr = "ipv4_addr" if self.family == "ip" else "ipv6_addr"
        return [
            f"add set {self.family} {TABLE} {name} {{ type {addr} ; flags dynamic,timeout ; "
            f"timeout {seconds}s ; size 65535 ; }}"
            for name, seconds in wanted.sets.items()
            if name not in old.sets
        ]

    def _claim(self, key: PortKey, left: Iterable[Place], taken: Iterable[Place]) -> None:
        for place in left:
            others = tuple(k for k in self._claims.get(place, ()) if k != key)
            if others:
                self._claims[place] = others
            else:
                self._claims.pop(place, None)
        alone = (key,)
        for place in taken:
            owners = self._claims.setdefault(place, alone)
            if key not in owners:
                self._claims[place] = (*owners, key)

    def _value(self, element: Element) -> str | None:
        """What an element should be. Where several Services claim its key, the one whose ClusterIP
        it is has it (nobody takes another's address by `externalIPs`), else the oldest."""
        owners = self._claims.get(_place(element))
        if not owners:
            return None
        ranked = (
            owners if len(owners) == 1 else sorted(owners, key=lambda k: self._rank(k, element))
        )
        return self._ports[ranked[0]].elements.get(element)

    def _rank(self, key: PortKey, element: Element) -> tuple[bool, str, PortKey]:
        rules = self._ports[key]
        return (rules.cluster_at != element[1], rules.created, key)

    def _element_changes(self, touched: Iterable[Element]) -> list[str]:
        removed: dict[str, list[str]] = {}
        added: dict[str, list[str]] = {}
        for element in touched:
            before, after = self._present.get(element), self._value(element)
            if before == after:
                continue
            name, key = element
            if before is not None:
                removed.setdefault(name, []).append(key)
                del self._present[element]
            if after is not None:
                added.setdefault(name, []).append(f"{key} : {after}" if after else key)
                self._present[element] = after
        table = f"{self.family} {TABLE}"
        return [
            *(f"delete element {table} {n} {{ {', '.join(k)} }}" for n, k in removed.items()),
            *(f"add element {table} {n} {{ {', '.join(k)} }}" for n, k in added.items()),
        ]
