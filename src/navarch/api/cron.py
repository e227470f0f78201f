"""Schedules of CronJobs: five fields (minute, hour, day of month, month, day of week), the names of
months and days, steps, ranges, `?` for `*`, `@hourly` and its kin, and `@every 1h30m`.

As in the library upstream uses (robfig/cron), days of month and of week both have to match unless
both are restricted: then one of them is enough. What is scheduled in the hour that clocks skip in
spring does not happen, and in the hour that comes twice in autumn it happens twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from navarch.api.times import parse_duration

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
_EVERY = "@every "
_LONGEST_SECONDS = 2**63 / 1e9
_MINUTE = timedelta(minutes=1)
_NUMBER = re.compile(r"\+?[0-9]{1,9}", re.ASCII)


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
        found = moment.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        last = found.year + _SEARCH_YEARS
        # Steps are steps of time, not of the clock on the wall, which is set now and then.
        while (local := found.astimezone(zone)).year <= last:
            if local.month not in self.months or not self._has_day(local):
                midnight = datetime(local.year, local.month, local.day, tzinfo=zone)
                found = (midnight + timedelta(days=1)).astimezone(UTC)
            elif local.hour not in self.hours:
                found += (60 - local.minute) * _MINUTE
            elif local.minute not in self.minutes:
                found += _MINUTE
            else:
                return found
        return None

    def earliest(self, last: datetime, floor: datetime) -> datetime:
        """Where to begin to look for moments after `last` that are no earlier than `floor`."""
        return max(last, floor)


@dataclass(frozen=True, slots=True)
class Every:
    """Moments at the same distance, each told from the one before."""

    delay: timedelta

    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime:
        return moment.astimezone(UTC).replace(microsecond=0) + self.delay

    def earliest(self, last: datetime, floor: datetime) -> datetime:
        return last + max(0, (floor - last) // self.delay) * self.delay


def parse_schedule(text: str) -> Schedule | Every:
    """Raises `CronError`."""
    if not text:
        raise CronError("empty spec string")
    if text.startswith(_EVERY):
        return _every(text)
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


def _every(text: str) -> Every:
    """At least a second, and whole ones."""
    body = text.removeprefix(_EVERY)
    try:
        seconds = parse_duration(body)
    except ValueError as error:
        raise CronError(f"failed to parse duration {text}: {error}") from error
    if abs(seconds) >= _LONGEST_SECONDS:
        raise CronError(f'failed to parse duration {text}: time: invalid duration "{body}"')
    return Every(timedelta(seconds=max(1, int(seconds))))


def _is_any(field: str) -> bool:
    """Whether it is unrestricted: of stars with steps not even `*/1` differs from `*`."""
    for part in field.split(","):
        bounds, _, step = part.partition("/")
        if bounds.partition("-")[0] in ("*", "?") and step.lstrip("+0") in ("", "1"):
            return True
    return False


def _field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    result: set[int] = set()
    for part in filter(None, text.split(",")):
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
    if not _NUMBER.fullmatch(text):
        raise CronError(
            f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
        )
    return int(text)
