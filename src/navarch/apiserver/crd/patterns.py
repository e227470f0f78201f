"""Regular expressions of custom resources, matched in time that grows with the text alone.

Whoever may define a custom resource writes patterns that the API server runs on other people's
values. Upstream uses RE2, which never backtracks. Python's engine does, so a pattern in which
repetitions can compete for the same text is matched here by following all its states at once
(Thompson's construction). RE2's syntax has no back references and no look-around, so states are all
there is; harmless patterns take the fast engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MAX_STATES = 20_000
SHORT_TEXT, LONGER_TEXT = 64, 4096
"""Up to here several repetitions one after the other, or a single one, cost nothing worth speaking
of: their cost is a power of the text's length."""

Test = Callable[[str], bool]


class PatternError(ValueError):
    """The pattern is not understood."""


@dataclass(slots=True)
class _State:
    """A state consumes a character that passes `test`, or is a place that leads on at once."""

    test: Test | None = None
    at: Any = None
    """A position that must hold here (start, end, word boundary)."""
    follow: list[_State] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Machine:
    """A compiled pattern. `fast` is Python's own, when that cannot run away."""

    fast: re.Pattern[str]
    longest: int
    """Texts up to this length take the fast way."""
    start: _State
    end: _State


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text. Raises PatternError."""
    machine = _compile(pattern)
    # Python lets `$` match before a final newline, RE2 does not.
    if len(text) <= machine.longest and not text.endswith("\n"):
        return machine.fast.search(text) is not None
    return _run(machine.start, machine.end, text)


_CLASSES = {
    "[:alpha:]": "A-Za-z",
    "[:digit:]": "0-9",
    "[:alnum:]": "0-9A-Za-z",
    "[:upper:]": "A-Z",
    "[:lower:]": "a-z",
    "[:space:]": r"\t\n\v\f\r ",
    "[:xdigit:]": "0-9A-Fa-f",
    "[:word:]": "0-9A-Za-z_",
}


def _translated(pattern: str) -> str:
    """RE2's spelling in Python's."""
    for name, members in _CLASSES.items():
        pattern = pattern.replace(name, members)
    pattern = pattern.replace(r"\z", r"\Z")
    return re.sub(r"\\p(?:L|\{L\})", r"[^\\W\\d_]", pattern)


@lru_cache(512)
def _compile(pattern: str) -> _Machine:
    translated = _translated(pattern)
    try:
        fast = re.compile(translated, re.ASCII)
        tree = parser.parse(translated, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"pattern {pattern!r}: {error}") from None
    repeats, is_wild = _count_repeats(tree)
    builder = _Builder(bool(tree.state.flags & re.IGNORECASE))
    end = _State()
    longest = 0 if is_wild else LONGER_TEXT if repeats <= 1 else SHORT_TEXT
    return _Machine(fast, longest, builder.sequence(list(tree), end), end)


def _children(code: Any, argument: Any) -> Iterator[Any]:
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        yield argument[2]
    elif code is codes.SUBPATTERN:
        yield argument[3]
    elif code is codes.BRANCH:
        yield from argument[1]


_SINGLE = (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN)


def _count_repeats(tree: Any) -> tuple[int, bool]:
    """How many repetitions there are, and whether one repeats more than a single character: only
    such can match one text in exponentially many ways."""
    total, is_wild = 0, False
    for code, argument in tree:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT) and argument[1] > 1:
            total += 1
            body = list(argument[2])
            is_wild |= len(body) != 1 or body[0][0] not in _SINGLE
        for child in _children(code, argument):
            count, below = _count_repeats(child)
            total += count
            is_wild |= below
    return total, is_wild


class _Builder:
    """Builds states from the parsed pattern, from its end to its start."""

    def __init__(self, ignores_case: bool) -> None:
        self.ignores_case = ignores_case
        self.count = 0

    def state(self, follow: list[_State], test: Test | None = None, at: Any = None) -> _State:
        self.count += 1
        if self.count > MAX_STATES:
            raise PatternError("the pattern repeats too much")
        return _State(test, at, follow)

    def sequence(self, tree: list[Any], follow: _State) -> _State:
        for code, argument in reversed(tree):
            follow = self.item(code, argument, follow)
        return follow

    def item(self, code: Any, argument: Any, follow: _State) -> _State:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            return self.repeat(argument, follow)
        if code is codes.SUBPATTERN:
            return self.sequence(list(argument[3]), follow)
        if code is codes.BRANCH:
            return self.state([self.sequence(list(each), follow) for each in argument[1]])
        if code is codes.AT:
            return self.state([follow], at=argument)
        return self.state([follow], self.test(code, argument))

    def repeat(self, argument: Any, follow: _State) -> _State:
        least, most, items = argument[0], argument[1], list(argument[2])
        if most is codes.MAXREPEAT:
            loop = self.state([follow])
            loop.follow.append(self.sequence(items, loop))
            follow = loop
        else:
            for _ in range(most - least):
                follow = self.state([self.sequence(items, follow), follow])
        for _ in range(least):
            follow = self.sequence(items, follow)
        return follow

    def test(self, code: Any, argument: Any) -> Test:
        """What a character must be."""
        if code is codes.ANY:
            return lambda character: character != "\n"
        if code in (codes.LITERAL, codes.NOT_LITERAL):
            source = re.escape(chr(argument))
            source = f"[^{source}]" if code is codes.NOT_LITERAL else source
        elif code is codes.IN:
            source = _class_source(argument)
        else:
            raise PatternError(f"{code} is not supported")
        flags = re.ASCII | re.DOTALL | (re.IGNORECASE if self.ignores_case else re.NOFLAG)
        full = re.compile(source, flags).fullmatch
        return lru_cache(256)(lambda character: full(character) is not None)


_CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}


def _class_source(members: list[Any]) -> str:
    """A character class written out again."""
    parts = []
    for code, argument in members:
        if code is codes.NEGATE:
            parts.append("^")
        elif code is codes.LITERAL:
            parts.append(re.escape(chr(argument)))
        elif code is codes.RANGE:
            parts.append(f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}")
        elif code is codes.CATEGORY and argument in _CATEGORIES:
            parts.append(_CATEGORIES[argument])
        else:
            raise PatternError(f"{code} is not supported")
    return f"[{''.join(parts)}]"


def _run(start: _State, end: _State, text: str) -> bool:
    """Follow all states at once, from every position on."""
    current: dict[int, _State] = {}
    for position in range(len(text) + 1):
        _enter(start, text, position, current)
        if id(end) in current:
            return True
        if position == len(text):
            return False
        character = text[position]
        following: dict[int, _State] = {}
        for state in current.values():
            if state.test is not None and state.test(character):
                for each in state.follow:
                    _enter(each, text, position + 1, following)
        current = following
    return False


def _enter(state: _State, text: str, position: int, found: dict[int, _State]) -> None:
    """Add a state and all that it leads to without a character."""
    waiting = [state]
    while waiting:
        each = waiting.pop()
        if id(each) in found or (each.at is not None and not _holds(each.at, text, position)):
            continue
        found[id(each)] = each
        if each.test is None:
            waiting += each.follow


def _holds(at: Any, text: str, position: int) -> bool:
    if at in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
        return position == 0
    if at in (codes.AT_END, codes.AT_END_STRING):
        return position == len(text)
    before = position > 0 and _is_word(text[position - 1])
    after = position < len(text) and _is_word(text[position])
    is_boundary = before != after
    return is_boundary if at is codes.AT_BOUNDARY else not is_boundary


def _is_word(character: str) -> bool:
    return character == "_" or (character.isascii() and character.isalnum())
