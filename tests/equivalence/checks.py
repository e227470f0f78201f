"""What is drawn and compared, for the tests and for long runs."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .compare import Pair
from .histories import History, histories, play
from .reference.world import World
from .strategies import FOCI
from .worlds import worlds

KINDS = ("decisions", "histories")
CHECKS = tuple(f"{kind} about {focus}" for kind in KINDS for focus in FOCI)


def run(check: str, examples: int, *, derandomize: bool = True) -> None:
    """Raises AssertionError, with the smallest world found for which both decide differently."""
    kind, _, focus = check.partition(" about ")
    wanted = settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[*HealthCheck],
    )
    checked = _decisions(focus) if kind == "decisions" else _histories(focus)
    wanted(checked)()


def _decisions(focus: str) -> Callable[[], None]:
    @given(world=worlds(focus), pods_first=st.booleans())
    def decisions(world: World, pods_first: bool) -> None:
        pair = Pair()
        for pod in world.pods:
            if not pod.spec.nodeName:
                pair.decide(world, pod, pods_first=pods_first)

    return decisions


def _histories(focus: str) -> Callable[[], None]:
    @given(history=histories(focus), pods_first=st.booleans())
    def history_of(history: History, pods_first: bool) -> None:
        play(history, pods_first)

    return history_of
