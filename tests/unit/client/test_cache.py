"""The informer's store: lookups by key, namespace and index stay true through changes."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from navarch.client.cache import Cache

Colours = tuple[str, ...]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["n1/a", "n1/b", "n2/a", "c"]),
            st.none() | st.lists(st.sampled_from(["red", "blue"]), max_size=2).map(tuple),
        ),
        max_size=25,
    ),
    st.integers(0, 25),
)
def test_lookups_agree_with_a_plain_mapping(
    changes: list[tuple[str, Colours | None]], read_at: int
) -> None:
    cache: Cache[tuple[str, Colours]] = Cache()
    cache.add_index("colour", lambda obj: obj[1])
    model: dict[str, tuple[str, Colours]] = {}
    for step, (key, colours) in enumerate(changes):
        if colours is None:
            cache.remove(key)
            model.pop(key, None)
        else:
            model[key] = (key, colours)
            cache.put(key, model[key])
        if step == read_at:
            cache.list("n1")  # from here on the namespace index is kept
    by_colour: dict[str, set[str]] = defaultdict(set)
    for key, (_, colours) in model.items():
        for colour in colours:
            by_colour[colour].add(key)
    assert {obj[0] for obj in cache.list()} == cache.keys() == model.keys()
    assert all(cache.get(key) is obj for key, obj in model.items())
    for namespace in ("n1", "n2", "n3"):
        expected = {key for key in model if key.startswith(f"{namespace}/")}
        assert {obj[0] for obj in cache.list(namespace)} == expected
    assert {*cache.index_values("colour")} == by_colour.keys()
    for colour in ("red", "blue", "green"):
        assert {obj[0] for obj in cache.by_index("colour", colour)} == by_colour[colour]


def test_an_index_added_late_covers_what_is_there() -> None:
    cache: Cache[str] = Cache()
    cache.put("a", "apple")
    cache.add_index("first", lambda text: [text[0]])
    cache.put("b", "avocado")
    assert sorted(cache.by_index("first", "a")) == ["apple", "avocado"]
