"""From the number of pods that metrics suggest to the number that is asked for: pure.

Suggestions jump about. A stabilisation window lets only the smallest change count that was
suggested within it; rates limit what is added or taken away in a period. Without `spec.behavior`
there is one window, of five minutes, against scaling down, and at most twice the pods (or four) at
a time.

What was suggested and done lives in memory alone, as upstream's does: a controller that has just
started begins with what it finds.

Source: upstream's `pkg/controller/podautoscaler/horizontal.go`; KEP-853.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from navarch.api.types.autoscaling_v2 import HorizontalPodAutoscalerBehavior, HPAScalingRules

LONGEST = timedelta(hours=1)
"""No window and no period is longer than that."""
SAME = ("ReadyForNewScale", "recommended size matches current size")
LOWEST = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
HIGHEST = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent "
    "recommendation",
)
WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
UP_LIMIT = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
)
DOWN_LIMIT = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
)

Said = tuple[str, str]
"""Reason and message of a condition."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A suggested number of replicas, or how many were added or taken away, and when."""

    time: datetime
    count: int


@dataclass(frozen=True, slots=True)
class History:
    """What one autoscaler has seen and done."""

    suggested: tuple[Noted, ...] = ()
    added: tuple[Noted, ...] = ()
    removed: tuple[Noted, ...] = ()

    def with_suggestion(self, now: datetime, replicas: int, keep: timedelta) -> History:
        """`keep` is the longest window that anybody will look back."""
        kept = (*_since(self.suggested, now - keep), Noted(now, replicas))
        return History(kept, self.added, self.removed)

    def with_change(self, now: datetime, before: int, after: int) -> History:
        added, removed = _since(self.added, now - LONGEST), _since(self.removed, now - LONGEST)
        if after > before:
            added = (*added, Noted(now, after - before))
        else:
            removed = (*removed, Noted(now, before - after))
        return History(self.suggested, added, removed)


def _since(notes: Sequence[Noted], time: datetime) -> tuple[Noted, ...]:
    return tuple(each for each in notes if each.time > time)


@dataclass(frozen=True, slots=True)
class Question:
    """How many replicas the metrics suggest for those there are, and between which limits."""

    current: int
    suggested: int
    least: int
    most: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Normalized:
    """The number to ask for, and what the conditions say of how it came about."""

    replicas: int
    able: Said
    limited: Said
    is_limited: bool


def normalized(
    question: Question,
    behavior: HorizontalPodAutoscalerBehavior | None,
    history: History,
    window: timedelta,
) -> Normalized:
    """`window` is that of scaling down where the autoscaler does not say it itself."""
    if behavior is None:
        recent = _since(history.suggested, question.now - window)
        steady = max([question.suggested, *(each.count for each in recent)])
        said = HIGHEST
        asked, limited = _limited(question, steady)
    else:
        steady = _stabilized(question, behavior, history, window)
        said = LOWEST if question.suggested >= question.current else HIGHEST
        asked, limited = _limited_by_rates(question, steady, behavior, history)
    able = SAME if steady == question.suggested else said
    return Normalized(asked, able, limited, asked != steady)


def _limited(question: Question, wanted: int) -> tuple[int, Said]:
    """Never more than twice as many at once, or four: figures of pods that start are not to be
    believed."""
    fastest = max(2 * question.current, 4)
    most, said = min((question.most, TOO_MANY), (fastest, UP_LIMIT), key=lambda each: each[0])
    if wanted < question.least:
        return question.least, TOO_FEW
    return (most, said) if wanted > most else (wanted, WITHIN)


def _stabilized(
    question: Question,
    behavior: HorizontalPodAutoscalerBehavior,
    history: History,
    window: timedelta,
) -> int:
    """As near to what there is as any suggestion within the windows."""
    up = _recent(question, history, _window(behavior.scaleUp, timedelta()))
    down = _recent(question, history, _window(behavior.scaleDown, window))
    return min(max(question.current, min(up)), max(down))


def _recent(question: Question, history: History, window: timedelta) -> list[int]:
    recent = _since(history.suggested, question.now - window)
    return [question.suggested, *(each.count for each in recent)]


def _window(rules: HPAScalingRules | None, default: timedelta) -> timedelta:
    seconds = rules.stabilizationWindowSeconds if rules is not None else None
    return timedelta(seconds=seconds) if seconds is not None else default


def longest_window(
    behavior: HorizontalPodAutoscalerBehavior | None, window: timedelta
) -> timedelta:
    if behavior is None:
        return window
    return max(_window(behavior.scaleUp, timedelta()), _window(behavior.scaleDown, window))


def _limited_by_rates(
    question: Question, wanted: int, behavior: HorizontalPodAutoscalerBehavior, history: History
) -> tuple[int, Said]:
    current = question.current
    if wanted > current:
        fastest = max(current, _limit(question, behavior.scaleUp, history, is_up=True))
        most, said = min((question.most, TOO_MANY), (fastest, UP_LIMIT), key=lambda each: each[0])
        if wanted > most:
            return most, said
    elif wanted < current:
        slowest = min(current, _limit(question, behavior.scaleDown, history, is_up=False))
        least, said = max((question.least, TOO_FEW), (slowest, DOWN_LIMIT), key=lambda e: e[0])
        if wanted < least:
            return least, said
    return wanted, WITHIN


def _limit(
    question: Question, rules: HPAScalingRules | None, history: History, *, is_up: bool
) -> int:
    """How far the policies let the number go from what it was when their periods began."""
    if rules is None or rules.selectPolicy == "Disabled" or not rules.policies:
        return question.current
    limits = []
    for policy in rules.policies:
        begin = question.now - timedelta(seconds=policy.periodSeconds)
        added = sum(each.count for each in _since(history.added, begin))
        removed = sum(each.count for each in _since(history.removed, begin))
        start = question.current - added + removed
        if policy.type == "Pods":
            limits.append(start + policy.value if is_up else start - policy.value)
        elif is_up:
            # Rounded up, or a percentage of few pods would never add one.
            limits.append(math.ceil(start * (1 + policy.value / 100)))
        else:
            limits.append(int(start * (1 - policy.value / 100)))
    is_widest = rules.selectPolicy != "Min"
    return max(limits) if is_up == is_widest else min(limits)
