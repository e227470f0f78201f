"""What a KubeletConfiguration means for the agent: options, and what has no effect here.

`completed` turns files into options of the agent, `effective` the options in force back into the
document that `/configz` shows. What no option stands for has no effect, and `remarks` says so of
each field that somebody has set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.component_config import Duration
from navarch.api.quantity import Format, Quantity, parse_quantity
from navarch.api.times import format_duration, parse_duration

from ..settings import NodeOptions
from .files import load
from .types import KubeletConfiguration

NAMES_OF_FIELDS = {
    "address": "listen_address",
    "tlsCertFile": "tls_certificate",
    "tlsPrivateKeyFile": "tls_key",
    "authentication.x509.clientCAFile": "client_ca",
    "authentication.anonymous.enabled": "anonymous_auth",
    "authentication.webhook.enabled": "authentication_token_webhook",
    "authentication.webhook.cacheTTL": "authentication_token_webhook_cache_ttl",
    "authorization.mode": "authorization_mode",
    "authorization.webhook.cacheAuthorizedTTL": "authorization_webhook_cache_authorized_ttl",
    "authorization.webhook.cacheUnauthorizedTTL": "authorization_webhook_cache_unauthorized_ttl",
    "memorySwap.swapBehavior": "memory_swap_behavior",
    "crashLoopBackOff.maxContainerRestartPeriod": (
        "crash_loop_back_off_max_container_restart_period"
    ),
    "userNamespaces.idsPerPod": "user_namespaces_ids_per_pod",
    "staticPodPath": "manifest_directory",
    "podLogsDir": "pod_logs_directory",
    "registerWithTaints": "taints",
    "containerRuntimeEndpoint": "runtime_endpoint",
    "reservedSystemCPUs": "reserved_system_cpus",
    "serverTLSBootstrap": "server_tls_bootstrap",
}
"""Options that do not simply bear the field's name in snake case."""

MASKED = "<masked>"

_REASONS = {
    "no rules of iptables are made": (
        "iptablesDropBit",
        "iptablesMasqueradeBit",
        "makeIPTablesUtilChains",
    ),
    "nothing is shown to those who do not say who they are": ("readOnlyPort",),
    "there are no profiles of a Go program: it is always off": (
        "enableProfilingHandler",
        "enableContentionProfiling",
    ),
    "the runtime ends idle streams": ("streamingConnectionIdleTimeout",),
    "images are where the containers are": ("imageServiceEndpoint",),
    "pods are looked at when something has changed": ("syncFrequency",),
    "changes are always watched": ("configMapAndSecretChangeDetectionStrategy",),
    "plug-ins of flexVolume are not run": ("volumePluginDir",),
    "a controller attaches volumes": ("enableControllerAttachDetach",),
    "events are counted together instead": ("eventRecordQPS", "eventBurst"),
    "only so many requests are under way at once": ("kubeAPIQPS", "kubeAPIBurst"),
    "the agent opens as many files as the process may that started it": ("maxOpenFiles",),
    "pods have always cgroups by their class": ("cgroupsPerQOS",),
    "OpenSSL chooses the curves": ("tlsCurvePreferences",),
    "the agent speaks JSON": ("contentType",),
    "it comes from the Node object": ("podCIDR",),
    "the pod network decides it": ("hairpinMode",),
    "all containers share all CPUs": (
        "cpuManagerPolicy",
        "cpuManagerPolicyOptions",
        "cpuManagerReconcilePeriod",
    ),
    "no memory is pinned": ("memoryManagerPolicy", "reservedMemory"),
    "no topology is looked at": (
        "topologyManagerPolicy",
        "topologyManagerPolicyOptions",
        "topologyManagerScope",
    ),
    "the agent stays in the cgroup it was started in": ("kubeletCgroups",),
    "processes of the system stay where they are": ("systemCgroups",),
    "no spans are made": ("tracing",),
    "see the option --verbose": ("logging",),
    "no metrics are hidden": ("showHiddenMetricsForVersion",),
}
NOTHING = {name: reason for reason, names in _REASONS.items() for name in names}
"""Why a field has no effect."""


def _snake(name: str) -> str:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return split.lower()


@cache
def options_of_fields() -> dict[str, str]:
    """The option that each field stands for, by the field's path."""
    options = {each.name for each in fields(NodeOptions)}
    own = {name: _snake(name) for name in KubeletConfiguration.__struct_fields__}
    return {name: option for name, option in own.items() if option in options} | NAMES_OF_FIELDS


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were given (as flags, for example), and under them what the files say that
    `config` and `config_dir` name. Raises ConfigurationError."""
    config, directory = values.get("config"), values.get("config_dir")
    configuration, _ = load(
        Path(config) if config else None, Path(directory) if directory else None
    )
    gates = {**configuration.featureGates, **values.get("feature_gates", {})}
    return {**option_values(configuration), **values, "feature_gates": gates}


def option_values(configuration: KubeletConfiguration) -> dict[str, Any]:
    """What the configuration says, as `NodeOptions` takes it (plain data)."""
    result: dict[str, Any] = {}
    for path, option in options_of_fields().items():
        value: Any = configuration
        for name in path.split("."):
            value = getattr(value, name) if value is not None else None
        if value is None or (value == "" and option != "resolv_conf"):
            continue
        result[option] = _INWARD[path](value) if path in _INWARD else _plain(value)
    return result


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=float)


_INWARD: dict[str, Callable[[Any], Any]] = {
    "containerLogMaxSize": lambda text: parse_quantity(text).value(),
    "evictionSoftGracePeriod": lambda found: {
        name: parse_duration(text) for name, text in found.items()
    },
    "shutdownGracePeriodByPodPriority": lambda found: {
        each.priority: float(each.shutdownGracePeriodSeconds) for each in found
    },
    # Nothing to read is what the empty name stands for.
    "resolvConf": lambda text: text or "/dev/null",
}


def effective(options: NodeOptions, configuration: KubeletConfiguration) -> dict[str, Any]:
    """The configuration as `/configz` shows it: the files', and over them the options in force."""
    document: dict[str, Any] = _shown(configuration)
    for path, option in options_of_fields().items():
        value = getattr(options, option)
        shown = _OUTWARD[path](value) if path in _OUTWARD else _shown(value)
        place = document
        *parents, name = path.split(".")
        for each in parents:
            place = place.setdefault(each, {})
        if isinstance(_default(path), Duration):
            shown = format_duration(value)
        place[name] = shown
    return _without_nothing(document)


def _without_nothing(document: dict[str, Any]) -> dict[str, Any]:
    kept = {
        name: _without_nothing(value) if isinstance(value, dict) else value
        for name, value in document.items()
    }
    return {name: value for name, value in kept.items() if value not in (None, "", [], {})}


def _default(path: str) -> Any:
    value: Any = KubeletConfiguration()
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


_OUTWARD: dict[str, Callable[[Any], Any]] = {
    # It may hold a password.
    "staticPodURLHeader": lambda headers: {name: [MASKED] for name in headers},
    "containerLogMaxSize": lambda size: str(Quantity.of(size, Format.BINARY)),
    "evictionSoftGracePeriod": lambda found: {
        name: format_duration(seconds) for name, seconds in found.items()
    },
    "shutdownGracePeriodByPodPriority": lambda found: [
        {"priority": priority, "shutdownGracePeriodSeconds": int(seconds)}
        for priority, seconds in found.items()
    ],
}


def _shown(value: Any) -> Any:
    if isinstance(value, Duration):
        return format_duration(value)
    if isinstance(value, msgspec.Struct):
        return {
            name: shown
            for name in value.__struct_fields__
            if (shown := _shown(getattr(value, name))) is not None
        }
    if isinstance(value, (list, tuple)):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _shown(each) for name, each in value.items()}
    return str(value) if isinstance(value, Path) else value


def remarks(configuration: KubeletConfiguration) -> Iterator[str]:
    """One line for each field that is set and has no effect."""
    honoured = {path.partition(".")[0] for path in options_of_fields()}
    plain = KubeletConfiguration()
    for name in KubeletConfiguration.__struct_fields__:
        given = getattr(configuration, name)
        quiet = name in ("kind", "apiVersion", "mergeDefaultEvictionSettings")
        if quiet or given == getattr(plain, name):
            continue
        if name in honoured and name not in NOTHING:
            continue
        yield f"KubeletConfiguration: {name} is not honoured: {NOTHING[name]}"
