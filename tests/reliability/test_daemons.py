"""Rows 23, 24 and 26 to 28 of `docs/reliability.md` with small numbers: processes of a control
plane that are killed, frozen and doubled, over simulated nodes. And that the judge of row 23 sees
what it should."""

from __future__ import annotations

from typing import Any

import pytest
from bench.reliability.bindings import Places, killed_schedulers
from bench.reliability.figure import Figure
from bench.reliability.leaders import Timing, frozen_leaders
from bench.reliability.lost import figure_of, lost_simulated_node
from bench.reliability.owners import killed_collector
from bench.reliability.workloads import INDEX, Judge, Object, killed_controllers

from navarch.api.types.core_v1 import Pod, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta

pytestmark = pytest.mark.timeout(240)

SEED = 7


def kept(figure: Figure) -> dict[str, float]:
    assert figure.is_kept, str(figure)
    return figure.counts


async def test_killed_controllers() -> None:
    counts = kept(await killed_controllers(20, 2, SEED, ""))
    assert counts["kills"] == 2
    assert counts["rollouts"] > 0
    for kind in ("ReplicaSet", "Job", "StatefulSet", "DaemonSet"):
        assert counts[f"pods by {kind}"] > 0


async def test_killed_schedulers() -> None:
    counts = kept(await killed_schedulers(2, SEED, ""))
    assert counts["kills"] == 2
    assert counts["bindings"] == counts["pods"] > 0


async def test_lost_node() -> None:
    kept(figure_of(await lost_simulated_node(2.0, 1), 1, SEED, ""))


async def test_frozen_leaders() -> None:
    counts = kept(await frozen_leaders(1, Timing(7, 5, 1), SEED, ""))
    assert counts["leaders frozen"] == 2
    assert counts["writes by leaders"] > 0


async def test_killed_collector() -> None:
    counts = kept(await killed_collector(2, SEED, ""))
    assert counts["kills"] == 2
    assert counts["owners recreated"] > 0
    assert counts["stayed"] > 0


def pod(name: str, kind: str, **more: Any) -> Object:
    """One of an owner of that kind, on a node of its own."""
    status = {"phase": more.get("phase", "Running")}
    if more.get("ready"):
        status["conditions"] = [{"type": "Ready", "status": "True"}]
    terms = [{"matchFields": [{"values": [more.get("node", name)]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    meta = {
        "name": name,
        "uid": more.get("uid", name),
        "labels": {"app": "web"},
        "annotations": {INDEX: more["index"]} if "index" in more else {},
        "ownerReferences": [{"kind": kind, "name": "o", "uid": "o", "controller": True}],
    }
    if more.get("ends"):
        meta["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    spec = {"nodeName": more.get("node", name), "affinity": {"nodeAffinity": required}}
    return {"metadata": meta, "spec": spec, "status": status}


def replica_set(uid: str, replicas: int) -> Object:
    return {"metadata": {"uid": uid}, "spec": {"replicas": replicas}}


def job(mode: str, parallelism: int = 1, completions: int = 1) -> Object:
    spec = {"completionMode": mode, "parallelism": parallelism, "completions": completions}
    return {"metadata": {"uid": "o", "name": "o"}, "spec": spec}


RS, STS, DS, JOB = "ReplicaSet", "StatefulSet", "DaemonSet", "Job"
DONE = "Succeeded"
Events = list[tuple[str, str, Object]]
GOES = pod("db-0", STS, uid="1")
ALL_READY: Events = [
    ("sets", "ADDED", replica_set("o", 4)),
    *(("pods", "ADDED", pod(f"{n}", RS, ready=True)) for n in range(4)),
]
WRONG: dict[str, tuple[str, Events]] = {
    "one pod more than asked for": (
        "pods above the limit",
        [
            ("sets", "ADDED", replica_set("o", 1)),
            ("pods", "ADDED", pod("a", RS)),
            ("pods", "ADDED", pod("b", RS)),
        ],
    ),
    "more asked for than the surge allows": (
        "replicas above the limit",
        [("sets", "ADDED", replica_set("o", 4)), ("sets", "ADDED", replica_set("p", 2))],
    ),
    "half of the pods end at once": (
        "too few ready",
        [*ALL_READY, *(("pods", "MODIFIED", pod(f"{n}", RS, ends=True)) for n in range(2))],
    ),
    "a successor of a pod that may run": (
        "twins",
        [
            ("pods", "ADDED", GOES),
            ("pods", "DELETED", GOES),
            ("pods", "ADDED", pod("db-0", STS, uid="2")),
        ],
    ),
    "two of one name": (
        "twins",
        [("pods", "ADDED", GOES), ("pods", "ADDED", pod("db-0", STS, uid="2"))],
    ),
    "the second before the first": ("out of order", [("pods", "ADDED", pod("db-1", STS))]),
    "two daemons": (
        "daemons above one a node",
        [
            ("pods", "ADDED", pod("a", DS, node="n", ends=True)),
            ("pods", "ADDED", pod("b", DS, node="n")),
        ],
    ),
    "two pods of a Job for one": (
        "pods above parallelism",
        [
            ("jobs", "ADDED", job("NonIndexed")),
            ("pods", "ADDED", pod("a", JOB)),
            ("pods", "ADDED", pod("b", JOB)),
        ],
    ),
    "an index twice at once": (
        "two pods of an index",
        [
            ("jobs", "ADDED", job("Indexed", 2, 2)),
            ("pods", "ADDED", pod("a", JOB, index="0")),
            ("pods", "ADDED", pod("b", JOB, index="0")),
        ],
    ),
    "an index completed twice": (
        "duplicate completions",
        [
            ("jobs", "ADDED", job("Indexed", 2, 2)),
            ("pods", "ADDED", pod("a", JOB, index="0", phase=DONE)),
            ("pods", "ADDED", pod("b", JOB, index="0", phase=DONE)),
        ],
    ),
    "one completion too many": (
        "duplicate completions",
        [
            ("jobs", "ADDED", job("NonIndexed")),
            ("pods", "ADDED", pod("a", JOB, phase=DONE)),
            ("pods", "ADDED", pod("b", JOB, phase=DONE)),
        ],
    ),
}
RIGHT: dict[str, Events] = {
    "one in the place of one that ends": [
        ("sets", "ADDED", replica_set("o", 1)),
        ("pods", "ADDED", pod("a", RS)),
        ("pods", "MODIFIED", pod("a", RS, ends=True)),
        ("pods", "ADDED", pod("b", RS)),
    ],
    "a successor of a pod that has ended": [
        ("pods", "ADDED", GOES),
        ("pods", "MODIFIED", ended := pod("db-0", STS, uid="1", phase=DONE, ends=True)),
        ("pods", "DELETED", ended),
        ("pods", "ADDED", pod("db-0", STS, uid="2")),
    ],
    "a daemon after one that has ended": [
        ("pods", "ADDED", pod("a", DS, node="n", ends=True, phase=DONE)),
        ("pods", "ADDED", pod("b", DS, node="n")),
    ],
    "one pod of a Job after the other": [
        ("jobs", "ADDED", job("NonIndexed", 1, 2)),
        ("pods", "ADDED", pod("a", JOB, phase=DONE)),
        ("pods", "ADDED", pod("b", JOB, phase=DONE)),
    ],
}


def judged(events: Events) -> dict[str, int]:
    judge = Judge(4)
    tell = {"pods": judge.pod, "sets": judge.replica_set, "jobs": judge.job}
    for plural, kind, found in events:
        tell[plural](kind, found)
    return dict(judge.faults)


@pytest.mark.parametrize(
    ("fault", "events"), [pytest.param(*each, id=name) for name, each in WRONG.items()]
)
def test_the_judge_sees(fault: str, events: Events) -> None:
    assert judged(events) == {fault: 1}


@pytest.mark.parametrize("events", [pytest.param(each, id=name) for name, each in RIGHT.items()])
def test_the_judge_allows(events: Events) -> None:
    assert judged(events) == {}


def test_a_pod_that_moves_is_seen() -> None:
    places = Places()
    for node in ("", "a", "a", "b"):
        places.tell(Pod(metadata=ObjectMeta(uid="1"), spec=PodSpec(nodeName=node)))
    assert places.moved == 1
