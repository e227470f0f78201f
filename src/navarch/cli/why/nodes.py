"""The node of a pod: how it is, and what it (and others) told of the pod."""

from __future__ import annotations

from collections.abc import Iterator

from navarch.api.types.core_v1 import Node
from navarch.cli.why.facts import Facts, condition
from navarch.cli.why.report import Line, Tone
from navarch.cli.why.words import Happening, ago, counted, shortened, since

EVENTS_TOLD = 8
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")


def node_lines(facts: Facts) -> Iterator[Line]:
    name = facts.pod.spec.nodeName
    if not name or not facts.node_known:
        return
    if facts.node is None:
        yield Line(f"node {name} does not exist (any more)", Tone.BAD)
        return
    ready = condition(facts.node, "Ready")
    if ready is None:
        yield Line(f"{name}: has never told how it is", Tone.BAD)
    elif ready[0] == "True":
        yield Line(f"{name}: Ready {since(ready[3], facts.now)}{_further(facts.node)}")
    else:
        state = "does not answer" if ready[0] == "Unknown" else "NotReady"
        text = f"{name}: {state} {since(ready[3], facts.now)} ({shortened(ready[2] or ready[1])})"
        yield Line(text + _further(facts.node), Tone.BAD)
    for kind in PRESSURES:
        found = condition(facts.node, kind)
        if found is not None and found[0] == "True":
            text = f"{kind} {since(found[3], facts.now)}: {shortened(found[2])}"
            yield Line(text, Tone.BAD, depth=1)


def _further(node: Node) -> str:
    texts = ["cordoned"] if node.spec.unschedulable else []
    if node.metadata.deletionTimestamp:
        texts.append("being deleted")
    taints = [f"{t.key}:{t.effect}" for t in node.spec.taints if t.effect == "NoExecute"]
    if taints:
        texts.append(f"taints {', '.join(taints)}")
    return f", {', '.join(texts)}" if texts else ""


def _is_told(each: Happening, scheduled: str) -> bool:
    """Whether it says nothing that is not said elsewhere."""
    if each.reason == "FailedScheduling":
        return each.message == scheduled
    return each.reason == "Failed" and each.message.startswith(("Error: ErrImage", "Error: Image"))


def event_lines(facts: Facts) -> Iterator[Line]:
    """In the order of time; what repeats itself is told once."""
    told = condition(facts.pod, "PodScheduled")
    found = [each for each in facts.happenings if not _is_told(each, told[2] if told else "")]
    if len(found) > EVENTS_TOLD:
        yield Line(f"… {counted(len(found) - EVENTS_TOLD, 'earlier kind')} of events", Tone.FAINT)
    for each in found[-EVENTS_TOLD:]:
        when = ago(each.last.isoformat(), facts.now)
        times = ""
        if each.count > 1:
            times = f" {each.count} times since {ago(each.first.isoformat(), facts.now)},"
        part = f" [{each.part}]" if each.part else ""
        text = f"{when}:{times} {each.reason}{part}: {shortened(each.message, 240)}"
        yield Line(text, Tone.BAD if each.is_warning else Tone.PLAIN)
