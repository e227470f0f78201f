"""Patterns of custom resources: same answers as a backtracking engine, without its worst cases."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.apiserver.crd import patterns
from navarch.apiserver.crd.patterns import PatternError, search

LABEL = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("b+c", "abbcd", True),
        (LABEL, "a-1.b.c2", True),
        (LABEL, "a-.b", False),
        (r"^\d+(\.\d+){2}$", "1.22.333", True),
        (r"^\d+(\.\d+){2}$", "1.22", False),
        (r"(foo|ba[rz]+)*!$", "foobarzz!", True),
        (r"^[[:alpha:]]+[[:digit:]]*\z", "abc12", True),
        (r"^(?i)abc".replace("^(?i)", "(?i)^"), "ABC", True),
        (r"(?i)^(a+b*)+$", "AaBb", True),
        (r"\bx+\b.*y*", "a xx b", True),
        (r"^[^a]*[^\d]+$", "bcd", True),
        (r"^.*\n.*$", "a\nb", True),
        (r"^$", "", True),
        (r"^[a-z]+$", "abc\n", False),
        (r"^abc$", "abc\n", False),
    ],
)
def test_matches(pattern: str, text: str, expected: bool) -> None:
    assert search(pattern, text) is expected
    machine = patterns._compile(pattern)
    assert patterns._run(machine.start, machine.end, text) is expected


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a+)+$", "a" * 5000 + "!"),
        ("^(a|aa)+$", "a" * 5000 + "!"),
        ("^a*a*a*a*a*b$", "a" * 3000),
        ("a+b", "a" * 20000),
        ("^(a?){40}a{40}$", "a" * 39),
        (LABEL, "a" * 3000 + "!"),
    ],
)
def test_no_pattern_runs_away(pattern: str, text: str) -> None:
    began = time.perf_counter()
    assert not search(pattern, text)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("pattern", ["(", r"(a+)\1+", "a{1000}{1000}b*c*", "(?=a+)b*c*"])
def test_what_is_not_understood_is_said(pattern: str) -> None:
    with pytest.raises(PatternError):
        search(pattern, "x" * 100)


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.from_regex(r"\A\^?([ab.]|\[ab\]|\(a\|b\)|\(ab\))([*+?]|\{1,3\})?([ab]\*)?b*\$?\Z"),
    text=st.text("abc\n", max_size=12),
)
def test_both_engines_agree(pattern: str, text: str) -> None:
    machine = patterns._compile(pattern)
    # Python's `$` also matches before a final newline, RE2's and ours only at the end.
    expected = re.compile(pattern.replace("$", r"\Z"), re.ASCII).search(text) is not None
    assert patterns._run(machine.start, machine.end, text) is expected
