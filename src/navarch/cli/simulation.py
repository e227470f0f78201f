"""Flags about simulated nodes, which `navarch start` and `navarch node add` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from navarch.api.numbers import natural
from navarch.cluster.profile import ClusterError

if TYPE_CHECKING:
    from navarch.cluster.simulation import Change
    from navarch.node.simulated.config import NodeGroup

DEFAULT_NAME = "sim"

_flag = partial(typer.Option, rich_help_panel="Simulated nodes")
Simulated = Annotated[
    int | None, _flag(help="Number of simulated nodes, which need no root and run no containers.")
]
Config = Annotated[
    str | None,
    _flag(
        "--simulated-config",
        help="Groups of nodes and rules for pods from this file, instead of all there are; "
        "off takes them away.",
    ),
]
_Texts = list[str] | None


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given about simulated nodes."""

    name: Annotated[str, _flag(help="Nodes are called so, with a number.")] = DEFAULT_NAME
    capacity: Annotated[_Texts, _flag(help="Such as cpu=8,memory=32Gi,pods=110.")] = None
    labels: Annotated[_Texts, _flag(help="key=value, several with commas.")] = None
    taints: Annotated[_Texts, _flag(help="key=value:Effect, several with commas.")] = None
    zones: Annotated[str | None, _flag(help="How many, or names with commas.")] = None
    region: Annotated[str | None, _flag(help="The zones' region.")] = None
    timetable: Annotated[
        _Texts,
        _flag(
            help="How pods there live: start=1s-3s,ready=2s,run=1m,failure-chance=0.1 and so on."
        ),
    ] = None

    @property
    def given(self) -> list[str]:
        """The flags that say something of simulated nodes."""
        fields = ("capacity", "labels", "taints", "zones", "region", "timetable")
        named = [f"--{each}" for each in fields if getattr(self, each)]
        return named + (["--name"] if self.name != DEFAULT_NAME else [])


def start_change(count: int | None, config: str | None, flags: Flags) -> Change | None:
    """What `navarch start` makes of simulated nodes; None leaves them as they are."""
    from navarch.cluster import simulation

    if count is None and flags.given:
        raise _lonely(flags)
    if count is not None and not 0 <= count <= 20_000:
        raise ClusterError("--simulated is a number from 0 to 20000")
    changes = [] if config is None else [simulation.from_file(config)]
    if count is not None:
        changes.append(simulation.sized(group(flags, max(count, 1)), count))
    if count and flags.timetable:
        changes.append(simulation.timed(flags.name, _pairs("timetable", flags.timetable)))
    return simulation.in_turn(changes) if changes else None


def add_change(count: int, flags: Flags) -> Change:
    """What `navarch node add` makes of them."""
    from navarch.cluster import simulation

    if not 1 <= count <= 20_000:
        raise ClusterError("--simulated is a number from 1 to 20000")
    changes = [simulation.added(group(flags, count))]
    if flags.timetable:
        changes.append(simulation.timed(flags.name, _pairs("timetable", flags.timetable)))
    return simulation.in_turn(changes)


def lonely(flags: Flags) -> None:
    """Refuse flags that are about simulated nodes where there are to be none."""
    if flags.given:
        raise _lonely(flags)


def _lonely(flags: Flags) -> ClusterError:
    return ClusterError(
        f"{', '.join(flags.given)} is about simulated nodes", "Say how many: --simulated N"
    )


def group(flags: Flags, count: int) -> NodeGroup:
    from navarch.node.simulated.config import ConfigError, parse_group

    values: dict[str, Any] = {"name": flags.name, "count": count}
    if flags.capacity:
        values["capacity"] = _pairs("capacity", flags.capacity)
    if flags.labels:
        values["labels"] = _pairs("labels", flags.labels)
    if flags.taints:
        values["taints"] = _split(flags.taints)
    if flags.zones:
        values["zones"] = _zones(flags.zones)
    if flags.region or natural(flags.zones or "") is not None:
        values["region"] = flags.region or "region-1"
    try:
        return parse_group(values, "")
    except ConfigError as error:
        raise ClusterError(f"--{str(error).lstrip('.')}") from error


def _zones(text: str) -> list[str]:
    count = natural(text)
    if count is None:
        return _split([text])
    if not 1 <= count <= 1000:
        raise ClusterError("--zones is a number from 1 to 1000, or names")
    return [f"zone-{number}" for number in range(1, count + 1)]


def _split(given: Sequence[str]) -> list[str]:
    return [part for text in given for part in text.split(",") if part]


def _pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for part in _split(given):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise ClusterError(f"--{flag}: {part!r} is not key=value")
        if key in pairs:
            raise ClusterError(f"--{flag}: {key} is given twice")
        pairs[key] = value
    return pairs
