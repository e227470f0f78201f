"""Growing waits between attempts."""

from __future__ import annotations

import pytest

from navarch.node.backoff import BackoffTable


@pytest.mark.parametrize(
    ("table", "waits"),
    [
        pytest.param(BackoffTable(), [10, 20, 40, 80, 160, 300, 300], id="upstream's default"),
        pytest.param(BackoffTable(25), [10, 20, 25, 25], id="a shorter maximum"),
        pytest.param(BackoffTable(3), [3, 3], id="a maximum below the first wait"),
    ],
)
def test_waits_grow_to_the_maximum(table: BackoffTable, waits: list[float]) -> None:
    failed_at = 0.0
    assert table.remaining("c", failed_at, failed_at) == 0, "the first attempt is made at once"
    for wait in waits:
        table.advance("c", failed_at, failed_at)
        assert table.remaining("c", failed_at, failed_at) == wait
        failed_at += wait


def test_who_has_been_well_for_ten_minutes_starts_over() -> None:
    table = BackoffTable(3)
    table.advance("c", 0.0, 0.0)
    assert table.remaining("c", 600.0, 600.0) == 3
    assert table.remaining("c", 601.0, 601.0) == 0
