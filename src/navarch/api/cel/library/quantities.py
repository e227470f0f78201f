"""Resource quantities: `quantity('1.5Gi')`, their order and arithmetic."""

from __future__ import annotations

from typing import Any

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.functions import (
    Library,
    call,
    comparisons,
    estimate_traversal,
    member,
    method,
    overload,
    succeeds,
    traversal,
)
from navarch.api.cel.types import BOOL, DOUBLE, INT, STRING, opaque
from navarch.api.cel.values import INT_MAX, INT_MIN, Wrapped
from navarch.api.quantity import NANOS, Quantity, QuantityError, parse_quantity

QUANTITY = opaque("kubernetes.Quantity")


class QuantityValue(Wrapped[Quantity]):
    cel_type = QUANTITY


def to_quantity(text: str) -> QuantityValue:
    try:
        return QuantityValue(parse_quantity(text))
    except QuantityError as error:
        raise EvaluationError(str(error)) from None


def is_integer(value: QuantityValue) -> bool:
    whole, rest = divmod(value.value.nanos, NANOS)
    return not rest and INT_MIN <= whole <= INT_MAX


def as_integer(value: QuantityValue) -> int:
    if not is_integer(value):
        raise EvaluationError("cannot convert value to integer")
    return value.value.nanos // NANOS


def _quantity(value: Any) -> Quantity:
    return value.value if isinstance(value, QuantityValue) else Quantity.of(value)


def add(left: QuantityValue, right: Any) -> QuantityValue:
    return QuantityValue(left.value + _quantity(right))


def subtract(left: QuantityValue, right: Any) -> QuantityValue:
    return QuantityValue(left.value - _quantity(right))


_PARSE = (traversal(), estimate_traversal())
_Q = QUANTITY

QUANTITIES = Library(
    name="kubernetes.quantity",
    since=(1, 28),
    functions=(
        call("quantity", "string_to_quantity", (STRING,), _Q, to_quantity, *_PARSE),
        call("isQuantity", "is_quantity_string", (STRING,), BOOL, succeeds(to_quantity), *_PARSE),
        # Upstream declares it as a global function, though its documentation shows a member.
        call("sign", "quantity_sign", (_Q,), INT, lambda q: q.value.sign()),
        method("isInteger", "quantity_is_integer", (_Q,), BOOL, is_integer),
        method("asInteger", "quantity_get_int", (_Q,), INT, as_integer),
        method("asApproximateFloat", "quantity_get_float", (_Q,), DOUBLE, lambda q: float(q.value)),
        *comparisons("quantity", _Q),
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
