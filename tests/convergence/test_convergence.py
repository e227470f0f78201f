"""Random histories of a cluster end well: `python -m tests.convergence` tries many more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from . import runner
from .runner import Outcome, run, shrink
from .steps import Step, draw, template_of

SEEDS = range(6)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_ends_well(seed: int) -> None:
    """In a process of its own: what a seed stands for depends on the order of sets."""
    command = [sys.executable, "-m", "tests.convergence", "--examples", "1", "--whole"]
    ended = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_history_can_be_told_again() -> None:
    """What a seed gives, it gives always: else nothing found here could be looked into."""
    script = draw(3, 12)
    assert run(script, 3) == run(script, 3)


def test_a_name_that_is_taken_holds_a_stateful_set_up() -> None:
    """A pod that a StatefulSet let go keeps its name, so nothing can be made in its place."""
    labels = {"matchLabels": {"app": "queue"}}
    spec = {"replicas": 1, "serviceName": "queue", "selector": labels,
            "template": template_of("queue", 0)}  # fmt: skip
    script = [
        Step("namespace_made", ("one",)),
        Step("put", ("statefulsets", "one", "queue", spec), 15.0),
        Step("touch_pod", (0, "release"), 15.0),
    ]
    assert run(script, 0).problems == ()


def test_a_pod_that_is_over_stays_with_its_replica_set() -> None:
    labels = {"matchLabels": {"app": "cache"}}
    spec = {"replicas": 1, "selector": labels, "template": template_of("cache", 0)}
    script = [
        Step("namespace_made", ("one",)),
        Step("put", ("replicasets", "one", "cache", spec), 15.0),
        Step("touch_pod", (0, "fail"), 15.0),
        # Of the two that there are now, whichever comes first by name.
        Step("touch_pod", (0, "release"), 15.0),
        Step("touch_pod", (1, "release"), 15.0),
    ]
    assert run(script, 0).problems == ()


def test_a_share_of_a_daemon_sets_pods_is_no_budget() -> None:
    labels = {"matchLabels": {"app": "agent"}}
    daemons = {"selector": labels, "template": template_of("agent", 0)}
    script = [
        Step("namespace_made", ("one",)),
        Step("put", ("poddisruptionbudgets", "one", "keep",
                     {"selector": labels, "maxUnavailable": "50%"}), 2.0),
        Step("put", ("daemonsets", "one", "agent", daemons), 15.0),
    ]  # fmt: skip
    assert run(script, 0).problems == ()


def test_a_script_is_shortened_without_what_mends_the_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judged(script: list[Step], seed: int) -> Outcome:
        actions = [step.action for step in script]
        is_bad = "cut" in actions or "heal" not in actions
        return Outcome(("bad",) if is_bad else (), 0, 0.0)

    monkeypatch.setattr(runner, "run", judged)
    script = [Step("forget"), Step("cut"), Step("forget"), Step("heal")]
    assert shrink(script, 0) == [Step("cut"), Step("heal")]


def test_what_is_wrong_is_found() -> None:
    """An object that no controller may finish is told of."""
    broken: list[Step] = [
        Step("namespace_made", ("one",)),
        Step("own", ("one", "kept", ())),
        Step("hold", ("configmaps", "one", "kept")),
        Step("delete", ("configmaps", "one", "kept", "Background")),
    ]
    problems = run(broken, 0).problems
    assert problems == ("leftovers: ConfigMap one/kept is still being deleted: ['tests/hold']",)
