"""The runtime in memory keeps the contract."""

from __future__ import annotations

import pytest
from tests.unit.node.fake_runtime import FakeRuntime
from tests.unit.node.runtime_contract import RuntimeContract


class TestFakeRuntime(RuntimeContract):
    @pytest.fixture
    def runtime(self) -> FakeRuntime:
        return FakeRuntime()

    @pytest.fixture
    def log_directory(self) -> str:
        return "/nowhere"
