"""RFC 3339 times in and out."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from navarch.api.times import (
    TimeError,
    canonical_micro_time,
    canonical_time,
    format_duration,
    format_micro_time,
    format_time,
    parse_duration,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "seconds", "micros"),
    [
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z", "2026-01-31T08:00:00.000000Z"),
        ("2026-01-31T08:00:00.5Z", "2026-01-31T08:00:00Z", "2026-01-31T08:00:00.500000Z"),
        (
            "2026-01-31T08:00:00.123456789+02:00",
            "2026-01-31T06:00:00Z",
            "2026-01-31T06:00:00.123456Z",
        ),
        ("0099-01-01T00:00:00Z", "0099-01-01T00:00:00Z", "0099-01-01T00:00:00.000000Z"),
    ],
)
def test_canonical(text: str, seconds: str, micros: str) -> None:
    assert canonical_time(text) == seconds
    assert canonical_micro_time(text) == micros


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "yesterday",
            'parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": '
            'cannot parse "yesterday" as "2006"',
        ),
        (
            "2026-01-31",
            'parsing time "2026-01-31" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T"',
        ),
        (
            "2026-01-31T08:00:00",
            'parsing time "2026-01-31T08:00:00" as "2006-01-02T15:04:05Z07:00": '
            'cannot parse "" as "Z07:00"',
        ),
        ("2026-13-01T00:00:00Z", 'parsing time "2026-13-01T00:00:00Z": month out of range'),
        ("2026-02-30T00:00:00Z", 'parsing time "2026-02-30T00:00:00Z": day out of range'),
        ("2026-02-03T25:00:00Z", 'parsing time "2026-02-03T25:00:00Z": hour out of range'),
        ("2026-02-03T05:00:00Zx", 'parsing time "2026-02-03T05:00:00Zx": extra text: "x"'),
    ],
)
def test_what_is_no_time(text: str, message: str) -> None:
    with pytest.raises(TimeError) as error:
        parse_time(text)
    assert str(error.value) == message


def test_formatting_turns_to_utc() -> None:
    moment = datetime(2026, 1, 31, 8, 0, 0, 1500, tzinfo=timezone(timedelta(hours=1)))
    assert format_time(moment) == "2026-01-31T07:00:00Z"
    assert format_micro_time(moment) == "2026-01-31T07:00:00.001500Z"
    assert parse_time("2026-01-31T07:00:00Z") == datetime(2026, 1, 31, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [
        ("10s", 10, "10s"),
        ("1m30s", 90, "1m30s"),
        ("4h", 14400, "4h0m0s"),
        ("100ms", 0.1, "100ms"),
        ("1.5s", 1.5, "1.5s"),
        ("0", 0, "0s"),
        ("-1m", -60, "-1m0s"),
        ("250us", 0.00025, "250µs"),
        ("+1h1ms", 3600.001, "1h0m0.001s"),
    ],
)
def test_durations(text: str, seconds: float, written: str) -> None:
    assert parse_duration(text) == pytest.approx(seconds)
    assert format_duration(parse_duration(text)) == written


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1 s", "1d", "1s!", "2562048h", "1" + "0" * 400 + "h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'time: invalid duration "{text}"')):
        parse_duration(text)
