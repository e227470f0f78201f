"""The search for a node when extenders have a say: the cycle with questions in between.

The cluster goes on while an extender is asked. Its arrays may have become longer, and a node may
have gone; what is left of the nodes is found by their names again, and when slots do not mean the
same any more the search begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from navarch.scheduler.cluster import Mask
from navarch.scheduler.cycle import (
    Choice,
    Diagnosis,
    Failure,
    best,
    chosen,
    come_upon,
    diagnose,
    feasible,
    nominated,
    totals,
)
from navarch.scheduler.extenders import EXTENDER, Extender, ExtenderFailed
from navarch.scheduler.filtering import Filtered
from navarch.scheduler.framework import Code, Cycle, Profile, Verdict
from navarch.scheduler.preemption import NoPreemption, candidates, least_damage
from navarch.scheduler.victims import Candidate

log = logging.getLogger(__name__)

_Found = list[Candidate] | NoPreemption

NO_CANDIDATE = "no candidate node for preemption"


class ClusterChanged(Exception):
    """Slots are not what they were: search anew."""


async def schedule_with(
    extenders: Sequence[Extender],
    cycle: Cycle,
    profile: Profile,
    mark: Callable[[str, bool], None] = lambda point, success: None,
) -> Choice | Failure:
    """`schedule` with extenders. Raises ExtenderFailed, ClusterChanged."""
    asked = [each for each in extenders if each.is_interested(cycle.pod)]
    filtered = feasible(cycle, profile)
    if isinstance(filtered, Diagnosis):
        return await make_room(asked, cycle, profile, filtered, mark)
    if isinstance(filtered, Failure):
        return filtered
    names = [*cycle.cluster.names]
    slot = nominated(cycle)
    if slot is not None:
        cycle.nodes = np.array([slot], np.int64)
        await _filter(asked, cycle, names)
        if len(cycle.nodes):
            return chosen(cycle, profile, slot)
    come_upon(cycle, profile)
    filtered += await _filter(asked, cycle, names)
    mark("Filter", bool(len(cycle.nodes)))
    if not len(cycle.nodes):
        diagnosis = diagnose(cycle, profile, filtered)
        return await make_room(asked, cycle, profile, diagnosis, mark)
    if len(cycle.nodes) == 1:
        return chosen(cycle, profile, int(cycle.nodes[0]))
    slot = await _best(asked, cycle, profile, names)
    mark("Score", True)
    return chosen(cycle, profile, slot)


async def _filter(asked: Sequence[Extender], cycle: Cycle, names: list[str]) -> list[Filtered]:
    """Leave in the cycle the nodes that all extenders keep."""
    cluster, found = cycle.cluster, []
    for extender in asked:
        if not extender.config.filterVerb or not len(cycle.nodes):
            continue
        nodes = {names[slot]: node for slot in cycle.nodes if (node := cluster.nodes[slot])}
        try:
            said = await extender.filter(cycle.pod, nodes)
        except ExtenderFailed as error:
            if not extender.is_ignorable:
                raise
            log.info("extender %s is passed over: %s", extender.name, error)
            continue
        _check_same(cycle, names)
        before = cycle.cluster.mask(cycle.nodes)
        cycle.nodes = np.array([s for s in cycle.nodes if names[s] in said.kept], np.int64)
        lost = before & ~cycle.cluster.mask(cycle.nodes)
        if lost.any():
            verdicts = _verdicts(cycle, lost, said.failed, Code.UNSCHEDULABLE)
            verdicts += _verdicts(cycle, lost, said.unresolvable, Code.UNRESOLVABLE)
            told = {*said.failed, *said.unresolvable}
            silent = [slot for slot in np.flatnonzero(lost).tolist() if names[slot] not in told]
            verdicts.append(Verdict(cycle.cluster.mask(silent), ""))
            found.append(Filtered((EXTENDER,), lost, verdicts))
    return found


def _verdicts(cycle: Cycle, lost: Mask, texts: Mapping[str, str], code: Code) -> list[Verdict]:
    by_text: dict[str, list[int]] = {}
    for name, text in texts.items():
        slot = cycle.cluster.slots.get(name)
        if slot is not None and lost[slot]:
            by_text.setdefault(text, []).append(slot)
    return [Verdict(cycle.cluster.mask(slots), text, code) for text, slots in by_text.items()]


async def _best(asked: Sequence[Extender], cycle: Cycle, profile: Profile, names: list[str]) -> int:
    """The best by the plugins' scores and the extenders'. Of equals that extenders scored, any."""
    total = totals(cycle, profile)
    scoring = [each for each in asked if each.config.prioritizeVerb]
    cluster = cycle.cluster
    nodes = {names[slot]: node for slot in cycle.nodes if (node := cluster.nodes[slot])}
    answers = await asyncio.gather(
        *(each.prioritize(cycle.pod, nodes) for each in scoring), return_exceptions=True
    )
    if scoring:
        _check_same(cycle, names)
    is_scored = np.zeros(len(total), np.bool_)
    for answer in answers:
        if isinstance(answer, ExtenderFailed):
            log.info("an extender's scores do not count: %s", answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            for place, slot in enumerate(cycle.nodes):
                if names[slot] in answer:
                    total[place] += answer[names[slot]]
                    is_scored[place] = True
    top = np.flatnonzero((total == total.max()) & is_scored)
    if len(top):
        return int(cycle.nodes[cycle.rng.choice(top.tolist())])
    return best(cycle, total)


async def make_room(
    asked: Sequence[Extender],
    cycle: Cycle,
    profile: Profile,
    diagnosis: Diagnosis,
    mark: Callable[[str, bool], None],
) -> Failure:
    """The failure, with the pods that have to leave. All that is asynchronous here has its turn
    meanwhile, whether or not there are extenders."""
    failure = await _preempt(asked, cycle, profile, diagnosis)
    mark("PostFilter", bool(failure.victims))
    return failure


async def _candidates(cycle: Cycle, profile: Profile, resolvable: Mask) -> _Found:
    steps = candidates(cycle, profile, resolvable)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: _Found = end.value
            return found
        await asyncio.sleep(0)


async def _preempt(
    asked: Sequence[Extender], cycle: Cycle, profile: Profile, diagnosis: Diagnosis
) -> Failure:
    found: _Found | None = None
    if diagnosis.may_preempt:
        found = await _candidates(cycle, profile, diagnosis.resolvable)
    if not isinstance(found, list):
        result = found
        return diagnosis.with_preemption(lambda: result or NoPreemption(NO_CANDIDATE))
    cluster = cycle.cluster
    for extender in asked:
        if not extender.config.preemptVerb or not found:
            continue
        pods = {name: cluster.pods_at[slot] for name, slot in cluster.slots.items()}
        try:
            found = await extender.preempt(cycle.pod, found, pods)
        except ExtenderFailed as error:
            if not extender.is_ignorable:
                return Failure(f"{diagnosis.message} {error}", diagnosis.plugins)
            log.info("extender %s is passed over: %s", extender.name, error)
    answer = least_damage(found) if found else NoPreemption(NO_CANDIDATE)
    return diagnosis.with_preemption(lambda: answer)


def _check_same(cycle: Cycle, names: list[str]) -> None:
    cluster = cycle.cluster
    if cluster.size != len(names) or any(cluster.names[s] != names[s] for s in cycle.nodes):
        raise ClusterChanged
