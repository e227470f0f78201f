"""The words of table cells: ages, selectors, lists that end early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from navarch.api.selectors import SelectorError, label_selector_from_object
from navarch.api.times import TimeError, parse_time

Object = dict[str, Any]

NONE = "<none>"
UNSET = "<unset>"
UNKNOWN = "<unknown>"
_YEAR_HOURS = 24 * 365


def human_duration(span: timedelta) -> str:
    """A duration as people read it: the longer, the coarser."""
    seconds = int(span.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if hours < 2 * _YEAR_HOURS:
        return f"{days}d"
    years = hours // _YEAR_HOURS
    if hours < 8 * _YEAR_HOURS:
        return _two(years, "y", days % 365, "d")
    return f"{years}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def since(time: str | None, now: datetime) -> str:
    """How long ago a time was."""
    if not time:
        return UNKNOWN
    try:
        return human_duration(now - parse_time(time))
    except TimeError:
        return "<invalid>"


def at(obj: Any, *path: str) -> Any:
    """What is below a path of fields; None where it ends."""
    for name in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(name)
    return obj


def number(obj: Any, *path: str) -> int:
    """A count that is left out when zero."""
    return at(obj, *path) or 0


def word(obj: Any, *path: str, otherwise: str = "") -> str:
    """A text, or something else where it is empty or absent."""
    return str(at(obj, *path) or otherwise)


def label_text(labels: Mapping[str, str] | None) -> str:
    if not labels:
        return NONE
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels))


def selector_text(selector: Object | None, empty: str = NONE) -> str:
    """A LabelSelector in the form that `-l` takes."""
    try:
        return str(label_selector_from_object(selector)) if selector else empty
    except SelectorError:
        return "<error>"


def some(items: Sequence[str], limit: int, separator: str = ",", empty: str = "") -> str:
    """The first items, and how many more there are."""
    text = separator.join(items[:limit])
    if len(items) > limit:
        return f"{text} + {len(items) - limit} more..."
    return text or empty


def condition(obj: Object, of_type: str) -> Object:
    """The condition of a type in an object's status; empty when there is none."""
    for each in at(obj, "status", "conditions") or ():
        if each.get("type") == of_type:
            found: Object = each
            return found
    return {}


def is_true(obj: Object, of_type: str) -> bool:
    return condition(obj, of_type).get("status") == "True"


def default_marker(*annotations: str) -> Callable[[Object], str]:
    """A class's name, marked if one of the annotations makes it the default one."""

    def cell(obj: Object) -> str:
        found = at(obj, "metadata", "annotations") or {}
        is_default = any(found.get(each) == "true" for each in annotations)
        return f"{name(obj)} (default)" if is_default else name(obj)

    return cell


def name(obj: Object) -> str:
    return word(obj, "metadata", "name")


def grouped(name: str, group: str) -> str:
    """A resource or kind with its group behind it, as kubectl takes it."""
    return f"{name}.{group}" if group else name


def pair(first: str, second: str) -> Callable[[Object | None], str]:
    """`a/b` of two fields."""
    return lambda obj: f"{word(obj, first)}/{word(obj, second)}"


def _all(field: str) -> Callable[[Sequence[Object] | None], str]:
    return lambda items: ",".join(each.get(field, "") for each in items or ())


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "text": str,
    "value": lambda value: value,
    "number": lambda value: value or 0,
    "count": lambda value: len(value or ()),
    "flag": bool,
    "unset": lambda value: UNSET if value is None else str(value),
    "joined": lambda items: ",".join(items or ()),
    "names": _all("name"),
    "images": _all("image"),
    "labels": label_text,
    "selector": selector_text,
    "since": since,
}
"""What lines of tables may call."""
