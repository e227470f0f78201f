"""Regular expressions: RE2's answers, Go's texts, no pattern that runs away."""

from __future__ import annotations

import time

import pytest

from navarch.api.regex import PatternError, find, find_all, search

LABEL = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("b+c", "abbcd", True),
        (LABEL, "a-1.b.c2", True),
        (LABEL, "a-.b", False),
        (r"^[[:alpha:]]+[[:digit:]]*\z", "abc12", True),
        (r"(?i)^(a+b*)+$", "AaBb", True),
        (r"^\pL+$", "Zoë", True),
        (r"^\w+$", "Zoë", False),
        (r"^abc$", "abc\n", False),
        (r"^.$", "\ud800", True),
        (r"^.$", "\U0001f600", True),
    ],
)
def test_search(pattern: str, text: str, expected: bool) -> None:
    assert search(pattern, text) is expected


def test_find() -> None:
    assert find("[0-9]+", "ab12cd3") == "12"
    assert find("[0-9]*", "ab1") == ""
    assert find("x", "ab1") == ""


@pytest.mark.parametrize(
    ("pattern", "text", "limit", "expected"),
    [
        ("[0-9]+", "ab12cd3", -1, ["12", "3"]),
        ("[0-9]+", "ab12cd3", 1, ["12"]),
        ("[0-9]+", "ab12cd3", 0, []),
        ("a*", "baab", -1, ["", "aa", ""]),
        ("é", "éxé", -1, ["é", "é"]),
    ],
)
def test_find_all(pattern: str, text: str, limit: int, expected: list[str]) -> None:
    assert find_all(pattern, text, limit) == expected


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a+)+$", "a" * 5000 + "!"),
        ("^a*a*a*a*a*b$", "a" * 3000),
        ("^(a?){40}a{40}$", "a" * 39),
    ],
)
def test_no_pattern_runs_away(pattern: str, text: str) -> None:
    began = time.process_time()
    assert not search(pattern, text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a(b", "missing closing ): `a(b`"),
        (r"(a+)\1+", r"invalid escape sequence: `\1`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("(?=a+)", "invalid or unsupported Perl syntax: `(?=`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("\ud800", "invalid UTF-8"),
    ],
)
def test_what_is_not_understood_is_said(pattern: str, text: str) -> None:
    with pytest.raises(PatternError) as caught:
        search(pattern, "x")
    assert str(caught.value).startswith(f"error parsing regexp: {text}")
