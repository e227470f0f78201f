"""The functions on lists: Kubernetes' own, those of cel-go (version 3), and lists as sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from navarch.api.cel.costs import (
    LIST_CREATE,
    TRAVERSAL,
    UNBOUNDED,
    CallEstimate,
    Estimate,
    allow,
    fixed,
)
from navarch.api.cel.environment import PER_CALL_LIMIT
from navarch.api.cel.errors import CostExceeded, EvaluationError, NoSuchOverload
from navarch.api.cel.functions import (
    CostNode,
    Estimator,
    Function,
    Library,
    Overload,
    RuntimeCost,
    call,
    member,
    method,
    overload,
)
from navarch.api.cel.macros import SORT_BY
from navarch.api.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    CelType,
    Kind,
    list_of,
    parameter,
)
from navarch.api.cel.values import (
    INT_MAX,
    INT_MIN,
    UINT_MAX,
    Duration,
    UInt,
    equals,
    size_of,
    type_of,
)

List = list[Any]


def _refuse_dear(cost: int) -> None:
    """What costs more than one evaluation may cost is cancelled before it is done."""
    if cost > PER_CALL_LIMIT:
        raise CostExceeded(cost)


COMPARABLE = (INT, UINT, DOUBLE, BOOL, DURATION, TIMESTAMP, STRING, BYTES)
SUMMABLE: dict[CelType, Any] = {INT: 0, UINT: UInt(0), DOUBLE: 0.0, DURATION: Duration(0)}
_A, _T = parameter("A"), parameter("T")
_LIST_A, _LIST_T = list_of(_A), list_of(_T)
_TEXTS = (Kind.STRING, Kind.BYTES)
_NUMBERS = (int, UInt, float)


def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1. Raises NoSuchOverload for values that have no order among them."""
    kind, other = type(left), type(right)
    if kind is not other and not (kind in _NUMBERS and other in _NUMBERS):
        raise NoSuchOverload()
    try:
        return int(left > right) - int(left < right)
    except TypeError:
        raise NoSuchOverload() from None


# ---- Kubernetes' own


def is_sorted(values: List) -> bool:
    return all(compare(a, b) <= 0 for a, b in pairwise(values))


def _extreme(name: str, sign: int) -> Callable[[List], Any]:
    def find(values: List) -> Any:
        if not values:
            raise EvaluationError(f"{name} called on empty list")
        best = values[0]
        for each in values:
            if compare(each, best) == sign:
                best = each
        return best

    return find


def _plus(left: Any, right: Any) -> Any:
    if type(left) is not type(right):
        raise NoSuchOverload()
    if isinstance(left, Duration):
        total = Duration(left.nanoseconds + right.nanoseconds)
        if not INT_MIN <= total.nanoseconds <= INT_MAX:
            raise EvaluationError("integer overflow")
        return total
    if isinstance(left, UInt):
        if left + right > UINT_MAX:
            raise EvaluationError("unsigned integer overflow")
        return UInt(left + right)
    if isinstance(left, int) and not INT_MIN <= left + right <= INT_MAX:
        raise EvaluationError("integer overflow")
    return left + right


def _sum(zero: Any) -> Callable[[List], Any]:
    def add(values: List) -> Any:
        total = zero if not values or type(values[0]) is type(zero) else None
        for each in values:
            total = each if total is None else _plus(total, each)
        return total

    return add


def index_of(values: List, item: Any) -> int:
    return next((i for i, each in enumerate(values) if equals(each, item)), -1)


def last_index_of(values: List, item: Any) -> int:
    backwards = range(len(values) - 1, -1, -1)
    return next((i for i in backwards if equals(values[i], item)), -1)


def traversal_cost(value: Any) -> int:
    """The cost of walking over a value with all that is in it."""
    if isinstance(value, str):
        return int(len(value.encode("utf-8", "replace")) * TRAVERSAL)
    if isinstance(value, bytes):
        return int(len(value) * TRAVERSAL)
    if isinstance(value, list):
        return sum(map(traversal_cost, value))
    if isinstance(value, dict):
        return sum(traversal_cost(key) + traversal_cost(each) for key, each in value.items())
    return 1


def _walk_cost(arguments: Sequence[Any], result: Any) -> int:
    return traversal_cost(arguments[0])


def _estimate_walk(nodes: Sequence[CostNode]) -> CallEstimate:
    """One for each element, and the traversal of elements that are texts."""
    each = fixed(1)
    element = nodes[0].element()
    if element is not None and element.type.kind in _TEXTS:
        each = each.plus(element.size.scaled(TRAVERSAL))
    return CallEstimate(nodes[0].size.times(each))


def _for_each(
    pattern: str, types: Sequence[CelType], make: Callable[[CelType], Any], result: CelType | None
) -> Any:
    """An overload for each element type: the checker knows the result and refuses others."""
    names = {TIMESTAMP: "timestamp", DURATION: "duration"}
    return [
        overload(
            pattern.replace("T", names.get(each, each.name)),
            (list_of(each),),
            each if result is None else result,
            make(each),
            _walk_cost,
            _estimate_walk,
        )
        for each in types
    ]


def _search(id: str, find: Callable[[List, Any], int]) -> Overload:
    return overload(id, (_LIST_A, _A), INT, find, _walk_cost, _estimate_walk)


def _same(implementation: Callable[..., Any]) -> Callable[[CelType], Any]:
    return lambda each: implementation


LISTS = Library(
    name="kubernetes.lists",
    functions=(
        member("isSorted", *_for_each("list_T_is_sorted_bool", COMPARABLE, _same(is_sorted), BOOL)),
        member("sum", *_for_each("list_T_sum_T", [*SUMMABLE], lambda t: _sum(SUMMABLE[t]), None)),
        member("max", *_for_each("list_T_max_T", COMPARABLE, _same(_extreme("max", 1)), None)),
        member("min", *_for_each("list_T_min_T", COMPARABLE, _same(_extreme("min", -1)), None)),
        member("indexOf", _search("list_a_index_of_int", index_of)),
        member("lastIndexOf", _search("list_a_last_index_of_int", last_index_of)),
    ),
)


# ---- cel-go's, version 3


def cut(values: List, start: int, end: int) -> List:
    why = ""
    if start < 0 or end < 0:
        why = "negative indexes not supported"
    elif start > end:
        why = "start index must be less than or equal to end index"
    elif len(values) < end:
        why = f"list is length {len(values)}"
    if why:
        raise EvaluationError(f"cannot slice({start}, {end}), {why}")
    return list(values)[start:end]


def flatten(values: List, depth: int = 1) -> List:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    result: List = []
    for each in values:
        if isinstance(each, list) and depth:
            allow(len(result) + len(each))
            result += flatten(each, depth - 1)
        else:
            result.append(each)
    return result


def sort_by_keys(values: List, keys: List) -> List:
    """What `sort` and the macro `sortBy` come down to: order a list by another list."""
    if not keys:
        return values
    first = type_of(keys[0])
    if first not in COMPARABLE:
        raise EvaluationError("list elements must be comparable")
    if any(type_of(key) != first for key in keys):
        raise EvaluationError("list elements must have the same type")
    order = cmp_to_key(compare)
    return [values[i] for i in sorted(range(len(values)), key=lambda i: order(keys[i]))]


def distinct(values: List) -> List:
    _refuse_dear(2 * len(values) ** 2)
    result: List = []
    for each in values:
        if index_of(result, each) < 0:
            result.append(each)
    return result


def turned(values: List) -> List:
    return list(values)[::-1]


def count_up(count: int) -> List:
    _refuse_dear(count)
    return list(range(count))


def _allocating(factor: float, size: int) -> int:
    return int(size * factor) + 1 + LIST_CREATE


def _output_cost(arguments: Sequence[Any], result: Any) -> int:
    return _allocating(1, len(result))


def _flatten_cost(arguments: Sequence[Any], result: Any) -> int:
    return _allocating(arguments[1] if len(arguments) > 1 else 1, len(arguments[0]))


def _pairs_cost(argument: int) -> RuntimeCost:
    """Everything against everything."""

    def cost(arguments: Sequence[Any], result: Any) -> int:
        values = arguments[argument]
        is_text = bool(values) and isinstance(values[0], str | bytes)
        return _allocating(2 + is_text * TRAVERSAL, len(values) ** 2)

    return cost


def _estimate_list(factor: float, size: Estimate) -> CallEstimate:
    return CallEstimate(size.scaled(factor).plus(fixed(1 + LIST_CREATE)), size)


def _literal(node: CostNode, default: int) -> int:
    value = node.literal
    return max(value, 0) if type(value) is int else default


def _estimate_cut(nodes: Sequence[CostNode]) -> CallEstimate:
    length = _literal(nodes[2], nodes[0].size.max) - _literal(nodes[1], 0)
    return _estimate_list(1, fixed(length % (UNBOUNDED + 1)))


def _estimate_flatten(nodes: Sequence[CostNode]) -> CallEstimate:
    depth = _literal(nodes[1], UNBOUNDED) if len(nodes) > 1 else 1
    return _estimate_list(depth, nodes[0].size)


def _estimate_pairs(factor: float, argument: int = 0) -> Estimator:
    def estimate(nodes: Sequence[CostNode]) -> CallEstimate:
        size = nodes[argument].size
        return _estimate_list(factor, size.times(size))

    return estimate


# What a call costs, and what it is estimated at.
_CUT = (_output_cost, _estimate_cut)
_FLATTEN = (_flatten_cost, _estimate_flatten)
_DISTINCT = (_pairs_cost(0), _estimate_pairs(2))
_REVERSE = (_output_cost, lambda nodes: _estimate_list(1, nodes[0].size))
_RANGE = (
    _output_cost,
    lambda nodes: _estimate_list(1, fixed(_literal(nodes[0], UNBOUNDED))),
)


def _sort_overloads() -> tuple[Function, Function]:
    sorts, keyed = [], []
    for each in COMPARABLE:
        estimate = 2 + (each.kind in _TEXTS) * TRAVERSAL
        own = list_of(each)
        sorts.append(
            overload(
                f"list_{each.name}_sort",
                (own,),
                own,
                lambda values: sort_by_keys(values, values),
                _pairs_cost(0),
                _estimate_pairs(estimate),
            )
        )
        keyed.append(
            overload(
                f"list_{each.name}_sortByAssociatedKeys",
                (_LIST_T, own),
                _LIST_T,
                sort_by_keys,
                _pairs_cost(1),
                _estimate_pairs(estimate, 1),
            )
        )
    return member("sort", *sorts), member("@sortByAssociatedKeys", *keyed)


MORE_LISTS = Library(
    name="cel.lib.ext.lists",
    since=(1, 34),
    macros=(SORT_BY,),
    functions=(
        method("slice", "list_slice", (_LIST_T, INT, INT), _LIST_T, cut, *_CUT),
        member(
            "flatten",
            overload("list_flatten", (list_of(_LIST_T),), _LIST_T, flatten, *_FLATTEN),
            overload("list_flatten_int", (list_of(DYN), INT), list_of(DYN), flatten, *_FLATTEN),
        ),
        *_sort_overloads(),
        call("lists.range", "lists_range", (INT,), list_of(INT), count_up, *_RANGE),
        method("reverse", "list_reverse", (_LIST_T,), _LIST_T, turned, *_REVERSE),
        method("distinct", "list_distinct", (_LIST_T,), _LIST_T, distinct, *_DISTINCT),
    ),
)


# ---- sets


def contains_all(values: List, part: List) -> bool:
    _refuse_dear(len(values) * len(part))
    return all(index_of(values, each) >= 0 for each in part)


def intersects(left: List, right: List) -> bool:
    _refuse_dear(len(left) * len(right))
    return any(index_of(right, each) >= 0 for each in left)


def _pair_cost(factor: int) -> tuple[RuntimeCost, Estimator]:
    return (
        lambda arguments, result: 1 + size_of(arguments[0]) * size_of(arguments[1]) * factor,
        lambda nodes: CallEstimate(
            nodes[0].size.times(nodes[1].size).scaled(factor).plus(fixed(1))
        ),
    )


SETS = Library(
    name="cel.lib.ext.sets",
    since=(1, 29),
    functions=tuple(
        call(
            f"sets.{name}",
            f"list_sets_{name}_list",
            (_LIST_T, _LIST_T),
            BOOL,
            test,
            *_pair_cost(factor),
        )
        for name, factor, test in (
            ("contains", 1, contains_all),
            ("equivalent", 2, lambda a, b: contains_all(a, b) and contains_all(b, a)),
            ("intersects", 1, intersects),
        )
    ),
)
