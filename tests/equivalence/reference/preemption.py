"""Who would have to leave, and on which node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from navarch.api.types.core_v1 import Pod

from .plugin import NodeState, Rejection
from .selectors import matches, parsed

if TYPE_CHECKING:
    from .scheduler import Attempt

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"


@dataclass(frozen=True)
class Outcome:
    message: str = ""
    nominated: dict[str, frozenset[str]] = field(default_factory=dict)
    is_cleared: bool = False


@dataclass(frozen=True)
class Victims:
    """The most important first."""

    pods: tuple[Pod, ...]
    violations: int


def priority(pod: Pod) -> int:
    return pod.spec.priority or 0


def started(pod: Pod) -> str:
    """Whatever has not started counts as started now."""
    return pod.status.startTime or "9999-12-31T23:59:59Z"


def importance(pod: Pod) -> tuple[int, str]:
    return (-priority(pod), started(pod))


def preempt(attempt: Attempt) -> Outcome:
    from .scheduler import fit_error

    facts, pod = attempt.facts, attempt.facts.pod
    if pod.spec.preemptionPolicy == "Never":
        return Outcome("not eligible due to preemptionPolicy=Never.")
    nominated = pod.status.nominatedNodeName
    status = attempt.statuses.get(nominated)
    if nominated in facts.nodes and not (status is not None and status.code == "UU"):
        for other in facts.nodes[nominated].pods:
            if priority(other) < priority(pod) and is_preempted(other):
                text = "not eligible due to a terminating pod on the nominated node."
                return Outcome(text)
    candidates: dict[str, Victims] = {}
    statuses: dict[str, Rejection] = {}
    for name, state in facts.nodes.items():
        if attempt.statuses[name].code != "U":
            statuses[name] = Rejection("UU", (NOT_HELPFUL,))
            continue
        found = select_victims(attempt, state)
        if isinstance(found, Rejection):
            statuses[name] = found
        else:
            candidates[name] = found
    if not candidates:
        return Outcome(fit_error(len(facts.nodes), statuses), is_cleared=True)
    least = min(damage(each) for each in candidates.values())
    return Outcome(
        nominated={
            name: frozenset(pod.metadata.uid for pod in each.pods)
            for name, each in candidates.items()
            if damage(each) == least
        }
    )


def is_preempted(pod: Pod) -> bool:
    if not pod.metadata.deletionTimestamp:
        return False
    for condition in pod.status.conditions:
        if condition.type == "DisruptionTarget":
            return (condition.status, condition.reason) == ("True", "PreemptionByScheduler")
    return False


def select_victims(attempt: Attempt, original: NodeState) -> Victims | Rejection:
    pod = attempt.facts.pod
    state = original.copy()
    plugins = [plugin.clone() for plugin in attempt.plugins]
    potential = [other for other in state.pods if priority(other) < priority(pod)]

    def remove(other: Pod) -> None:
        state.pods = [each for each in state.pods if each is not other]
        for plugin in plugins:
            plugin.remove_pod(other, state)

    def add(other: Pod) -> None:
        state.pods.append(other)
        for plugin in plugins:
            plugin.add_pod(other, state)

    for other in potential:
        remove(other)
    if not potential:
        return Rejection("UU", (NO_VICTIMS,))
    rejection = attempt.check(state, plugins)
    if rejection is not None:
        return rejection
    potential.sort(key=importance)
    violating = violating_budgets(attempt, potential)
    victims = []
    violations = 0
    for is_violating in (True, False):
        for other in potential:
            if (other.metadata.uid in violating) != is_violating:
                continue
            add(other)
            if attempt.check(state, plugins) is not None:
                remove(other)
                victims.append(other)
                violations += is_violating
    victims.sort(key=importance)
    return Victims(tuple(victims), violations)


def violating_budgets(attempt: Attempt, pods: list[Pod]) -> set[str]:
    budgets = attempt.facts.world.budgets
    allowed = [budget.status.disruptionsAllowed for budget in budgets]
    result = set()
    for pod in pods:
        if not pod.metadata.labels:
            continue
        for number, budget in enumerate(budgets):
            selector = parsed(budget.spec.selector)
            if budget.metadata.namespace != pod.metadata.namespace or not selector:
                continue
            if not matches(selector, pod.metadata.labels):
                continue
            if pod.metadata.name in budget.status.disruptedPods:
                continue
            allowed[number] -= 1
            if allowed[number] < 0:
                result.add(pod.metadata.uid)
    return result


def damage(victims: Victims) -> tuple[int, int, int, int, tuple[int, ...]]:
    """The less, the better, the first differing number decides. The last is about the earliest
    start among the most important victims: the later, the better."""
    first = victims.pods[0]
    earliest = min(started(pod) for pod in victims.pods if priority(pod) == priority(first))
    return (
        victims.violations,
        priority(first),
        sum(priority(pod) + 2**31 for pod in victims.pods),
        len(victims.pods),
        tuple(-ord(letter) for letter in earliest),
    )
