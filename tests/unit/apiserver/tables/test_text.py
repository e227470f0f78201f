from __future__ import annotations

from datetime import timedelta

import pytest

from navarch.apiserver.tables.text import human_duration, label_text, selector_text, some

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * MINUTE, "2m"),
        (3 * MINUTE + 5, "3m5s"),
        (10 * MINUTE + 5, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR, "3h"),
        (7 * HOUR + 59 * MINUTE, "7h59m"),
        (8 * HOUR + 59 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (7 * DAY + 23 * HOUR, "7d23h"),
        (8 * DAY + 23 * HOUR, "8d"),
        (729 * DAY, "729d"),
        (730 * DAY, "2y"),
        (2 * 365 * DAY + 3 * DAY, "2y3d"),
        (9 * 365 * DAY, "9y"),
    ],
)
def test_durations_get_coarser(seconds: int, expected: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == expected


def test_lists_end_early() -> None:
    assert some(["a", "b", "c"], 3) == "a,b,c"
    assert some(["a", "b", "c", "d", "e"], 3) == "a,b,c + 2 more..."
    assert some([], 3, empty="<unset>") == "<unset>"


def test_selectors_read_like_command_lines() -> None:
    assert label_text({"b": "2", "a": "1"}) == "a=1,b=2"
    assert label_text({}) == label_text(None) == "<none>"
    expressions = [
        {"key": "tier", "operator": "In", "values": ["b", "a"]},
        {"key": "gone", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "web"}, "matchExpressions": expressions}
    assert selector_text(selector) == "app=web,!gone,tier in (a,b)"
    assert selector_text({}) == selector_text(None) == "<none>"
