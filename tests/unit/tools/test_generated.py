"""The generated files are what their generators make today."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(ROOT / "tools")
    yield
    for name in ("definitions", "schema_defaults", "generate_types", "generate_schema"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("generator", "folder", "suffix"),
    [
        ("generate_types", "src/navarch/api/types", ".py"),
        ("generate_schema", "src/navarch/api/schema/data", ".json"),
    ],
)
def test_files_are_up_to_date(generator: str, folder: str, suffix: str) -> None:
    pytest.importorskip("kubernetes_validate")
    rendered = importlib.import_module(generator).render_all()
    found = {path.name for path in (ROOT / folder).glob(f"*_v*{suffix}")}
    assert found == {name for name in rendered if "_v" in name}
    for name, text in rendered.items():
        assert (ROOT / folder / name).read_text() == text, name
