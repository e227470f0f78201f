"""The simulated nodes of a profile: which there are, and who they may pretend to be.

`simulated.json` in the profile's directory is a configuration of simulated nodes like one the user
writes (see `navarch.node.simulated.config`). Commands change it as a value and have `start` bring
the cluster there; so what is added to a running cluster is there after a restart as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from navarch.cluster.profile import ClusterError, Paths, write_json

if TYPE_CHECKING:
    from navarch.node.simulated.config import Fleet, NodeGroup

USER = "navarch:simulated-nodes"
GROUP = "system:nodes"
"""Their requests are as urgent as nodes' (API priority and fairness). The group grants no rights:
the node authorizer wants a user's name, too, that says which node it is."""
OWNER = "simulated.navarch.dev/owner"
FAULT = "simulated.navarch.dev/fault"
CONDITIONS = "simulated.navarch.dev/conditions"
SELECTOR = "navarch.dev/node-kind=simulated"
OFF = "off"


@dataclass(frozen=True, slots=True)
class Simulation:
    """The groups of nodes, and the rules for pods as they were written."""

    fleet: Fleet
    rules: tuple[Mapping[str, Any], ...] = ()


Change = Callable[[Simulation], Simulation]


def file_of(paths: Paths) -> Path:
    return paths.root / "simulated.json"


def load(paths: Paths) -> Simulation:
    from navarch.node.simulated.config import Fleet, parse

    try:
        document = json.loads(file_of(paths).read_bytes())
        return Simulation(parse(document), tuple(document["pods"]))
    except FileNotFoundError:
        return Simulation(Fleet())
    except (ValueError, KeyError) as error:
        raise ClusterError(
            f"{file_of(paths)} cannot be read: {error}", "Mend it, or delete it"
        ) from error


def changed(paths: Paths, change: Change) -> Simulation:
    """As it shall be from now on. Raises ClusterError when that cannot be."""
    from navarch.node.simulated.config import parse, render

    try:
        wanted = change(load(paths))
        return replace(wanted, fleet=parse(render(wanted.fleet, wanted.rules)))
    except (OSError, ValueError) as error:
        raise ClusterError(str(error), "Nothing was changed.") from error


def save(paths: Paths, wanted: Simulation) -> None:
    from navarch.node.simulated.config import render

    paths.create()
    write_json(file_of(paths), render(wanted.fleet, wanted.rules))


def adopt(paths: Paths, count: int) -> None:
    """Describe the nodes of a profile that is older than this file."""
    from navarch.node.simulated.config import Fleet, NodeGroup

    if not file_of(paths).is_file():
        save(paths, Simulation(Fleet((NodeGroup("sim", count),))))


def names(paths: Paths) -> list[str]:
    """The names of all simulated nodes."""
    return load(paths).fleet.node_names()


def from_file(given: str) -> Change:
    """Exactly the nodes of this file; `off` is none."""

    def change(_: Simulation) -> Simulation:
        import yaml

        from navarch.node.simulated.config import Fleet
        from navarch.node.simulated.config import load as read

        if given == OFF:
            return Simulation(Fleet())
        path = Path(given).expanduser()
        fleet = read(path)
        return Simulation(fleet, tuple(yaml.safe_load(path.read_bytes()).get("pods") or ()))

    return change


def sized(group: NodeGroup, count: int) -> Change:
    """As many nodes of this name, however many there are."""

    def change(now: Simulation) -> Simulation:
        alike = [each for each in now.fleet.nodes if each.name == group.name]
        others = tuple(each for each in now.fleet.nodes if each.name != group.name)
        first = alike[0] if alike else group
        plain = type(group)(group.name, group.count)
        # What is not said anew stays as it is.
        wanted = first if group == plain else group
        mine = (replace(wanted, count=count, first=0, without=()),) if count else ()
        return replace(now, fleet=replace(now.fleet, nodes=(*others, *mine)))

    return change


def added(group: NodeGroup) -> Change:
    """These nodes as well."""

    def change(now: Simulation) -> Simulation:
        from navarch.node.simulated.config import grown

        return replace(now, fleet=grown(now.fleet, group))

    return change


def without(gone: Iterable[str]) -> Change:
    def change(now: Simulation) -> Simulation:
        from navarch.node.simulated.config import shrunk

        fleet = now.fleet
        for name in gone:
            try:
                fleet = shrunk(fleet, name)
            except KeyError:
                raise ValueError(f"there is no simulated node {name}") from None
        return replace(now, fleet=fleet)

    return change


def timed(group: str, settings: Mapping[str, str]) -> Change:
    """A timetable for the pods on the nodes of a group, instead of the one they had."""

    def change(now: Simulation) -> Simulation:
        match = {"nodes": [group]}
        rules = tuple(rule for rule in now.rules if rule.get("match") != match)
        return replace(now, rules=({"match": match, **settings}, *rules))

    return change


def in_turn(changes: Iterable[Change]) -> Change:
    steps = [*changes]

    def change(now: Simulation) -> Simulation:
        for step in steps:
            now = step(now)
        left = {group.name for group in now.fleet.nodes}
        # A rule for nodes that are gone would be an error.
        rules = tuple(r for r in now.rules if left >= {*(r.get("match") or {}).get("nodes", ())})
        return replace(now, rules=rules)

    return change


def is_disturbed(node: Mapping[str, Any]) -> bool:
    """Whether somebody had a fault befall the node, so that it need not be ready."""
    meta = node["metadata"]
    annotations = meta.get("annotations") or {}
    return bool({FAULT, CONDITIONS} & {*annotations, *(meta.get("labels") or {})})
