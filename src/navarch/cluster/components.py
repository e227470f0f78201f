"""The components that can run as processes, and how their options are read.

Each component has `async def run(options)` and a frozen dataclass of options. The same class is
filled from a JSON file by `navarch start` and from flags by `navarch <component>`; nothing is
described twice. Modules are imported when a component is about to run, not before.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import types
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPEATED = (tuple, list, frozenset, Sequence, dict, Mapping)
"""Kinds of options whose flag may be given several times."""

Run = Callable[[Any], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Component:
    """Where a component's code is: its module, below `navarch`."""

    module: str
    options: str
    summary: str

    def load(self) -> tuple[Run, type]:
        module = importlib.import_module(f"navarch.{self.module}")
        return module.run, getattr(module, self.options)


COMPONENTS = {
    "apiserver": Component("apiserver.server", "ServerOptions", "the API server"),
    "controllers": Component(
        "controllers.manager", "ManagerOptions", "all controllers (controller manager)"
    ),
    "scheduler": Component("scheduler.main", "SchedulerOptions", "the scheduler"),
    "kubelet": Component("node.main", "NodeOptions", "the agent of one node"),
    "proxy": Component("network.proxy.main", "ProxyOptions", "the Service proxy of a node"),
    "announce": Component(
        "network.announce.main",
        "AnnounceOptions",
        "the announcer of LoadBalancer addresses of a node",
    ),
    "policy": Component("network.policy.main", "PolicyOptions", "the network policies of a node"),
    "dns": Component("network.dns.main", "DnsOptions", "the cluster's name server"),
    "ingress": Component(
        "network.ingress.main", "IngressOptions", "the ingress controller with its nginx"
    ),
    "gateway": Component(
        "network.gateway.main", "GatewayOptions", "the Gateway API with its nginx"
    ),
    "simulated": Component(
        "node.simulated", "SimulatedOptions", "nodes without containers, for tests of scale"
    ),
    "guardian": Component("cluster.guardian", "GuardianOptions", "the watch over the supervisor"),
    "hostroutes": Component(
        "cluster.host_routes", "HostRoutesOptions", "the host's way into several nodes"
    ),
    "certificates": Component(
        "node.certificates", "CertificatesOptions", "the renewal of a node's certificates"
    ),
    "podnetwork": Component(
        "network.pods.main", "PodNetworkOptions", "a node's pod network and its routes"
    ),
}


def options_from(values: Mapping[str, Any], kind: type) -> Any:
    """Options from plain values. Unknown names are refused, and so are values of a wrong type.
    Options that can come from a file of their own complete themselves (`completed`)."""
    import msgspec

    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{kind.__name__} has no option {', '.join(unknown)}")
    if (completed := getattr(kind, "completed", None)) is not None:
        values = completed(values)
    return msgspec.convert(dict(values), kind, strict=False, dec_hook=_decode)


def values_from_flags(flags: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Flags as `options_from` takes them: `--labels a=b` becomes a map, and a flag for something
    that is neither text nor a number is JSON."""
    hints = typing.get_type_hints(kind)
    result: dict[str, Any] = {}
    for name, value in flags.items():
        hint = _plain(hints[name])
        if typing.get_origin(hint) in (dict, Mapping):
            result[name] = dict(entry.partition("=")[::2] for entry in value)
        elif isinstance(value, list) and typing.get_args(hint)[0] not in (str, int, float, Path):
            result[name] = [json.loads(entry) for entry in value]
        else:
            result[name] = value
    return result


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return Path(value)
    raise NotImplementedError(kind)


def parser_for(name: str, kind: type) -> argparse.ArgumentParser:
    """A command line for a component: one flag per option, `node_ip` becoming `--node-ip`."""
    summary = COMPONENTS[name].summary
    parser = argparse.ArgumentParser(
        prog=f"navarch {name}", description=f"Run {summary} in the foreground."
    )
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        _add_flag(parser, field, hints[field.name])
    parser.add_argument("-v", "--verbose", action="store_true", help="log details")
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    has_default = (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )
    arguments: dict[str, Any] = {
        "dest": field.name,
        "default": argparse.SUPPRESS,
        "required": not has_default,
    }
    if field.default not in (dataclasses.MISSING, None, ""):
        arguments["help"] = f"default: {field.default}"
    kind = _plain(hint)
    if kind is bool:
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments["metavar"] = getattr(kind, "__name__", "value").upper()
        if typing.get_origin(kind) in REPEATED:
            arguments.update(action="append", metavar="VALUE")
    parser.add_argument(f"--{field.name.replace('_', '-')}", **arguments)


def _plain(hint: Any) -> Any:
    """`X` of `X | None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
