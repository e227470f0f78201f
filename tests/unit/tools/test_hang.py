"""Tests that no time limit of Python's own can end are ended all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = """
from tests import hang
hang.GRACE = 1.0
def pytest_configure(config):
    config.pluginmanager.register(hang.HangGuard())
"""
TESTS = """
import asyncio, threading
import pytest
pytestmark = pytest.mark.timeout(0.5)
NEVER = threading.Event()

@pytest.mark.asyncio
async def test_waits_for_a_thread():
    await asyncio.to_thread(NEVER.wait)
"""


def test_a_test_that_waits_for_a_thread_ends(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["-m", "pytest", "-n", "0", "-c", os.devnull, "--rootdir", str(tmp_path), "-q"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(
        [sys.executable, *words, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended
    assert "Timeout (0:00:01.5" in ended.stderr, ended
