"""Asking the filters: for all nodes at once, or for one node as if its pods were others.

The latter answers two questions. Does the pod still fit on a node when those come that room is
being made for? And would it fit if some pods were not there? The cluster is changed for the moment
of the question and put back: its arrays follow pods one by one, so it costs no more than those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.framework import Cycle, Profile, Verdict
from navarch.scheduler.podinfo import PodInfo


@dataclass(slots=True)
class Filtered:
    """What one plugin (or several together) made of the nodes that were left then."""

    plugins: tuple[str, ...]
    asked: Mask
    verdicts: list[Verdict]
    is_limit: bool = False
    """Whether this is the pod itself ruling nodes out, before filters look at them."""


def filter_nodes(cycle: Cycle, profile: Profile) -> list[Filtered]:
    """Leave in `cycle.feasible` the nodes that can take the pod, whether or not the pods that are
    nominated to them come. Raises PodRejected."""
    narrowed = _narrow(cycle, profile)
    asked = cycle.feasible
    filtered = _filter(cycle, profile)
    filtered += _keep_free(cycle, profile, filtered, cycle.feasible)
    if not cycle.feasible.any():
        # Why not matters now: of a node that is kept for others, what would be with them comes
        # first.
        filtered += _keep_free(cycle, profile, filtered, asked)
    return narrowed + filtered


def rejections(cycle: Cycle, profile: Profile, slot: int) -> list[Verdict]:
    """Why this node cannot take the pod, as the cluster is at the moment; empty if it can."""
    found = _beside_nominated(cycle, profile, slot) or _on_one(cycle, profile, slot)
    return [verdict for entry in found for verdict in entry.verdicts]


def _keep_free(
    cycle: Cycle, profile: Profile, filtered: list[Filtered], among: Mask
) -> list[Filtered]:
    """Reject those nodes which the pods that they are kept for leave no room on, whatever they were
    rejected for without them."""
    cluster, result = cycle.cluster, []
    for name in [*cluster.nominations.nodes]:
        slot = cluster.slots.get(name)
        if slot is None or not among[slot]:
            continue
        if found := _beside_nominated(cycle, profile, slot):
            others = ~cluster.mask([slot])
            for entry in filtered:
                entry.asked = entry.asked & others
            result += found
            cycle.feasible = cycle.feasible & others
    return result


@contextmanager
def placed(cluster: Cluster, pods: Iterable[PodInfo], node: str) -> Iterator[None]:
    """As if these pods, which have no node, were on that one."""
    uids = []
    try:
        for info in pods:
            cluster.set_pod(info, node)
            uids.append(info.uid)
        yield
    finally:
        for uid in uids:
            cluster.remove_pod(uid)


def _narrow(cycle: Cycle, profile: Profile) -> list[Filtered]:
    """Leave out the nodes that the pod rules out by itself."""
    before = cycle.feasible
    names = []
    for plugin in profile.pre_filters:
        wanted = plugin.pre_filter(cycle)
        if wanted is not None:
            names.append(plugin.name)
            cycle.feasible = cycle.feasible & wanted
    if not names:
        return []
    cycle.among = cycle.feasible
    reason = f"node(s) didn't satisfy plugin(s) [{' '.join(sorted(names))}]"
    return [Filtered(tuple(names), before, [Verdict(~cycle.feasible, reason)], is_limit=True)]


def _filter(cycle: Cycle, profile: Profile) -> list[Filtered]:
    filtered = []
    for plugin in profile.filters:
        if plugin.name in cycle.skipped:
            continue
        verdicts = plugin.filter(cycle)
        if not verdicts:
            continue
        filtered.append(Filtered((plugin.name,), cycle.feasible, verdicts))
        for verdict in verdicts:
            # Of two masks: where the first holds and the second does not.
            cycle.feasible = cycle.feasible > verdict.rejected
    return filtered


def _beside_nominated(cycle: Cycle, profile: Profile, slot: int) -> list[Filtered]:
    """What speaks against the node once the pods that it is kept for are there."""
    node = cycle.cluster.names[slot]
    coming = [
        each
        for each in cycle.cluster.nominations.ahead_of(cycle.pod, node)
        if each.uid not in cycle.cluster.pods
    ]
    if not coming:
        return []
    with placed(cycle.cluster, coming, node):
        return _on_one(cycle, profile, slot, coming)


def _on_one(
    cycle: Cycle, profile: Profile, slot: int, coming: Collection[PodInfo] = ()
) -> list[Filtered]:
    """The first plugin that rejects the node, with its reasons; empty if none does."""
    only = cycle.cluster.mask([slot])
    attempt = Cycle(cycle.pod, cycle.cluster, cycle.objects, cycle.rng, only)
    attempt.skipped, attempt.slot = cycle.skipped.copy(), slot
    attempt.coming, attempt.away = coming, cycle.away
    for entry in _narrow(attempt, profile) + _filter(attempt, profile):
        verdicts = [
            Verdict(only, verdict.reason, verdict.code)
            for verdict in entry.verdicts
            if verdict.rejected[slot]
        ]
        if verdicts:
            return [Filtered(entry.plugins, only, verdicts)]
    return []
