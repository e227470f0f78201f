"""How CEL's values look in Python.

| CEL | Python |
|---|---|
| int | `int` (never `bool`), always within 64 bits |
| uint | `UInt` |
| double, bool, string, bytes, null | `float`, `bool`, `str`, `bytes`, `None` |
| list | `list` or a subclass (`ListValue`) |
| map | `dict` or a subclass; keys `int`, `UInt`, `bool`, `str` |
| timestamp, duration | `Timestamp`, `Duration` (nanoseconds) |
| type | `CelType` |
| optional | `Optional` |
| opaque types | one subclass of `OpaqueValue` for each type |
| objects of a schema | a subclass of `ObjectValue` |

Decoded JSON is therefore a valid value as it is, which makes admission cheap: nothing is converted.
Functions see these values and must not change them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final, Generic, TypeVar

from navarch.api.cel import types as t
from navarch.api.cel.errors import CostExceeded
from navarch.api.cel.types import CelType

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
UINT_MAX: Final = (1 << 64) - 1
NANOS: Final = 1_000_000_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class UInt(int):
    """An unsigned 64-bit integer; equal to the int of the same value, of another type."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{int(self)}u"


class Missing:
    """The type of `MISSING`: what a lookup returns when there is nothing, as None means null."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A point in time as nanoseconds since 1970; years 1 to 9999."""

    nanoseconds: int
    MIN: ClassVar[int] = -62135596800 * NANOS
    MAX: ClassVar[int] = 253402300800 * NANOS - 1

    def __str__(self) -> str:
        seconds, nanos = divmod(self.nanoseconds, NANOS)
        fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
        moment = (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)
        return f"{moment.isoformat()}{fraction}Z"


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in nanoseconds, within 64 bits like Go's."""

    nanoseconds: int

    def __str__(self) -> str:
        whole, rest = divmod(abs(self.nanoseconds), NANOS)
        seconds = (whole + rest / NANOS) * (-1 if self.nanoseconds < 0 else 1)
        # Upstream prints the seconds as a double, so long durations lose their nanoseconds.
        return f"{Decimal(repr(seconds)):f}".removesuffix(".0") + "s"


class Optional:
    """A value that may be absent. `NONE` is the absent one."""

    __slots__ = ("value",)

    def __init__(self, value: Any = MISSING) -> None:
        self.value = value

    @property
    def present(self) -> bool:
        return self.value is not MISSING

    def __repr__(self) -> str:
        return f"optional.of({self.value!r})" if self.present else "optional.none()"


NONE: Final = Optional()


Held = TypeVar("Held")


class OpaqueValue:
    """Base of the values of opaque types. Each type has its own class, named by `cel_type`.

    `==` of CEL is Python's `__eq__` here; `cost_size` is the size that costs are computed from.
    """

    cel_type: ClassVar[CelType]

    def cost_size(self) -> int:
        return 1


class Wrapped(OpaqueValue, Generic[Held]):
    """A Python value of an opaque type; equal to another where that is."""

    def __init__(self, value: Held) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


class ObjectValue:
    """Base of values with declared fields. `get` returns the field's value, or MISSING if absent.

    Upstream treats a null field as absent; `get` has to decide that, `has(o.f)` is `get` too.
    `cel_equals` compares with any other value; `cel_type` is what `type(o)` returns. Not an `ABC`,
    as every value is asked whether it is one, and `isinstance` is slow with these.
    """

    @property
    @abstractmethod
    def cel_type(self) -> CelType: ...

    @abstractmethod
    def get(self, name: str) -> Any: ...

    @abstractmethod
    def cel_equals(self, other: Any) -> bool: ...


class ListValue(list[Any]):
    """A list with own ideas of equality and `+`: the set and map lists of schemas.

    The left operand's class decides. Lazy subclasses override `__getitem__`, `__iter__`, `__len__`.
    """

    @abstractmethod
    def cel_equals(self, other: list[Any]) -> bool: ...

    @abstractmethod
    def cel_concat(self, other: list[Any]) -> list[Any]: ...


_TYPES: Final[dict[type, CelType]] = {
    int: t.INT,
    UInt: t.UINT,
    float: t.DOUBLE,
    bool: t.BOOL,
    str: t.STRING,
    bytes: t.BYTES,
    type(None): t.NULL,
    list: t.LIST,
    dict: t.MAP,
    Timestamp: t.TIMESTAMP,
    Duration: t.DURATION,
    Optional: t.OPTIONAL,
    CelType: t.TYPE,
}


def type_of(value: Any) -> CelType:
    """The run-time type of a value; elements of aggregates count as dyn."""
    found = _TYPES.get(type(value))
    if found is not None:
        return found
    if isinstance(value, (OpaqueValue, ObjectValue)):
        return value.cel_type
    for base in (list, dict, str, int):  # subclasses of the native types
        if isinstance(value, base):
            return _TYPES[base]
    raise TypeError(f"{type(value).__name__} is no CEL value")


def size_of(value: Any) -> int:
    """The size that costs are computed from: the length of what has one, else 1."""
    kind = type(value)
    if kind is str or kind is list or kind is bytes or kind is dict:
        return len(value)
    if kind is Optional:
        return size_of(value.value) if value.present else 1
    if isinstance(value, OpaqueValue):
        return value.cost_size()
    return len(value) if isinstance(value, (list, dict, str)) else 1


_NUMBERS = frozenset((int, UInt, float))


def equals(left: Any, right: Any) -> bool:
    """CEL's `==`: never fails, numbers compare across types, bools and numbers are strangers."""
    kind, other = type(left), type(right)
    if kind in _SCALARS and other in _SCALARS:
        return bool(left == right) if kind is other or {kind, other} <= _NUMBERS else False
    return _same(left, right, [MAX_COMPARISONS])


def _same(left: Any, right: Any, left_over: list[int]) -> bool:
    """Equality of any two values; `left_over` counts down, as shared parts nest exponentially."""
    kind, other = type(left), type(right)
    if kind in _SCALARS and other in _SCALARS:
        return bool(left == right) if kind is other or {kind, other} <= _NUMBERS else False
    if isinstance(left, (list, dict)):
        left_over[0] -= len(left)
        if left_over[0] < 0:
            raise CostExceeded(0)
    if isinstance(left, ListValue) and isinstance(right, list):
        return left.cel_equals(right)
    if isinstance(left, list):
        return (
            isinstance(right, list)
            and len(left) == len(right)
            and all(_same(a, b, left_over) for a, b in zip(left, right, strict=True))
        )
    if isinstance(left, dict):
        if not isinstance(right, dict) or len(left) != len(right):
            return isinstance(right, ObjectValue) and right.cel_equals(left)
        for key, value in left.items():
            found = find_key(right, key)
            if found is MISSING or not _same(value, found, left_over):
                return False
        return True
    if isinstance(left, ObjectValue):
        return left.cel_equals(right)
    if kind is Optional and other is Optional:
        if not (left.present and right.present):
            return bool(left.present == right.present)
        return _same(left.value, right.value, left_over)
    if kind is CelType:
        return other is CelType and left.name == right.name
    return kind is other and bool(left == right)


MAX_COMPARISONS = 5_000_000
_SCALARS = _NUMBERS | {bool, str, bytes, type(None)}


def find_key(mapping: dict[Any, Any], key: Any) -> Any:
    """The value under a key or MISSING. Numeric keys match across types; true is not 1."""
    kind = type(key)
    if kind is str:
        return mapping.get(key, MISSING)
    if kind not in _NUMBERS and kind is not bool:
        return MISSING
    found = mapping.get(key, MISSING)
    if found is not MISSING and (key == 0 or key == 1):
        stored = next(k for k in mapping if k == key)
        if (type(stored) is bool) is not (kind is bool):
            return MISSING
    return found
