"""What failed is tried again alone, and stories as a whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools")
    return importlib.import_module("again")


def test_what_is_tried_again(again: Any) -> None:
    failed = (
        "tests/cluster/test_join.py::test_a",
        "tests/cluster/node/test_csi.py::test_b[x::y]",
        "tests/cluster/test_join.py::test_c",
        "tests/unit/test_d.py::TestOf::test_d",
        "tests/cluster/test_broken.py",
    )
    assert again.chosen(failed, ["tests/cluster"]) == [
        "tests/cluster/test_join.py",
        "tests/cluster/node/test_csi.py::test_b[x::y]",
        "tests/cluster/test_broken.py",
    ]
    assert again.chosen(failed, ["tests/unit", "tests/api"]) == [failed[3]]
    assert again.chosen(failed, ["tests/unit/test_d.py"]) == [failed[3]]


@pytest.mark.parametrize("memory", [None, "{}", '{"tests/api/test_x.py::test_x": true}'])
def test_a_run_that_broke_off_stays_red(
    again: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: str | None
) -> None:
    monkeypatch.setattr(again, "MEMORY", tmp_path / "memory")
    if memory is not None:
        again.MEMORY.write_text(memory)
    monkeypatch.setattr("sys.argv", ["again", "tests/unit"])
    assert again.main() == 1
