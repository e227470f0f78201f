"""YAML as kubectl's users know it: Go's reading of YAML 1.1."""

from __future__ import annotations

import pytest

from navarch.api.schema.yaml_body import YamlError, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("n", False),
        ("OFF", False),
        ("tRUE", "tRUE"),
        ("12", 12),
        ("-1_000", -1000),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("089", 89.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.2.3", "1.2.3"),
        ("-", [None]),
        ("'12'", "12"),
        ('"yes"', "yes"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("!!float 12", 12.0),
        ("!custom 12", 12),
        ("{1: a, true: b, 1.5: c}", {"1": "a", "true": "b", "1.5": "c"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        (
            "a: &x {c: 1, d: 2}\nb:\n  <<: *x\n  d: 3",
            {"a": {"c": 1, "d": 2}, "b": {"d": 3, "c": 1}},
        ),
        ("a: 1\n---\nb: 2", {"a": 1}),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse_yaml(text.encode()).value
    assert found == value
    assert type(found) is type(value)


def test_aliases_are_copies() -> None:
    value = parse_yaml(b"a: &x [1]\nb: *x").value
    assert value["a"] is not value["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: *x", "yaml: unknown anchor 'x' referenced"),
        (b"&x [*x]", "yaml: anchor 'x' value contains itself"),
        (b"a: b: c", "yaml: line 1: mapping values are not allowed in this context"),
        (b"a:\n\tb: 1", "yaml: line 2: found character that cannot start any token"),
        (b"a: .nan", "json: unsupported value: .nan"),
        (b"!!int x", "yaml: cannot decode !!str `x` as a !!int"),
        (b"{[1]: a}", "Unsupported map key of type: list"),
        (b"<<: [1]", "yaml: map merge requires map or sequence of maps as the value"),
    ],
)
def test_errors(text: bytes, message: str) -> None:
    with pytest.raises(YamlError) as error:
        parse_yaml(text)
    assert str(error.value) == message


def test_repeated_keys_are_told_with_their_line() -> None:
    document = parse_yaml(b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert document.value == {"a": 3, "b": {"c": 2}}
    assert document.duplicates == [
        'line 4: key "c" already set in map',
        'line 5: key "a" already set in map',
    ]
