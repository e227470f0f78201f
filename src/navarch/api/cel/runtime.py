"""What compiled expressions are made of: frames, and the functions that run nodes.

Each function here makes one closure of one kind of node, from the closures of its operands. The
compiler chooses them and adds up the costs that are certain; what depends on sizes is charged here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from navarch.api.cel import operators as ops
from navarch.api.cel.costs import TRAVERSAL, allow, scaled
from navarch.api.cel.errors import CostExceeded, EvaluationError, NoSuchOverload
from navarch.api.cel.functions import Overload
from navarch.api.cel.types import CelType, Kind
from navarch.api.cel.values import (
    MISSING,
    Duration,
    ObjectValue,
    OpaqueValue,
    Optional,
    Timestamp,
    UInt,
    equals,
    size_of,
    type_of,
)


class Frame:
    """The state of one evaluation."""

    __slots__ = ("cost", "limit", "made", "slots", "variables")

    def __init__(self, variables: Mapping[str, Any], limit: int, cost: int, slots: int) -> None:
        self.variables = variables
        self.limit = limit
        self.cost = cost
        self.made = 0
        self.slots: list[Any] = [MISSING] * slots

    def charge(self, cost: int) -> None:
        self.cost = total = self.cost + cost
        if total > self.limit:
            raise CostExceeded(total)


Run = Callable[[Frame], Any]


class LazyValue:
    """A variable that is computed when it is first read, and whose cost is charged then.

    `compute` gets the budget that is left and returns value and cost; both it and an error are
    kept, so later readers pay nothing.
    """

    __slots__ = ("_compute", "_error", "_value")

    def __init__(self, compute: Callable[[int], tuple[Any, int]]) -> None:
        self._compute: Callable[[int], tuple[Any, int]] | None = compute
        self._value: Any = None
        self._error: EvaluationError | None = None

    def resolve(self, frame: Frame) -> Any:
        if self._compute is not None:
            compute, self._compute = self._compute, None
            try:
                self._value, cost = compute(frame.limit - frame.cost)
            except EvaluationError as error:
                self._error, cost = error, error.cost
            frame.charge(cost)
        if self._error is not None:
            raise self._error
        return self._value


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled node: how to run it, what running it costs for certain, its value if constant."""

    run: Run
    cost: int
    constant: Any = MISSING


_CLASSES: dict[Kind, type | tuple[type, ...]] = {
    Kind.UINT: UInt,
    Kind.DOUBLE: float,
    Kind.BOOL: bool,
    Kind.STRING: str,
    Kind.BYTES: bytes,
    Kind.NULL: type(None),
    Kind.LIST: list,
    Kind.MAP: dict,
    Kind.TIMESTAMP: Timestamp,
    Kind.DURATION: Duration,
    Kind.TYPE: CelType,
    Kind.OBJECT: (ObjectValue, dict),
}
_TENTHS = tuple(math.ceil(n * TRAVERSAL) for n in range(256))
_SIZED = (str, list, bytes)
KEYS = frozenset((str, int, UInt, bool, float))


def constant(value: Any) -> Code:
    return Code(lambda frame: value, 0, value)


def accepts(parameter: CelType, value: Any) -> bool:
    """Whether a value is of a parameter's type; types of elements are not looked at."""
    kind = parameter.kind
    if kind is Kind.DYN or kind is Kind.PARAMETER:
        return True
    if kind is Kind.INT:
        return type(value) is int
    if kind is Kind.OPAQUE:
        if parameter.is_optional:
            return type(value) is Optional
        return isinstance(value, OpaqueValue) and value.cel_type.name == parameter.name
    return isinstance(value, _CLASSES[kind])


def describe(value: Any) -> str:
    try:
        return type_of(value).name
    except TypeError:
        return type(value).__name__


def select(base: Run, keys: tuple[str, ...]) -> Run:
    """`base.a.b.c`; maps of strings are the common case."""
    if len(keys) == 1:
        only = keys[0]

        def run_one(frame: Frame) -> Any:
            value = base(frame)
            if type(value) is dict and (found := value.get(only, MISSING)) is not MISSING:
                return found
            return ops.step(value, only)

        return run_one

    def run(frame: Frame) -> Any:
        value = base(frame)
        for key in keys:
            if type(value) is dict and (found := value.get(key, MISSING)) is not MISSING:
                value = found
            else:
                value = ops.step(value, key)
        return value

    return run


def walk(base: Run, steps: tuple[tuple[Any, bool], ...]) -> Run:
    """Any chain of selections and indexes. Optional steps that find nothing are free."""

    def run(frame: Frame) -> Any:
        value = base(frame)
        for key, optional in steps:
            if type(key) is Code:
                key = key.run(frame)
            if optional or type(value) is Optional:
                value = ops.optional_step(value, key)
                if not value.present:
                    return value
            else:
                value = ops.step(value, key)
            frame.cost += 1
        return value

    return run


def join(left: Run, right: Run) -> Run:
    """`+` that costs 1."""

    def run(frame: Frame) -> Any:
        a, b = left(frame), right(frame)
        if isinstance(a, _SIZED) and isinstance(b, _SIZED):
            frame.made += len(a) + len(b)
            allow(frame.made)
        return ops.add(a, b)

    return run


def binary_run(
    name: str, operator: Callable[[Any, Any], Any], left: Run, right: Run, constant: Any
) -> Run:
    if type(constant) is int and name in _INTEGER_TESTS:
        test = _INTEGER_TESTS[name]

        def run_test(frame: Frame) -> Any:
            value = left(frame)
            if type(value) is int:
                return test(value, constant)
            return operator(value, constant)

        return run_test
    return lambda frame: operator(left(frame), right(frame))


_INTEGER_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": int.__lt__,
    "_<=_": int.__le__,
    "_>_": int.__gt__,
    "_>=_": int.__ge__,
}


def sized(operator: Callable[..., Any], charge: Any, runs: list[Run]) -> Run:
    def run(frame: Frame) -> Any:
        arguments = [operand(frame) for operand in runs]
        result = operator(*arguments)
        frame.charge(charge(arguments, result))
        return result

    return run


def find(name: str, overloads: list[Overload], arguments: list[Any]) -> int:
    """Which overload takes these values."""
    for index, overload in enumerate(overloads):
        if all(map(accepts, overload.parameters, arguments)):
            return index
    raise NoSuchOverload(f"{name}({', '.join(map(describe, arguments))})")


def dispatch(name: str, overloads: list[Overload], runs: list[Run]) -> Run:
    """A call that costs 1, counted by the caller. What a class of values leads to is remembered."""
    known: dict[Any, Callable[..., Any]] = {}
    if len(runs) == 1:
        only = runs[0]

        def run_one(frame: Frame) -> Any:
            value = only(frame)
            implementation = known.get(type(value))
            if implementation is None:
                index = find(name, overloads, [value])
                implementation = overloads[index].implementation
                if not isinstance(value, (ObjectValue, OpaqueValue)):
                    known[type(value)] = implementation
            return implementation(value)

        return run_one

    def run(frame: Frame) -> Any:
        arguments = [operand(frame) for operand in runs]
        return overloads[find(name, overloads, arguments)].implementation(*arguments)

    return run


def charging_dispatch(
    name: str, overloads: list[Overload], costs: list[Any], runs: list[Run]
) -> Run:
    def run(frame: Frame) -> Any:
        arguments = [operand(frame) for operand in runs]
        index = find(name, overloads, arguments)
        result = overloads[index].implementation(*arguments)
        if isinstance(result, _SIZED):
            frame.made += len(result)
            allow(frame.made)
        charge = costs[index]
        frame.charge(1 if charge is None else charge(arguments, result))
        return result

    return run


def logical_two(left: Run, right: Run, right_cost: int, deciding: bool) -> Run:
    """`&&` and `||`: the deciding value wins, even over an error of the other side."""

    def run(frame: Frame) -> bool:
        error: EvaluationError | None = None
        value: object
        try:
            value = left(frame)
            if value is deciding:
                return deciding
            if value is not (not deciding):
                error = NoSuchOverload()
        except EvaluationError as raised:
            error = raised
        frame.cost += right_cost
        try:
            value = right(frame)
        except EvaluationError as raised:
            raise error or raised from None
        if value is deciding:
            return deciding
        if error is not None:
            raise error
        if type(value) is not bool:
            raise NoSuchOverload
        return not deciding

    return run


def logical_many(terms: list[tuple[Run, int]], deciding: bool) -> Run:
    def run(frame: Frame) -> bool:
        error: EvaluationError | None = None
        value: object
        for term, cost in terms:
            frame.cost += cost
            try:
                value = term(frame)
            except EvaluationError as raised:
                error = error or raised
                continue
            if value is deciding:
                return deciding
            if type(value) is not bool:
                error = error or NoSuchOverload()
        if error is not None:
            raise error
        return not deciding

    return run


class Iteration(NamedTuple):
    """What a fold runs over and where it puts the element (with two variables: key and value)."""

    source: Run
    key_slot: int
    value_slot: int

    def over(self, frame: Frame) -> Iterator[Any]:
        """Sets the variables for each element and yields the value of the first one."""
        source = self.source(frame)
        slots = frame.slots
        key_slot, value_slot = self.key_slot, self.value_slot
        if not isinstance(source, (list, dict)):
            raise EvaluationError(f"got '{describe(source)}', expected iterable type")
        if value_slot < 0:
            for item in source:
                slots[key_slot] = item
                yield item
        else:
            pairs = source.items() if isinstance(source, dict) else enumerate(source)
            for key, value in pairs:
                slots[key_slot] = key
                slots[value_slot] = value
                yield key


def quantifier(iterate: Iteration, predicate: Code, overhead: int, deciding: bool) -> Run:
    """`all` and `exists`: a fold of `&&` or `||`, which ends at the deciding element."""
    test, cost = predicate.run, predicate.cost + overhead + 1

    def run(frame: Frame) -> bool:
        error: EvaluationError | None = None
        decided = False
        for _ in iterate.over(frame):
            if decided:
                frame.cost += overhead  # the condition is looked at once more, and ends the loop
                return deciding
            frame.charge(cost)
            try:
                value = test(frame)
            except EvaluationError as raised:
                error = error or raised
                continue
            if value is deciding:
                decided = True
            elif type(value) is not bool:
                error = error or NoSuchOverload()
        if decided:
            return deciding
        if error is not None:
            raise error
        return not deciding

    return run


def exactly_one(iterate: Iteration, predicate: Code) -> Run:
    test, cost = predicate.run, predicate.cost

    def run(frame: Frame) -> bool:
        count = 0
        for _ in iterate.over(frame):
            frame.charge(cost)
            value = test(frame)
            if value is True:
                frame.cost += 2
                count += 1
            elif value is not False:
                raise NoSuchOverload
        return count == 1

    return run


def passes(predicate: Code | None, frame: Frame) -> bool:
    if predicate is None:
        return True
    frame.charge(predicate.cost)
    value = predicate.run(frame)
    if type(value) is not bool:
        raise NoSuchOverload
    return value


def build_list(iterate: Iteration, predicate: Code | None, element: Run, cost: int) -> Run:
    def run(frame: Frame) -> list[Any]:
        built = []
        for _ in iterate.over(frame):
            if passes(predicate, frame):
                frame.charge(cost)
                built.append(element(frame))
        return built

    return run


def build_map(iterate: Iteration, predicate: Code | None, parts: list[Run], cost: int) -> Run:
    """`transformMap` has one part, the value; `transformMapEntry` the map to be taken in."""

    def insert(built: dict[Any, Any], key: Any, value: Any) -> None:
        if key in built:
            raise EvaluationError(f"insert failed: key {ops.key_text(key)} already exists")
        built[key] = value

    def run(frame: Frame) -> dict[Any, Any]:
        built: dict[Any, Any] = {}
        for _ in iterate.over(frame):
            if not passes(predicate, frame):
                continue
            frame.charge(cost)
            if len(parts) == 2:
                insert(built, parts[0](frame), parts[1](frame))
                continue
            entries = parts[0](frame)
            if not isinstance(entries, dict):
                raise NoSuchOverload
            for key, value in entries.items():
                insert(built, key, value)
        return built

    return run


def scalar_equality(left: Run, right: Run, wanted: bool) -> Run:
    return lambda frame: equals(left(frame), right(frame)) is wanted


def equality(left: Run, right: Run, wanted: bool) -> Run:
    """`==` and `!=` of values with a size; the shorter one is what the comparison costs."""

    def run(frame: Frame) -> bool:
        a, b = left(frame), right(frame)
        if type(a) is str and type(b) is str:
            size = min(len(a), len(b))
            frame.cost += _TENTHS[size] if size < 256 else scaled(size, TRAVERSAL)
            return (a == b) is wanted
        frame.charge(scaled(min(size_of(a), size_of(b)), TRAVERSAL))
        return equals(a, b) is wanted

    return run


def membership(operand: Run, elements: list[Any]) -> Run:
    """`x in [constants]` as a look-up in sets; true is not 1, so they are kept apart."""
    strings = frozenset(e for e in elements if type(e) is str)
    bools = frozenset(e for e in elements if type(e) is bool)
    numbers = frozenset(e for e in elements if type(e) in ops.NUMBERS and e == e)

    def run(frame: Frame) -> bool:
        value = operand(frame)
        kind = type(value)
        if kind is str:
            return value in strings
        if kind is bool:
            return value in bools
        return kind in ops.NUMBERS and value in numbers

    return run


def conditional(condition: Run, then: Code, otherwise: Code) -> Run:
    then_run, then_cost = then.run, then.cost
    else_run, else_cost = otherwise.run, otherwise.cost

    def run(frame: Frame) -> Any:
        value = condition(frame)
        if value is True:
            frame.cost += then_cost
            return then_run(frame)
        if value is False:
            frame.cost += else_cost
            return else_run(frame)
        raise NoSuchOverload

    return run


def optional_or(left: Run, right: Code, unwrap: bool) -> Run:
    """`or` and `orValue`, which look at the alternative only if they need it."""
    right_run, right_cost = right.run, right.cost

    def run(frame: Frame) -> Any:
        value = left(frame)
        if type(value) is not Optional:
            raise NoSuchOverload
        if value.present:
            return value.value if unwrap else value
        frame.cost += right_cost
        return right_run(frame)

    return run
