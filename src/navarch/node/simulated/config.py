"""What simulated nodes are like: groups of nodes and rules for pods, from a small file.

    apiVersion: navarch.dev/v1alpha1
    kind: SimulatedNodes
    nodes:
    - {name: small, count: 20, capacity: {cpu: "4", memory: 8Gi}, zones: [a, b]}
    pods:
    - match: {labels: {matchLabels: {app: web}}}
      start: 1s-3s

Everything is checked before anything is done; what is wrong is named with its place in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from navarch.api import names
from navarch.api.component_config import ConfigurationError
from navarch.api.quantity import parse_quantity
from navarch.api.selectors import (
    EVERYTHING,
    LabelSelector,
    SelectorError,
    label_selector_from_object,
)
from navarch.api.types.core_v1 import Pod, Taint

from .timetable import Timetable, TimetableError, from_annotations, merged, parse_setting

API_VERSION, KIND = "navarch.dev/v1alpha1", "SimulatedNodes"
DEFAULT_CAPACITY = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "110"}
MOST_NODES = 20_000
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class ConfigError(ConfigurationError):
    """What is wrong with a configuration, and where."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind, called `<name>-<number>`."""

    name: str
    count: int = 1
    first: int = 0
    without: tuple[int, ...] = ()
    """Numbers of nodes that were taken away."""
    capacity: Mapping[str, str] = field(default_factory=lambda: {**DEFAULT_CAPACITY})
    allocatable: Mapping[str, str] = field(default_factory=dict)
    """Where it is less than the capacity."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    """`key=value:Effect`, when the nodes are made."""
    zones: tuple[str, ...] = ()
    """Nodes are dealt out to these zones in turn."""
    region: str = ""
    images: tuple[str, ...] = ()
    unschedulable: bool = False

    def numbers(self) -> Iterator[int]:
        missing = frozenset(self.without)
        return (n for n in range(self.first, self.first + self.count) if n not in missing)

    def node_names(self) -> list[str]:
        return [f"{self.name}-{number}" for number in self.numbers()]

    def zone(self, number: int) -> str:
        return self.zones[number % len(self.zones)] if self.zones else ""


@dataclass(frozen=True, slots=True)
class PodRule:
    """A timetable for some pods."""

    settings: Mapping[str, Any]
    labels: LabelSelector = EVERYTHING
    namespaces: frozenset[str] = frozenset()
    annotations: Mapping[str, str] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    """Names of groups."""

    def matches(self, pod: Pod, group: str) -> bool:
        meta = pod.metadata
        return (
            (not self.namespaces or meta.namespace in self.namespaces)
            and (not self.nodes or group in self.nodes)
            and all(meta.annotations.get(key) == value for key, value in self.annotations.items())
            and self.labels.matches(meta.labels)
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """All groups and rules of one process."""

    nodes: tuple[NodeGroup, ...] = ()
    pods: tuple[PodRule, ...] = ()

    @property
    def count(self) -> int:
        return sum(group.count - len(group.without) for group in self.nodes)

    def node_names(self) -> list[str]:
        return [name for group in self.nodes for name in group.node_names()]

    def timetable(self, pod: Pod, group: str, default: Timetable) -> Timetable:
        """A pod's own: of all rules that match it the later ones count, and its annotations most.
        Raises TimetableError."""
        result = default
        for rule in self.pods:
            if rule.matches(pod, group):
                result = merged(result, rule.settings)
        if pod.metadata.annotations:
            result = merged(result, from_annotations(pod.metadata.annotations))
        return result


def load(path: Path) -> Fleet:
    """The fleet in a file. Raises ConfigError or OSError."""
    import yaml

    try:
        data = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return parse(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(data: object) -> Fleet:
    """The fleet in a document."""
    top = _mapping(data, "the document", {"apiVersion", "kind", "nodes", "pods"})
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if top.get(key) != wanted:
            raise ConfigError(f"{key}: must be {wanted}, not {top.get(key)!r}")
    groups = tuple(
        parse_group(each, f"nodes[{n}]") for n, each in enumerate(_list(top, "nodes", ""))
    )
    rules = tuple(_rule(each, f"pods[{n}]") for n, each in enumerate(_list(top, "pods", "")))
    fleet = Fleet(groups, rules)
    check(fleet)
    return fleet


def check(fleet: Fleet) -> None:
    """What no group or rule can be right or wrong about alone."""
    if fleet.count > MOST_NODES:
        raise ConfigError(f"nodes: {fleet.count} are more than {MOST_NODES}")
    seen: dict[str, int] = {}
    for number, group in enumerate(fleet.nodes):
        for name in group.node_names():
            other = seen.setdefault(name, number)
            if other != number:
                raise ConfigError(
                    f"nodes[{number}]: the node {name} is in nodes[{other}] already; give another "
                    "name, or another first number"
                )
    groups = {group.name for group in fleet.nodes}
    for number, rule in enumerate(fleet.pods):
        for name in sorted(rule.nodes - groups):
            raise ConfigError(f"pods[{number}].match.nodes: there are no nodes called {name!r}")


def render(fleet: Fleet, rules: Sequence[Any]) -> dict[str, Any]:
    """The document that `parse` reads as this fleet; `rules` are those of `pods` as written."""
    nodes = []
    for group in fleet.nodes:
        plain = NodeGroup(group.name)
        values = {name: getattr(group, name) for name in _GROUP}
        nodes.append(
            {
                name: [*value] if isinstance(value, tuple) else value
                for name, value in values.items()
                if name in ("name", "count") or value != getattr(plain, name)
            }
        )
    return {"apiVersion": API_VERSION, "kind": KIND, "nodes": nodes, "pods": [*rules]}


_GROUP = (
    *("name", "count", "first", "without", "capacity", "allocatable", "labels", "annotations"),
    *("taints", "zones", "region", "images", "unschedulable"),
)


def parse_group(data: object, where: str) -> NodeGroup:
    values = _mapping(data, where, set(_GROUP))
    name = values.get("name")
    if not isinstance(name, str) or names.dns1123_subdomain(f"{name}-0"):
        raise ConfigError(f"{where}.name: {name!r} is no beginning of a node's name")
    for key, lowest in (("count", 1), ("first", 0)):
        number = values.get(key, lowest)
        if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
            raise ConfigError(f"{where}.{key}: {number!r} is no number from {lowest}")
    if not isinstance(values.get("unschedulable", False), bool):
        raise ConfigError(f"{where}.unschedulable: must be true or false")
    group = NodeGroup(
        name=name,
        count=values.get("count", 1),
        first=values.get("first", 0),
        without=tuple(values.get("without", ())),
        capacity={**DEFAULT_CAPACITY, **_resources(values, "capacity", where)},
        allocatable=_resources(values, "allocatable", where),
        labels=_strings(values, "labels", where),
        annotations=_strings(values, "annotations", where),
        taints=tuple(_list(values, "taints", where)),
        zones=tuple(_list(values, "zones", where)),
        region=values.get("region", ""),
        images=tuple(_list(values, "images", where)),
        unschedulable=values.get("unschedulable", False),
    )
    _check_group(group, where)
    return group


def check_options(group: NodeGroup, called: Sequence[str]) -> None:
    """Nodes that flags describe, whose names are whatever they are called."""
    for name in called:
        for problem in names.dns1123_subdomain(name):
            raise ConfigError(f"names: {name!r}: {problem}")
    (written,) = render(Fleet((replace(group, name="sim"),)), ())["nodes"]
    parse_group(written, "options")


def _check_group(group: NodeGroup, where: str) -> None:
    for key, value in group.labels.items():
        for problem in (*names.qualified_name(key), *names.label_value(value)):
            raise ConfigError(f"{where}.labels.{key}: {problem}")
    for number, taint in enumerate(group.taints):
        try:
            parse_taint(taint)
        except ValueError as error:
            raise ConfigError(f"{where}.taints[{number}]: {error}") from error
    for number, zone in enumerate((*group.zones, group.region)):
        for problem in names.label_value(zone) if isinstance(zone, str) else ["must be text"]:
            place = f"zones[{number}]" if number < len(group.zones) else "region"
            raise ConfigError(f"{where}.{place}: {zone!r}: {problem}")
    for name, text in group.allocatable.items():
        capacity = group.capacity.get(name)
        if capacity is None or parse_quantity(text) > parse_quantity(capacity):
            raise ConfigError(f"{where}.allocatable.{name}: {text} is more than the capacity")


def parse_taint(text: object) -> Taint:
    """`key=value:Effect` or `key:Effect`, as kubectl writes a taint."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no taint: key=value:Effect")
    rest, colon, effect = text.rpartition(":")
    key, _, value = rest.partition("=")
    if not colon or not key:
        raise ValueError(f"{text!r} is no taint: key=value:Effect")
    if effect not in EFFECTS:
        raise ValueError(f"{text!r}: the effect is one of {', '.join(EFFECTS)}")
    for problem in (*names.qualified_name(key), *names.label_value(value)):
        raise ValueError(f"{text!r}: {problem}")
    return Taint(key=key, value=value, effect=effect)


_MATCH = {"namespaces", "labels", "annotations", "nodes"}


def _rule(data: object, where: str) -> PodRule:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: must be a mapping")
    match = _mapping(data.get("match") or {}, f"{where}.match", _MATCH)
    labels = match.get("labels")
    try:
        selector = (
            EVERYTHING
            if labels is None
            else label_selector_from_object(
                _mapping(labels, f"{where}.match.labels", {"matchLabels", "matchExpressions"})
            )
        )
    except SelectorError as error:
        raise ConfigError(f"{where}.match.labels: {error}") from error
    settings = {key: value for key, value in data.items() if key not in ("match", "containers")}
    parsed: dict[str, Any] = _settings(settings, where)
    containers = data.get("containers") or {}
    if not isinstance(containers, Mapping):
        raise ConfigError(f"{where}.containers: must map names of containers to settings")
    if containers:
        parsed["containers"] = {
            name: _settings(
                _mapping(own, f"{where}.containers.{name}", None), f"{where}.containers.{name}"
            )
            for name, own in containers.items()
        }
    return PodRule(
        settings=parsed,
        labels=selector,
        namespaces=frozenset(_list(match, "namespaces", f"{where}.match")),
        annotations=_strings(match, "annotations", f"{where}.match"),
        nodes=frozenset(_list(match, "nodes", f"{where}.match")),
    )


def _settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return dict(parse_setting(name, value) for name, value in values.items())
    except TimetableError as error:
        raise ConfigError(f"{where}.{error}") from error


def _mapping(data: object, where: str, known: set[str] | None) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: must be a mapping")
    for key in data:
        if known is not None and key not in known:
            listed = ", ".join(sorted(known))
            raise ConfigError(f"{where}: unknown field {key!r}; known are {listed}")
    return data


def _list(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = values.get(key) or []
    if not isinstance(found, list):
        raise ConfigError(f"{where}.{key}: must be a list".lstrip("."))
    return found


def _strings(values: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}.{key}: must be a mapping")
    for name, value in found.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}.{key}.{name}: {value!r} is no text; put it in quotes")
    return dict(found)


def _resources(values: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}.{key}: must be a mapping")
    result = {}
    for name, value in found.items():
        if problems := names.qualified_name(str(name)):
            raise ConfigError(f"{where}.{key}: {name!r}: {problems[0]}")
        try:
            amount = parse_quantity(str(value))
        except ValueError as error:
            raise ConfigError(f"{where}.{key}.{name}: {value!r}: {error}") from error
        if amount < parse_quantity("0"):
            raise ConfigError(f"{where}.{key}.{name}: {value!r} is less than nothing")
        result[str(name)] = str(amount)
    return result


def grown(fleet: Fleet, group: NodeGroup) -> Fleet:
    """With these nodes as well. Nodes of a name that is there already are numbered on from the
    last; like ones join its group."""
    alike = [each for each in fleet.nodes if each.name == group.name]
    if not alike:
        return replace(fleet, nodes=(*fleet.nodes, group))
    last = max(alike, key=lambda each: each.first + each.count)
    end = last.first + last.count
    if replace(group, count=last.count, first=last.first, without=last.without) == last:
        longer = replace(last, count=last.count + group.count)
        groups = tuple(longer if each is last else each for each in fleet.nodes)
        return replace(fleet, nodes=groups)
    return replace(fleet, nodes=(*fleet.nodes, replace(group, first=end)))


def shrunk(fleet: Fleet, gone: str) -> Fleet:
    """Without the node of that name. Raises KeyError."""
    groups = []
    for group in fleet.nodes:
        if gone in group.node_names():
            number = int(gone.rpartition("-")[2])
            missing = {*group.without, number}
            count = group.count
            while count and group.first + count - 1 in missing:
                count -= 1
                missing.discard(group.first + count)
            if not count:
                continue
            group = replace(group, count=count, without=tuple(sorted(missing)))
        groups.append(group)
    if [*groups] == [*fleet.nodes]:
        raise KeyError(gone)
    return replace(fleet, nodes=tuple(groups))
