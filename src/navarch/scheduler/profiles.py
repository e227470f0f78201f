"""Profiles: which plugins a scheduler's name stands for, worked out of the configuration.

A profile names plugins per extension point, or for all their points at once (`multiPoint`), on top
of the default ones. What is said of a point overrides what is said of all. Source: upstream's
`apis/config/v1/default_plugins.go` (merging) and `framework/runtime` (expanding multiPoint).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from navarch.api.component_config import ConfigurationError, aggregated
from navarch.scheduler.configuration.argument_checks import CHECKS
from navarch.scheduler.configuration.arguments import Arguments, DefaultPreemptionArgs
from navarch.scheduler.configuration.types import (
    KubeSchedulerProfile,
    PluginEntry,
    Plugins,
    PluginSet,
)
from navarch.scheduler.framework import Plugin, Profile, Scorer
from navarch.scheduler.plugins import PLUGINS, made_plugins

POINTS = (
    *("preFilter", "filter", "postFilter", "reserve", "preScore", "score", "preBind", "bind"),
    *("postBind", "permit", "preEnqueue", "queueSort", "placementGenerate", "placementScore"),
)
"""In the order in which upstream looks at them."""
DEFAULTS = Plugins(
    multiPoint=PluginSet(
        enabled=tuple(PluginEntry(name, each.weight) for name, each in PLUGINS.items())
    )
)
MOST_SCORE = 2**63 - 1
"""What all weights together may make of a score of 100 (Go's int64)."""

PREPARED = {
    "filter": (
        "preFilter",
        "NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding "
        "PodTopologySpread InterPodAffinity DynamicResources NodeDeclaredFeatures",
    ),
    "score": ("preScore", "PodTopologySpread InterPodAffinity TaintToleration"),
    "reserve": ("preFilter", "VolumeBinding DynamicResources"),
}
"""Plugins that at one point go by what they have worked out at an earlier one; without it every
pod's scheduling fails in upstream, so such a profile is refused here."""


def make_profile(given: KubeSchedulerProfile, percentage: int = 0) -> Profile:
    """The profile that a configuration describes. Raises ConfigurationError."""
    arguments = {e.name: e.args for e in given.pluginConfig if isinstance(e.args, Arguments)}
    try:
        return _make(given, arguments, percentage)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"initializing profiles: creating profile for scheduler name {given.schedulerName}: "
            f"{error}"
        ) from error


def default_profile(name: str = "default-scheduler") -> Profile:
    return make_profile(KubeSchedulerProfile(schedulerName=name))


def _make(
    given: KubeSchedulerProfile, arguments: Mapping[str, Arguments], percentage: int
) -> Profile:
    merged = merged_plugins(given.plugins or Plugins())
    points = {point: expanded(merged, point) for point in POINTS}
    if (count := len(points["queueSort"])) != 1:
        raise ConfigurationError(
            "only one queue sort plugin required for profile with scheduler name "
            f'"{given.schedulerName}", but got {count}'
        )
    if not points["bind"]:
        raise ConfigurationError(
            f"at least one bind plugin is needed for profile with scheduler name "
            f'"{given.schedulerName}"'
        )
    _check_parts(points)
    fit = arguments.get("NodeResourcesFit")
    if fit is not None and (text := aggregated(CHECKS["NodeResourcesFit"]("", fit))):
        raise ConfigurationError(f'initializing plugin "NodeResourcesFit": {text}')
    named = {name for names in points.values() for name in names}
    made = {plugin.name: plugin for plugin in made_plugins(named, arguments)}

    def at(point: str) -> tuple[Plugin, ...]:
        return tuple(made[name] for name in points[point] if name in made)

    weights = score_weights(merged)
    preemption = arguments.get("DefaultPreemption", DefaultPreemptionArgs())
    assert isinstance(preemption, DefaultPreemptionArgs)
    return Profile(
        given.schedulerName or "",
        tuple(made.values()),
        at("preFilter"),
        at("filter"),
        tuple(Scorer(plugin, weights[plugin.name]) for plugin in at("score")),
        # What is reserved takes effect in PreBind and is needed there, whether or not it is
        # turned off by itself: then upstream binds volumes all the same.
        at("preBind"),
        points["postFilter"],
        preemption,
        percentage if given.percentageOfNodesToScore is None else given.percentageOfNodesToScore,
    )


def merged_plugins(custom: Plugins) -> Plugins:
    """The default plugins with what the profile says on top."""
    return Plugins(
        **{
            point: _merged(getattr(DEFAULTS, point), getattr(custom, point))
            for point in (*POINTS, "multiPoint")
        }
    )


def _merged(default: PluginSet, custom: PluginSet) -> PluginSet:
    """A default plugin that is named anew is replaced where it stands; others follow the default
    ones, in their order."""
    disabled = {each.name for each in (*custom.disabled, *default.disabled)}
    named = {each.name: each for each in custom.enabled}
    enabled = [] if "*" in disabled else [e for e in default.enabled if e.name not in disabled]
    replaced = {each.name for each in enabled} & named.keys()
    # Of several with one name the last replaces; what is left of them is found out later.
    left = [e for e in custom.enabled if not (e.name in replaced and named[e.name] is e)]
    return PluginSet(
        enabled=(*(named.get(each.name, each) for each in enabled), *left),
        disabled=tuple(PluginEntry(name) for name in sorted(disabled)),
    )


def expanded(plugins: Plugins, point: str) -> tuple[str, ...]:
    """The names of the plugins at one point in their order: first those of `multiPoint` that are
    named for the point, then the others of `multiPoint`, then those named for the point only."""
    kind = f"{point[0].upper()}{point[1:]}Plugin"
    own: PluginSet = getattr(plugins, point)
    named: list[str] = []
    for each in own.enabled:
        _check_known(each.name, kind)
        if point not in PLUGINS[each.name].points.split():
            raise ConfigurationError(f'plugin "{each.name}" does not extend {kind} plugin')
        _add(named, each.name, kind)
    disabled = {each.name for each in own.disabled}
    if "*" in disabled:
        return tuple(named)
    overriding: set[str] = set()
    general: list[str] = []
    for each in plugins.multiPoint.enabled:
        _check_known(each.name, kind)
        if point not in PLUGINS[each.name].points.split() or each.name in disabled:
            continue
        if each.name in named:
            overriding.add(each.name)
        else:
            _add(general, each.name, kind)
    first = [name for name in named if name in overriding]
    return (*first, *general, *(name for name in named if name not in overriding))


def _check_known(name: str, kind: str) -> None:
    if name not in PLUGINS:
        raise ConfigurationError(f'{kind} "{name}" does not exist')


def _add(names: list[str], name: str, kind: str) -> None:
    if name in names:
        raise ConfigurationError(f'plugin "{name}" already registered as "{kind}"')
    names.append(name)


def score_weights(plugins: Plugins) -> dict[str, int]:
    """What the scores of plugins count; what is said for the point goes first."""
    weights: dict[str, int] = {}
    total = 0
    for each in (*plugins.score.enabled, *plugins.multiPoint.enabled):
        if each.name in weights or "score" not in PLUGINS[each.name].points.split():
            continue
        weights[each.name] = each.weight or 1
        total += 100 * weights[each.name]
        if total > MOST_SCORE:
            raise ConfigurationError("score plugins: total score of Score plugins could overflow")
    return weights


def _check_parts(points: Mapping[str, Any]) -> None:
    for point, (other, names) in PREPARED.items():
        for name in names.split():
            if name in points[point] and name not in points[other]:
                raise ConfigurationError(
                    f'plugin "{name}" is of no use at {point} without {other}: every pod would fail'
                )
