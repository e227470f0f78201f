from __future__ import annotations

from typing import Any

import pytest

from navarch.api.jsonpath import JsonPathError, parse_jsonpath

VALUE = {
    "metadata": {"name": "x", "labels": {"a.b/c": "d", "it's": "q"}},
    "items": [
        {"name": "one", "port": 80, "on": True},
        {"name": "two", "port": 443},
        {"name": "three", "port": 8080, "deep": {"name": "four"}},
    ],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".metadata.name", ["x"]),
        ("{.metadata.name}", ["x"]),
        ("$.metadata.name", ["x"]),
        ("metadata.name", ["x"]),
        (".metadata.labels.a\\.b/c", ["d"]),
        (".metadata.labels['a.b/c']", ["d"]),
        ('.metadata.labels["a.b/c"]', ["d"]),
        (r".metadata.labels['it\'s']", ["q"]),
        (".items[0].name", ["one"]),
        (".items[-1].name", ["three"]),
        (".items[7].name", []),
        (".items[*].port", [80, 443, 8080]),
        (".items[0,2].port", [80, 8080]),
        (".items[1:].port", [443, 8080]),
        (".items[0:3:2].port", [80, 8080]),
        (".items[?(@.port>100)].name", ["two", "three"]),
        (".items[?(@.name=='two')].port", [443]),
        ('.items[?(@.name=="two")].port', [443]),
        (".items[?(@.on==true)].name", ["one"]),
        (".items[?(@.deep)].name", ["three"]),
        (".items[?(@.deep.name=='four')].port", [8080]),
        (".items[?(@.name!='two')].port", [80, 8080]),
        (".items[?(@.name>5)].port", []),
        ("..name", ["x", "one", "two", "three", "four"]),
        (".metadata.*", ["x", {"a.b/c": "d", "it's": "q"}]),
        (".absent.deeper", []),
        ("", [VALUE]),
    ],
)
def test_find(path: str, expected: list[Any]) -> None:
    assert parse_jsonpath(path).find(VALUE) == expected


@pytest.mark.parametrize("path", [".a[", ".a[b c]", ".a[?(@.b==c)]", ".a[::0]", ".a(b)", ".a[1]b"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(JsonPathError):
        parse_jsonpath(path)
