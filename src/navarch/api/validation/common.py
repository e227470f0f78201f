"""What the rules of all kinds collect their complaints in, and the checks they share.

A validator hands the one list on, so that a valid object (the common case) costs no lists of its
own. A path is a field's as in the manifest (`spec.containers[0].name`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import lru_cache
from typing import Any, TypeVar

from navarch.api import names
from navarch.api.errors import (
    FieldError,
    duplicate,
    forbidden_field,
    invalid,
    not_found_field,
    not_supported,
    required,
    too_long,
    too_many,
)
from navarch.api.quantity import Quantity, QuantityError, parse_quantity
from navarch.api.validation.addresses import address_problem, cidr_problem, endpoint_problem

Object = dict[str, Any]
Item = TypeVar("Item")
Rule = Callable[[Any], Iterable[str]]
"""Says what is wrong with a value (see `navarch.api.names`)."""

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


class Errors(list[FieldError]):
    """The complaints about one object."""

    # ---- complaints

    def required(self, path: str, detail: str = "") -> None:
        self.append(required(path, detail))

    def invalid(self, path: str, value: object, detail: str) -> None:
        self.append(invalid(path, value, detail))

    def invalid_state(self, path: str, detail: str) -> None:
        """A value breaks a rule and is not worth printing."""
        self.append(FieldError("FieldValueInvalid", path, f"Invalid value: {detail}"))

    def not_supported(self, path: str, value: object, supported: Sequence[str]) -> None:
        self.append(not_supported(path, value, supported))

    def duplicate(self, path: str, value: object) -> None:
        self.append(duplicate(path, value))

    def forbidden(self, path: str, detail: str) -> None:
        self.append(forbidden_field(path, detail))

    def not_found(self, path: str, value: object) -> None:
        self.append(not_found_field(path, value))

    def too_long(self, path: str, limit: int) -> None:
        self.append(too_long(path, limit))

    def too_many(self, path: str, actual: int, limit: int) -> None:
        self.append(too_many(path, actual, limit))

    def problems(self, path: str, value: object, problems: Iterable[str]) -> None:
        """One error for each problem with a value."""
        for problem in problems:
            self.invalid(path, value, problem)

    # ---- checks of one value

    def present(self, path: str, value: object, detail: str = "") -> None:
        """A value that must be set, and not empty."""
        if not value:
            self.required(path, detail)

    def at_most(self, path: str, items: Sized, limit: int) -> None:
        if len(items) > limit:
            self.too_many(path, len(items), limit)

    def no_longer(self, path: str, text: Sized, limit: int) -> None:
        if len(text) > limit:
            self.too_long(path, limit)

    def check(self, path: str, value: Any, rule: Rule) -> None:
        self.problems(path, value, rule(value))

    def name(self, path: str, value: Any, rule: Rule, detail: str = "") -> None:
        """A reference by name, which must be set."""
        if not value:
            self.required(path, detail)
        else:
            self.check(path, value, rule)

    def label_name(self, path: str, value: str) -> None:
        self.check(path, value, qualified_name)

    def choice(self, path: str, value: Any, choices: Sequence[str]) -> None:
        """A value out of a few, which must be set."""
        if not value:
            self.required(path)
        elif value not in choices:
            self.not_supported(path, value, choices)

    def optional_choice(self, path: str, value: Any, choices: Sequence[str]) -> None:
        if value is not None and value not in choices:
            self.not_supported(path, value, choices)

    def immutable(self, path: str, new: Any, old: Any) -> None:
        if new != old:
            self.invalid(path, new, IMMUTABLE)

    def once(self, seen: set[Any], path: str, value: Hashable) -> None:
        """A value that `seen`, those of its list before it, must not hold yet."""
        if value in seen:
            self.duplicate(path, value)
        seen.add(value)

    def unique(self, path: str, items: Sequence[Any], key: Callable[[Any], Hashable]) -> None:
        seen: set[Any] = set()
        for here, item in indexed(path, items):
            self.once(seen, here, key(item))

    def not_negative(self, path: str, value: Any) -> None:
        if value is not None and value < 0:
            self.invalid(path, value, NOT_NEGATIVE)

    def int_or_percent(self, path: str, value: Any) -> None:
        """A non-negative number or a percentage."""
        if isinstance(value, str):
            self.check(path, value, names.percent)
        else:
            self.not_negative(path, value)

    def not_more_than_all(self, path: str, value: Any) -> None:
        """A percentage of something, of which there is only so much."""
        if (
            isinstance(value, str)
            and value.endswith("%")
            and value[:-1].isdigit()
            and int(value[:-1][:9]) > 100
        ):
            self.invalid(path, value, "must not be greater than 100%")

    def quantity_not_negative(self, path: str, text: Any) -> None:
        value = quantity(text)
        if value is None or value.sign() < 0:
            self.invalid(path, text, NOT_NEGATIVE)

    def port(self, path: str, value: Any) -> None:
        self.problems(path, value or 0, names.port_number(value or 0))

    def port_or_name(self, path: str, value: Any) -> None:
        if isinstance(value, str):
            self.check(path, value, names.port_name)
        else:
            self.port(path, value)

    def address(self, path: str, text: str) -> None:
        if problem := address_problem(text):
            self.invalid(path, text, problem)

    def cidr(self, path: str, text: str) -> None:
        if problem := cidr_problem(text):
            self.invalid(path, text, problem)

    def endpoint_address(self, path: str, text: str) -> None:
        if problem := endpoint_problem(text):
            self.invalid(path, text, problem)

    # ---- checks of common structures

    def labels(self, path: str, labels: Mapping[str, str] | None) -> None:
        for key, value in (labels or {}).items():
            self.check(path, key, qualified_name)
            self.problems(path, value, label_value(value or ""))

    def label_selector(self, path: str, selector: Object | None) -> None:
        """A LabelSelector object."""
        if selector is None:
            return
        self.labels(f"{path}.matchLabels", selector.get("matchLabels"))
        for here, expression in indexed(
            f"{path}.matchExpressions", selector.get("matchExpressions")
        ):
            operator, values = expression.get("operator"), expression.get("values") or ()
            if operator in ("In", "NotIn"):
                if not values:
                    detail = "must be specified when `operator` is 'In' or 'NotIn'"
                    self.required(f"{here}.values", detail)
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    self.forbidden(f"{here}.values", detail)
            else:
                self.invalid(f"{here}.operator", operator or "", "not a valid selector operator")
            self.check(f"{here}.key", expression.get("key") or "", qualified_name)
            for place, value in indexed(f"{here}.values", values):
                self.check(place, value, label_value)

    def status_counts(
        self, status: Object, fields: Sequence[str], most: Sequence[str] = ()
    ) -> None:
        """Counters of a replica status: not negative, and those in `most` not above `replicas`."""
        for field in fields:
            self.not_negative(f"status.{field}", status.get(field))
        replicas = status.get("replicas") or 0
        for field in most:
            if (status.get(field) or 0) > replicas:
                detail = "cannot be greater than status.replicas"
                self.invalid(f"status.{field}", status[field], detail)
        available, ready = status.get("availableReplicas") or 0, status.get("readyReplicas") or 0
        if "availableReplicas" in most and available > ready:
            detail = "cannot be greater than readyReplicas"
            self.invalid("status.availableReplicas", available, detail)


def indexed(path: str, items: Iterable[Item] | None) -> Iterator[tuple[str, Item]]:
    """The items of a list with the path of each."""
    for index, item in enumerate(items or ()):
        yield f"{path}[{index}]", item


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
        number = value.removesuffix("%")
        return int(number[:9]) if number.isdigit() else 0
    return int(value or 0)
