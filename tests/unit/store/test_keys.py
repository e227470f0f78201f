from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.store import keys
from navarch.store.keys import SortedKeys, prefix_end

TOP = chr(sys.maxunicode)
SHORT = st.text(alphabet="ab/", max_size=4)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("/a/", "/a0"),
        ("a", "b"),
        ("", None),
        (TOP, None),
        (f"a{TOP}{TOP}", "b"),
    ],
)
def test_prefix_end(prefix: str, end: str | None) -> None:
    assert prefix_end(prefix) == end


@given(
    steps=st.lists(st.tuples(st.booleans(), SHORT), max_size=200),
    low=SHORT,
    high=st.none() | SHORT,
    limit=st.integers(1, 20),
    block=st.integers(1, 8),
)
def test_sorted_keys_are_a_sorted_set(
    steps: list[tuple[bool, str]], low: str, high: str | None, limit: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "BLOCK", block)
        model: set[str] = {"b/a", "a"}
        found = SortedKeys(model)
        for is_add, key in steps:
            if is_add and key not in model:
                model.add(key)
                found.add(key)
            elif not is_add and key in model:
                model.remove(key)
                found.remove(key)
        expected = sorted(key for key in model if key >= low and (high is None or key < high))
        assert found.between(low, high) == expected
        assert found.count(low, high) == len(expected)
        assert found.page(low, high, limit) == expected[:limit]
