"""Int-or-string fields: a number, or a percentage of some total (`maxSurge: 25%`)."""

from __future__ import annotations

import re

IntOrString = int | str

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


class IntOrStringError(ValueError):
    """The value is neither an integer nor a percentage."""


def percentage(value: IntOrString) -> int | None:
    """The number before the `%`, or None for an integer; raises for any other string."""
    if isinstance(value, int):
        return None
    number = value.removesuffix("%")
    if number == value:
        raise IntOrStringError(
            "invalid value for IntOrString: invalid type: string is not a percentage"
        )
    if not _INTEGER.fullmatch(number) or len(number) > 18:
        raise IntOrStringError(
            f'invalid value for IntOrString: invalid value "{value}": '
            f'strconv.Atoi: parsing "{number}": invalid syntax'
        )
    return int(number)


def scaled_value(value: IntOrString, total: int, round_up: bool) -> int:
    """The integer, or the percentage of `total`, rounded up or down."""
    percent = percentage(value)
    if percent is None:
        return int(value)
    product = percent * total
    return -(-product // 100) if round_up else product // 100
