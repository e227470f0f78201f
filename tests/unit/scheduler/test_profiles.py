"""Profiles: which plugins a configuration turns on, where and in which order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from navarch.api.component_config import ConfigurationError
from navarch.scheduler.configuration.arguments import (
    NodeResourcesFitArgs,
    RatioParameters,
    ScoringStrategy,
    ShapePoint,
)
from navarch.scheduler.configuration.types import KubeSchedulerProfile, PluginConfig
from navarch.scheduler.framework import Profile
from navarch.scheduler.profiles import default_profile, make_profile


def made(**plugins: Any) -> Profile:
    given = {"schedulerName": "x", "plugins": plugins}
    return make_profile(msgspec.convert(given, KubeSchedulerProfile))


def on(*names: str) -> dict[str, Any]:
    entries = (name.partition("=") for name in names)
    return {"enabled": [{"name": n, "weight": int(weight or 0)} for n, _, weight in entries]}


def off(*names: str) -> dict[str, Any]:
    return {"disabled": [{"name": name} for name in names]}


def names(plugins: Any) -> list[str]:
    return [each.name for each in plugins]


def scores(profile: Profile) -> dict[str, int]:
    return {each.plugin.name: each.weight for each in profile.scorers}


def test_the_default_profile() -> None:
    profile = default_profile()
    assert names(profile.filters)[:4] == [
        "NodeUnschedulable",
        "NodeName",
        "TaintToleration",
        "NodeAffinity",
    ]
    assert scores(profile)["TaintToleration"] == 3
    assert scores(profile)["ImageLocality"] == 1
    assert profile.post_filters == ("DynamicResources", "DefaultPreemption")


def test_what_is_bound_before_a_pod_is_worked_out_for_it() -> None:
    both = ["VolumeBinding", "DynamicResources"]
    assert names(made().reserves) == both
    assert names(made(reserve=off("VolumeBinding")).reserves) == both
    assert names(made(preBind=off("VolumeBinding")).reserves) == both[1:]


def test_a_plugin_is_turned_off_at_one_point_or_at_all() -> None:
    assert "TaintToleration" not in scores(made(score=off("TaintToleration")))
    assert "TaintToleration" in names(made(score=off("TaintToleration")).filters)
    assert "TaintToleration" not in names(made(multiPoint=off("TaintToleration")).plugins)


def test_all_are_turned_off_but_some() -> None:
    profile = made(score={**on("ImageLocality=7"), **off("*")})
    assert scores(profile) == {"ImageLocality": 7}
    basics = {**on("PrioritySort", "DefaultBinder", "NodeName"), **off("*")}
    assert names(made(multiPoint=basics).plugins) == ["NodeName"]


def test_order() -> None:
    """First what is named for the point and is on in any case, then the rest of what is on, then
    what is on at this point only."""
    profile = made(
        multiPoint=off("NodeName", "ImageLocality"),
        filter=on("NodePorts", "NodeName", "NodeUnschedulable"),
    )
    found = names(profile.filters)
    assert found[:2] == ["NodePorts", "NodeUnschedulable"]
    assert found[2] == "TaintToleration"
    assert found[-1] == "NodeName"


def test_weights() -> None:
    profile = made(multiPoint=on("NodeAffinity=9", "ImageLocality=5"), score=on("ImageLocality=4"))
    found = scores(profile)
    assert (found["NodeAffinity"], found["ImageLocality"]) == (9, 4)
    assert names(profile.filters)[3] == "NodeAffinity"  # where it stood


REFUSED = [
    pytest.param(
        {"filter": on("Foo")}, 'FilterPlugin "Foo" does not exist', id="unknown at a point"
    ),
    pytest.param(
        {"multiPoint": on("Foo")}, 'PreFilterPlugin "Foo" does not exist', id="unknown anywhere"
    ),
    pytest.param(
        {"score": on("NodeName")},
        'plugin "NodeName" does not extend ScorePlugin plugin',
        id="wrong point",
    ),
    pytest.param(
        {"score": on("ImageLocality", "ImageLocality")},
        'plugin "ImageLocality" already registered as "ScorePlugin"',
        id="twice",
    ),
    pytest.param(
        {"multiPoint": on("ImageLocality", "ImageLocality")},
        'plugin "ImageLocality" already registered as "ScorePlugin"',
        id="twice anywhere",
    ),
    pytest.param(
        {"queueSort": off("*")},
        'only one queue sort plugin required for profile with scheduler name "x", but got 0',
        id="no queue sort",
    ),
    pytest.param(
        {"bind": off("*")},
        'at least one bind plugin is needed for profile with scheduler name "x"',
        id="no bind",
    ),
    pytest.param(
        {"preFilter": off("NodePorts")},
        'plugin "NodePorts" is of no use at filter without preFilter: every pod would fail',
        id="half a plugin",
    ),
]


@pytest.mark.parametrize(("plugins", "text"), REFUSED)
def test_refused(plugins: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(**plugins)
    begin = "initializing profiles: creating profile for scheduler name x: "
    assert str(caught.value) == begin + text


SHAPELESS = ScoringStrategy("RequestedToCapacityRatio")
POINTS = (ShapePoint(50, 11), ShapePoint(40, 0))
ODD = ScoringStrategy("RequestedToCapacityRatio", requestedToCapacityRatio=RatioParameters(POINTS))
STRATEGIES = [
    pytest.param(
        NodeResourcesFitArgs(scoringStrategy=ScoringStrategy("Other")),
        'scoringStrategy.type: Unsupported value: "Other": supported values: "LeastAllocated", '
        '"MostAllocated", "RequestedToCapacityRatio"',
        id="unknown strategy",
    ),
    pytest.param(
        NodeResourcesFitArgs(scoringStrategy=SHAPELESS),
        "scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is "
        "RequestedToCapacityRatio",
        id="no shape",
    ),
    pytest.param(
        NodeResourcesFitArgs(scoringStrategy=ODD),
        "[scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 40: values "
        "must be sorted in increasing order, scoringStrategy.requestedToCapacityRatio.shape[0]."
        "score: Invalid value: 11: not in valid range [0, 10]]",
        id="odd shape",
    ),
    pytest.param(
        NodeResourcesFitArgs(ignoredResourceGroups=("a/b",)),
        "ignoredResourceGroups[0]: Invalid value: \"a/b\": resource group name can't contain '/'",
        id="no group",
    ),
]


@pytest.mark.parametrize(("args", "text"), STRATEGIES)
def test_arguments_that_are_checked_when_the_plugin_is_made(
    args: NodeResourcesFitArgs, text: str
) -> None:
    config = [PluginConfig(name="NodeResourcesFit", args=args)]
    with pytest.raises(ConfigurationError) as caught:
        make_profile(KubeSchedulerProfile(schedulerName="x", pluginConfig=config))
    assert str(caught.value).endswith(f'initializing plugin "NodeResourcesFit": {text}')
