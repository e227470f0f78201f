"""Every row of the table of hostile input has its test."""

from __future__ import annotations

import pytest
from tests.api.hostile_rows import ROWS, missing


def test_all_rows_are_there() -> None:
    assert list(ROWS) == list(range(1, 85))


@pytest.mark.parametrize("number", ROWS, ids=lambda number: f"row-{number}")
def test_a_row_has_its_test(number: int) -> None:
    assert [missing(reference) for reference in ROWS[number]] == [[]] * len(ROWS[number])
