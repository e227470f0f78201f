"""From what metrics suggest to what is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.types.autoscaling_v2 import (
    HorizontalPodAutoscalerBehavior,
    HPAScalingPolicy,
    HPAScalingRules,
)
from navarch.controllers.horizontal_pod_autoscaler_behavior import (
    History,
    Noted,
    Question,
    longest_window,
    normalized,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
Notes = tuple[tuple[float, int], ...]
"""Seconds ago and a count."""


def notes(found: Notes) -> tuple[Noted, ...]:
    return tuple(Noted(NOW - timedelta(seconds=ago), count) for ago, count in found)


@dataclass
class Case:
    current: int
    suggested: int
    replicas: int
    able: str = "ReadyForNewScale"
    limited: str = "DesiredWithinRange"
    is_limited: bool | None = None
    seen: Notes = ()
    least: int = 1
    most: int = 100


def check(case: Case, behavior: HorizontalPodAutoscalerBehavior | None, history: History) -> None:
    question = Question(case.current, case.suggested, case.least, case.most, NOW)
    found = normalized(question, behavior, history, WINDOW)
    expected = case.limited != "DesiredWithinRange"
    if case.is_limited is not None:
        expected = case.is_limited
    assert (found.replicas, found.able[0], found.limited[0], found.is_limited) == (
        case.replicas,
        case.able,
        case.limited,
        expected,
    )


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(3, 5, 5), id="up"),
        pytest.param(Case(3, 3, 3), id="stay"),
        pytest.param(Case(5, 2, 2), id="down"),
        pytest.param(
            Case(5, 2, 4, able="ScaleDownStabilized", seen=((200, 4), (299, 3))), id="not so fast"
        ),
        pytest.param(Case(5, 2, 2, seen=((301, 4),)), id="what was suggested long ago"),
        pytest.param(Case(3, 9, 6, limited="ScaleUpLimit"), id="at most twice as many"),
        pytest.param(Case(1, 9, 4, limited="ScaleUpLimit"), id="or four"),
        pytest.param(Case(3, 9, 5, limited="TooManyReplicas", most=5), id="the maximum"),
        pytest.param(Case(3, 9, 6, limited="TooManyReplicas", most=6), id="the maximum is named"),
        pytest.param(Case(5, 0, 2, limited="TooFewReplicas", least=2), id="the minimum"),
    ],
)
def test_without_behavior(case: Case) -> None:
    check(case, None, History(notes(case.seen)))


def rules(
    *policies: tuple[str, int, int], select: str = "Max", window: int | None = 0
) -> HPAScalingRules:
    return HPAScalingRules(
        selectPolicy=select,
        stabilizationWindowSeconds=window,
        policies=[HPAScalingPolicy(type=t, value=v, periodSeconds=p) for t, v, p in policies],
    )


FREE_UP = rules(("Pods", 4, 15), ("Percent", 100, 15))
FREE_DOWN = rules(("Percent", 100, 15))


@dataclass
class Rates:
    case: Case
    up: HPAScalingRules
    down: HPAScalingRules = FREE_DOWN
    added: Notes = ()
    removed: Notes = ()


UP = [
    pytest.param(Rates(Case(3, 5, 5), FREE_UP), id="up"),
    pytest.param(
        Rates(Case(3, 20, 7, limited="ScaleUpLimit"), FREE_UP), id="four are more than double"
    ),
    pytest.param(
        Rates(Case(10, 50, 20, limited="ScaleUpLimit"), FREE_UP), id="double is more than four"
    ),
    pytest.param(
        Rates(
            Case(10, 50, 14, limited="ScaleUpLimit"),
            rules(("Pods", 4, 15), ("Percent", 100, 15), select="Min"),
        ),
        id="the smaller of two",
    ),
    pytest.param(
        Rates(Case(10, 50, 10, limited="ScaleUpLimit"), rules(("Pods", 4, 15), select="Disabled")),
        id="not at all",
    ),
    pytest.param(
        Rates(
            Case(7, 20, 9, limited="ScaleUpLimit"), rules(("Pods", 4, 60)), added=((30, 2), (70, 9))
        ),
        id="what was added in the period counts",
    ),
    pytest.param(
        Rates(Case(7, 20, 12, limited="ScaleUpLimit"), rules(("Pods", 4, 60)), removed=((30, 1),)),
        id="and what was taken away",
    ),
    pytest.param(
        Rates(Case(7, 20, 7, limited="ScaleUpLimit"), rules(("Pods", 1, 60)), added=((30, 5),)),
        id="enough was added",
    ),
    pytest.param(
        Rates(Case(1, 9, 2, limited="ScaleUpLimit"), rules(("Percent", 10, 60))),
        id="a percentage adds at least one",
    ),
    pytest.param(
        Rates(Case(3, 20, 5, limited="TooManyReplicas", most=5), FREE_UP), id="the maximum"
    ),
    pytest.param(
        Rates(
            Case(3, 8, 4, able="ScaleUpStabilized", seen=((10, 4), (50, 1))),
            rules(("Percent", 900, 15), window=30),
        ),
        id="the lowest of the window",
    ),
]
DOWN = [
    pytest.param(Rates(Case(10, 4, 4), FREE_UP), id="down"),
    pytest.param(
        Rates(Case(10, 4, 8, limited="ScaleDownLimit"), FREE_UP, rules(("Pods", 2, 60))), id="two"
    ),
    pytest.param(
        Rates(
            Case(10, 0, 5, limited="ScaleDownLimit"),
            FREE_UP,
            rules(("Pods", 2, 60), ("Percent", 50, 60)),
        ),
        id="the larger change",
    ),
    pytest.param(
        Rates(
            Case(10, 0, 8, limited="ScaleDownLimit"),
            FREE_UP,
            rules(("Pods", 2, 60), ("Percent", 50, 60), select="Min"),
        ),
        id="the smaller change",
    ),
    pytest.param(
        Rates(
            Case(10, 0, 10, limited="ScaleDownLimit"),
            FREE_UP,
            rules(("Pods", 2, 60), select="Disabled"),
        ),
        id="never down",
    ),
    pytest.param(
        Rates(
            Case(7, 1, 6, limited="ScaleDownLimit"),
            FREE_UP,
            rules(("Percent", 25, 60)),
            removed=((30, 1),),
        ),
        id="a share of what there was",
    ),
    pytest.param(
        Rates(Case(5, 0, 2, limited="TooFewReplicas", least=2), FREE_UP), id="the minimum"
    ),
    pytest.param(
        Rates(
            Case(8, 2, 6, able="ScaleDownStabilized", seen=((100, 6), (400, 8))),
            FREE_UP,
            rules(("Percent", 100, 15), window=None),
        ),
        id="the window of the flag",
    ),
    pytest.param(
        Rates(Case(8, 2, 2, seen=((10, 8),)), FREE_UP, rules(("Percent", 100, 15), window=0)),
        id="no window",
    ),
]


@pytest.mark.parametrize("rates", [*UP, *DOWN])
def test_with_behavior(rates: Rates) -> None:
    behavior = HorizontalPodAutoscalerBehavior(scaleUp=rates.up, scaleDown=rates.down)
    history = History(notes(rates.case.seen), notes(rates.added), notes(rates.removed))
    check(rates.case, behavior, history)


def test_what_is_remembered() -> None:
    history = History(notes(((400, 1), (100, 2))))
    history = history.with_suggestion(NOW, 7, WINDOW)
    assert [each.count for each in history.suggested] == [2, 7]
    history = history.with_change(NOW, 3, 5).with_change(NOW, 5, 1)
    assert (history.added, history.removed) == ((Noted(NOW, 2),), (Noted(NOW, 4),))
    later = history.with_change(NOW + timedelta(hours=2), 1, 2)
    assert (len(later.added), later.removed) == (1, ())


def test_windows() -> None:
    behavior = HorizontalPodAutoscalerBehavior(
        scaleUp=rules(window=600), scaleDown=rules(window=None)
    )
    assert longest_window(None, WINDOW) == WINDOW
    assert longest_window(behavior, WINDOW) == timedelta(seconds=600)
