"""Schedules of CronJobs: five fields (minute, hour, day of month, month, day of week), the names of
months and days, steps, ranges, `?` for `*`, and `@hourly` and its kin.

As in the library upstream uses (robfig/cron), days of month and of week both have to match unless
both are restricted: then one of them is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7} | {
    "aug": 8,
    "sep": 9,
    "oct": 10,
    "nov": 11,
    "dec": 12,
}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_SEARCH_YEARS = 5


class CronError(ValueError):
    """The text is no schedule; the message is upstream's."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moments of a schedule, to the minute."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def _has_day(self, moment: datetime) -> bool:
        day = moment.day in self.days
        weekday = moment.isoweekday() % 7 in self.weekdays
        return day and weekday if self.any_day or self.any_weekday else day or weekday

    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first scheduled moment after `moment`, in `zone`'s wall time; None if there is none
        within five years (30 February)."""
        local = moment.astimezone(zone).replace(second=0, microsecond=0) + timedelta(minutes=1)
        last = local.year + _SEARCH_YEARS
        while local.year <= last:
            if local.month not in self.months or not self._has_day(local):
                local = local.replace(hour=0, minute=0) + timedelta(days=1)
            elif local.hour not in self.hours:
                local = local.replace(minute=0) + timedelta(hours=1)
            elif local.minute not in self.minutes:
                local += timedelta(minutes=1)
            else:
                # A wall time that the clock skips in spring does not come: look on behind it.
                found = local.astimezone(UTC)
                if found.astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                    return found
                local += timedelta(minutes=1)
        return None


def parse_schedule(text: str) -> Schedule:
    """Raises `CronError`."""
    text = text.strip()
    if not text:
        raise CronError("empty spec string")
    if text.startswith("@"):
        if text not in DESCRIPTORS:
            raise CronError(f"unrecognized descriptor: {text}")
        text = DESCRIPTORS[text]
    fields = text.split()
    if len(fields) != 5:
        raise CronError(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    minute, hour, day, month, weekday = fields
    return Schedule(
        minutes=_field(minute, 0, 59, {}),
        hours=_field(hour, 0, 23, {}),
        days=_field(day, 1, 31, {}),
        months=_field(month, 1, 12, _MONTHS),
        weekdays=_field(weekday, 0, 6, _DAYS),
        any_day=_is_any(day),
        any_weekday=_is_any(weekday),
    )


def _is_any(field: str) -> bool:
    return any(part.partition("/")[0] in ("*", "?") for part in field.split(","))


def _field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    result: set[int] = set()
    for part in text.split(","):
        result |= _range(part, low, high, names)
    return frozenset(result)


def _range(text: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    bounds, *steps = text.split("/")
    if len(steps) > 1:
        raise CronError(f"too many slashes: {text}")
    first, *rest = bounds.split("-")
    if first in ("*", "?"):
        start, end = low, high
    else:
        if len(rest) > 1:
            raise CronError(f"too many hyphens: {text}")
        start = _number(first, names)
        end = _number(rest[0], names) if rest else (high if steps else start)
    step = _number(steps[0], {}) if steps else 1
    if start < low:
        raise CronError(f"beginning of range ({start}) below minimum ({low}): {text}")
    if end > high:
        raise CronError(f"end of range ({end}) above maximum ({high}): {text}")
    if start > end:
        raise CronError(f"beginning of range ({start}) beyond end of range ({end}): {text}")
    if step == 0:
        raise CronError(f"step of range should be a positive number: {text}")
    return set(range(start, end + 1, step))


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CronError(
            f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
        )
    return int(text)
