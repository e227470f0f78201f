"""What differs between two states of an object, as field sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from navarch.api.managedfields.fieldtypes import DEDUCED, Fields, FieldType, Items, KeyMissing
from navarch.api.managedfields.sets import LEAF, Node, recursive_difference, union


@dataclass(slots=True)
class Comparison:
    """The fields that went, that changed their value, and that came. Containers that come or go are
    members together with all they contain."""

    removed: Node = field(default_factory=dict)
    modified: Node = field(default_factory=dict)
    added: Node = field(default_factory=dict)

    @property
    def written(self) -> Node:
        """The fields somebody gave a new value."""
        return union(self.modified, self.added)

    def without(self, ignored: Node) -> Comparison:
        """Without the ignored fields and all below them."""
        if not ignored:
            return self
        return Comparison(
            recursive_difference(self.removed, ignored),
            recursive_difference(self.modified, ignored),
            recursive_difference(self.added, ignored),
        )


def compare(old: Any, new: Any, kind: FieldType) -> Comparison:
    """What is different in `new`. Equal parts cost no more than finding them equal."""
    result = Comparison()
    if kind is DEDUCED and (old.__class__ is dict or new.__class__ is dict):
        kind = _FREE
    if isinstance(kind, Fields):
        first, second = (each if each.__class__ is dict else {} for each in (old, new))
        _compare_fields(first, second, kind, result)
    elif isinstance(kind, Items):
        before, after = (each if each.__class__ is list else [] for each in (old, new))
        _compare_items(before, after, kind, result)
    return result


_FREE = Fields(DEDUCED)


def _is_container(value: Any) -> bool:
    return value.__class__ is dict or value.__class__ is list


def _compare_fields(old: Any, new: Any, kind: Fields, result: Comparison) -> None:
    for name in sorted({*old, *new}):
        if name not in new:
            result.removed[f"f:{name}"] = kind.of(name).added(old[name])
        elif name not in old:
            result.added[f"f:{name}"] = kind.of(name).added(new[name])
        elif old[name] is not new[name] and old[name] != new[name]:
            _descend(f"f:{name}", old[name], new[name], kind.of(name), result)


def _descend(key: str, old: Any, new: Any, kind: FieldType, result: Comparison) -> None:
    is_owned_whole = not isinstance(kind, Fields | Items) and not (
        kind is DEDUCED and old.__class__ is dict and new.__class__ is dict
    )
    if is_owned_whole or not (_is_container(old) or _is_container(new)):
        result.modified[key] = LEAF
        return
    below = compare(old, new, kind)
    for target, node in (
        (result.removed, below.removed),
        (result.modified, below.modified),
        (result.added, below.added),
    ):
        if node:
            target[key] = node


def _compare_items(old: list[Any], new: list[Any], kind: Items, result: Comparison) -> None:
    try:
        before, after = _grouped(old, kind), _grouped(new, kind)
    except KeyMissing:
        return
    for key in sorted({*before, *after}):
        known, current = before.get(key), after.get(key)
        if current is None:
            assert known is not None
            result.removed[key] = kind.item.added(known[0]) if len(known) == 1 else LEAF
        elif known is None:
            result.added[key] = kind.item.added(current[0]) if len(current) == 1 else LEAF
        elif known != current:
            if len(known) == 1 and len(current) == 1:
                _descend(key, known[0], current[0], kind.item, result)
            else:
                # Items that share their keys cannot be told apart: they change as a whole.
                result.modified[key] = LEAF


def _grouped(value: list[Any], kind: Items) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = {}
    for item in value:
        result.setdefault(kind.key_of(item), []).append(item)
    return result
