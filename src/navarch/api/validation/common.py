"""Words, numbers and small questions that the rules of several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from navarch.api import names
from navarch.api.numbers import natural
from navarch.api.quantity import Quantity, QuantityError, parse_quantity

Object = dict[str, Any]

IMMUTABLE = "field is immutable"
NOT_NEGATIVE = "must be greater than or equal to 0"
NOT_INTEGER = "must be an integer"
PROTOCOLS = ("SCTP", "TCP", "UDP")
MAX_INT32 = 2**31 - 1

# Names, keys and values come in a few forms again and again; what is right once stays right.
dns1123_label = lru_cache(4096)(lambda value: tuple(names.dns1123_label(value)))
dns1123_subdomain = lru_cache(4096)(lambda value: tuple(names.dns1123_subdomain(value)))
qualified_name = lru_cache(4096)(lambda value: tuple(names.qualified_name(value)))
label_value = lru_cache(4096)(lambda value: tuple(names.label_value(value)))


def quantity(text: Any) -> Quantity | None:
    """The quantity, or None for what the decoder would not have let pass."""
    try:
        return parse_quantity(str(text))
    except QuantityError:
        return None


def selects_everything(selector: Object) -> bool:
    return not selector.get("matchLabels") and not selector.get("matchExpressions")


def selector_matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector object selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key"), expression.get("operator")
        values = expression.get("values") or ()
        present = key in labels
        if operator == "In" and (not present or labels[key] not in values):
            return False
        if operator == "NotIn" and present and labels[key] in values:
            return False
        if (operator == "Exists" and not present) or (operator == "DoesNotExist" and present):
            return False
    return True


def relative_amount(value: Any) -> int:
    """The number of an int-or-percent, whatever its unit; 0 for nothing."""
    if isinstance(value, str):
        return natural(value.removesuffix("%")) or 0
    return int(value or 0)
