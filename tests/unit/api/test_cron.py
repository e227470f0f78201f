"""Schedules: what they match, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from navarch.api.cron import CronError, parse_schedule

START = datetime(2026, 1, 1, 12, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * *", "2026-01-01T12:31"),
        ("*/1 * * * ?", "2026-01-01T12:31"),
        ("*/20 * * * *", "2026-01-01T12:40"),
        ("0 0 * * *", "2026-01-02T00:00"),
        ("@hourly", "2026-01-01T13:00"),
        ("@weekly", "2026-01-04T00:00"),
        ("15 10-11 * * *", "2026-01-02T10:15"),
        ("0 0 29 feb *", "2028-02-29T00:00"),
        ("0 12 13 * fri", "2026-01-02T12:00"),
        ("0 12 13 * *", "2026-01-13T12:00"),
        ("5/30 8 * * mon-wed", "2026-01-05T08:05"),
        ("0 12 */13 * fri", "2026-01-02T12:00"),
        ("0 12 */1 * fri", "2026-01-02T12:00"),
        ("0 12 5 * */2", "2026-01-03T12:00"),
        ("1,,5 * * * *", "2026-01-01T13:01"),
        ("+5 * * * *", "2026-01-01T13:05"),
        ("@every 1h30m", "2026-01-01T14:00:15"),
        ("@every 90s", "2026-01-01T12:31:45"),
        ("@every 1ms", "2026-01-01T12:30:16"),
    ],
)
def test_next(text: str, expected: str) -> None:
    found = parse_schedule(text).next_after(START)
    assert found is not None
    assert found.isoformat().startswith(expected)


def test_zones_and_skipped_hours() -> None:
    zone = ZoneInfo("Europe/Berlin")
    before = datetime(2026, 3, 28, 3, 0, tzinfo=UTC)
    found = parse_schedule("30 2 * * *").next_after(before, zone)
    assert found is not None
    assert found.astimezone(zone).isoformat() == "2026-03-30T02:30:00+02:00"
    assert parse_schedule("0 0 30 2 *").next_after(START) is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 * * * *", ["01:00-04:00", "01:00-05:00", "02:00-05:00"]),
        ("30 1 * * *", ["01:30-04:00", "01:30-05:00"]),
        ("*/30 * * * *", ["00:30-04:00", "01:00-04:00", "01:30-04:00", "01:00-05:00"]),
    ],
)
def test_the_hour_that_comes_twice(schedule: str, expected: list[str]) -> None:
    zone = ZoneInfo("America/New_York")
    found: datetime | None = datetime(2026, 11, 1, 0, 10, tzinfo=zone)
    seen = []
    for _ in expected:
        assert found is not None
        found = parse_schedule(schedule).next_after(found, zone)
        assert found is not None
        seen.append(
            found.astimezone(zone).isoformat()[11:16] + found.astimezone(zone).isoformat()[-6:]
        )
    assert seen == expected


def test_a_day_without_midnight_begins_at_one() -> None:
    zone = ZoneInfo("America/Santiago")
    found = parse_schedule("0 * 6 9 *").next_after(datetime(2026, 9, 1, tzinfo=UTC), zone)
    assert found is not None
    assert found.astimezone(zone).isoformat() == "2026-09-06T01:00:00-03:00"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("61 * * * *", "end of range (61) above maximum (59): 61"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("x * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("@often", "unrecognized descriptor: @often"),
        ("@every x", 'failed to parse duration @every x: time: invalid duration "x"'),
        (
            "@every 9999999h",
            'failed to parse duration @every 9999999h: time: invalid duration "9999999h"',
        ),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(CronError) as caught:
        parse_schedule(text)
    assert str(caught.value) == message
