"""Resource quantities: `quantity('1.5Gi')`, their order and arithmetic."""

from __future__ import annotations

from typing import Any

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    Library,
    estimate_traversal,
    function,
    member,
    overload,
    traversal,
)
from navarch.api.cel.types import BOOL, DOUBLE, INT, STRING, opaque
from navarch.api.cel.values import INT_MAX, INT_MIN, OpaqueValue
from navarch.api.quantity import NANOS, Quantity, QuantityError, parse_quantity

QUANTITY = opaque("kubernetes.Quantity")


class QuantityValue(OpaqueValue):
    cel_type = QUANTITY

    def __init__(self, quantity: Quantity) -> None:
        self.quantity = quantity

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantityValue) and self.quantity == other.quantity

    def __hash__(self) -> int:
        return hash(self.quantity)


def to_quantity(text: str) -> QuantityValue:
    try:
        return QuantityValue(parse_quantity(text))
    except QuantityError as error:
        raise EvaluationError(str(error)) from None


def is_quantity(text: str) -> bool:
    try:
        parse_quantity(text)
    except QuantityError:
        return False
    return True


def is_integer(value: QuantityValue) -> bool:
    whole, rest = divmod(value.quantity.nanos, NANOS)
    return not rest and INT_MIN <= whole <= INT_MAX


def as_integer(value: QuantityValue) -> int:
    if not is_integer(value):
        raise EvaluationError("cannot convert value to integer")
    return value.quantity.nanos // NANOS


def _quantity(value: Any) -> Quantity:
    return value.quantity if isinstance(value, QuantityValue) else Quantity.of(value)


def compare(left: QuantityValue, right: QuantityValue) -> int:
    return (left.quantity > right.quantity) - (left.quantity < right.quantity)


def add(left: QuantityValue, right: Any) -> QuantityValue:
    return QuantityValue(left.quantity + _quantity(right))


def subtract(left: QuantityValue, right: Any) -> QuantityValue:
    return QuantityValue(left.quantity - _quantity(right))


_PARSE = (traversal(), estimate_traversal())
_Q = QUANTITY

QUANTITIES = Library(
    name="kubernetes.quantity",
    since=(1, 28),
    functions=(
        function("quantity", overload("string_to_quantity", (STRING,), _Q, to_quantity, *_PARSE)),
        function(
            "isQuantity", overload("is_quantity_string", (STRING,), BOOL, is_quantity, *_PARSE)
        ),
        # Upstream declares it as a global function, though its documentation shows a member.
        function("sign", overload("quantity_sign", (_Q,), INT, lambda q: q.quantity.sign())),
        member("isInteger", overload("quantity_is_integer", (_Q,), BOOL, is_integer)),
        member("asInteger", overload("quantity_get_int", (_Q,), INT, as_integer)),
        member(
            "asApproximateFloat",
            overload("quantity_get_float", (_Q,), DOUBLE, lambda q: float(q.quantity)),
        ),
        member(
            "isGreaterThan",
            overload("quantity_is_greater_than", (_Q, _Q), BOOL, lambda a, b: compare(a, b) > 0),
        ),
        member(
            "isLessThan",
            overload("quantity_is_less_than", (_Q, _Q), BOOL, lambda a, b: compare(a, b) < 0),
        ),
        member("compareTo", overload("quantity_compare_to", (_Q, _Q), INT, compare)),
        member(
            "add",
            overload("quantity_add", (_Q, _Q), _Q, add),
            overload("quantity_add_int", (_Q, INT), _Q, add),
        ),
        member(
            "sub",
            overload("quantity_sub", (_Q, _Q), _Q, subtract),
            overload("quantity_sub_int", (_Q, INT), _Q, subtract),
        ),
    ),
)
