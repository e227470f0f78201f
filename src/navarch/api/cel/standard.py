"""The standard library: operators, conversions, sizes, string tests, time accessors, optionals.

Tables of overloads in upstream's order, which matters: the first overload that fits decides the
result type where a dyn operand lets several fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from operator import contains
from typing import Any
from zoneinfo import ZoneInfo

from navarch.api.cel import conversions as convert
from navarch.api.cel import operators as ops
from navarch.api.cel import types as t
from navarch.api.cel.ast import Call, Expr, Literal
from navarch.api.cel.costs import ONE, REGEX, TRAVERSAL, UNKNOWN, CallEstimate, Estimate, scaled
from navarch.api.cel.errors import EvaluationError, NoSuchOverload
from navarch.api.cel.functions import (
    Check,
    CostNode,
    Function,
    Library,
    Overload,
    call,
    estimate_traversal,
    function,
    member,
    method,
    overload,
    traversal,
)
from navarch.api.cel.macros import OPTIONAL_MACROS, STANDARD_MACROS, TWO_VARIABLE_COMPREHENSIONS
from navarch.api.cel.types import CelType
from navarch.api.cel.values import (
    EPOCH,
    MISSING,
    NANOS,
    Duration,
    Optional,
    Timestamp,
    equals,
    size_of,
    type_of,
)
from navarch.api.regex import PatternError, search


def matches(text: str, pattern: str) -> bool:
    try:
        return search(pattern, text)
    except PatternError as error:
        raise EvaluationError(str(error)) from None


A, B, V = t.parameter("A"), t.parameter("B"), t.parameter("V")
LIST, MAP = t.list_of(A), t.map_of(A, B)
_NUMBERS = (t.DOUBLE, t.INT, t.UINT)


def _minimum(nodes: Sequence[CostNode]) -> CallEstimate:
    """Comparing two values walks over the shorter one."""
    smallest = min(nodes[0].size.max, nodes[1].size.max)
    cost = Estimate(1 if smallest > 0 else 0, smallest)
    return CallEstimate(cost.scaled(TRAVERSAL))


def _minimum_cost(arguments: Sequence[Any], result: Any) -> int:
    return scaled(min(size_of(arguments[0]), size_of(arguments[1])), TRAVERSAL)


def estimate_equality(nodes: Sequence[CostNode]) -> CallEstimate:
    """`==` of opaque types is one comparison of small values, of others a walk."""
    if nodes[0].type.kind is not t.Kind.OPAQUE or nodes[0].type.is_optional:
        return _minimum(nodes)
    longest = 1
    if nodes[0].type.name == "kubernetes.NamedFormat":
        longest = 64
    elif nodes[0].type.name == "kubernetes.URL" and nodes[1].size != UNKNOWN:
        longest = nodes[1].size.max
    return CallEstimate(Estimate(1, longest).scaled(TRAVERSAL))


def _sum(nodes: Sequence[CostNode]) -> CallEstimate:
    size = nodes[0].size.plus(nodes[1].size)
    return CallEstimate(size.scaled(TRAVERSAL), size)


def _sum_cost(arguments: Sequence[Any], result: Any) -> int:
    return scaled(size_of(arguments[0]) + size_of(arguments[1]), TRAVERSAL)


def _concatenate_lists(nodes: Sequence[CostNode]) -> CallEstimate:
    return CallEstimate(ONE, nodes[0].size.plus(nodes[1].size))


def _matches_cost(arguments: Sequence[Any], result: Any) -> int:
    # One more than the length, as even an empty text costs what the pattern costs.
    text = scaled(size_of(arguments[0]) + 1, TRAVERSAL)
    return text * scaled(size_of(arguments[1]), REGEX)


def _estimate_matches(nodes: Sequence[CostNode]) -> CallEstimate:
    text = nodes[0].size.plus(ONE).scaled(TRAVERSAL)
    return CallEstimate(text.times(nodes[1].size.scaled(REGEX)))


def _contains_cost(arguments: Sequence[Any], result: Any) -> int:
    return scaled(size_of(arguments[0]), TRAVERSAL) * scaled(size_of(arguments[1]), TRAVERSAL)


def _estimate_contains(nodes: Sequence[CostNode]) -> CallEstimate:
    return CallEstimate(nodes[0].size.scaled(TRAVERSAL).times(nodes[1].size.scaled(TRAVERSAL)))


def _in_list_cost(arguments: Sequence[Any], result: Any) -> int:
    return size_of(arguments[1])


def _estimate_in_list(nodes: Sequence[CostNode]) -> CallEstimate:
    return CallEstimate(nodes[1].size)


def _operator(
    name: str, implementation: Callable[..., Any], rows: Sequence[tuple[Any, ...]]
) -> Function:
    """An operator; a row is (id, parameters..., result)."""
    made = (Overload(row[0], tuple(row[1:-1]), row[-1], implementation) for row in rows)
    return Function(name, tuple(_COSTS[o.id](o) if o.id in _COSTS else o for o in made))


def _costing(cost: Any, estimate: Any) -> Callable[[Overload], Overload]:
    return lambda o: overload(o.id, o.parameters, o.result, o.implementation, cost, estimate)


_COSTS = {
    "add_string": _costing(_sum_cost, _sum),
    "add_bytes": _costing(_sum_cost, _sum),
    "add_list": _costing(None, _concatenate_lists),
    "in_list": _costing(_in_list_cost, _estimate_in_list),
    "equals": _costing(_minimum_cost, estimate_equality),
    "not_equals": _costing(_minimum_cost, _minimum),
}
for _comparison in ("less", "less_equals", "greater", "greater_equals"):
    for _kind in ("string", "bytes"):
        _COSTS[f"{_comparison}_{_kind}"] = _costing(_minimum_cost, _minimum)


def _ordering(word: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The overloads of one comparison: of equal types, and of different kinds of numbers."""
    same = (t.BOOL, t.INT, t.UINT, t.DOUBLE, t.STRING, t.BYTES, t.TIMESTAMP, t.DURATION)
    names = {t.INT: "int64", t.UINT: "uint64", t.TIMESTAMP: "timestamp", t.DURATION: "duration"}
    rows = [(f"{word}_{names.get(x, x.name)}", x, x, t.BOOL) for x in same]
    crossed = [
        (f"{word}_{names.get(x, x.name)}_{names.get(y, y.name)}", x, y, t.BOOL)
        for x in _NUMBERS
        for y in _NUMBERS
        if x != y
    ]
    return rows, crossed


_COMPARISONS = {
    "_<_": ("less", ops.less),
    "_<=_": ("less_equals", ops.less_equals),
    "_>_": ("greater", ops.greater),
    "_>=_": ("greater_equals", ops.greater_equals),
}


def _arithmetic(name: str, implementation: Callable[..., Any], types: Sequence[CelType]) -> Any:
    rows = [(f"{implementation.__name__}_{x.name}", x, x, x) for x in types]
    return _operator(name, implementation, rows)


def _not_equals(left: Any, right: Any) -> bool:
    return not equals(left, right)


def _special(*arguments: Any) -> Any:
    raise AssertionError("compiled without a call")


_D, _T = t.DURATION, t.TIMESTAMP
_OPERATORS = (
    _operator("_?_:_", _special, [("conditional", t.BOOL, A, A, A)]),
    _operator("_&&_", _special, [("logical_and", t.BOOL, t.BOOL, t.BOOL)]),
    _operator("_||_", _special, [("logical_or", t.BOOL, t.BOOL, t.BOOL)]),
    _operator("!_", ops.logical_not, [("logical_not", t.BOOL, t.BOOL)]),
    _operator("@not_strictly_false", _special, [("not_strictly_false", t.BOOL, t.BOOL)]),
    _operator("_==_", equals, [("equals", A, A, t.BOOL)]),
    _operator("_!=_", _not_equals, [("not_equals", A, A, t.BOOL)]),
    _operator(
        "_+_",
        ops.add,
        [
            ("add_bytes", t.BYTES, t.BYTES, t.BYTES),
            ("add_double", t.DOUBLE, t.DOUBLE, t.DOUBLE),
            ("add_duration_duration", _D, _D, _D),
            ("add_duration_timestamp", _D, _T, _T),
            ("add_timestamp_duration", _T, _D, _T),
            ("add_int64", t.INT, t.INT, t.INT),
            ("add_list", LIST, LIST, LIST),
            ("add_string", t.STRING, t.STRING, t.STRING),
            ("add_uint64", t.UINT, t.UINT, t.UINT),
        ],
    ),
    _operator(
        "_-_",
        ops.subtract,
        [
            ("subtract_double", t.DOUBLE, t.DOUBLE, t.DOUBLE),
            ("subtract_duration_duration", _D, _D, _D),
            ("subtract_int64", t.INT, t.INT, t.INT),
            ("subtract_timestamp_duration", _T, _D, _T),
            ("subtract_timestamp_timestamp", _T, _T, _D),
            ("subtract_uint64", t.UINT, t.UINT, t.UINT),
        ],
    ),
    _arithmetic("_*_", ops.multiply, _NUMBERS),
    _arithmetic("_/_", ops.divide, _NUMBERS),
    _arithmetic("_%_", ops.modulo, _NUMBERS[1:]),
    _operator(
        "-_", ops.negate, [("negate_double", t.DOUBLE, t.DOUBLE), ("negate_int64", t.INT, t.INT)]
    ),
    *(_operator(name, run, _ordering(word)[0]) for name, (word, run) in _COMPARISONS.items()),
    _operator("@in", ops.contained, [("in_list", A, LIST, t.BOOL), ("in_map", A, MAP, t.BOOL)]),
    _operator("_[_]", ops.step, [("index_list", LIST, t.INT, A), ("index_map", MAP, A, B)]),
)


def _size(value: Any) -> int:
    return len(value)


_SIZED = (("bytes", t.BYTES), ("list", LIST), ("map", MAP), ("string", t.STRING))
_TEXT = (t.STRING, t.STRING)
_WALK = (traversal(0), estimate_traversal(1))
_CONTAINS = (_contains_cost, _estimate_contains)


_SHORT_NAMES = {"google.protobuf.Timestamp": "timestamp", "google.protobuf.Duration": "duration"}


def _conversion(result: CelType) -> Function:
    """A type as a function: of its own values, and of the others it can be made of."""
    name = _SHORT_NAMES.get(result.name, result.name)
    made = []
    for target, source, run in ((result, result, convert.identity), *_CONVERSIONS):
        if target is not result:
            continue
        id_ = f"{_SHORT_NAMES.get(source.name, source.name)}_to_{name}"
        cost = estimate = None
        if id_ in ("string_to_bytes", "bytes_to_string"):
            cost, estimate = traversal(), _estimate_recoding(4 if name == "bytes" else 1)
        made.append(overload(id_, (source,), result, run, cost, estimate))
    return function(name, *made)


def _estimate_recoding(growth: int) -> Callable[[Sequence[CostNode]], CallEstimate]:
    """A code point has one to four bytes: `growth` is 4 towards bytes and 1 from them."""

    def estimate(nodes: Sequence[CostNode]) -> CallEstimate:
        size = nodes[0].size
        result = Estimate(size.min * growth // 4, size.max)
        if growth == 4:
            result = size.times(Estimate(1, 4))
        return CallEstimate(size.scaled(TRAVERSAL), result)

    return estimate


_CONVERSIONS: tuple[tuple[CelType, CelType, Callable[[Any], Any]], ...] = (
    # to, from
    (t.BOOL, t.STRING, convert.string_to_bool),
    (t.BYTES, t.STRING, convert.string_to_bytes),
    (t.DOUBLE, t.INT, float),
    (t.DOUBLE, t.STRING, convert.string_to_double),
    (t.DOUBLE, t.UINT, float),
    (t.DURATION, t.INT, ops.duration),
    (t.DURATION, t.STRING, convert.parse_duration),
    (t.INT, t.DOUBLE, convert.double_to_int),
    (t.INT, t.DURATION, convert.duration_to_int),
    (t.INT, t.STRING, convert.string_to_int),
    (t.INT, t.TIMESTAMP, convert.timestamp_to_int),
    (t.INT, t.UINT, lambda value: ops.integer(int(value))),
    (t.STRING, t.BOOL, lambda value: "true" if value else "false"),
    (t.STRING, t.BYTES, convert.bytes_to_string),
    (t.STRING, t.DOUBLE, convert.double_to_string),
    (t.STRING, t.DURATION, str),
    (t.STRING, t.INT, str),
    (t.STRING, t.TIMESTAMP, str),
    (t.STRING, t.UINT, lambda value: str(int(value))),
    (t.TIMESTAMP, t.INT, convert.int_to_timestamp),
    (t.TIMESTAMP, t.STRING, convert.parse_timestamp),
    (t.UINT, t.DOUBLE, convert.double_to_uint),
    (t.UINT, t.INT, ops.unsigned),
    (t.UINT, t.STRING, convert.string_to_uint),
)
_OFFSET = re.compile(r"([+-]?\d+):([+-]?\d+)", re.ASCII)


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    """A time zone by its IANA name or its offset `[+-]HH:MM`."""
    try:
        if ":" not in name:
            return ZoneInfo(name or "UTC")
        match = _OFFSET.fullmatch(name)
        if match is None:
            raise ValueError(name)
        hours, minutes = int(match[1]), int(match[2])
        return timezone(timedelta(minutes=hours * 60 + (-minutes if name[0] == "-" else minutes)))
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise EvaluationError(f"unknown time zone {name}") from None
    except KeyError:
        raise EvaluationError(f"unknown time zone {name}") from None


def _moment(value: Timestamp, zone: str = "UTC") -> datetime:
    moment = EPOCH + timedelta(microseconds=value.nanoseconds // 1000)
    if zone in ("UTC", ""):
        return moment
    try:
        return moment.astimezone(_zone(zone))
    except OverflowError:
        raise EvaluationError("timestamp overflow") from None


_ACCESSORS: dict[str, tuple[Callable[[datetime], int], int]] = {
    # name: (of a timestamp, the unit of a duration in nanoseconds, 0 if durations lack it)
    "getFullYear": (lambda m: m.year, 0),
    "getMonth": (lambda m: m.month - 1, 0),
    "getDayOfYear": (lambda m: m.timetuple().tm_yday - 1, 0),
    "getDayOfMonth": (lambda m: m.day - 1, 0),
    "getDate": (lambda m: m.day, 0),
    "getDayOfWeek": (lambda m: m.isoweekday() % 7, 0),
    "getHours": (lambda m: m.hour, 3600 * NANOS),
    "getMinutes": (lambda m: m.minute, 60 * NANOS),
    "getSeconds": (lambda m: m.second, NANOS),
    "getMilliseconds": (lambda m: m.microsecond // 1000, NANOS // 1000),
}


def _accessor(name: str) -> Function:
    read, unit = _ACCESSORS[name]

    def of_timestamp(value: Timestamp, zone: str = "UTC") -> int:
        return read(_moment(value, zone))

    def of_duration(value: Duration) -> int:
        total = abs(value.nanoseconds) // unit
        return -total if value.nanoseconds < 0 else total

    made = [
        overload(f"timestamp_{name}", (_T,), t.INT, of_timestamp),
        overload(f"timestamp_{name}_with_tz", (_T, t.STRING), t.INT, of_timestamp),
    ]
    if unit:
        made.append(overload(f"duration_{name}", (_D,), t.INT, of_duration))
    return member(name, *made)


def _literal_check(run: Callable[[Any], Any]) -> Check:
    """A check of the first argument, if it is a literal string."""

    def check(call: Call) -> tuple[Expr, str] | None:
        argument = call.args[0]
        if isinstance(argument, Literal) and isinstance(argument.value, str):
            try:
                run(argument.value)
            except EvaluationError:
                return argument, f"invalid {call.function} argument"
        return None

    return check


LITERAL_CHECKS = Library(
    "cel.validators",
    since=(1, 29),
    literal_checks={
        "duration": _literal_check(convert.parse_duration),
        "timestamp": _literal_check(convert.parse_timestamp),
        "matches": _literal_check(lambda pattern: matches("", pattern)),
    },
)
STANDARD = Library(
    "stdlib",
    macros=STANDARD_MACROS,
    types=(
        t.BOOL,
        t.BYTES,
        t.DOUBLE,
        t.DURATION,
        t.INT,
        LIST,
        MAP,
        t.NULL,
        t.STRING,
        t.TIMESTAMP,
        t.TYPE,
        t.UINT,
    ),
    functions=(
        *_OPERATORS,
        function("size", *(overload(f"size_{n}", (x,), t.INT, _size) for n, x in _SIZED)),
        member("size", *(overload(f"{n}_size", (x,), t.INT, _size) for n, x in _SIZED)),
        *map(_conversion, (t.BOOL, t.BYTES, t.DOUBLE, t.DURATION)),
        call("dyn", "to_dyn", (A,), t.DYN, convert.identity),
        *map(_conversion, (t.INT, t.STRING, t.TIMESTAMP, t.UINT)),
        call("type", "type", (A,), t.type_of(A), type_of),
        method("contains", "contains_string", _TEXT, t.BOOL, contains, *_CONTAINS),
        method("endsWith", "ends_with_string", _TEXT, t.BOOL, str.endswith, *_WALK),
        method("startsWith", "starts_with_string", _TEXT, t.BOOL, str.startswith, *_WALK),
        call("matches", "matches", _TEXT, t.BOOL, matches),
        method(
            "matches", "matches_string", _TEXT, t.BOOL, matches, _matches_cost, _estimate_matches
        ),
        *map(_accessor, _ACCESSORS),
    ),
)
CROSS_TYPE_ORDERING = Library(
    "cel.cross_type_numeric_comparisons",
    since=(1, 28),
    functions=tuple(
        _operator(name, run, _ordering(word)[1]) for name, (word, run) in _COMPARISONS.items()
    ),
)
_OPTIONAL = t.optional_of(V)


def _value(optional: Optional) -> Any:
    if optional.value is MISSING:
        raise EvaluationError("optional.none() dereference")
    return optional.value


def is_zero(value: Any) -> bool:
    """Whether a value is its type's zero: 0, '', false, empty, null, or optional.none()."""
    if value is None or (isinstance(value, (str, bytes, list, dict, int, float)) and not value):
        return True
    if isinstance(value, Timestamp):
        return value.nanoseconds == Timestamp.MIN  # Go's zero time is the beginning of year 1
    if isinstance(value, Duration):
        return value.nanoseconds == 0
    return isinstance(value, Optional) and not value.present


def _of_non_zero(value: Any) -> Optional:
    return Optional() if is_zero(value) else Optional(value)


def _unwrap(optionals: list[Any]) -> list[Any]:
    if not all(isinstance(item, Optional) for item in optionals):
        raise NoSuchOverload
    return [item.value for item in optionals if item.present]


def _end(index: int) -> Callable[[list[Any]], Optional]:
    return lambda items: Optional(items[index]) if len(items) else Optional()


_LIST_V, _LIST_OPTIONAL = t.list_of(V), t.list_of(_OPTIONAL)
_MAP_V = t.map_of(t.parameter("K"), V)
_KEY = t.parameter("K")
_OPTIONAL_LIST, _OPTIONAL_MAP = t.optional_of(_LIST_V), t.optional_of(_MAP_V)
OPTIONALS = Library(
    "cel.lib.optional",
    since=(1, 28),
    macros=OPTIONAL_MACROS,
    types=(t.optional_of(V),),
    functions=(
        call("optional.of", "optional_of", (V,), _OPTIONAL, Optional),
        call("optional.ofNonZeroValue", "optional_ofNonZeroValue", (V,), _OPTIONAL, _of_non_zero),
        call("optional.none", "optional_none", (), _OPTIONAL, Optional),
        method("value", "optional_value", (_OPTIONAL,), V, _value),
        method(
            "hasValue", "optional_hasValue", (_OPTIONAL,), t.BOOL, lambda optional: optional.present
        ),
        method("or", "optional_or_optional", (_OPTIONAL, _OPTIONAL), _OPTIONAL, _special),
        method("orValue", "optional_orValue_value", (_OPTIONAL, V), V, _special),
        _operator(
            "_[?_]",
            ops.optional_step,
            [
                ("list_optindex_optional_int", _LIST_V, t.INT, _OPTIONAL),
                ("optional_list_optindex_optional_int", _OPTIONAL_LIST, t.INT, _OPTIONAL),
                ("map_optindex_optional_value", _MAP_V, _KEY, _OPTIONAL),
                (
                    "optional_map_optindex_optional_value",
                    _OPTIONAL_MAP,
                    t.parameter("K"),
                    _OPTIONAL,
                ),
            ],
        ),
        _operator(
            "_[_]",
            ops.step,
            [
                ("optional_list_index_int", _OPTIONAL_LIST, t.INT, _OPTIONAL),
                ("optional_map_index_value", _OPTIONAL_MAP, _KEY, _OPTIONAL),
            ],
        ),
        method("last", "list_last", (_LIST_V,), _OPTIONAL, _end(-1)),
        method("first", "list_first", (_LIST_V,), _OPTIONAL, _end(0)),
        call("optional.unwrap", "optional_unwrap", (_LIST_OPTIONAL,), _LIST_V, _unwrap),
        method("unwrapOpt", "optional_unwrapOpt", (_LIST_OPTIONAL,), _LIST_V, _unwrap),
    ),
)
CORE_LIBRARIES = (
    STANDARD,
    CROSS_TYPE_ORDERING,
    LITERAL_CHECKS,
    OPTIONALS,
    TWO_VARIABLE_COMPREHENSIONS,
)
