"""Times as the API writes them: RFC 3339 in UTC, to the second or (MicroTime) microsecond."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

LAYOUT = "2006-01-02T15:04:05Z07:00"
MICRO_LAYOUT = "2006-01-02T15:04:05.000000Z07:00"

_PATTERN = re.compile(
    r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:[.,](\d{1,64}))?(Z|[+-]\d\d:\d\d)", re.ASCII
)
_PARTS = (
    (r"\d{4}", "2006"),
    ("-", "-"),
    (r"\d\d", "01"),
    ("-", "-"),
    (r"\d\d", "02"),
    ("T", "T"),
    (r"\d\d", "15"),
    (":", ":"),
    (r"\d\d", "04"),
    (":", ":"),
    (r"\d\d", "05"),
    (r"(?:[.,]\d+)?(?:Z|[+-]\d\d:\d\d)", "Z07:00"),
)


class TimeError(ValueError):
    """The text is no RFC 3339 time; the message is Go's."""


@lru_cache(maxsize=4096)
def parse_time(text: str) -> datetime:
    """The time in UTC; raises `TimeError`. Digits beyond the microsecond are cut off."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise TimeError(_complaint(text))
    date, clock, fraction, zone = match.groups()
    micros = f".{fraction[:6].ljust(6, '0')}" if fraction else ""
    try:
        return datetime.fromisoformat(f"{date}T{clock}{micros}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise TimeError(_complaint(text)) from None


def _complaint(text: str) -> str:
    """Go's message: which part of the layout the text does not follow."""
    rest = text
    for pattern, layout in _PARTS:
        match = re.match(pattern, rest, re.ASCII)
        if match is None:
            return f'parsing time "{text}" as "{LAYOUT}": cannot parse "{rest}" as "{layout}"'
        rest = rest[match.end() :]
    if rest:
        return f'parsing time "{text}": extra text: "{rest}"'
    return f'parsing time "{text}": {_out_of_range(text)} out of range'


def _out_of_range(text: str) -> str:
    """The first part that is no valid month, hour, minute, second, zone or else day."""
    month, hour, minute, second = (int(text[at : at + 2]) for at in (5, 11, 14, 17))
    for name, bad in (
        ("month", not 1 <= month <= 12),
        ("hour", hour > 23),
        ("minute", minute > 59),
        ("second", second > 59),
    ):
        if bad:
            return name
    return "day"


@lru_cache(maxsize=512)
def format_time(moment: datetime) -> str:
    """`2026-01-31T08:00:00Z`; fractions of a second are cut off."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y}".rjust(4, "0") + f"{utc:-%m-%dT%H:%M:%SZ}"


def format_micro_time(moment: datetime) -> str:
    """`2026-01-31T08:00:00.123456Z`."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y}".rjust(4, "0") + f"{utc:-%m-%dT%H:%M:%S.%fZ}"


@lru_cache(maxsize=4096)
def canonical_time(text: str) -> str:
    """A Time's text as the API prints it; raises `TimeError`."""
    return format_time(parse_time(text))


@lru_cache(maxsize=4096)
def canonical_micro_time(text: str) -> str:
    """A MicroTime's text as the API prints it; raises `TimeError`."""
    try:
        return format_micro_time(parse_time(text))
    except TimeError as error:
        raise TimeError(str(error).replace(LAYOUT, MICRO_LAYOUT)) from None


def now() -> datetime:
    """The present moment in UTC. Components with a clock of their own ask that one instead."""
    return datetime.now(UTC)


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_SECONDS = 2**63 / 1e9
"""Go counts a duration's nanoseconds in 64 bits."""


def parse_duration(text: str) -> float:
    """A Go duration (`1m30s`) in seconds. Raises ValueError with Go's message."""
    body = text[1:] if text[:1] in ("-", "+") else text
    parts = _DURATION.findall(body)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    is_whole = body == "0" or (parts and "".join(map("".join, parts)) == body)
    if not is_whole or seconds >= _LONGEST_SECONDS:
        raise ValueError(f'time: invalid duration "{text}"')
    return -seconds if text.startswith("-") else seconds


def format_duration(seconds: float) -> str:
    """Seconds as Go writes a duration: `1m30s`, `100ms`, `0s`."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{sign}{_decimal(nanoseconds, size)}{unit}"
        return "0s"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    digits = len(str(size)) - 1
    return f"{whole}.{part:0{digits}}".rstrip("0").rstrip(".") if part else str(whole)
