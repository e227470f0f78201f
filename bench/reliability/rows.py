"""Each row of the table of promises as a function that returns its figures."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.reliability.disk import copy_under_load, flip, restored_server
from bench.reliability.figure import Figure
from bench.reliability.history import KILLS as CRASHES
from bench.reliability.history import SCENARIOS, expire
from bench.reliability.process import Process
from bench.reliability.serving import count, page, read_after_write, read_on, writing
from bench.reliability.slow import gather_crowd, percentile
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
    reads: int = 1000
    """Increments, reads after writes and rounds of a reader; ten times as many objects in pages."""
    watchers: int = 1000
    megabytes: int = 80
    backups: int = 20
    flips: int = 1000
    syncs: int = 20
    pods: int = 50
    agents: int = 20
    """How often a node's agent is killed."""
    soak: int = 200
    """Pods that are made and deleted."""
    replicas: int = 100
    """Of the Deployment whose controllers are killed."""
    daemons: int = 40
    """How often controllers, the scheduler and the proxy are killed."""
    pauses: int = 10
    """How often leaders are frozen."""
    lease: int = 15
    """Seconds after which another may lead."""
    away: int = 600
    """Seconds without a control plane."""
    tolerance: int = 300
    """Seconds for which pods put up with a node that is lost."""
    seconds: int = 3600
    """After which no more servers are killed."""


Row = Callable[[Path, Sizes], Coroutine[Any, Any, list[Figure]]]


async def kills(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 1 to 4 while the server is killed."""
    plan = Plan(sizes.seed, kills=sizes.kills, seconds=sizes.seconds)
    storm = await weather(Process(directory, OFTEN), plan)
    return figures(storm, command(sizes, "kills", "kills"))


async def events(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 2 to 4 while connections are cut."""
    plan = Plan(sizes.seed, events=sizes.events, cuts=sizes.cuts, followers=sizes.followers)
    storm = await weather(Process(directory), plan)
    return figures(storm, command(sizes, "events", "events", "cuts", "followers"))


def figures(storm: Storm, repeat: str) -> list[Figure]:
    seed = storm.plan.seed
    tally, seen = storm.tally, storm.verdict
    starts = sorted(storm.starts)
    written = Figure("1", "acknowledged writes survive", seed, repeat)
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
    serial = Figure("2", "every key is a register", seed, repeat)
    serial.counts = {
        "operations checked": tally["checked"],
        "keys": tally["keys"],
        "refused by CAS": tally["refused"],
        "unknown outcomes": tally["unknown"],
    }
    serial.faults = {"anomalies": tally["anomalies"]}
    watched = Figure("3", "watches are ordered, unique, reliable, resumable", seed, repeat)
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
    marked = Figure("4", "bookmarks tell that everything before came", seed, repeat)
    marked.counts = {"bookmarks": seen.bookmarks}
    marked.faults = {"wrong": seen.wrong, "missing": seen.missing}
    written.notes, watched.notes = storm.notes, seen.notes
    return [written, serial, watched, marked]


def command(sizes: Sizes, row: str, *names: str) -> str:
    options = "".join(f" --{name} {getattr(sizes, name)}" for name in names)
    return f"python -m bench.reliability --seed {sizes.seed} --row {row}{options}"


@asynccontextmanager
async def running(
    directory: Path, compact_seconds: float = 4.0
) -> AsyncIterator[tuple[Process, aiohttp.ClientSession]]:
    process = Process(directory, compact_seconds)
    async with process.session() as session:
        await process.start(session)
        try:
            yield process, session
        finally:
            await process.kill()


async def reads(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 6 to 9."""
    repeat = command(sizes, "reads", "reads")
    chance, tries = random.Random(sizes.seed), sizes.reads
    async with (
        running(directory) as (process, session),
        process.session() as other,
        writing(session, chance, writers=4, names=50),
    ):
        counted = await count(session, 50, tries)
        fresh = await read_after_write(session, other, tries)
        monotonic = await read_on(other, chance, tries)
        paged = await page(session, tries * 10, 10)
    return [
        Figure(
            "6",
            "no update is lost",
            sizes.seed,
            repeat,
            {"clients": 50, "increments": counted.increments, "conflicts": counted.conflicts},
            {"lost": counted.lost},
        ),
        Figure(
            "7",
            "lists are as new as the last acknowledged write",
            sizes.seed,
            repeat,
            {"reads": fresh.reads, "p99 ms of lists": fresh.p99 * 1000},
            {"stale": fresh.stale},
        ),
        Figure(
            "8",
            "no reader goes back in time",
            sizes.seed,
            repeat,
            {"requests": monotonic.requests, "moments of the past": monotonic.past},
            {"backwards": monotonic.backwards, "differences": monotonic.differences},
        ),
        Figure(
            "9",
            "pages of a list show one moment",
            sizes.seed,
            repeat,
            {"objects": paged.objects, "pages": paged.pages},
            {"phantoms": paged.phantoms},
        ),
    ]


async def slow(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 11."""
    async with running(directory) as (process, _):
        stalled = sizes.watchers // 20
        found = await gather_crowd(process, sizes.watchers, stalled, sizes.megabytes)
    figure = Figure(
        "11",
        "slow watchers stop nobody and are ended",
        sizes.seed,
        command(sizes, "slow", "watchers", "megabytes"),
    )
    figure.counts = {
        "watchers": sizes.watchers,
        "never read": stalled,
        "events told": found.told,
        "MB written to each": sizes.megabytes,
        "RSS growth in MB": found.grown_mb,
        "p99 ms of writes before": percentile(found.before, 0.99) * 1000,
        "p99 ms during": percentile(found.during, 0.99) * 1000,
    }
    figure.faults = {"missing": found.missing, "not ended": found.not_ended}
    return [figure]


async def history(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 5 and 10."""
    repeat, chance = command(sizes, "history"), random.Random(sizes.seed)
    replayed = Figure("5", "faults that etcd once had", sizes.seed, repeat)
    for name, scenario in SCENARIOS.items():
        place = directory / name.replace(" ", "-")
        place.mkdir()
        replayed.faults[name] = not await scenario(place, chance)
    replayed.counts = {"scenarios": len(SCENARIOS), "kills in compaction": CRASHES}
    async with running(directory, OFTEN) as (process, session):
        checks, faults = await expire(process, session)
    expired = Figure("10", "the past is kept, then 410", sizes.seed, repeat, {"requests": checks})
    expired.faults, expired.notes = {"faults": len(faults)}, faults
    return [replayed, expired]


async def backups(directory: Path, sizes: Sizes) -> list[Figure]:
    """Rows 12 and 13."""
    repeat = command(sizes, "backups", "backups")
    copies = await copy_under_load(directory, sizes.backups)
    copied = Figure("12", "a backup under load is one revision", sizes.seed, repeat)
    copied.counts = {
        "backups": copies.backups,
        "writes meanwhile": copies.writes,
        "objects": copies.objects,
        "slowest seconds": copies.slowest,
    }
    copied.faults = {"different after restore": copies.different}
    checks, faults = await restored_server(Process(directory), directory)
    restored = Figure("13", "a restore hands out no revision again", sizes.seed, repeat)
    restored.counts, restored.faults = {"requests": checks}, {"faults": len(faults)}
    restored.notes = faults
    return [copied, restored]


async def flips(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 14."""
    chance = random.Random(sizes.seed)
    found = await flip(Process(directory), directory, chance, sizes.flips)
    figure = Figure("14", "damage is not served", sizes.seed, command(sizes, "flips", "flips"))
    figure.counts = {"flips": found.flips, "detected": found.detected, "harmless": found.harmless}
    figure.faults = {"wrong data served": found.wrong}
    return [figure]


async def syncs(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 15: the storm of rows 1 to 4, in which the disk fails instead of the server."""
    plan = Plan(sizes.seed, kills=sizes.syncs, fails_syncs=True)
    storm = await weather(Process(directory, OFTEN), plan)
    found, *_ = all_figures = figures(storm, command(sizes, "syncs", "syncs"))
    found.row, found.what = "15", "a failed sync is fatal"
    found.counts["failed disks"] = found.counts.pop("kills")
    found.faults["went on"] = storm.tally["went on"]
    found.faults |= {name: n for each in all_figures[1:] for name, n in each.faults.items()}
    return [found]


async def node(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 21, as root. The cluster has a directory of its own: paths of sockets are short."""
    from bench.reliability.node import killed_agent

    repeat = command(sizes, "node", "pods", "agents")
    return [await killed_agent(sizes.pods, sizes.agents, sizes.seed, repeat)]


async def soak(directory: Path, sizes: Sizes) -> list[Figure]:
    """What the pods of row 21 leave behind, as root."""
    from bench.reliability.node import leaks

    return [await leaks(sizes.soak, sizes.seed, command(sizes, "soak", "soak"))]


async def workloads(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 23."""
    from bench.reliability.workloads import killed_controllers

    repeat = command(sizes, "workloads", "replicas", "daemons")
    return [await killed_controllers(sizes.replicas, sizes.daemons, sizes.seed, repeat)]


async def bindings(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 24, as far as schedulers go."""
    from bench.reliability.bindings import killed_schedulers

    repeat = command(sizes, "bindings", "daemons")
    return [await killed_schedulers(sizes.daemons, sizes.seed, repeat)]


async def owners(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 28."""
    from bench.reliability.owners import killed_collector

    repeat = command(sizes, "owners", "daemons")
    return [await killed_collector(sizes.daemons, sizes.seed, repeat)]


async def away(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 25, and row 24 as far as the proxy goes; as root."""
    from bench.reliability.away import alone

    repeat = command(sizes, "away", "daemons", "away")
    return await alone(sizes.daemons, sizes.away, sizes.seed, repeat)


async def lost(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 26, as root."""
    from bench.reliability.away import lost_node

    return [await lost_node(sizes.tolerance, sizes.seed, command(sizes, "lost", "tolerance"))]


async def leaders(directory: Path, sizes: Sizes) -> list[Figure]:
    """Row 27."""
    from bench.reliability.leaders import Timing, frozen_leaders

    repeat = command(sizes, "leaders", "pauses", "lease")
    timing = Timing(sizes.lease, sizes.lease * 2 // 3, max(1, sizes.lease // 7))
    return [await frozen_leaders(sizes.pauses, timing, sizes.seed, repeat)]


ROWS: dict[str, Row] = {
    "kills": kills,
    "events": events,
    "history": history,
    "reads": reads,
    "slow": slow,
    "backups": backups,
    "flips": flips,
    "syncs": syncs,
    "node": node,
    "soak": soak,
    "workloads": workloads,
    "bindings": bindings,
    "away": away,
    "lost": lost,
    "leaders": leaders,
    "owners": owners,
}
