"""Flags about simulated nodes."""

from __future__ import annotations

import pytest

from navarch.cli.simulation import _zones
from navarch.cluster.profile import ClusterError


@pytest.mark.parametrize(
    ("text", "zones"),
    [("2", ["zone-1", "zone-2"]), ("a,b", ["a", "b"]), ("²", ["²"])],
)
def test_zones(text: str, zones: list[str]) -> None:
    assert _zones(text) == zones


@pytest.mark.parametrize("text", ["0", "1001", "9" * 5000])
def test_zones_without_measure(text: str) -> None:
    with pytest.raises(ClusterError, match="1 to 1000"):
        _zones(text)
