"""Integers and percentages."""

from __future__ import annotations

import pytest

from navarch.api.intstr import IntOrStringError, percentage, scaled_value


@pytest.mark.parametrize(
    ("value", "total", "round_up", "expected"),
    [
        (3, 10, True, 3),
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        ("100%", 7, False, 7),
        ("0%", 7, True, 0),
        ("150%", 10, False, 15),
        ("33%", 0, True, 0),
    ],
)
def test_scaled_value(value: int | str, total: int, round_up: bool, expected: int) -> None:
    assert scaled_value(value, total, round_up) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "invalid value for IntOrString: invalid type: string is not a percentage"),
        (
            "x%",
            'invalid value for IntOrString: invalid value "x%": '
            'strconv.Atoi: parsing "x": invalid syntax',
        ),
    ],
)
def test_other_strings_are_refused(value: str, message: str) -> None:
    with pytest.raises(IntOrStringError) as error:
        scaled_value(value, 10, True)
    assert str(error.value) == message


def test_percentage() -> None:
    assert percentage("40%") == 40
    assert percentage(40) is None
