"""nf_tables in memory, for tests: takes the same text, refuses what the kernel refuses, and can be
asked what it holds. A transaction happens as a whole or not at all."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from navarch.network.nftables.dialect import compile_commands
from navarch.network.nftables.listing import Listing

_TARGET = re.compile(r"\b(?:goto|jump) (\S+)")
_NAMED = re.compile(r"@(\S+)")


class Refused(Exception):
    """The kernel would not do that."""


@dataclass(slots=True)
class MemoryTable:
    """One table. `chains` are the rules of each, `hooks` those of base chains, `sets` the type and
    flags of each set or map, `elements` key to verdict ("" in a set)."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    hooks: dict[str, str] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    elements: dict[str, dict[str, str]] = field(default_factory=dict)

    def referred(self) -> set[str]:
        """The chains that a rule or an element leads to."""
        texts = [rule for rules in self.chains.values() for rule in rules]
        texts += [verdict for held in self.elements.values() for verdict in held.values()]
        return {name.rstrip(",") for text in texts for name in _TARGET.findall(text)}

    def used_sets(self) -> set[str]:
        rules = [rule for rules in self.chains.values() for rule in rules]
        return {name for rule in rules for name in _NAMED.findall(rule)}

    def listing(self, contents: frozenset[str]) -> Listing:
        hooks = {name: self.hooks.get(name, "") for name in self.chains}
        held = {
            (name, key): verdict
            for name, elements in self.elements.items()
            if name in contents
            for key, verdict in elements.items()
        }
        return Listing(hooks, set(self.sets), held)


class MemoryTables:
    """All tables of a network namespace, by family and name."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], MemoryTable] = {}

    def apply(self, commands: Sequence[str]) -> None:
        """Raises Refused, and DialectError for text that cannot be compiled."""
        compile_commands(commands)
        before = copy.deepcopy(self.tables)
        try:
            for command in commands:
                self._do(command)
            self._check()
        except Refused:
            self.tables = before
            raise

    def _do(self, command: str) -> None:
        action, what, family, rest = command.split(" ", 3)
        head, _, inside = rest.partition("{") if what != "rule" else (rest, "", "")
        inside = inside.strip().removesuffix("}").strip()
        words = head.split()
        place = (family, words[0])
        if what == "table":
            if action == "add":
                self.tables.setdefault(place, MemoryTable())
            elif self.tables.pop(place, None) is None:
                raise Refused(command)
            return
        table = self.tables.get(place)
        if table is None:
            raise Refused(f"no table: {command}")
        match what:
            case "chain":
                self._chain(table, action, words[1], inside)
            case "set" | "map":
                self._set(table, action, words[1], inside)
            case "element":
                self._elements(table, action, words[1], inside)
            case "rule":
                if words[1] not in table.chains:
                    raise Refused(f"no chain: {command}")
                table.chains[words[1]].append(rest.split(" ", 2)[2])

    def _chain(self, table: MemoryTable, action: str, name: str, hook: str) -> None:
        if action == "add":
            if name in table.chains and hook and table.hooks.get(name, "") != hook:
                raise Refused(f"chain {name} has another hook")
            table.chains.setdefault(name, [])
            if hook:
                table.hooks[name] = hook
            return
        if name not in table.chains:
            raise Refused(f"no chain {name}")
        table.chains[name] = []
        if action == "delete":
            if name in table.referred():
                raise Refused(f"chain {name} is in use")
            del table.chains[name]
            table.hooks.pop(name, None)

    def _set(self, table: MemoryTable, action: str, name: str, options: str) -> None:
        if action == "add":
            if table.sets.setdefault(name, options) != options:
                raise Refused(f"set {name} is another")
            table.elements.setdefault(name, {})
            return
        if name not in table.sets:
            raise Refused(f"no set {name}")
        if action == "delete":
            if name in table.used_sets():
                raise Refused(f"set {name} is in use")
            del table.sets[name], table.elements[name]
        else:
            table.elements[name] = {}

    def _elements(self, table: MemoryTable, action: str, name: str, inside: str) -> None:
        if name not in table.elements:
            raise Refused(f"no set {name}")
        held = table.elements[name]
        for element in inside.split(", "):
            key, _, verdict = element.partition(" : ")
            if action == "add":
                if held.setdefault(key, verdict) != verdict:
                    raise Refused(f"{key} in {name} is {held[key]}, not {verdict}")
            elif held.pop(key, None) is None:
                raise Refused(f"no {key} in {name}")

    def _check(self) -> None:
        for table in self.tables.values():
            if missing := table.referred() - table.chains.keys():
                raise Refused(f"no chain {sorted(missing)}")
            if missing := table.used_sets() - table.sets.keys():
                raise Refused(f"no set {sorted(missing)}")
