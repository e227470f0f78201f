"""Merging an applied configuration into an object, and removing fields from one."""

from __future__ import annotations

from typing import Any

from navarch.api.managedfields.fieldtypes import DEDUCED, Fields, FieldType, Items
from navarch.api.managedfields.sets import LEAF, SELF, Node, is_member

_FREE = Fields(DEDUCED)


def merge(live: Any, applied: Any, kind: FieldType) -> Any:
    """`live` with everything `applied` says; parts are shared with both."""
    if kind is DEDUCED and live.__class__ is dict and applied.__class__ is dict:
        kind = _FREE
    if isinstance(kind, Fields) and live.__class__ is dict:
        if applied is None:
            return live
        if applied.__class__ is dict:
            result = dict(live)
            for name, value in applied.items():
                below = kind.of(name)
                result[name] = merge(live[name], value, below) if name in live else value
            return result
    if isinstance(kind, Items) and live.__class__ is list:
        if applied is None:
            return live
        if applied.__class__ is list:
            return _merge_items(live, applied, kind)
    return applied


def _merge_items(live: list[Any], applied: list[Any], kind: Items) -> list[Any]:
    """The items of both lists. Applied items come in the order applied; items only in the live list
    keep their place before the applied item that they stand before."""
    live_keys, applied_keys = kind.keys(live), kind.keys(applied)
    known: dict[str, Any] = {}
    for key, item in zip(live_keys, live, strict=True):
        # Of items that share their keys none is taken for the applied one.
        known[key] = None if key in known else item
    wanted = dict(zip(applied_keys, applied, strict=True))
    shared = [key for key in applied_keys if key in known]
    result: list[Any] = []

    def take(key: str) -> None:
        before = known.get(key)
        item = wanted[key]
        result.append(item if before is None else merge(before, item, kind.item))

    done: set[str] = set()
    left = right = 0
    while left < len(live) or right < len(applied):
        if left < len(live) and right < len(applied):
            key = live_keys[left]
            if key == applied_keys[right]:
                take(key)
                done.add(key)
                if shared and shared[0] == key:
                    shared.pop(0)
                left, right = left + 1, right + 1
                continue
            if key in wanted and shared and shared[0] != key:
                left += 1
                continue
        if left < len(live):
            key = live_keys[left]
            if key not in wanted:
                result.append(live[left])
                left += 1
                continue
            if key in done:
                left += 1
                continue
        if right < len(applied):
            key = applied_keys[right]
            take(key)
            done.add(key)
            if shared and shared[0] == key:
                shared.pop(0)
            right += 1
    return result


def remove(value: Any, fields: Node, kind: FieldType) -> Any:
    """`value` without the members of `fields`. Containers stay, even when nothing is left in them,
    unless they are members themselves."""
    if kind is DEDUCED and value.__class__ is dict:
        kind = _FREE
    if isinstance(kind, Fields) and value.__class__ is dict:
        result = {}
        for name, item in value.items():
            node = fields.get(f"f:{name}")
            if node is None:
                result[name] = item
            elif not is_member(node):
                result[name] = remove(item, node, kind.of(name))
        return result
    if isinstance(kind, Items) and value.__class__ is list:
        kept = []
        for key, item in zip(kind.keys(value), value, strict=True):
            node = fields.get(key)
            if node is None:
                kept.append(item)
            elif not is_member(node):
                kept.append(remove(item, node, kind.item))
        return kept
    return value


def with_named_fields(fields: Node, kind: FieldType) -> Node:
    """The set with every declared field that has members below as a member of its own: a struct
    belongs to whoever owns something in it, a key of a map does not."""
    result: Node = {}
    for key, node in fields.items():
        if key == SELF or not node:
            result[key] = LEAF
            continue
        below = with_named_fields(node, kind.child(key))
        named = isinstance(kind, Fields) and key[:2] == "f:" and kind.is_declared(key[2:])
        if named and SELF not in below:
            below = {SELF: LEAF, **below}
        result[key] = below
    return result
