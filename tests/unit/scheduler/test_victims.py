"""Looking for victims by sums of requests, or at once, finds those that one by one would."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from navarch.scheduler.filtering import rejections
from navarch.scheduler.framework import Cycle, Profile
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.profiles import default_profile
from navarch.scheduler.victims import Budgets, Candidate, DryRun, without

from .conftest import FakeObjects, cluster_of, cycle_of, node, pod
from .test_preemption import budget
from .test_safety import some_nodes, some_pods

LABELS = {"app": "a"}


def literally(cycle: Cycle, profile: Profile, slot: int) -> Any:
    """One pod after the other, every filter each time."""
    cluster, objects = cycle.cluster, cycle.objects
    here = cluster.pods_at[slot].values()
    lower = sorted(
        (each for each in here if each.priority < cycle.pod.priority),
        key=lambda info: info.importance,
    )
    if not lower:
        return "nobody"
    violating = Budgets(objects).violated_by(lower)
    leaving = []
    with without(cluster, lower, slot):
        if verdicts := rejections(cycle, profile, slot):
            return sorted({verdict.reason for verdict in verdicts})
        for each in sorted(lower, key=lambda info: info.uid not in violating):
            cluster.set_pod(each, cluster.names[slot])
            if rejections(cycle, profile, slot):
                cluster.remove_pod(each.uid)
                leaving.append(each.uid)
    return sorted(leaving), len(violating.intersection(leaving))


def found(dry_run: DryRun, slot: int) -> Any:
    result = dry_run.victims(slot)
    if isinstance(result, Candidate):
        return sorted(each.uid for each in result.victims), result.violations
    if result == ["No preemption victims found for incoming pod"]:
        return "nobody"
    if result[0].startswith("expected at least one victim"):
        return [], 0
    return sorted(set(result))


@settings(deadline=None, max_examples=150)
@given(some_nodes(), some_pods(), some_pods(), st.randoms(use_true_random=False))
def test_the_same_victims(
    nodes: Any, there: list[PodInfo], coming: list[PodInfo], rng: random.Random
) -> None:
    cluster = cluster_of(nodes)
    for each in there:
        each.priority = rng.randrange(3)
        cluster.set_pod(each, rng.choice(nodes).metadata.name)
    objects = FakeObjects(pdbs=[budget(LABELS, rng.randrange(3))])
    profile = default_profile()
    for each in coming:
        each.uid = f"new-{each.uid}"
        each.priority = 2
        cycle = cycle_of(each, cluster, objects)
        dry_run = DryRun(cycle, profile, cluster.alive)
        for slot in np.flatnonzero(cluster.alive).tolist():
            assert found(dry_run, slot) == literally(cycle, profile, slot)


def test_amounts_that_do_not_fit_into_one_number() -> None:
    """Side by side in one integer none gets into the way of another."""
    much = str(2**62)
    lower = [pod(f"p{n}", requests={"memory": much, "cpu": "1"}) for n in range(3)]
    cluster = cluster_of([node("n", cpu="3", memory=much)], {"n": lower})
    cycle = cycle_of(pod("new", requests={"memory": much, "cpu": "1"}, priority=1), cluster)
    dry_run = DryRun(cycle, default_profile(), cluster.alive)
    result = dry_run.victims(cluster.slots["n"])
    assert isinstance(result, Candidate) and len(result.victims) == 3
