"""The promises of `docs/reliability.md`, tried with small numbers; `make reliability` takes the
full ones. A figure of what broke must be zero, and the run must have done what it was to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bench.reliability import rows
from bench.reliability.figure import Figure
from bench.reliability.rows import Sizes

SMALL = Sizes(
    seed=5,
    kills=3,
    events=3000,
    cuts=40,
    followers=8,
    reads=10,
    watchers=20,
    megabytes=60,
    backups=2,
    flips=60,
    syncs=1,
)


async def figures_of(row: str, directory: Path) -> dict[str, Figure]:
    figures = await rows.ROWS[row](directory, SMALL)
    for figure in figures:
        assert figure.is_kept, str(figure)
    return {figure.row: figure for figure in figures}


@pytest.mark.timeout(240)
async def test_kills(tmp_path: Path) -> None:
    figures = await figures_of("kills", tmp_path)
    assert figures["1"].counts["kills"] == SMALL.kills
    assert figures["1"].counts["acknowledged"] > 50
    assert figures["1"].counts["unknown outcomes"] > 0
    assert figures["2"].counts["operations checked"] > 100
    assert figures["2"].counts["refused by CAS"] > 0
    assert figures["3"].counts["broken by the server"] > SMALL.kills


@pytest.mark.timeout(240)
async def test_cut_connections(tmp_path: Path) -> None:
    figures = await figures_of("events", tmp_path)
    assert figures["3"].counts["events"] >= SMALL.events
    assert figures["3"].counts["cuts"] >= SMALL.cuts
    assert figures["4"].counts["bookmarks"] > 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("row", ["history", "reads", "backups", "flips"])
async def test_row(row: str, tmp_path: Path) -> None:
    for figure in (await figures_of(row, tmp_path)).values():
        assert all(figure.counts.values()), str(figure)


@pytest.mark.timeout(240)
async def test_slow_watchers(tmp_path: Path) -> None:
    figures = await figures_of("slow", tmp_path)
    assert figures["11"].counts["events told"] > 0
    assert figures["11"].counts["RSS growth in MB"] < 200


@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_failing_syncs(tmp_path: Path) -> None:
    figures = await figures_of("syncs", tmp_path)
    assert figures["15"].counts["failed disks"] == SMALL.syncs
