"""Numbers in texts that clients write."""

from __future__ import annotations

import pytest

from navarch.api.intstr import IntOrStringError, percentage
from navarch.api.numbers import LARGEST, natural


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("80", 80),
        ("0080", 80),
        (str(LARGEST), LARGEST),
        (str(LARGEST + 1), LARGEST),
        ("9" * 5000, LARGEST),
        ("0" * 5000 + "7", 7),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_000", None),
        (" 1", None),
        ("²", None),
        ("٣", None),
        ("0x5", None),
    ],
)
def test_a_text_is_a_natural_number_or_none(text: str, number: int | None) -> None:
    assert natural(text) == number


@pytest.mark.parametrize("text", ["²%", "٣%", "9" * 5000 + "%"])
def test_percentages_are_in_plain_digits(text: str) -> None:
    with pytest.raises(IntOrStringError):
        percentage(text)
