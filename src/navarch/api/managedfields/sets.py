"""Sets of fields, held in the very form the API stores them: FieldsV1 as nested dicts.

Each key is one step of a path: `f:<name>` a field, `k:{"name":"x"}` an item of a list by its keys,
`v:<json>` an item of a set, `i:<n>` by position. A node without children is a member of the set; a
node with children is one only if it also holds `.`. Nodes are shared between sets and never
changed: every operation makes new ones where something differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]

SELF = "."
LEAF: Node = {}
"""The node of a member without children."""


def is_member(node: Node) -> bool:
    return not node or SELF in node


def _node(children: Node, member: bool) -> Node | None:
    """A node out of its parts; None if it is neither a member nor has any below."""
    if not children:
        return LEAF if member else None
    return {SELF: LEAF, **children} if member else children


def union(left: Node, right: Node) -> Node:
    """Members of either set."""
    if not left or not right or left is right:
        return left or right
    result = dict(left)
    grown = False
    for key, node in right.items():
        known = result.get(key)
        if known is None:
            result[key] = node
            grown = True
        elif known is not node and key != SELF:
            result[key] = _union_node(known, node)
    return dict(sorted(result.items())) if grown else result


def _union_node(left: Node, right: Node) -> Node:
    if not left:
        return right if is_member(right) else {SELF: LEAF, **right}
    if not right:
        return left if SELF in left else {SELF: LEAF, **left}
    return union(left, right)


def difference(left: Node, right: Node) -> Node:
    """Members of `left` that are none of `right`; what lies below a member of `right` stays."""
    if not right:
        return left
    result: Node = {}
    changed = False
    for key, node in left.items():
        other = right.get(key) if key != SELF else None
        if other is None:
            result[key] = node
            continue
        member = is_member(node) and not is_member(other)
        below = {each: node[each] for each in node if each != SELF}
        rest = _node(difference(below, other) if below else below, member)
        changed = True
        if rest is not None:
            result[key] = rest
    return result if changed else left


def recursive_difference(left: Node, right: Node) -> Node:
    """Members of `left` that are none of `right` nor below one of its members."""
    if not right:
        return left
    result: Node = {}
    for key, node in left.items():
        other = right.get(key) if key != SELF else None
        if other is None:
            result[key] = node
        elif not is_member(other):
            below = {each: node[each] for each in node if each != SELF}
            rest = _node(recursive_difference(below, other) if below else below, is_member(node))
            if rest is not None:
                result[key] = rest
    return result


def intersection(left: Node, right: Node) -> Node:
    """Members of both sets."""
    result: Node = {}
    for key, node in left.items():
        other = right.get(key) if key != SELF else None
        if other is None:
            continue
        both = _node(intersection(node, other), is_member(node) and is_member(other))
        if both is not None:
            result[key] = both
    return result


def paths(fields: Node, prefix: str = "") -> Iterator[str]:
    """The members of a set as conflict messages print them: `.spec.containers[name="a"].image`."""
    for key, node in fields.items():
        if key == SELF:
            continue
        path = prefix + _step(key)
        if is_member(node):
            yield path
        yield from paths(node, path)


def _step(key: str) -> str:
    kind, _, text = key.partition(":")
    if kind == "f":
        return f".{text}"
    if kind == "k":
        parts = (f"{name}={_quoted(value)}" for name, value in json.loads(text).items())
        return f"[{','.join(parts)}]"
    return f"[={_quoted(json.loads(text))}]" if kind == "v" else f"[{text}]"


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def is_valid(fields: Any, depth: int = 0) -> bool:
    """Whether data is a FieldsV1 document."""
    if not isinstance(fields, dict) or depth > 100:
        return False
    for key, node in fields.items():
        if key == SELF:
            continue
        kind, colon, text = key.partition(":")
        if not colon or kind not in ("f", "k", "v", "i") or not is_valid(node, depth + 1):
            return False
        if kind in ("k", "v"):
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                return False
            if kind == "k" and not isinstance(content, dict):
                return False
        elif kind == "i" and not text.isdigit():
            return False
    return True
