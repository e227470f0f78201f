"""Counting pods per node and per domain of a topology, as they come and go.

Spreading and pod affinity ask the same question again and again: how many pods like this are on
each node, in each zone? The answers are kept as arrays, one per distinct question, and each pod
that comes or goes changes them by one in one place.

Whether a pod matters to a question is decided once per set of labels, not once per pod: pods come
from few templates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from navarch.api.selectors import LabelSelector
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import Kind, Namespaces, Term

Counts = NDArray[np.int64]
Wanted = tuple[tuple[frozenset[str] | None, LabelSelector], ...]
"""Pods that are in the namespaces (None: in any) and match the selector, for every such pair."""

QUESTIONS_KEPT = 512
LABELS_KEPT = 4096


@dataclass(eq=False, slots=True)
class Tally:
    """How many of certain pods each slot has."""

    counts: Counts


@dataclass(eq=False, slots=True)
class Group(Tally):
    """A term that pods on nodes have, with how many have it where."""

    term: Term
    kind: Kind
    weight: int
    total: int = 0


@dataclass(eq=False, slots=True)
class Question(Tally):
    """How many pods on each node are in these namespaces and match all selectors?"""

    wanted: Wanted
    skip_deleting: bool

    def matches(self, pod: PodInfo) -> bool:
        return all(
            (names is None or pod.namespace in names) and selector.matches(pod.labels)
            for names, selector in self.wanted
        )


@dataclass(eq=False, slots=True)
class Sums:
    """A tally summed over the nodes of each domain, by the domain's number. The last place, where
    number -1 leads, stands for nodes without the label and stays zero."""

    values: Counts
    column: Counts
    where: NDArray[np.bool_]
    """The nodes that count."""

    def add(self, slot: int, sign: int) -> None:
        number = self.column[slot]
        if number >= 0 and self.where[slot]:
            self.values[number] += sign


class PodCounts:
    """All questions and all terms of pods on nodes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._questions: OrderedDict[Hashable, Question] = OrderedDict()
        self._by_kind: dict[Kind, dict[Hashable, Group]] = {kind: {} for kind in Kind}
        self._sums: dict[Tally, dict[Hashable, Sums]] = {}
        self._asking: dict[Hashable, list[Question]] = {}
        """The questions that pods of a namespace with certain labels matter to."""
        self._meaning: dict[Hashable, list[Group]] = {}
        """The groups whose selector matches certain labels."""

    def tally(
        self, wanted: Wanted, placed: Iterable[tuple[PodInfo, int]], skip_deleting: bool = False
    ) -> Tally:
        """The pods per slot that match; `placed` are all pods with their slots, which are looked
        through when the question is new. Not to be changed by the caller."""
        key = (wanted, skip_deleting)
        question = self._questions.get(key)
        if question is not None:
            self._questions.move_to_end(key)
            return question
        if len(self._questions) >= QUESTIONS_KEPT:
            _, forgotten = self._questions.popitem(last=False)
            self._sums.pop(forgotten, None)
        question = Question(np.zeros(self._size, np.int64), wanted, skip_deleting)
        answers: dict[Hashable, bool] = {}
        for pod, slot in placed:
            labels = (pod.namespace, pod.labels_key)
            answer = answers.get(labels)
            if answer is None:
                answer = answers[labels] = question.matches(pod)
            if answer and not (skip_deleting and pod.deleting):
                question.counts[slot] += 1
        self._questions[key] = question
        self._asking.clear()
        return question

    def sums(self, tally: Tally, key: Hashable, compute: Callable[[], Sums]) -> Counts:
        """A tally summed up, kept up to date from then on; computed anew after a node changed. The
        key tells topology and chosen nodes. Not to be changed by the caller."""
        kept = self._sums.setdefault(tally, {})
        found = kept.get(key)
        if found is None:
            found = kept[key] = compute()
        return found.values

    def nodes_changed(self) -> None:
        self._sums.clear()

    def groups(self, *kinds: Kind) -> Iterator[Group]:
        for kind in kinds:
            yield from self._by_kind[kind].values()

    def groups_about(self, pod: PodInfo, namespaces: Namespaces) -> list[Group]:
        """The groups whose term means this pod."""
        found = self._meaning.get(pod.labels_key)
        if found is None:
            if len(self._meaning) >= LABELS_KEPT:
                self._meaning.clear()
            matching = (g for g in self.groups(*Kind) if g.term.selector.matches(pod.labels))
            found = self._meaning[pod.labels_key] = list(matching)
        return [group for group in found if group.term.covers(pod.namespace, namespaces)]

    def account(self, pod: PodInfo, slot: int, sign: int) -> None:
        """A pod came to a node (+1), or left it (-1)."""
        for question in self._concerned(pod):
            if not (question.skip_deleting and pod.deleting):
                self._add(question, slot, sign)
        for kind, weight, term in pod.terms:
            key = (kind, weight, term.key)
            group = self._by_kind[kind].get(key)
            if group is None:
                group = Group(np.zeros(self._size, np.int64), term, kind, weight)
                self._by_kind[kind][key] = group
                self._meaning.clear()
            self._add(group, slot, sign)
            group.total += sign
            if not group.total:
                del self._by_kind[kind][key]
                self._sums.pop(group, None)
                self._meaning.clear()

    def grow(self, more: int) -> None:
        self._size += more
        self._sums.clear()
        for tally in [*self._questions.values(), *self.groups(*Kind)]:
            tally.counts = np.concatenate((tally.counts, np.zeros(more, np.int64)))

    def _concerned(self, pod: PodInfo) -> list[Question]:
        key = (pod.namespace, pod.labels_key)
        found = self._asking.get(key)
        if found is None:
            if len(self._asking) >= LABELS_KEPT:
                self._asking.clear()
            found = self._asking[key] = [q for q in self._questions.values() if q.matches(pod)]
        return found

    def _add(self, tally: Tally, slot: int, sign: int) -> None:
        tally.counts[slot] += sign
        for sums in self._sums.get(tally, {}).values():
            sums.add(slot, sign)
