"""JSON Patch: RFC 6902 with the API server's limits and refusals."""

from __future__ import annotations

import time
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.patch.json import MAX_OPERATIONS, apply_json_patch


def op(name: str, path: str, **rest: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **rest}


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        pytest.param({}, [op("add", "/a", value=1)], {"a": 1}, id="add a key"),
        pytest.param({"a": 1}, [op("add", "/a", value=2)], {"a": 2}, id="add over a key"),
        pytest.param({"a": [1, 3]}, [op("add", "/a/1", value=2)], {"a": [1, 2, 3]}, id="insert"),
        pytest.param({"a": [1]}, [op("add", "/a/1", value=2)], {"a": [1, 2]}, id="insert at end"),
        pytest.param({"a": [1]}, [op("add", "/a/-", value=2)], {"a": [1, 2]}, id="append"),
        pytest.param({"a": [1]}, [op("add", "/a/-1", value=2)], {"a": [1, 2]}, id="from the end"),
        pytest.param({"a": None}, [op("add", "/a", value=None)], {"a": None}, id="null is a value"),
        pytest.param({"a": [1, 2]}, [op("remove", "/a/0")], {"a": [2]}, id="remove an item"),
        pytest.param({"a": {"b": 1}}, [op("remove", "/a/b")], {"a": {}}, id="remove a key"),
        pytest.param({"a": 1}, [op("replace", "/a", value=2)], {"a": 2}, id="replace"),
        pytest.param({"a": [1]}, [op("replace", "/a/0", value=2)], {"a": [2]}, id="replace item"),
        pytest.param({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}, id="move"),
        pytest.param(
            {"a": [1]},
            [{"op": "copy", "from": "/a", "path": "/b"}, op("add", "/b/-", value=2)],
            {"a": [1], "b": [1, 2]},
            id="a copy is independent",
        ),
        pytest.param(
            {"x/y": {"~": 1}}, [op("replace", "/x~1y/~0", value=2)], {"x/y": {"~": 2}}, id="escapes"
        ),
        pytest.param({"a": {"b": [1.0]}}, [op("test", "/a", value={"b": [1]})], None, id="test"),
        pytest.param({}, [op("test", "/a", value=None)], {}, id="test for absence"),
    ],
)
def test_applies(document: dict[str, Any], patch: list[Any], expected: Any) -> None:
    before = repr(document)
    assert apply_json_patch(document, patch) == (document if expected is None else expected)
    assert repr(document) == before


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param([op("remove", "/missing")], id="remove of nothing"),
        pytest.param([op("add", "/missing/a", value=1)], id="add below nothing"),
        pytest.param([op("add", "/s/a", value=1)], id="add below a scalar"),
        pytest.param([op("add", "/l/5", value=1)], id="index out of bounds"),
        pytest.param([op("add", "/l/99999999999999999999", value=1)], id="huge index"),
        pytest.param([op("add", "/l/x", value=1)], id="no index"),
        pytest.param([op("remove", "/l/-")], id="remove at the end mark"),
        pytest.param([op("test", "/s", value="other")], id="failing test"),
        pytest.param([op("test", "/one", value=True)], id="one is not true"),
        pytest.param([op("frobnicate", "/s")], id="unknown operation"),
        pytest.param([op("add", "", value={})], id="the root"),
        pytest.param([op("add", "s", value={})], id="no leading slash"),
        pytest.param([{"op": "copy", "path": "/b"}], id="no from"),
    ],
)
def test_cannot_be_applied(patch: list[Any]) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch({"s": "text", "l": [1], "one": 1}, patch)
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    assert caught.value.message == "the server rejected our request due to an error in our request"
    assert caught.value.details == {}


@pytest.mark.parametrize("patch", [{}, 1, [1], [[]]])
def test_no_patch_at_all(patch: Any) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch({}, patch)
    assert caught.value.status == 400


def test_too_many_operations() -> None:
    operations = [op("add", "/a", value=1)] * MAX_OPERATIONS
    assert apply_json_patch({}, operations) == {"a": 1}
    with pytest.raises(ApiError) as caught:
        apply_json_patch({}, [*operations, op("add", "/b", value=1)])
    assert caught.value.status == 413


def test_copy_bomb_is_refused_quickly() -> None:
    document = {"a": ["x" * 100]}
    bomb = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    started = time.process_time()
    with pytest.raises(ApiError) as caught:
        apply_json_patch(document, bomb)
    assert caught.value.status == 422
    assert time.process_time() - started < 5


def test_nesting_without_end_is_refused() -> None:
    deep: Any = 1
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(ApiError) as caught:
        apply_json_patch({}, [op("add", "/a", value=deep)])
    assert caught.value.status == 400


def test_changes_after_copies_and_moves_reach_one_place_only() -> None:
    document = {"a": {"x": [1]}, "l": [{"n": 1}]}
    patch = [
        op("add", "/a/x/-", value=2),
        {"op": "copy", "from": "/a", "path": "/b"},
        op("add", "/a/x/-", value=3),
        op("add", "/b/x/-", value=4),
        {"op": "copy", "from": "/l/0", "path": "/l/-"},
        op("replace", "/l/1/n", value=2),
        {"op": "move", "from": "/b", "path": "/c"},
        op("add", "/c/y", value=5),
    ]
    assert apply_json_patch(document, patch) == {
        "a": {"x": [1, 2, 3]},
        "c": {"x": [1, 2, 4], "y": 5},
        "l": [{"n": 1}, {"n": 2}],
    }
    assert document == {"a": {"x": [1]}, "l": [{"n": 1}]}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        pytest.param(None, {"s": "x"}, id="null is no operation"),
        pytest.param([op("replace", "/new", value=1)], {"s": "x", "new": 1}, id="replace adds"),
        pytest.param([op("add", "/s")], {"s": None}, id="no value is null"),
        pytest.param(
            [{"op": "copy", "from": "/none", "path": "/s"}], {"s": None}, id="copy of nothing"
        ),
    ],
)
def test_what_the_standard_refuses_and_upstream_takes(patch: Any, expected: Any) -> None:
    assert apply_json_patch({"s": "x"}, patch) == expected


def test_a_path_that_is_no_text() -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch({}, [{"op": "remove", "path": 5}])
    assert (caught.value.status, caught.value.message) == (
        400,
        "error decoding patch: json: cannot unmarshal number into Go struct field "
        "jsonPatchOp.path of type string",
    )


def test_the_root_can_be_replaced() -> None:
    patch = [op("replace", "", value={"a": {"b": 1}}), op("add", "/a/c", value=2)]
    assert apply_json_patch({"s": "text"}, patch) == {"a": {"b": 1, "c": 2}}


def test_what_stands_before_the_first_slash_does_not_count() -> None:
    assert apply_json_patch({}, [op("add", "data/a", value=1)]) == {"a": 1}


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        (
            op("remove", "/m/z"),
            "error in remove for path: '/m/z': Unable to remove nonexistent key: z: missing value",
        ),
        (
            op("add", "/z/a", value=1),
            'add operation does not apply: doc is missing path: "/z/a": missing value',
        ),
        (
            op("replace", "/l/7", value=1),
            "replace operation does not apply: doc is missing key: /l/7: missing value",
        ),
        (op("x", "/m"), "Unexpected kind: x"),
    ],
)
def test_why_it_cannot_be_applied(operation: dict[str, Any], why: str) -> None:
    with pytest.raises(ApiError) as caught:
        apply_json_patch({"m": {"a": 1}, "l": [1]}, [operation])
    assert str(caught.value.__cause__) == why
