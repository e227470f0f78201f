"""Simple JSONPath, as printer columns and kubectl use it: `.spec.ports[*].port`,
`.status.conditions[?(@.type=="Ready")].status`, `.metadata.labels['a.b/c']`, `..name`.

Kubernetes has a dialect of its own: a path may be wrapped in braces, a dot in a name is escaped
by a backslash, and a name that is not there is no error here but finds nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]


class JsonPathError(ValueError):
    """The text is no path of this dialect."""


_NAME = re.compile(r"(?:\\.|[^\s.\[\]\\()'\"])+")
_SUBSCRIPT = re.compile(r"""\[((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\]'"])*)\]""")
_FILTER = re.compile(
    r"""\[\?\(\s*((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\([^()]*\)|[^()'"])*)\)\s*\]"""
)
_COMPARISON = re.compile(
    r"""((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^=!<>'"])+?)\s*(==|!=|<=|>=|<|>)\s*(.+)""", re.S
)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_QUOTED = re.compile(r"""'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)\"""")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A compiled path."""

    steps: tuple[Step, ...]

    def find(self, value: Any) -> list[Any]:
        """All values that the path leads to, in order."""
        found = [value]
        for step in self.steps:
            found = [result for each in found for result in step(each)]
        return found


@lru_cache(maxsize=1024)
def parse_jsonpath(text: str) -> JsonPath:
    """Compile a path. Raises JsonPathError."""
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        inner = inner[1:-1].strip()
    inner = inner.removeprefix("$")
    return JsonPath(tuple(_steps(inner)))


def _steps(text: str) -> Iterator[Step]:
    position = 0
    while position < len(text):
        rest = text[position:]
        if rest.startswith(".."):
            yield _descend
            position += 2
            rest = text[position:]
            if not rest.startswith("["):
                match = _expect(_NAME, rest, text)
                yield _name(match[0])
                position += match.end()
        elif rest.startswith("[?"):
            match = _expect(_FILTER, rest, text)
            yield _filter(match[1])
            position += match.end()
        elif rest.startswith("["):
            match = _expect(_SUBSCRIPT, rest, text)
            yield _subscript(match[1], text)
            position += match.end()
        elif rest.startswith("."):
            position += 1
            if position < len(text) and text[position] != "[":
                match = _expect(_NAME, text[position:], text)
                yield _name(match[0])
                position += match.end()
        elif position == 0:
            match = _expect(_NAME, rest, text)
            yield _name(match[0])
            position += match.end()
        else:
            raise JsonPathError(f"unexpected {rest[:1]!r} in {text!r}")


def _expect(pattern: re.Pattern[str], rest: str, text: str) -> re.Match[str]:
    match = pattern.match(rest)
    if match is None:
        raise JsonPathError(f"unrecognized character at {rest[:10]!r} in {text!r}")
    return match


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _name(text: str) -> Step:
    """A field of an object; `*` is all of them."""
    if text == "*":
        return _children
    field = _unescape(text)

    def step(value: Any) -> Iterable[Any]:
        return (value[field],) if isinstance(value, dict) and field in value else ()

    return step


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _descend(value: Any) -> Iterator[Any]:
    """The value and all that is below it."""
    yield value
    for child in _children(value):
        yield from _descend(child)


def _subscript(text: str, path: str) -> Step:
    """What is between brackets: names, indexes, slices, or several of them."""
    parts = [part.strip() for part in _split(text)]
    steps = [_one_subscript(part, path) for part in parts]

    def step(value: Any) -> Iterator[Any]:
        for each in steps:
            yield from each(value)

    return step


def _split(text: str) -> list[str]:
    """At commas that are not quoted."""
    return re.findall(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,'"])+""", text) or [""]


def _one_subscript(text: str, path: str) -> Step:
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        inner = quoted[1] if quoted[1] is not None else quoted[2]
        return _name(inner if inner != "*" else "\\*")
    if text == "*":
        return _children
    if _INTEGER.fullmatch(text):
        return _index(int(text))
    bounds = text.split(":")
    if 1 < len(bounds) <= 3 and all(not each or _INTEGER.fullmatch(each) for each in bounds):
        return _slice([int(each) if each else None for each in bounds])
    if _NAME.fullmatch(text) and not text[:1].isdigit():
        return _name(text)
    raise JsonPathError(f"invalid array index {text!r} in {path!r}")


def _index(index: int) -> Step:
    def step(value: Any) -> Iterable[Any]:
        if not isinstance(value, list) or not -len(value) <= index < len(value):
            return ()
        return (value[index],)

    return step


def _slice(bounds: list[int | None]) -> Step:
    if len(bounds) == 3 and bounds[2] is not None and bounds[2] <= 0:
        raise JsonPathError("the step of a slice must be positive")
    cut = slice(*bounds)

    def step(value: Any) -> Iterable[Any]:
        return value[cut] if isinstance(value, list) else ()

    return step


def _filter(text: str) -> Step:
    """The items for which a comparison holds, or for which a path finds something."""
    match = _COMPARISON.fullmatch(text.strip())
    if match is None:
        path = _operand(text.strip())

        def exists(value: Any) -> Iterable[Any]:
            return [item for item in _items(value) if path(item)]

        return exists
    left, right = _operand(match[1].strip()), _operand(match[3].strip())
    compare = _OPERATORS[match[2]]

    def step(value: Any) -> Iterable[Any]:
        return [item for item in _items(value) if _holds(compare, left(item), right(item))]

    return step


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _holds(compare: Callable[[Any, Any], bool], left: list[Any], right: list[Any]) -> bool:
    """Whether both sides found one value, and these compare. Values of two kinds never do."""
    if len(left) != 1 or len(right) != 1:
        return False
    first, second = left[0], right[0]
    if isinstance(first, bool) != isinstance(second, bool):
        return False
    try:
        return bool(compare(first, second))
    except TypeError:
        return False


def _operand(text: str) -> Callable[[Any], list[Any]]:
    """One side of a comparison: a path from the item (`@`), or a literal."""
    if text.startswith("@"):
        return JsonPath(tuple(_steps(text[1:]))).find
    quoted = _QUOTED.fullmatch(text)
    literal: Any
    if quoted is not None:
        literal = _unescape(quoted[1] if quoted[1] is not None else quoted[2])
    elif text in ("true", "false"):
        literal = text == "true"
    else:
        try:
            literal = int(text) if _INTEGER.fullmatch(text) else float(text)
        except ValueError:
            raise JsonPathError(f"unrecognized operand {text!r}") from None
    return lambda item: [literal]
