"""Every test that takes `store` runs against each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from navarch.store import open_store
from navarch.store.engine import LogStore

T = TypeVar("T")


@pytest.fixture(params=["memory", "sqlite"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite://{tmp_path}/store.db"


@pytest.fixture
async def store(where: str) -> AsyncIterator[LogStore]:
    store = await open_store(where)
    assert isinstance(store, LogStore)
    yield store
    await store.close()


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that must not wait for anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("it waits")


@pytest.fixture(name="at_once")
def at_once_fixture() -> Any:
    return at_once
