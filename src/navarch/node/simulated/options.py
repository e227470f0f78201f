"""What simulated nodes are told when they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .config import DEFAULT_CAPACITY, Fleet, NodeGroup, check_options, load
from .timetable import Span, Timetable, merged, parse_setting

QUICKEST, SLOWEST = 10.0, 25.0
"""Bounds of the seconds between two heartbeats of a node."""
WRITES_PER_SECOND = 100.0
"""As many heartbeats are sent at most, if the nodes can live with it."""


@dataclass(frozen=True, slots=True)
class SimulatedOptions:
    """What the simulated nodes are like."""

    kubeconfig: str
    config: str = ""
    """A file with groups of nodes and rules for pods (see `config.py`), beside or instead of the
    nodes that the options below describe."""
    nodes: int = 0
    """How many nodes the options below describe: one if neither they nor `config` name any."""
    name_prefix: str = "sim-"
    """Nodes are called this and a number from `first_number` on."""
    names: tuple[str, ...] = ()
    """Names of the nodes, instead of `nodes` and `name_prefix`."""
    first_number: int = 0
    """The number of the first node, which its address comes from. Lets several processes have nodes
    in one cluster."""
    owner: str = ""
    """Written on the nodes (annotation `simulated.navarch.dev/owner`)."""
    capacity: Mapping[str, str] = field(default_factory=lambda: {**DEFAULT_CAPACITY})
    labels: Mapping[str, str] = field(default_factory=dict)
    """Further labels of all nodes."""
    taints: tuple[str, ...] = ()
    """`key=value:Effect`, of all nodes when they are made."""
    zones: tuple[str, ...] = ()
    """Nodes are dealt out to these zones in turn."""
    region: str = ""
    timetable: Mapping[str, str] = field(default_factory=dict)
    """Settings for all pods, named as in annotations: `ready=2s`, `failure-chance=0.1`."""
    start_seconds: float = 0.0
    """From a pod's arrival until it is ready."""
    stop_seconds: float = 0.0
    """From a pod's deletion until it is gone, within its grace period."""
    run_seconds: float | None = None
    """After so long, pods that do not restart always end. Without it they run until they are
    deleted. A pod's annotation `simulated.navarch.dev/run` overrides it."""
    heartbeat_seconds: float = 0.0
    """Between two heartbeats of a node; 0 chooses by the number of nodes."""
    status_seconds: float = 300.0
    """Between two reports of a node's status that say nothing new."""
    node_cidr: str = "198.18.0.0/15"
    """Where nodes have their addresses; nothing listens there (a range for benchmarks)."""
    pod_cidr: str = "100.64.0.0/10"
    """Where pods get theirs on nodes that have not been given a range of their own."""
    range_seconds: float = 10.0
    """So long pods of a new node wait for it to be given one."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node, and the group it is described by."""

    name: str
    number: int
    group: NodeGroup


def fleet_of(options: SimulatedOptions) -> Fleet:
    """The fleet in the options' file. Raises ConfigError or OSError."""
    return load(Path(options.config)) if options.config else Fleet()


def members(options: SimulatedOptions, fleet: Fleet) -> list[Member]:
    """All nodes, those of the file first. Raises ConfigError."""
    found = [
        Member(f"{group.name}-{number}", number, group)
        for group in fleet.nodes
        for number in group.numbers()
    ]
    first = options.first_number
    count = options.nodes or int(not fleet.nodes)
    names = _split(options.names) or [
        f"{options.name_prefix}{number}" for number in range(first, first + count)
    ]
    group = NodeGroup(
        name=options.name_prefix,
        capacity={**DEFAULT_CAPACITY, **options.capacity},
        labels=options.labels,
        taints=_split(options.taints),
        zones=_split(options.zones),
        region=options.region,
    )
    check_options(group, names)
    return [*found, *(Member(name, number, group) for number, name in enumerate(names, first))]


def _split(entries: Sequence[str]) -> tuple[str, ...]:
    """Flags may be repeated, or take several with commas between them."""
    return tuple(part for entry in entries for part in entry.split(",") if part)


def default_timetable(options: SimulatedOptions) -> Timetable:
    """What counts for all pods. Raises TimetableError."""

    def exactly(seconds: float) -> Span:
        return Span(seconds, seconds)

    run = options.run_seconds
    base = Timetable(
        start=exactly(options.start_seconds),
        stop=exactly(options.stop_seconds),
        run=None if run is None else exactly(run),
        run_only_finite=True,
    )
    settings = dict(parse_setting(name, value) for name, value in options.timetable.items())
    return replace(merged(base, settings), run_only_finite=True)


def heartbeat_seconds(options: SimulatedOptions, nodes: int) -> float:
    return options.heartbeat_seconds or min(max(QUICKEST, nodes / WRITES_PER_SECOND), SLOWEST)
