"""The table as it should be against the table as it is: the nft commands between them. No I/O.

Chains and sets come before what points to them, and go after it. A chain that nothing points to any
more is emptied at once and deleted in a later transaction: before Linux 6.2 the kernel frees the
reference of a deleted map element late, and a refused deletion would undo the whole transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navarch.network.policy.planner import PartKey
from navarch.network.policy.rules import TABLE, Element, Fragment, Rule, fixed

BATCH = 500
"""How many elements one command carries."""


class Table:
    """The mirror of the kernel's table, of fragments that do not overlap."""

    def __init__(self) -> None:
        self.parts: dict[PartKey, Fragment] = {}
        self.is_known = False
        """Whether the kernel's table is what the mirror says; False at start and after a
        failure."""
        self._stale: dict[str, None] = {}

    def replace(self, parts: Mapping[PartKey, Fragment | None]) -> list[str]:
        """The transaction that makes the whole table anew."""
        self.parts = {}
        self._stale = {}
        self.is_known = False
        return [*fixed(), *self._changes(parts)]

    def change(self, parts: Mapping[PartKey, Fragment | None]) -> list[str]:
        """The transaction for the fragments that changed; empty where nothing differs."""
        return self._changes(parts)

    def sweep(self) -> list[str]:
        """The transaction that deletes the chains left over by earlier ones."""
        stale, self._stale = self._stale, {}
        return [f"delete chain {TABLE} {name}" for name in stale]

    @property
    def has_leftovers(self) -> bool:
        return bool(self._stale)

    @property
    def chains(self) -> dict[str, tuple[Rule, ...]]:
        return {name: rules for part in self.parts.values() for name, rules in part.chains.items()}

    @property
    def elements(self) -> dict[str, dict[str, str]]:
        """The content of every set and map."""
        result: dict[str, dict[str, str]] = {}
        for part in self.parts.values():
            for (name, key), value in part.elements.items():
                result.setdefault(name, {})[key] = value
        return result

    def _changes(self, parts: Mapping[PartKey, Fragment | None]) -> list[str]:
        create: list[str] = []
        fill: list[str] = []
        empty: list[str] = []
        drop: list[str] = []
        removed: dict[Element, str] = {}
        added: dict[Element, str] = {}
        for key, fragment in parts.items():
            old = self.parts.pop(key, None) or Fragment()
            new = fragment or Fragment()
            if fragment is not None:
                self.parts[key] = fragment
            for name, type_ in new.sets.items():
                if name not in old.sets:
                    create.append(f"add set {TABLE} {name} {{ type {type_} ; }}")
            drop += [f"delete set {TABLE} {name}" for name in old.sets.keys() - new.sets.keys()]
            for name, rules in new.chains.items():
                if old.chains.get(name) == rules:
                    continue
                self._stale.pop(name, None)
                create.append(f"add chain {TABLE} {name}")
                fill.append(f"flush chain {TABLE} {name}")
                fill += [f"add rule {TABLE} {name} {rule}" for rule in rules]
            for name in old.chains.keys() - new.chains.keys():
                empty.append(f"flush chain {TABLE} {name}")
                self._stale[name] = None
            removed |= old.elements.items() - new.elements.items()
            added |= new.elements.items() - old.elements.items()
        for element in [each for each in removed if added.get(each) == removed[each]]:
            # It went from one pod to another.
            del removed[element], added[element]
        return [
            *create,
            *fill,
            *_commands("delete", removed),
            *_commands("add", added),
            *empty,
            *drop,
        ]


def _commands(action: str, elements: Mapping[Element, str]) -> Iterable[str]:
    by_name: dict[str, list[str]] = {}
    for (name, key), value in sorted(elements.items()):
        with_value = f"{key} : {value}" if value and action == "add" else key
        by_name.setdefault(name, []).append(with_value)
    for name, keys in by_name.items():
        for at in range(0, len(keys), BATCH):
            yield f"{action} element {TABLE} {name} {{ {', '.join(keys[at : at + BATCH])} }}"
