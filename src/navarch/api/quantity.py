"""Resource quantities: `500m`, `1.5Gi`, `12e6`, exact and in upstream's canonical form.

A quantity is a decimal number with at most nine places after the point (finer values are rounded
away from zero, so that asking for something never yields nothing), and a format that decides how
it is printed: decimal suffixes, binary suffixes or an exponent. The canonical form has no fraction,
the largest possible suffix and as few digits as possible. Rules: apimachinery `pkg/api/resource`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, total_ordering

NANOS = 10**9
MAX_BINARY = 2**63 - 1
MAX_EXPONENT = 1000
"""Bound on `1e<n>`: beyond it nobody means it, and the arithmetic would cost the server dearly."""
MAX_LENGTH = 1024

FORMAT_WRONG = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)
SUFFIX_WRONG = "unable to parse quantity's suffix"


class Format(Enum):
    DECIMAL = "DecimalSI"
    BINARY = "BinarySI"
    EXPONENT = "DecimalExponent"


DECIMAL_SUFFIXES = {
    "n": -9,
    "u": -6,
    "m": -3,
    "": 0,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "P": 15,
    "E": 18,
}
BINARY_SUFFIXES = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_NAMES = {exponent: suffix for suffix, exponent in DECIMAL_SUFFIXES.items()}
_BINARY_NAMES = {exponent: suffix for suffix, exponent in BINARY_SUFFIXES.items()}

# Every part may be empty: upstream reads "-" and "." as zero.
_PATTERN = re.compile(r"([+-]?)([0-9]*)(?:(\.)([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]+)", re.ASCII)


class QuantityError(ValueError):
    """The text is no quantity; the message is upstream's."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An exact amount; compares by value, prints canonically."""

    nanos: int
    format: Format = Format.DECIMAL
    text: str = ""
    """The text it was read from, where that is printed again as it stands."""

    @classmethod
    def of(cls, value: int, format: Format = Format.DECIMAL) -> Quantity:
        return cls(value * NANOS, format)

    def value(self) -> int:
        """Whole units, rounded away from zero."""
        return _divide_up(self.nanos, NANOS)

    def milli_value(self) -> int:
        """Thousandths, rounded away from zero."""
        return _divide_up(self.nanos, 10**6)

    def round_up(self, exponent: int) -> Quantity:
        """Rounded away from zero to a multiple of 10**exponent (between -9 and 0)."""
        unit = 10 ** (9 + exponent)
        if self.nanos % unit == 0:
            return self
        return Quantity(_divide_up(self.nanos, unit) * unit, self.format)

    def is_zero(self) -> bool:
        return self.nanos == 0

    def sign(self) -> int:
        """-1, 0 or 1."""
        return (self.nanos > 0) - (self.nanos < 0)

    def __float__(self) -> float:
        return self.nanos / NANOS

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.nanos == other.nanos

    def __lt__(self, other: Quantity) -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos + other.nanos, self.format if self.nanos else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos - other.nanos, self.format if self.nanos else other.format)

    def __mul__(self, factor: int) -> Quantity:
        return Quantity(self.nanos * factor, self.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nanos, self.format)

    def __str__(self) -> str:
        if self.text:
            return self.text
        if not self.nanos:
            return "0"
        whole, fraction = divmod(abs(self.nanos), NANOS)
        if self.format is Format.BINARY and not fraction and whole >= 1024:
            return self._binary(whole)
        return self._decimal(abs(self.nanos))

    def _binary(self, whole: int) -> str:
        exponent = 0
        while exponent < 60 and whole % 1024 == 0:
            whole, exponent = whole // 1024, exponent + 10
        sign = "-" if self.nanos < 0 else ""
        return f"{sign}{whole}{_BINARY_NAMES.get(exponent, '')}"

    def _decimal(self, nanos: int) -> str:
        exponent = -9
        limit = MAX_EXPONENT if self.format is Format.EXPONENT else 18
        while exponent < limit and nanos % 1000 == 0:
            nanos, exponent = nanos // 1000, exponent + 3
        sign = "-" if self.nanos < 0 else ""
        if self.format is Format.EXPONENT:
            return f"{sign}{nanos}e{exponent}" if exponent else f"{sign}{nanos}"
        return f"{sign}{nanos}{_DECIMAL_NAMES[exponent]}"


ZERO = Quantity(0)


def _divide_up(value: int, unit: int) -> int:
    """Division rounding away from zero."""
    return -(-value // unit) if value >= 0 else value // unit


def _interpret(suffix: str) -> tuple[int, Format]:
    """(exponent, format) of a suffix; of base 2 for the binary format, else of base 10."""
    if suffix in DECIMAL_SUFFIXES:
        return DECIMAL_SUFFIXES[suffix], Format.DECIMAL
    if suffix in BINARY_SUFFIXES:
        return BINARY_SUFFIXES[suffix], Format.BINARY
    match = _EXPONENT.fullmatch(suffix)
    if match is None or len(match[1]) > 5 or abs(int(match[1])) > MAX_EXPONENT:
        raise QuantityError(SUFFIX_WRONG)
    return int(match[1]), Format.EXPONENT


def _is_printed_as_read(digits: str, places: int, exponent: int, format: Format) -> bool:
    """Whether upstream takes the text for canonical already and prints it again unchanged.

    A cheap test of its own on the digits (up to 18 of them), not a comparison with the canonical
    form: `1.500` passes. Objects that went through upstream show such texts, so they stay.
    """
    if format is Format.BINARY:
        fits = not places and 15 - len(digits) - int(exponent * 3 / 10) - 1 >= 0
        return fits and int(digits) & 7 != 0
    scale = exponent - places
    return (
        len(digits) <= 18
        and scale >= -9
        and scale % 3 == 0
        and not digits.endswith("000")
        and digits[0] != "0"
    )


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity:
    """The quantity in `text`; raises `QuantityError`."""
    match = _PATTERN.fullmatch(text) if text and len(text) <= MAX_LENGTH else None
    if match is None:
        raise QuantityError(FORMAT_WRONG)
    sign, number, point, places_text, suffix = match.groups(default="")
    number = number.lstrip("0")
    if not number and not point and not suffix:
        return ZERO
    exponent, format = _interpret(suffix)
    digits = (number or "0") + places_text
    places = len(places_text)
    mantissa = int(digits)
    if format is Format.BINARY:
        nanos = _divide_up(mantissa * 2**exponent * NANOS, 10**places)
        nanos = min(nanos, MAX_BINARY * NANOS)
        if 0 < nanos < NANOS:
            format = Format.DECIMAL
    else:
        shift = exponent - places + 9
        nanos = mantissa * 10**shift if shift >= 0 else _divide_up(mantissa, 10**-shift)
    if sign == "-":
        nanos = -nanos
    kept = text if _is_printed_as_read(digits, places, exponent, format) else ""
    return Quantity(nanos, format, kept)


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """The canonical form of a quantity's text; raises `QuantityError`."""
    return str(parse_quantity(text))
