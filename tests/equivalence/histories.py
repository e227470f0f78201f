"""Clusters to which something happens: what a scheduler keeps in mind must follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from navarch.api.objects import ApiStruct, copy_object, encode
from navarch.api.types.core_v1 import Node, Pod, PodCondition
from navarch.scheduler.cycle import Choice, Failure

from .compare import Pair
from .reference.world import World
from .strategies import namespaces, nodes, one, pod_labels, pods, services
from .worlds import worlds

DELETED = "2026-01-01T02:00:00Z"


@dataclass(frozen=True)
class Step:
    """Something that happens; `which` chooses among the objects that there are."""

    what: str
    which: int = 0
    value: Any = None

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        value = self.value
        if isinstance(value, (ApiStruct, list)):
            value = encode(value).decode()
        printer.text(f"\n{self.what} {self.which} {value}")


@dataclass(frozen=True)
class History:
    world: World
    steps: list[Step]


@st.composite
def steps(draw: st.DrawFn, number: int, focus: str) -> Step:
    what = draw(
        one(
            *("schedule", "schedule", "schedule", "pod", "pod", "node", "delete"),
            *("remove node", "relabel", "terminate", "finish", "namespaces", "services"),
        )
    )
    which = draw(st.integers(0, 7))
    match what:
        case "schedule":
            return Step(what, which, draw(st.booleans()))
        case "pod":
            places = draw(one([], [], ["n0", "n1", "n2"]))
            return Step(what, which, draw(pods(20 + number, focus, places)))
        case "node":
            return Step(what, which, draw(nodes(draw(one("n0", "n1", "n2", "n7", "n8")), focus)))
        case "relabel":
            return Step(what, which, draw(pod_labels))
        case "namespaces":
            return Step(what, which, draw(namespaces()))
        case "services":
            return Step(what, which, [draw(services(n)) for n in range(draw(st.integers(0, 2)))])
    return Step(what, which)


@st.composite
def histories(draw: st.DrawFn, focus: str) -> History:
    world = draw(worlds(focus, 4))
    count = draw(st.integers(2, 10))
    return History(world, [draw(steps(number, focus)) for number in range(count)])


def play(history: History, pods_first: bool = False) -> None:
    """Let it happen, and compare every decision."""
    source = history.world
    world = World(**{name: [*getattr(source, name)] for name in vars(source)})
    pair = Pair()
    for step in history.steps:
        if step.what == "schedule":
            schedule(pair, world, step, pods_first)
        else:
            HAPPENINGS[step.what](world, step)
            # What happens is seen one by one, as events come.
            pair.product.follow(world, pods_first=pods_first)
            pair.reference.order.follow(world.nodes)
    for pod in [pod for pod in world.pods if is_waiting(pod)]:
        pair.decide(world, pod, pods_first=pods_first)


def is_waiting(pod: Pod) -> bool:
    return not pod.spec.nodeName and not pod.metadata.deletionTimestamp


def schedule(pair: Pair, world: World, step: Step, pods_first: bool) -> None:
    waiting = [pod for pod in world.pods if is_waiting(pod)]
    if not waiting:
        return
    pod = waiting[step.which % len(waiting)]
    found = pair.decide(world, pod, pods_first=pods_first)
    changed = copy_object(pod)
    if isinstance(found, Choice):
        if step.value:
            pair.product.assume(pod, found.node)
        changed.spec.nodeName = found.node
        changed.status.nominatedNodeName = ""
        changed.status.startTime = f"2026-01-01T03:00:{len(world.pods):02d}Z"
    elif isinstance(found, Failure) and found.nominated is not None:
        changed.status.nominatedNodeName = found.nominated
        for victim in found.victims:
            gone = copy_object(next(p for p in world.pods if p.metadata.uid == victim.uid))
            gone.metadata.deletionTimestamp = gone.metadata.deletionTimestamp or DELETED
            target = PodCondition(type="DisruptionTarget", status="True")
            target.reason = "PreemptionByScheduler"
            gone.status.conditions = [target]
            replace(world, gone)
    replace(world, changed)


def replace(world: World, pod: Pod) -> None:
    world.pods = [pod if p.metadata.uid == pod.metadata.uid else p for p in world.pods]


def change_pod(change: Callable[[Pod, Step], None]) -> Callable[[World, Step], None]:
    """One that has a node."""

    def happen(world: World, step: Step) -> None:
        placed = [pod for pod in world.pods if pod.spec.nodeName]
        if placed:
            pod = copy_object(placed[step.which % len(placed)])
            change(pod, step)
            replace(world, pod)

    return happen


def add_pod(world: World, step: Step) -> None:
    world.pods.append(step.value)


def delete_pod(world: World, step: Step) -> None:
    if world.pods:
        del world.pods[step.which % len(world.pods)]


def set_node(world: World, step: Step) -> None:
    node: Node = step.value
    names = [each.metadata.name for each in world.nodes]
    if node.metadata.name in names:
        world.nodes[names.index(node.metadata.name)] = node
    else:
        world.nodes.append(node)


def remove_node(world: World, step: Step) -> None:
    if world.nodes:
        del world.nodes[step.which % len(world.nodes)]


def relabel(pod: Pod, step: Step) -> None:
    pod.metadata.labels = step.value


def terminate(pod: Pod, step: Step) -> None:
    pod.metadata.deletionTimestamp = DELETED


def finish(pod: Pod, step: Step) -> None:
    pod.status.phase = "Succeeded"


def set_namespaces(world: World, step: Step) -> None:
    world.namespaces = step.value


def set_services(world: World, step: Step) -> None:
    world.services = step.value


HAPPENINGS: dict[str, Callable[[World, Step], None]] = {
    "pod": add_pod,
    "delete": delete_pod,
    "node": set_node,
    "remove node": remove_node,
    "relabel": change_pod(relabel),
    "terminate": change_pod(terminate),
    "finish": change_pod(finish),
    "namespaces": set_namespaces,
    "services": set_services,
}
