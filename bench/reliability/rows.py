"""Each row of the table of promises as a function that returns its figures."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.reliability.figure import Figure
from bench.reliability.process import Process
from bench.reliability.storm import Plan, Storm, weather

OFTEN = 0.25
"""Seconds between compactions of a server that lives for less than one: kills meet them too."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is tried; the defaults are the full numbers."""

    seed: int = 1
    kills: int = 1000
    events: int = 1_000_000
    cuts: int = 1000
    followers: int = 40
    seconds: int = 3600
    """After which no more servers are killed."""


Row = Callable[[Path, Sizes], Coroutine[Any, Any, list[Figure]]]


async def kills(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 1 to 4 while the server is killed."""
    plan = Plan(sizes.seed, kills=sizes.kills, seconds=sizes.seconds)
    storm = await weather(Process(directory, OFTEN), plan)
    return figures(storm, f"--row kills --kills {sizes.kills}")


async def events(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 2 to 4 while connections are cut."""
    plan = Plan(sizes.seed, events=sizes.events, cuts=sizes.cuts, followers=sizes.followers)
    storm = await weather(Process(directory), plan)
    options = f"--events {sizes.events} --cuts {sizes.cuts} --followers {sizes.followers}"
    return figures(storm, f"--row events {options}")


def figures(storm: Storm, options: str) -> list[Figure]:
    seed = storm.plan.seed
    command = f"python -m bench.reliability --seed {seed} {options}"
    tally, seen = storm.tally, storm.verdict
    starts = sorted(storm.starts)
    written = Figure("1", "acknowledged writes survive", seed, command)
    written.counts = {
        "acknowledged": tally["acknowledged"],
        "reads": tally["reads"],
        "unknown outcomes": tally["unknown"],
        "kills": tally["kills"],
        "compactions": tally["compactions"],
        "median seconds to ready": starts[len(starts) // 2],
        "slowest": starts[-1],
    }
    written.faults = {
        name: tally[name]
        for name in ("lost", "resurrected", "revision gaps", "went back", "damaged")
    }
    serial = Figure("2", "every key is a register", seed, command)
    serial.counts = {
        "operations checked": tally["checked"],
        "keys": tally["keys"],
        "refused by CAS": tally["refused"],
        "unknown outcomes": tally["unknown"],
    }
    serial.faults = {"anomalies": tally["anomalies"]}
    watched = Figure("3", "watches are ordered, unique, reliable, resumable", seed, command)
    watched.counts = {
        "events": seen.events,
        "followers": len(storm.followers),
        "cuts": seen.cuts,
        "broken by the server": seen.broken,
        "relists": seen.relists,
    }
    watched.faults = {
        "missing": seen.missing,
        "repeated": seen.repeated,
        "out of order": seen.disordered,
        "wrong": seen.wrong,
        "contradictions": storm.truth.contradictions,
    }
    marked = Figure("4", "bookmarks tell that everything before came", seed, command)
    marked.counts = {"bookmarks": seen.bookmarks}
    marked.faults = {"wrong": seen.wrong, "missing": seen.missing}
    written.notes, watched.notes = storm.notes, seen.notes
    return [written, serial, watched, marked]


ROWS: dict[str, Row] = {"kills": kills, "events": events}
