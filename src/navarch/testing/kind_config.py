"""kind's cluster configuration (kind.x-k8s.io/v1alpha4), as far as it makes sense here.

Fields that would change how the cluster behaves and that Navarch cannot follow are refused by name:
a suite that relies on one would fail later and in a stranger way. NAVARCH_KIND_IGNORE names fields
to pass over all the same, separated by commas.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

IGNORE_VARIABLE = "NAVARCH_KIND_IGNORE"
API_VERSION = "kind.x-k8s.io/v1alpha4"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

_TOP = {"apiVersion", "kind", "name", "nodes", "networking"}
_NODE = {"role", "image", "labels"}
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "ipFamily": ("", "ipv4"),
    "apiServerAddress": ("", "127.0.0.1", "localhost"),
    "apiServerPort": (0, None),
    "disableDefaultCNI": (False, None),
    "kubeProxyMode": ("", "iptables", "nftables", "ipvs"),
    "dnsSearch": (None, []),
}
"""Fields of `networking`, with the values that ask for nothing unusual."""


class ConfigError(ValueError):
    """The configuration cannot be followed; the message names the field."""


@dataclass(frozen=True)
class Node:
    """One node: what kind calls it, and what its Node object says."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """What is left of a configuration file."""

    name: str = ""
    roles: tuple[tuple[str, Mapping[str, str]], ...] = (("control-plane", {}),)
    """Role and labels of each node."""

    def nodes(self, cluster: str) -> list[Node]:
        """The nodes under kind's names. A control plane takes pods only if it is all there is."""
        counts: dict[str, int] = {}
        has_workers = any(role == "worker" for role, _ in self.roles)
        found = []
        for role, labels in self.roles:
            counts[role] = counts.get(role, 0) + 1
            number = str(counts[role]) if counts[role] > 1 else ""
            own = dict(labels)
            taints: tuple[str, ...] = ()
            if role == "control-plane":
                own[CONTROL_PLANE] = ""
                taints = (f"{CONTROL_PLANE}:NoSchedule",) if has_workers else ()
            found.append(Node(f"{cluster}-{role}{number}", own, taints))
        return found


def parse(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """Read a configuration. Raises ConfigError for what is wrong or cannot be followed."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the cluster configuration is not YAML: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "Cluster":
        raise ConfigError("the cluster configuration is not of kind Cluster")
    if document.get("apiVersion") != API_VERSION:
        raise ConfigError(f"unknown apiVersion: {document.get('apiVersion')!r}, not {API_VERSION}")
    environ = os.environ if environ is None else environ
    ignored = {name.strip() for name in environ.get(IGNORE_VARIABLE, "").split(",")}
    unsupported = [
        path for path in _unsupported(document) if path.rpartition(".")[2] not in ignored
    ]
    if unsupported:
        raise ConfigError(
            f"not supported by Navarch: {', '.join(unsupported)}; to go on without, name them in "
            f"{IGNORE_VARIABLE}"
        )
    nodes = document.get("nodes") or [{"role": "control-plane"}]
    roles = tuple((node.get("role") or "control-plane", node.get("labels") or {}) for node in nodes)
    for role, _ in roles:
        if role not in ("control-plane", "worker"):
            raise ConfigError(f"{role!r} is not a node role: control-plane or worker")
    if all(role == "worker" for role, _ in roles):
        raise ConfigError("must have at least one control-plane node")
    return Config(str(document.get("name") or ""), roles)


def _unsupported(document: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name, value in document.items() if name not in _TOP and value)
    for number, node in enumerate(document.get("nodes") or ()):
        yield from (
            f"nodes[{number}].{name}" for name, value in node.items() if name not in _NODE and value
        )
    for name, value in (document.get("networking") or {}).items():
        if value not in _HARMLESS.get(name, (None, "")):
            yield f"networking.{name}"
