from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.apiserver.tables.custom import custom_table

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
OBJECT = {
    "metadata": {"name": "x", "creationTimestamp": "2026-01-02T11:55:00Z"},
    "spec": {"size": 3, "ratio": 1, "on": True, "names": ["a", "b"], "odd.name": "o"},
    "status": {
        "since": "2026-01-02T11:59:00Z",
        "conditions": [
            {"type": "Synced", "status": "False"},
            {"type": "Ready", "status": "True"},
        ],
    },
}


@pytest.mark.parametrize(
    ("of_type", "path", "expected"),
    [
        ("integer", ".spec.size", 3),
        ("integer", ".spec.on", None),
        ("number", ".spec.ratio", 1.0),
        ("boolean", ".spec.on", True),
        ("string", ".spec.on", "true"),
        ("string", ".spec.size", "3"),
        ("string", ".spec.names", '["a","b"]'),
        ("string", ".spec.names[*]", "a"),
        ("string", ".spec.odd\\.name", "o"),
        ("string", '.status.conditions[?(@.type=="Ready")].status', "True"),
        ("string", ".spec.absent", None),
        ("string", ".spec[", None),
        ("date", ".status.since", "60s"),
        ("date", ".spec.names[0]", "<invalid>"),
        ("date", ".metadata.creationTimestamp", "5m"),
    ],
)
def test_cells(of_type: str, path: str, expected: Any) -> None:
    table = custom_table([{"name": "C", "type": of_type, "jsonPath": path}])
    assert table.cells(OBJECT, NOW) == ["x", expected]


def test_columns_are_those_of_the_definition() -> None:
    wanted = {"name": "C", "type": "string", "jsonPath": ".a", "priority": 1, "format": "f"}
    _, shown = custom_table([wanted]).columns
    assert shown["name"] == "C"
    assert shown["priority"] == 1
    assert shown["format"] == "f"
    assert ".a" in shown["description"]


def test_the_age_is_shown_when_nothing_is_asked_for() -> None:
    table = custom_table(None)
    assert [each["name"] for each in table.columns] == ["Name", "Age"]
    assert table.cells(OBJECT, NOW) == ["x", "5m"]
