"""`string.format(list)`: the clauses of cel-go's string library, version 2.

Numbers print as they do in American English (`1,234.50`), as upstream's localised output
prints them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from navarch.api.cel.ast import Call, Expr, ListExpr, Literal, MapExpr
from navarch.api.cel.conversions import bytes_to_string, double_to_string
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import Function, estimate_traversal, method, traversal
from navarch.api.cel.types import DYN, STRING, CelType, Kind, list_of
from navarch.api.cel.values import Duration, Timestamp, type_of
from navarch.api.errors import go_quoted

_CLAUSE = re.compile(r"%(?:\.([0-9]*))?(.?)", re.DOTALL)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PRECISION = 6

_ALLOWED = {
    "s": (
        "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, "
        "types, durations, and timestamps"
    ),
    "d": "decimal clause can only be used on integers",
    "f": "fixed-point clause can only be used on doubles",
    "e": "scientific clause can only be used on doubles",
    "b": "only integers and bools can be formatted as binary",
    "o": "octal clause can only be used on integers",
    "x": "only integers, byte buffers, and strings can be formatted as hex",
}
_NUMBERS_IN_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _unfit(clause: str, value: Any) -> EvaluationError:
    name = type_of(value).name
    return EvaluationError(f"error during formatting: {_ALLOWED[clause]}, was given {name}")


def _plain(value: Any) -> str:
    """`%s`: strings bare, aggregates with quoted members."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return bytes_to_string(value)
    if isinstance(value, float):
        return double_to_string(value)
    if isinstance(value, Timestamp | Duration):
        return str(value)
    return _member(value)


def _member(value: Any) -> str:
    """A value inside a list or a map, as a literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return go_quoted(value)
    if isinstance(value, bytes):
        return "b" + go_quoted(value.decode("utf-8", "replace"))
    if isinstance(value, float):
        return f"{value:.{PRECISION}f}" if math.isfinite(value) else f'"{double_to_string(value)}"'
    if isinstance(value, Timestamp):
        return f'timestamp("{value}")'
    if isinstance(value, Duration):
        return f'duration("{value}")'
    if isinstance(value, CelType):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(map(_member, value))}]"
    if isinstance(value, dict):
        pairs = sorted((_member(key), _member(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}:{item}" for key, item in pairs) + "}"
    raise _unfit("s", value)


def _number(clause: str, value: Any) -> float:
    if isinstance(value, str) and value in _NUMBERS_IN_WORDS:
        return _NUMBERS_IN_WORDS[value]
    if not isinstance(value, float):
        raise _unfit(clause, value)
    return value


def _infinite(value: float) -> str:
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"


def _fixed(value: Any, precision: int) -> str:
    number = _number("f", value)
    return f"{number:,.{precision}f}" if math.isfinite(number) else _infinite(number)


def _scientific(value: Any, precision: int) -> str:
    number = _number("e", value)
    if not math.isfinite(number):
        return _infinite(number)
    mantissa, _, exponent = f"{number:.{PRECISION}e}".partition("e")
    power = exponent.removeprefix("+").translate(_SUPERSCRIPT)
    return f"{mantissa}×10{power}"


def _integer(clause: str, value: Any) -> str:
    """An integer by the letter that Python has for it too."""
    if not isinstance(value, int) or (isinstance(value, bool) and clause != "b"):
        raise _unfit(clause, value)
    return format(int(value), clause)


def _hex(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").hex()
    return value.hex() if isinstance(value, bytes) else _integer("x", value)


_CLAUSES: dict[str, Callable[[Any, int], str]] = {
    "s": lambda value, precision: _plain(value),
    "d": lambda value, precision: _integer("d", value),
    "f": _fixed,
    "e": _scientific,
    "b": lambda value, precision: _integer("b", value),
    "o": lambda value, precision: _integer("o", value),
    "x": lambda value, precision: _hex(value),
    "X": lambda value, precision: _hex(value).upper(),
}


def format_text(text: str, values: list[Any]) -> str:
    """The text with each clause replaced by the next value."""
    parts: list[str] = []
    position = used = 0
    for clause, precision, start, end in clauses(text):
        parts.append(text[position:start])
        position = end
        if clause == "%":
            parts.append("%")
            continue
        if used >= len(values):
            raise EvaluationError(f"index {used} out of range")
        if clause not in _CLAUSES:
            raise EvaluationError(clause_problem(clause))
        parts.append(_CLAUSES[clause](values[used], precision))
        used += 1
    return "".join(parts) + text[position:]


def clauses(text: str) -> list[tuple[str, int, int, int]]:
    """The clauses of a format: the letter, the precision, where it starts and ends."""
    found = []
    position = text.find("%")
    while position >= 0:
        match = _CLAUSE.match(text, position)
        assert match is not None
        digits, letter = match.groups()
        precision = PRECISION if digits is None else int(digits[:4] or -1)
        found.append((letter if precision >= 0 else ".", precision, position, match.end()))
        position = text.find("%", match.end())
    return found


def clause_problem(clause: str) -> str:
    if not clause:
        return "unexpected end of string"
    if clause == ".":
        return (
            "could not parse formatting clause: error while parsing precision: error while "
            'converting precision to integer: strconv.Atoi: parsing "": invalid syntax'
        )
    return f'could not parse formatting clause: unrecognized formatting clause "{clause}"'


_TAKES: dict[str, frozenset[Kind]] = {
    "s": frozenset(Kind) - {Kind.OPAQUE, Kind.OBJECT, Kind.PARAMETER},
    "d": frozenset((Kind.INT, Kind.UINT)),
    "f": frozenset((Kind.DOUBLE, Kind.STRING)),
    "e": frozenset((Kind.DOUBLE, Kind.STRING)),
    "b": frozenset((Kind.INT, Kind.UINT, Kind.BOOL)),
    "o": frozenset((Kind.INT, Kind.UINT)),
    "x": frozenset((Kind.INT, Kind.UINT, Kind.STRING, Kind.BYTES)),
}


def _misfit(clause: str, node: Expr) -> Expr | None:
    """The part of an argument that a clause cannot print, by its type."""
    if node.type.kind is not Kind.DYN and node.type.kind not in _TAKES[clause]:
        return node
    if clause == "s" and isinstance(node, (ListExpr, MapExpr)):
        return next((bad for child in node.children() if (bad := _misfit("s", child))), None)
    return None


def check_format(call: Call) -> tuple[Expr, str] | None:
    """A literal format with a literal list is checked when compiled."""
    text, values = call.target, call.args[0]
    if not isinstance(text, Literal) or not isinstance(values, ListExpr):
        return None
    used = 0
    for clause, _, _, _ in clauses(text.value):
        if clause == "%":
            continue
        if used >= len(values.elements):
            return call, f"index {used} out of range"
        if clause not in _CLAUSES:
            return call, clause_problem(clause)
        kind = "x" if clause == "X" else clause
        if (bad := _misfit(kind, values.elements[used])) is not None:
            return bad, f"error during formatting: {_ALLOWED[kind]}, was given {bad.type.name}"
        used += 1
    if len(values.elements) > used:
        excess = f"(expected {used}, got {len(values.elements)})"
        return call, f"too many arguments supplied to string.format {excess}"
    return None


FORMAT: Function = method(
    "format",
    "string_format",
    (STRING, list_of(DYN)),
    STRING,
    format_text,
    traversal(),
    estimate_traversal(),
)
