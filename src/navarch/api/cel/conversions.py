"""Conversions between types: `int()`, `string()`, `timestamp()` and so on.

Texts are parsed and printed as Go does it, since values of the real API server came through Go:
durations are `1h30m`, doubles have their shortest form, times are RFC 3339.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.operators import timestamp
from navarch.api.cel.values import EPOCH, INT_MAX, INT_MIN, NANOS, Duration, Timestamp, UInt

_DECIMAL = re.compile(r"[+-]?[0-9]+")
_DOUBLE = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE
)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": NANOS,
    "m": 60 * NANOS,
    "h": 3600 * NANOS,
}
_BOOLS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
_BOOLS |= dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)


def _failed(target: str) -> NoReturn:
    raise EvaluationError(f"type conversion error from 'string' to '{target}'")


def double_to_int(value: float) -> int:
    if not -(2.0**63) < value < 2.0**63:
        raise EvaluationError("integer overflow")
    return int(value)


def string_to_int(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or len(text.lstrip("+-0")) > 19:
        _failed("int")
    value = int(text)
    return value if INT_MIN <= value <= INT_MAX else _failed("int")


def double_to_uint(value: float) -> UInt:
    if not 0 <= value < 2.0**64:
        raise EvaluationError("unsigned integer overflow")
    return UInt(value)


def string_to_uint(text: str) -> UInt:
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > 20:
        _failed("uint")
    value = int(text)
    return UInt(value) if value < 1 << 64 else _failed("uint")


def string_to_double(text: str) -> float:
    if not _DOUBLE.fullmatch(text):
        _failed("double")
    value = float(text)
    if math.isinf(value) and "inf" not in text.lower():
        _failed("double")
    return value


def string_to_bool(text: str) -> bool:
    return _BOOLS[text] if text in _BOOLS else _failed("bool")


def double_to_string(value: float) -> str:
    """Go's `%g` with the fewest digits that mean the same value."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, digit_tuple))
    prefix = "-" if sign else ""
    if value == 0:
        return prefix + "0"
    point = len(digits) + exponent  # where the decimal point is, from the first digit
    if -4 < point <= 6:
        if point <= 0:
            return f"{prefix}0.{'0' * -point}{digits}"
        if point >= len(digits):
            return prefix + digits + "0" * (point - len(digits))
        return f"{prefix}{digits[:point]}.{digits[point:]}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{prefix}{digits[0]}{fraction}e{point - 1:+03d}"


def bytes_to_string(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from None


def string_to_bytes(text: str) -> bytes:
    """JSON can hold lone surrogates, which UTF-8 cannot; Go has replaced them when it decoded."""
    return text.encode("utf-8", "replace")


def parse_timestamp(text: str) -> Timestamp:
    match = _RFC3339.fullmatch(text)
    if match is None:
        _failed("google.protobuf.Timestamp")
    *parts, fraction, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = map(int, parts)
    offset = (int(hours) * 60 + int(minutes)) * (-60 if sign == "-" else 60) if sign else 0
    if sign and (int(hours) > 24 or int(minutes) > 59):
        _failed("google.protobuf.Timestamp")
    try:  # year 0 exists in RFC 3339 but not in Python; either way it is out of range
        moment = datetime(year or 4, month, day, hour, minute, second, tzinfo=EPOCH.tzinfo)
    except ValueError:
        _failed("google.protobuf.Timestamp")
    seconds = (moment - EPOCH) // timedelta(seconds=1) - offset
    if year == 0:
        seconds = Timestamp.MIN // NANOS - 86400
    return timestamp(seconds * NANOS + int((fraction or "0")[:9].ljust(9, "0")))


def parse_duration(text: str) -> Duration:
    """Go's ParseDuration: `-1h2.5m`, no days."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    total = 0
    if rest != "0":
        position = 0
        while position < len(rest) or not rest:
            match = _DURATION_PART.match(rest, position)
            if match is None or not (match[1] or match[2]):
                _failed("google.protobuf.Duration")
            unit, fraction = _UNITS[match[3]], match[2] or ""
            if len(match[1].lstrip("0")) > 19:
                _failed("google.protobuf.Duration")
            total += int(match[1] or 0) * unit
            total += int(fraction[:18] or 0) * unit // 10 ** len(fraction[:18])
            position = match.end()
    if total > INT_MAX + (text[:1] == "-"):
        _failed("google.protobuf.Duration")
    return Duration(-total if text[:1] == "-" else total)


def int_to_timestamp(seconds: int) -> Timestamp:
    return timestamp(seconds * NANOS)


def identity(value: Any) -> Any:
    return value


def timestamp_to_int(value: Timestamp) -> int:
    return value.nanoseconds // NANOS


def duration_to_int(value: Duration) -> int:
    return value.nanoseconds
