"""From facts to the screen: the verdict first, then the chain from the owners to the last words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from navarch.cli.why import containers, nodes, owners, placement
from navarch.cli.why.facts import Facts, Owner
from navarch.cli.why.report import Line, Report, Section, State, Tone, Verdict
from navarch.cli.why.verdicts import verdict
from navarch.cli.why.words import counted

RANKED_TOLD = 10


def pod_report(facts: Facts) -> Report:
    found = verdict(facts)
    pod = facts.pod.metadata
    return Report(f"pod/{pod.name}", found, _sections(facts), _data(facts))


def owner_report(owner: Owner, chain: tuple[Owner, ...], facts: Facts, pods: int) -> Report:
    """Of the pods of an owner the worst is told of; if that one is fine, what the owner itself
    (or what it owns, `chain`) complains of."""
    found = verdict(facts)
    subject = f"{owner.kind} {owner.name}"
    assert owner.object is not None
    standing = owners.standing(owner.kind, owner.object, facts.now)
    begin = f"{subject}: {standing.text}"
    if found.state in (State.RUNNING, State.FINISHED):
        complaint = owners.why_no_pods(chain, facts.now) if standing.is_bad else None
        if complaint is not None and complaint.state is State.BROKEN:
            text = complaint.text.replace(" has no pods:", " has too few pods:", 1)
            found = Verdict(State.BROKEN, text, complaint.remedies)
        elif standing.is_bad:
            found = Verdict(State.NOT_READY, begin)
        else:
            found = Verdict(found.state, begin)
    else:
        of = f" (the worst of {counted(pods, 'pod')})" if pods > 1 else ""
        remedies = (*owners.remedies_of(standing.complaint), *found.remedies)
        found = Verdict(
            found.state,
            f"{begin.rstrip('.')}. {found.text[0].upper()}{found.text[1:]}{of}",
            remedies,
        )
    return Report(f"{owner.kind.lower()}/{owner.name}", found, _sections(facts), _data(facts))


def empty_report(owner: Owner, chain: tuple[Owner, ...], facts: Facts) -> Report:
    """An owner that has no pods. `facts` is only asked for the time."""
    lines = tuple(owners.lines_of(chain, facts.now))
    found = owners.why_no_pods(chain, facts.now)
    return Report(f"{owner.kind.lower()}/{owner.name}", found, (Section("OWNERS", lines),))


def _sections(facts: Facts) -> tuple[Section, ...]:
    chain = [*owners.lines_of(facts.owners, facts.now)]
    for budget in facts.budgets:
        told = owners.standing("PodDisruptionBudget", budget, facts.now)
        name = budget["metadata"]["name"]
        chain.append(Line(f"PodDisruptionBudget {name}: {told.text}", Tone.FAINT))
    if not facts.owners:
        chain.insert(0, Line("none: whoever made the pod has to make it again", Tone.FAINT))
    notes = tuple(Line(text, Tone.FAINT) for text in facts.notes)
    where = (*nodes.node_lines(facts), *nodes.event_lines(facts))
    return (
        Section("OWNERS", tuple(chain)),
        Section("PLACEMENT", placement.lines_of(facts)),
        Section("NODE AND EVENTS", where),
        Section("CONTAINERS", containers.lines_of(facts)),
        Section("NOT LOOKED AT", notes),
    )


def _data(facts: Facts) -> dict[str, Any]:
    pod, found = facts.pod, facts.explanation
    data: dict[str, Any] = {
        "namespace": pod.metadata.namespace,
        "pod": pod.metadata.name,
        "node": pod.spec.nodeName or None,
        "owners": [f"{each.kind}/{each.name}" for each in facts.owners],
        "placement": None,
    }
    if found is not None:
        data["placement"] = asdict(found)
        data["placement"]["ranking"] = data["placement"]["ranking"][:RANKED_TOLD]
    return data
