"""The cursor that rules walk an object with: a field knows its value and where it is, and takes the
complaints about itself.

    spec = Field(obj)["spec"]                     # every field is there; the value may be None
    spec["replicas"].not_negative()               # a check complains by itself ...
    for port in spec["ports"]:                    # spec.ports[0], spec.ports[1], ...
        if port.get("name") in taken:             # ... or a rule looks at values
            port["name"].invalid("must be free")  # and complains: `spec.ports[0].name: Invalid ...`

All fields of an object share one list of errors. A path is put together only for a complaint, so
that a valid object, the common case, costs no strings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from navarch.api import errors, names
from navarch.api.errors import FieldError
from navarch.api.numbers import natural
from navarch.api.validation.addresses import address_problem, cidr_problem, endpoint_problem
from navarch.api.validation.common import (
    IMMUTABLE,
    NOT_NEGATIVE,
    label_value,
    qualified_name,
    quantity,
)

Rule = Callable[[Any], Iterable[str]]
"""Says what is wrong with a value (see `navarch.api.names`)."""
Errors = list[FieldError]


class Field(msgspec.Struct, eq=False, gc=False):
    """A field of the object that is checked, or the object itself. (A Struct, because nothing else
    is made as fast, and every check makes one.)"""

    value: Any
    errors: Errors = []
    parent: Field | None = None
    step: str | int = ""
    """The last part of the path: a field's name, an index, or a text in brackets."""

    # ---- ways to other fields

    @property
    def path(self) -> str:
        """As in the manifest: `spec.containers[0].name`."""
        above = self.parent.path if self.parent is not None else ""
        step = self.step
        if isinstance(step, int):
            return f"{above}[{step}]"
        return f"{above}.{step}" if above and step and step[0] != "[" else above + step

    def __getitem__(self, name: str) -> Field:
        """The field of this name, whether or not the object has it."""
        return Field(self.value.get(name) if self.value else None, self.errors, self, name)

    def text(self, name: str) -> Field:
        """A field that Go has as a plain string: the empty one if absent, as errors show it."""
        value = self.value.get(name) if self.value else None
        return Field(value or "", self.errors, self, name)

    def number(self, name: str) -> Field:
        """A field that Go has as a plain number: 0 if absent, as errors show it."""
        value = self.value.get(name) if self.value else None
        return Field(0 if value is None else value, self.errors, self, name)

    def at(self, step: str, value: Any) -> Field:
        """A field that upstream's errors place, or show, otherwise than the manifest has it."""
        return Field(value, self.errors, self, step)

    def showing(self, value: Any) -> Field:
        """This place with another value, to be checked or shown instead."""
        return Field(value, self.errors, self.parent, self.step)

    def each(self, *fields: str) -> Iterator[Field]:
        return map(self.__getitem__, fields)

    def __iter__(self) -> Iterator[Field]:
        """The items of a list."""
        for index, item in enumerate(self.value or ()):
            yield Field(item, self.errors, self, index)

    def entries(self) -> Iterator[tuple[str, Field]]:
        """The keys of a map with their fields (`limits[cpu]`)."""
        for key, value in (self.value or {}).items():
            yield key, Field(value, self.errors, self, f"[{key}]")

    # ---- values

    def get(self, name: str, default: Any = None) -> Any:
        """The plain value of the field of this name."""
        return self.value.get(name, default) if self.value else default

    @property
    def is_set(self) -> bool:
        """Whether the field is there, be it empty."""
        return self.value is not None

    def __bool__(self) -> bool:
        return bool(self.value)

    def __len__(self) -> int:
        return len(self.value or ())

    def __contains__(self, item: object) -> bool:
        return item in (self.value or ())

    # ---- complaints

    def required(self, detail: str = "") -> None:
        self.errors.append(errors.required(self.path, detail))

    def invalid(self, detail: str) -> None:
        self.errors.append(errors.invalid(self.path, self.value, detail))

    def invalid_state(self, detail: str) -> None:
        """The value breaks a rule and is not worth printing."""
        self.errors.append(FieldError("FieldValueInvalid", self.path, f"Invalid value: {detail}"))

    def not_supported(self, supported: Sequence[str]) -> None:
        self.errors.append(errors.not_supported(self.path, self.value, supported))

    def duplicate(self) -> None:
        self.errors.append(errors.duplicate(self.path, self.value))

    def forbidden(self, detail: str) -> None:
        self.errors.append(errors.forbidden_field(self.path, detail))

    def not_found(self) -> None:
        self.errors.append(errors.not_found_field(self.path, self.value))

    def too_long(self, limit: int) -> None:
        self.errors.append(errors.too_long(self.path, limit))

    def too_many(self, limit: int) -> None:
        self.errors.append(errors.too_many(self.path, len(self), limit))

    def problems(self, problems: Iterable[str]) -> None:
        """One error for each problem with the value."""
        for problem in problems:
            self.invalid(problem)

    # ---- checks of one value

    def present(self, detail: str = "") -> None:
        """It must be set, and not empty."""
        if not self.value:
            self.required(detail)

    def must_be_set(self, detail: str = "") -> None:
        """It must be there, be it empty."""
        if self.value is None:
            self.required(detail)

    def at_most(self, limit: int) -> None:
        if len(self) > limit:
            self.too_many(limit)

    def no_longer(self, limit: int) -> None:
        if len(self) > limit:
            self.too_long(limit)

    def check(self, rule: Rule) -> None:
        """The text, of which an absent one is the empty one, keeps a rule."""
        value = "" if self.value is None else self.value
        if problems := rule(value):
            self.showing(value).problems(problems)

    def check_if_set(self, rule: Rule) -> None:
        if self.value is not None:
            self.check(rule)

    def check_unless_empty(self, rule: Rule) -> None:
        if self.value:
            self.check(rule)

    def name(self, rule: Rule, detail: str = "") -> None:
        """A reference by name, which must be set."""
        if not self.value:
            self.required(detail)
        else:
            self.check(rule)

    def label_name(self) -> None:
        self.check(qualified_name)

    def choice(self, choices: Sequence[str]) -> None:
        """One out of a few, which must be set."""
        if not self.value:
            self.required()
        elif self.value not in choices:
            self.not_supported(choices)

    def optional_choice(self, choices: Sequence[str]) -> None:
        if self.value is not None and self.value not in choices:
            self.not_supported(choices)

    def immutable(self, old: Any) -> None:
        if self.value != old:
            self.invalid(IMMUTABLE)

    def keeps(self, old: Field, *fields: str) -> None:
        """These fields are as they were."""
        for field in fields:
            if self.get(field) != old.get(field):
                self[field].invalid(IMMUTABLE)

    def once(self, seen: set[Any]) -> None:
        """It is not among `seen`, the values of its list before it."""
        if self.value in seen:
            self.duplicate()
        seen.add(self.value)

    def unique(self, key: Callable[[Any], Hashable]) -> None:
        """No two items of the list have the same key."""
        seen: set[Any] = set()
        for item in self:
            item.showing(key(item.value)).once(seen)

    def not_negative(self) -> None:
        if self.value is not None and self.value < 0:
            self.invalid(NOT_NEGATIVE)

    def int_or_percent(self) -> None:
        """A non-negative number or a percentage."""
        if isinstance(self.value, str):
            self.check(names.percent)
        else:
            self.not_negative()

    def not_more_than_all(self) -> None:
        """A percentage of something, of which there is only so much."""
        digits = self.value.removesuffix("%") if isinstance(self.value, str) else self.value
        if digits != self.value and (natural(digits) or 0) > 100:
            self.invalid("must not be greater than 100%")

    def quantity_not_negative(self) -> None:
        value = quantity(self.value)
        if value is None or value.sign() < 0:
            self.invalid(NOT_NEGATIVE)

    def port(self) -> None:
        number = self.value or 0
        self.showing(number).problems(names.port_number(number))

    def port_or_name(self) -> None:
        if isinstance(self.value, str):
            self.check(names.port_name)
        else:
            self.port()

    def address(self) -> None:
        if problem := address_problem(self.value):
            self.invalid(problem)

    def cidr(self) -> None:
        if problem := cidr_problem(self.value):
            self.invalid(problem)

    def endpoint_address(self) -> None:
        if problem := endpoint_problem(self.value):
            self.invalid(problem)

    # ---- checks of common structures

    def labels(self) -> None:
        for key, value in (self.value or {}).items():
            if problems := qualified_name(key):
                self.showing(key).problems(problems)
            if problems := label_value(value or ""):
                self.showing(value).problems(problems)

    def label_selector(self) -> None:
        """A LabelSelector."""
        self["matchLabels"].labels()
        for expression in self["matchExpressions"]:
            operator, values = expression.text("operator"), expression["values"]
            if operator.value in ("In", "NotIn"):
                values.present("must be specified when `operator` is 'In' or 'NotIn'")
            elif operator.value not in ("Exists", "DoesNotExist"):
                operator.invalid("not a valid selector operator")
            elif values:
                values.forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
            expression["key"].label_name()
            for value in values:
                value.check(label_value)
