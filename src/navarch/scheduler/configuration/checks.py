"""What makes a KubeSchedulerConfiguration unusable, in upstream's words (`apis/config/validation`).

The rules for the arguments of plugins are in `argument_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from navarch.api.errors import FieldError, duplicate, invalid, required
from navarch.api.names import qualified_name
from navarch.api.times import format_duration

from .argument_checks import CHECKS
from .types import (
    API_VERSION,
    ExtenderConfig,
    KubeSchedulerConfiguration,
    KubeSchedulerProfile,
    LeaderElection,
    Plugins,
    PluginSet,
)

REMOVED = ("AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits")
"""Plugins that earlier versions had."""
WAS_INVALID = f'was invalid in version "v1" (KubeSchedulerConfiguration is version "{API_VERSION}")'


def problems(found: KubeSchedulerConfiguration) -> Iterator[FieldError]:
    """All of them, in upstream's order."""
    if found.clientConnection.burst < 0:
        yield invalid(
            "clientConnection.burst", found.clientConnection.burst, "must be non-negative"
        )
    yield from _leader_election(found.leaderElection)
    if found.parallelism <= 0:
        yield invalid(
            "parallelism", found.parallelism, "should be an integer value greater than zero"
        )
    names: dict[str, int] = {}
    for index, profile in enumerate(found.profiles):
        path = f"profiles[{index}]"
        yield from _profile(path, profile)
        name = profile.schedulerName or ""
        if name in names:
            yield duplicate(f"{path}.schedulerName", {})
        names[name] = index
    yield from _queue_sort(found.profiles)
    yield from _percentage("percentageOfNodesToScore", found.percentageOfNodesToScore)
    initial, longest = found.podInitialBackoffSeconds, found.podMaxBackoffSeconds
    if initial <= 0:
        yield invalid("podInitialBackoffSeconds", initial, "must be greater than 0")
    if longest < initial:
        yield invalid(
            "podMaxBackoffSeconds",
            longest,
            "must be greater than or equal to PodInitialBackoffSeconds",
        )
    yield from _extenders(found.extenders)


def _leader_election(found: LeaderElection) -> Iterator[FieldError]:
    if not found.leaderElect:
        return
    for name in ("leaseDuration", "renewDeadline", "retryPeriod"):
        value = getattr(found, name)
        if value <= 0:
            yield invalid(
                f"leaderElection.{name}", format_duration(value), "must be greater than zero"
            )
    if found.leaseDuration <= found.renewDeadline:
        shown = format_duration(found.renewDeadline)
        detail = "must be greater than `RenewDeadline`"
        yield invalid("leaderElection.leaseDuration", shown, detail)
    if found.resourceLock != "leases":
        detail = 'resourceLock value must be "leases"'
        yield invalid("leaderElection.resourceLock", found.resourceLock, detail)


def _percentage(path: str, value: int | None) -> Iterator[FieldError]:
    if value is not None and not 0 <= value <= 100:
        yield invalid(path, value, "not in valid range [0-100]")


def _profile(path: str, profile: KubeSchedulerProfile) -> Iterator[FieldError]:
    if not profile.schedulerName:
        yield required(f"{path}.schedulerName")
    yield from _percentage(f"{path}.percentageOfNodesToScore", profile.percentageOfNodesToScore)
    plugins = profile.plugins or Plugins()
    for point in Plugins.__struct_fields__:
        if point == "multiPoint" or point.startswith("placement"):
            continue
        chosen: PluginSet = getattr(plugins, point)
        for index, each in enumerate(chosen.enabled):
            if each.name in REMOVED:
                where = f"{path}.plugins.{point}.enabled[{index}]"
                yield invalid(where, each.name, WAS_INVALID)
    seen = set()
    for index, config in enumerate(profile.pluginConfig):
        where = f"{path}.pluginConfig[{index}]"
        if config.name in seen:
            yield duplicate(where, config.name)
        seen.add(config.name)
        if config.name in REMOVED:
            yield invalid(where, config.name, WAS_INVALID)
        # Those of NodeResourcesFit are looked at when the plugin is made, as upstream has it.
        elif config.name in CHECKS and config.name != "NodeResourcesFit":
            yield from CHECKS[config.name](f"{where}.args", config.args)


def _queue_sort(profiles: list[KubeSchedulerProfile]) -> Iterator[FieldError]:
    first, *others = [(profile.plugins or Plugins()).queueSort for profile in profiles]
    if (count := len(first.enabled)) > 1:
        path = "profiles[0].plugins.queueSort.Enabled"
        yield invalid(path, count, "only one queue sort plugin can be enabled")
    for index, chosen in enumerate(others, 1):
        if chosen != first:
            path = f"profiles[{index}].plugins.queueSort"
            yield invalid(path, _shown(chosen), "must be the same for all profiles")


def _shown(chosen: PluginSet) -> dict[str, Any]:
    """As Go shows its internal type."""
    return {
        name.capitalize(): [{"Name": each.name, "Weight": each.weight} for each in entries] or None
        for name, entries in (("enabled", chosen.enabled), ("disabled", chosen.disabled))
    }


def _extenders(extenders: list[ExtenderConfig]) -> Iterator[FieldError]:
    managed = set()
    for index, extender in enumerate(extenders):
        path = f"extenders[{index}]"
        if extender.prioritizeVerb and extender.weight <= 0:
            detail = "must have a positive weight applied to it"
            yield invalid(f"{path}.weight", extender.weight, detail)
        for number, resource in enumerate(extender.managedResources):
            where = f"{path}.managedResources[{number}].name"
            yield from _extended_resource(where, resource.name)
            if resource.name in managed:
                yield invalid(where, resource.name, "duplicate extender managed resource name")
            managed.add(resource.name)
    binders = sum(bool(extender.bindVerb) for extender in extenders)
    if binders > 1:
        text = f"found {binders} extenders implementing bind"
        yield invalid("extenders", text, "only one extender can implement bind")


def _extended_resource(path: str, name: str) -> Iterator[FieldError]:
    wrong = qualified_name(name)
    yield from (invalid(path, name, text) for text in wrong)
    is_extended = "/" in name and "kubernetes.io/" not in name and not name.startswith("requests.")
    if not wrong and (not is_extended or qualified_name(f"requests.{name}")):
        yield invalid(path, name, "is an invalid extended resource name")
