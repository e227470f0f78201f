"""Where a pod can go, rule by rule, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from navarch.cli.why.facts import Facts, condition
from navarch.cli.why.report import Line, Tone
from navarch.cli.why.words import ago, counted, listed, moment, shortened
from navarch.scheduler.explanation import Explanation, RuledOut

RULES_TOLD = 8
NODES_TOLD = 3
EVENTS_KEPT = 3300
"""Seconds for which an event is surely there still; API servers keep them for an hour."""


def cause(rule: RuledOut) -> str:
    """`cpu short by 1.5: …`."""
    if rule.detail and rule.reason.startswith("Insufficient "):
        return f"{rule.reason[13:]} {rule.detail}"
    return rule.detail or rule.reason


def about(rule: RuledOut) -> str:
    return f"{counted(rule.nodes, 'node')}: {cause(rule)}"


def lines_of(facts: Facts) -> tuple[Line, ...]:
    pod = facts.pod
    if pod.spec.nodeName:
        return tuple(_placed(facts))
    return tuple(_pending(facts))


def _pending(facts: Facts) -> Iterator[Line]:
    pod, found = facts.pod, facts.explanation
    told = condition(pod, "PodScheduled")
    if pod.spec.schedulingGates:
        gates = ", ".join(each.name for each in pod.spec.schedulingGates)
        yield Line(f"held by scheduling gates: {gates}", Tone.BAD)
    if not facts.knows_scheduler:
        yield Line(f"schedulerName {pod.spec.schedulerName} is no scheduler known here", Tone.BAD)
    if told is not None and told[2]:
        when = " ".join(["the scheduler said", *filter(None, [ago(told[3], facts.now)])])
        yield Line(f"{when}: {shortened(told[2], 400)}")
    if found is None:
        if facts.unexplained:
            yield Line(facts.unexplained, Tone.FAINT)
        return
    if found.rejection:
        by = f"{found.rejected_by}: " if found.rejected_by else ""
        yield Line(f"{by}{found.rejection}", Tone.BAD)
    if found.feasible:
        best = [each.node for each in found.ranking[:NODES_TOLD]]
        yield Line(
            f"{found.feasible} of {counted(found.nodes, 'node')} could take it now: "
            f"{listed(best, found.feasible)}",
            Tone.GOOD,
        )
    yield from _rules(found)
    yield from _preemption(facts, found)


def _rules(found: Explanation, most: int = RULES_TOLD) -> Iterator[Line]:
    rules = sorted(found.ruled_out, key=lambda each: -each.nodes)
    for rule in rules[:most]:
        where = f" [{listed(rule.examples, rule.nodes)}]" if rule.nodes < found.nodes else ""
        yield Line(f"{about(rule)}{where} ({rule.plugin})")
    if len(rules) > most:
        left = sum(each.nodes for each in rules[most:])
        further = counted(len(rules) - most, "further reason")
        yield Line(f"and {further} on {counted(left, 'node')}")


def _preemption(facts: Facts, found: Explanation) -> Iterator[Line]:
    pod = facts.pod
    waits_for = pod.status.nominatedNodeName
    if waits_for:
        yield Line(f"room is being made for it on {waits_for}: it waits for pods there to leave")
    if found.victims:
        victims = listed(found.victims[:NODES_TOLD], len(found.victims))
        yield Line(f"preemption would make room on {found.victims_on} by ending {victims}")
    elif not found.feasible and found.ruled_out and not waits_for:
        if pod.spec.preemptionPolicy == "Never":
            yield Line("preemption: the pod may not push others aside (preemptionPolicy Never)")
        elif any(rule.could_make_room for rule in found.ruled_out):
            yield Line(
                f"preemption: no pods of lower priority than {pod.spec.priority or 0} whose end "
                "would make enough room"
            )
        else:
            yield Line("preemption: ending other pods would not help")


def _placed(facts: Facts) -> Iterator[Line]:
    pod, found = facts.pod, facts.explanation
    node = pod.spec.nodeName
    told = condition(pod, "PodScheduled")
    made = moment(pod.metadata.creationTimestamp)
    has_events = made is not None and (facts.now - made).total_seconds() < EVENTS_KEPT
    chosen = next((each for each in facts.happenings if each.reason == "Scheduled"), None)
    kinds = {each.kind for each in facts.owners}
    if pod.metadata.annotations.get("kubernetes.io/config.mirror"):
        how = "a static pod, of a manifest on that node"
    elif "DaemonSet" in kinds:
        how = "its DaemonSet wants one pod there"
    elif chosen is not None or pod.status.nominatedNodeName:
        how = f"chosen by {pod.spec.schedulerName or 'default-scheduler'}"
    elif has_events:
        how = "the node was named by whoever made the pod (spec.nodeName), no scheduler was asked"
    else:
        how = "chosen by the scheduler, or named by whoever made the pod"
    when = ago(told[3], facts.now) if told else ""
    yield Line(f"{' '.join(filter(None, ('on', node, when)))}: {how}")
    if found is None:
        if facts.unexplained:
            yield Line(facts.unexplained, Tone.FAINT)
        return
    place = found.place_of(node)
    if not place:
        reason = found.rejection or next(
            (cause(rule) for rule in found.ruled_out if rule.is_own), ""
        )
        yield Line(
            "as things are now the scheduler would not put it there again"
            + (f" ({reason})" if reason else "")
        )
    elif found.feasible > 1:
        yield Line(
            f"as things are now it is number {place} of {found.feasible} nodes that could take it "
            f"({found.nodes} in all)"
        )
        ranked = [each for each in found.ranking if each.node == node]
        ranked += [each for each in found.ranking if each.node != node][: NODES_TOLD - 1]
        for each in ranked:
            scores = ", ".join(f"{name} {value}" for name, value in each.scores.items())
            yield Line(f"{each.node} {each.total}: {scores}", Tone.FAINT, depth=1)
    else:
        yield Line(f"the only one of {counted(found.nodes, 'node')} that could take it")
    yield from _rules(found, 3)
