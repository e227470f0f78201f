"""The string functions of cel-go's extension library, version 2. Positions count code points."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.cel.costs import TRAVERSAL, UNBOUNDED, CallEstimate, Estimate, allow, fixed, scaled
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    CostNode,
    Library,
    call,
    estimate_traversal,
    member,
    method,
    overload,
    traversal,
)
from navarch.api.cel.library.formatting import FORMAT, check_format
from navarch.api.cel.types import INT, STRING, list_of
from navarch.api.cel.values import size_of

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TO_LOWER = str.maketrans(_UPPER, _UPPER.lower())
_TO_UPPER = str.maketrans(_UPPER.lower(), _UPPER)
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""White space as Unicode has it; Python's own idea includes four control characters more."""
_QUOTED = str.maketrans(
    {
        "\a": r"\a",
        "\b": r"\b",
        "\f": r"\f",
        "\n": r"\n",
        "\r": r"\r",
        "\t": r"\t",
        "\v": r"\v",
        "\\": r"\\",
        '"': r"\"",
    }
)


def _out_of_range(index: int) -> EvaluationError:
    return EvaluationError(f"index out of range: {index}")


def char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise _out_of_range(index)
    return text[index : index + 1]


def index_of(text: str, part: str, start: int = 0) -> int:
    if not part:
        return start
    if start < 0:
        raise _out_of_range(start)
    return text.find(part, start) if start < len(text) else -1


def last_index_of(text: str, part: str, start: int | None = None) -> int:
    if not part:
        return len(text) if start is None else start
    if start is None:
        return text.rfind(part)
    if start < 0:
        raise _out_of_range(start)
    return text.rfind(part, 0, start + len(part)) if start < len(text) else -1


def split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if separator:
        return text.split(separator, limit - 1 if limit > 0 else -1)
    if 0 < limit < len(text):
        return [*text[: limit - 1], text[limit - 1 :]]
    return list(text)


def substring(text: str, start: int, end: int | None = None) -> str:
    if end is not None and start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    for index in (start, len(text) if end is None else end):
        if not 0 <= index <= len(text):
            raise _out_of_range(index)
    return text[start:end]


def join(parts: list[object], separator: str = "") -> str:
    for part in parts:
        if not isinstance(part, str):
            raise EvaluationError(f"join: invalid input: {part}")
    allow(sum(map(len, map(str, parts))) + len(separator) * len(parts))
    return separator.join(map(str, parts))


def replace(text: str, old: str, new: str, limit: int = -1) -> str:
    count = text.count(old)
    allow(len(text) + len(new) * (count if limit < 0 else min(count, limit)))
    return text.replace(old, new, limit)


def quote(text: str) -> str:
    return f'"{text.translate(_QUOTED)}"'


# ---- costs


def _index_cost(arguments: Sequence[object], result: object) -> int:
    text = str(arguments[0])
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return int(size * TRAVERSAL)


def _estimate_replace(nodes: Sequence[CostNode]) -> CallEstimate:
    """A traversal and the result, which is largest when the smallest parts are replaced by the
    largest ones (and smallest the other way round)."""
    size, old, new = nodes[0].size, nodes[1].size, nodes[2].size
    if old.min == 0:
        most, kept_most = min(size.max + 1, UNBOUNDED), size.max
    elif new.max <= old.min:
        most, kept_most = 0, size.max
    else:
        most, kept_most = scaled(size.max, 1 / old.min), 0
    if old.max == 0:
        least, kept_least = min(size.min + 1, UNBOUNDED), size.min
    elif old.max <= new.min:
        least, kept_least = 0, size.min
    else:
        least, kept_least = scaled(size.min, 1 / old.max), 0
    result = Estimate(least, most).times(new).plus(Estimate(kept_least, kept_most))
    return CallEstimate(size.scaled(2 * TRAVERSAL), result)


def _estimate_split(nodes: Sequence[CostNode]) -> CallEstimate:
    size = nodes[0].size
    most = size.max
    if len(nodes) > 2 and type(nodes[2].literal) is int:
        most = nodes[2].literal % (UNBOUNDED + 1)
    return CallEstimate(size.scaled(2 * TRAVERSAL), Estimate(0, most))


def _join_cost(arguments: Sequence[object], result: object) -> int:
    return scaled(size_of(result), 2 * TRAVERSAL)


def _estimate_join(nodes: Sequence[CostNode]) -> CallEstimate:
    count, total = nodes[0].size, fixed(0)
    element = nodes[0].element()
    if element is not None:
        total = count.times(element.size)
    if len(nodes) > 1:
        gaps = Estimate(max(count.min - 1, 0), max(count.max - 1, 0))
        total = total.plus(nodes[1].size.times(gaps))
    return CallEstimate(total.scaled(TRAVERSAL), total)


def _estimate_quote(nodes: Sequence[CostNode]) -> CallEstimate:
    size = nodes[0].size  # between nothing and everything escaped, and the two quotes
    result = size.times(Estimate(1, 2)).plus(fixed(2))
    return CallEstimate(size.scaled(TRAVERSAL), result)


_QUOTE = (traversal(), _estimate_quote)
_WALK = (traversal(), estimate_traversal(result_size=True))
_FIND = (_index_cost, estimate_traversal())
_REPLACE = (traversal(factor=2 * TRAVERSAL), _estimate_replace)
_SPLIT = (traversal(factor=2 * TRAVERSAL), _estimate_split)
_JOIN = (_join_cost, _estimate_join)
_S = STRING

STRINGS = Library(
    name="cel.lib.ext.strings",
    since=(1, 29),
    literal_checks={"format": check_format},
    mixed_literals=frozenset(("format",)),
    functions=(
        method("charAt", "string_char_at_int", (_S, INT), _S, char_at),
        member(
            "indexOf",
            overload("string_index_of_string", (_S, _S), INT, index_of, *_FIND),
            overload("string_index_of_string_int", (_S, _S, INT), INT, index_of, *_FIND),
        ),
        member(
            "lastIndexOf",
            overload("string_last_index_of_string", (_S, _S), INT, last_index_of, *_FIND),
            overload("string_last_index_of_string_int", (_S, _S, INT), INT, last_index_of, *_FIND),
        ),
        method(
            "lowerAscii", "string_lower_ascii", (_S,), _S, lambda s: s.translate(_TO_LOWER), *_WALK
        ),
        method(
            "upperAscii", "string_upper_ascii", (_S,), _S, lambda s: s.translate(_TO_UPPER), *_WALK
        ),
        member(
            "replace",
            overload("string_replace_string_string", (_S, _S, _S), _S, replace, *_REPLACE),
            overload("string_replace_string_string_int", (_S, _S, _S, INT), _S, replace, *_REPLACE),
        ),
        member(
            "split",
            overload("string_split_string", (_S, _S), list_of(_S), split, *_SPLIT),
            overload("string_split_string_int", (_S, _S, INT), list_of(_S), split, *_SPLIT),
        ),
        member(
            "substring",
            overload("string_substring_int", (_S, INT), _S, substring, *_WALK),
            overload("string_substring_int_int", (_S, INT, INT), _S, substring, *_WALK),
        ),
        method("trim", "string_trim", (_S,), _S, lambda s: s.strip(_SPACE), *_WALK),
        member(
            "join",
            overload("list_join", (list_of(_S),), _S, join, *_JOIN),
            overload("list_join_string", (list_of(_S), _S), _S, join, *_JOIN),
        ),
        call("strings.quote", "strings_quote", (_S,), _S, quote, *_QUOTE),
        FORMAT,
    ),
)
