"""The algebra of field sets on FieldsV1 documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.managedfields.sets import (
    difference,
    intersection,
    is_member,
    is_valid,
    paths,
    recursive_difference,
    union,
)

Node = dict[str, Any]


def members(node: Node, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for key, child in node.items():
        if key != ".":
            path = (*prefix, key)
            if is_member(child):
                found.add(path)
            found |= members(child, path)
    return found


def build(found: set[tuple[str, ...]]) -> Node:
    root: Node = {}
    for path in sorted(found):
        node = root
        for key in path:
            node = node.setdefault(key, {})
        node["."] = {}
    return tidy(root)


def tidy(node: Node) -> Node:
    return {} if set(node) == {"."} else {key: tidy(child) for key, child in node.items()}


KEYS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', "v:1"])
SETS = st.sets(st.lists(KEYS, min_size=1, max_size=3).map(tuple), max_size=8)


@given(SETS, SETS)
def test_operations_are_those_of_sets_of_paths(left: set[Any], right: set[Any]) -> None:
    first, second = build(left), build(right)
    before = repr((first, second))
    assert members(first) == left
    assert members(union(first, second)) == left | right
    assert members(intersection(first, second)) == left & right
    assert members(difference(first, second)) == left - right
    below = {p for p in left if any(p[: len(q)] == q for q in right)}
    assert members(recursive_difference(first, second)) == left - below
    assert repr((first, second)) == before


def test_paths_as_messages_print_them() -> None:
    node = {
        "f:spec": {
            "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:name": {}}},
            "f:finalizers": {'v:"a/b"': {}},
        }
    }
    assert list(paths(node)) == [
        '.spec.ports[containerPort=80,protocol="TCP"]',
        '.spec.ports[containerPort=80,protocol="TCP"].name',
        '.spec.finalizers[="a/b"]',
    ]


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, True),
        ({"f:a": {".": {}, 'k:{"a":1}': {}, "i:0": {}, 'v:"x"': {}}}, True),
        ([], False),
        ({"a": {}}, False),
        ({"f:a": 1}, False),
        ({"k:1": {}}, False),
        ({"k:{": {}}, False),
        ({"i:x": {}}, False),
        ({"x:y": {}}, False),
    ],
)
def test_validity(document: Any, valid: bool) -> None:
    assert is_valid(document) is valid
