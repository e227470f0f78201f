"""The operators on values: what `+`, `<`, `in` and their like do, and when they fail.

Each function takes any values and decides by their classes, as operands may be dyn. Integers are 64
bits wide and never wrap; doubles follow IEEE 754.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

from navarch.api.cel.errors import EvaluationError, NoSuchOverload
from navarch.api.cel.values import (
    INT_MAX,
    INT_MIN,
    MISSING,
    UINT_MAX,
    Duration,
    ListValue,
    ObjectValue,
    Optional,
    Timestamp,
    UInt,
    equals,
    find_key,
    type_of,
)

NUMBERS = frozenset((int, UInt, float))
_PLAIN = NUMBERS | {str, bytes, bool, type(None)}
_ORDERED = frozenset((bool, str, bytes, Timestamp, Duration))


def integer(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise EvaluationError("integer overflow")


def unsigned(value: int) -> UInt:
    if 0 <= value <= UINT_MAX:
        return UInt(value)
    raise EvaluationError("unsigned integer overflow")


def duration(nanoseconds: int) -> Duration:
    if INT_MIN <= nanoseconds <= INT_MAX:
        return Duration(nanoseconds)
    raise EvaluationError("duration overflow")


def timestamp(nanoseconds: int) -> Timestamp:
    if Timestamp.MIN <= nanoseconds <= Timestamp.MAX:
        return Timestamp(nanoseconds)
    raise EvaluationError("timestamp overflow")


def add(left: Any, right: Any) -> Any:
    kind, other = type(left), type(right)
    if kind is int and other is int:
        return integer(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return left.cel_concat(right) if isinstance(left, ListValue) else [*left, *right]
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if kind is other:
        if kind is float or kind is bytes:
            return left + right
        if kind is UInt:
            return unsigned(int(left) + int(right))
        if kind is Duration:
            return duration(left.nanoseconds + right.nanoseconds)
    if {kind, other} == {Timestamp, Duration}:
        return timestamp(left.nanoseconds + right.nanoseconds)
    raise NoSuchOverload


def subtract(left: Any, right: Any) -> Any:
    kind, other = type(left), type(right)
    if kind is other:
        if kind is int:
            return integer(left - right)
        if kind is float:
            return left - right
        if kind is UInt:
            return unsigned(int(left) - int(right))
        if kind is Duration or kind is Timestamp:
            return duration(left.nanoseconds - right.nanoseconds)
    if kind is Timestamp and other is Duration:
        return timestamp(left.nanoseconds - right.nanoseconds)
    raise NoSuchOverload


def multiply(left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right) and kind in NUMBERS:
        if kind is float:
            return left * right
        product = int(left) * int(right)
        return integer(product) if kind is int else unsigned(product)
    raise NoSuchOverload


def divide(left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is not type(right) or kind not in NUMBERS:
        raise NoSuchOverload
    if kind is float:
        if right:
            return left / right
        if math.isnan(left) or left == 0:
            return math.nan
        return math.copysign(math.inf, left) * math.copysign(1.0, right)
    if not right:
        raise EvaluationError("division by zero")
    quotient = abs(int(left)) // abs(int(right))
    if (left < 0) is not (right < 0):
        quotient = -quotient
    return integer(quotient) if kind is int else UInt(quotient)


def modulo(left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is not type(right) or kind not in (int, UInt):
        raise NoSuchOverload
    if not right:
        raise EvaluationError("modulus by zero")
    if left == INT_MIN and right == -1:
        raise EvaluationError("integer overflow")
    remainder = abs(int(left)) % abs(int(right))
    return kind(-remainder if left < 0 else remainder)


def negate(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return integer(-value)
    if kind is float:
        return -value
    if kind is Duration:
        return duration(-value.nanoseconds)
    raise NoSuchOverload


def logical_not(value: Any) -> bool:
    if type(value) is bool:
        return not value
    raise NoSuchOverload


def _comparable(left: Any, right: Any) -> None:
    """Raise unless the two can be ordered. Python orders int and float exactly, as CEL demands."""
    kind, other = type(left), type(right)
    if kind in NUMBERS and other in NUMBERS:
        if left != left or right != right:
            raise EvaluationError("NaN values cannot be ordered")
    elif not (kind is other and kind in _ORDERED) and not (
        isinstance(left, str) and isinstance(right, str)
    ):
        raise NoSuchOverload


def less(left: Any, right: Any) -> bool:
    _comparable(left, right)
    return bool(left < right)


def less_equals(left: Any, right: Any) -> bool:
    _comparable(left, right)
    return bool(left <= right)


def greater(left: Any, right: Any) -> bool:
    _comparable(left, right)
    return bool(left > right)


def greater_equals(left: Any, right: Any) -> bool:
    _comparable(left, right)
    return bool(left >= right)


def contained(value: Any, aggregate: Any) -> bool:
    """The `in` operator."""
    if type(aggregate) is list and type(value) in _PLAIN:
        if value not in aggregate or value != value:
            return False
        # Python takes true for 1 and false for 0, so only these need a second look.
        return value not in (0, 1) or any(equals(value, element) for element in aggregate)
    if isinstance(aggregate, list):
        return any(equals(value, element) for element in aggregate)
    if isinstance(aggregate, dict):
        return find_key(aggregate, value) is not MISSING
    raise NoSuchOverload


def key_text(key: Any) -> str:
    """A key or index as errors show it."""
    if type(key) is bool:
        return "true" if key else "false"
    return str(int(key)) if isinstance(key, UInt) else str(key)


def lookup(container: Any, key: Any) -> Any:
    """The element at a key, an index or a field, or MISSING."""
    if isinstance(container, dict):
        return find_key(container, key)
    if isinstance(container, ObjectValue):
        return container.get(key) if isinstance(key, str) else MISSING
    if isinstance(container, list):
        kind = type(key)
        if kind is float and not key.is_integer():
            raise EvaluationError(f"unsupported index value {key_text(key)} in list")
        if kind not in NUMBERS:
            raise EvaluationError(f"unsupported index type '{type_of(key).name}' in list")
        return container[int(key)] if 0 <= key < len(container) else MISSING
    return MISSING


def missing(container: Any, key: Any) -> NoReturn:
    """Raise what a failed `lookup` means."""
    if isinstance(container, list):
        raise EvaluationError(f"index out of bounds: {key_text(key)}")
    raise EvaluationError(f"no such key: {key_text(key)}")


def step(container: Any, key: Any) -> Any:
    """One plain step of a chain of selections; steps into an optional stay optional."""
    if type(container) is Optional:
        return optional_step(container, key)
    found = lookup(container, key)
    if found is MISSING:
        missing(container, key)
    return found


def optional_step(container: Any, key: Any) -> Optional:
    """`container.?key`: what is there, if it is there. An optional container is looked into."""
    if type(container) is Optional:
        container = container.value
        if container is MISSING:
            return Optional()
    return Optional(lookup(container, key))
