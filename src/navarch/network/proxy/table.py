"""The table as it should be against the table as it is: the nft commands between them. No I/O.

Chains and sets come before what points to them, and go after it. A chain that nothing points to any
more is emptied at once and deleted in a later transaction: before Linux 6.2 the kernel frees the
reference of a deleted map element late, and a refused deletion would undo the whole transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from navarch.network.proxy.model import PortKey
from navarch.network.proxy.rules import TABLE, Addresses, Element, PortRules, fixed


@dataclass(slots=True)
class Table:
    """The mirror of one family's table. `desired` are all ports; each call of `commands` gives the
    transaction that leads there, and `committed` is told when the kernel took it."""

    family: str
    addresses: Addresses
    _ports: dict[PortKey, PortRules] = field(default_factory=dict)
    _owners: dict[Element, dict[PortKey, str]] = field(default_factory=dict)
    _stale_chains: list[str] = field(default_factory=list)
    is_known: bool = False
    """Whether the kernel's table is what the mirror says; False at start and after a failure."""

    def replace(self, ports: Mapping[PortKey, PortRules]) -> str:
        """The transaction that makes the whole table anew."""
        self._ports = {}
        self._owners = {}
        self._stale_chains = []
        self.is_known = False
        lines = fixed(self.family, self.addresses)
        lines += self._changes(ports)
        return "\n".join(lines) + "\n"

    def change(self, ports: Mapping[PortKey, PortRules | None]) -> str:
        """The transaction for the ports that changed (None: gone); empty where nothing differs."""
        lines = self._changes(ports)
        return "\n".join(lines) + "\n" if lines else ""

    def sweep(self) -> str:
        """The transaction that deletes the chains left over by earlier ones."""
        stale, self._stale_chains = self._stale_chains, []
        used = {chain for rules in self._ports.values() for chain in rules.chains}
        lines = [f"delete chain {self.family} {TABLE} {name}" for name in stale if name not in used]
        return "\n".join(lines) + "\n" if lines else ""

    @property
    def has_leftovers(self) -> bool:
        return bool(self._stale_chains)

    def _changes(self, ports: Mapping[PortKey, PortRules | None]) -> list[str]:
        table = f"{self.family} {TABLE}"
        addr = "ipv4_addr" if self.family == "ip" else "ipv6_addr"
        create: list[str] = []
        fill: list[str] = []
        empty: list[str] = []
        drop_sets: list[str] = []
        touched: dict[Element, str | None] = {}
        for key, new in ports.items():
            old = self._ports.get(key, PortRules())
            wanted = new if new is not None else PortRules()
            for name, seconds in wanted.sets.items():
                if name not in old.sets:
                    flags = f"flags dynamic,timeout ; timeout {seconds}s ; size 65535 ;"
                    create.append(f"add set {table} {name} {{ type {addr} ; {flags} }}")
            for name, rules in wanted.chains.items():
                if old.chains.get(name) == rules:
                    continue
                create.append(f"add chain {table} {name}")
                fill.append(f"flush chain {table} {name}")
                fill += [f"add rule {table} {name} {rule}" for rule in rules]
            for name in old.chains.keys() - wanted.chains.keys():
                empty.append(f"flush chain {table} {name}")
                self._stale_chains.append(name)
            drop_sets += [
                f"delete set {table} {name}" for name in old.sets.keys() - wanted.sets.keys()
            ]
            for element in old.elements.keys() | wanted.elements.keys():
                touched.setdefault(element, self._value(element))
                self._own(element, key, wanted.elements.get(element))
            if new is None:
                self._ports.pop(key, None)
            else:
                self._ports[key] = new
        removed, added = self._element_changes(table, touched)
        return [*create, *fill, *removed, *added, *empty, *drop_sets]

    def _value(self, element: Element) -> str | None:
        """What the table holds for an element: where two Services claim it, the first by name."""
        owners = self._owners.get(element)
        return owners[min(owners)] if owners else None

    def _own(self, element: Element, key: PortKey, value: str | None) -> None:
        owners = self._owners.setdefault(element, {})
        if value is None:
            owners.pop(key, None)
        else:
            owners[key] = value
        if not owners:
            del self._owners[element]

    def _element_changes(
        self, table: str, touched: Mapping[Element, str | None]
    ) -> tuple[list[str], list[str]]:
        removed: list[str] = []
        added: list[str] = []
        for element, before in sorted(touched.items(), key=lambda item: item[0]):
            after = self._value(element)
            if before == after:
                continue
            name, key = element
            if before is not None:
                removed.append(f"delete element {table} {name} {{ {key} }}")
            if after is not None:
                value = f" : {after}" if after else ""
                added.append(f"add element {table} {name} {{ {key}{value} }}")
        return removed, added
