"""Counting pods per node as they come and go.

Spreading and pod affinity ask the same question again and again: how many pods like this are on
each node? The answers are kept as arrays, one per distinct question, and each pod that comes or
goes changes them by one in one place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from navarch.api.selectors import LabelSelector
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import Kind, Namespaces, Term

Counts = NDArray[np.int64]
Wanted = tuple[tuple[frozenset[str] | None, LabelSelector], ...]
"""Pods that are in the namespaces (None: in any) and match the selector, for every such pair."""

QUESTIONS_KEPT = 512
ANSWERS_KEPT = 1024


@dataclass(slots=True)
class Group:
    """A term that pods on nodes have, with how many have it where."""

    term: Term
    kind: Kind
    weight: int
    counts: Counts
    total: int = 0
    answers: dict[Hashable, bool] = field(default_factory=dict)

    def matches(self, pod: PodInfo, namespaces: Namespaces) -> bool:
        if not self.term.covers(pod.namespace, namespaces):
            return False
        return _answer(self.answers, self.term.selector, pod)


@dataclass(slots=True)
class Question:
    """How many pods on each node are in these namespaces and match all selectors?"""

    wanted: Wanted
    skip_deleting: bool
    counts: Counts
    answers: dict[Hashable, bool] = field(default_factory=dict)

    def matches(self, pod: PodInfo) -> bool:
        if self.skip_deleting and pod.deleting:
            return False
        key = (pod.namespace, pod.labels_key)
        known = self.answers.get(key)
        if known is None:
            if len(self.answers) >= ANSWERS_KEPT:
                self.answers.clear()
            known = self.answers[key] = all(
                (names is None or pod.namespace in names) and selector.matches(pod.labels)
                for names, selector in self.wanted
            )
        return known


class PodCounts:
    """All questions and all terms of pods on nodes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._questions: OrderedDict[Hashable, Question] = OrderedDict()
        self._by_kind: dict[Kind, dict[Hashable, Group]] = {kind: {} for kind in Kind}

    def count(
        self,
        wanted: Wanted,
        placed: Iterable[tuple[PodInfo, int]],
        skip_deleting: bool = False,
    ) -> Counts:
        """The pods per slot that match; `placed` are all pods with their slots, which are looked
        through when the question is new. Not to be changed by the caller."""
        key = (wanted, skip_deleting)
        question = self._questions.get(key)
        if question is not None:
            self._questions.move_to_end(key)
            return question.counts
        if len(self._questions) >= QUESTIONS_KEPT:
            self._questions.popitem(last=False)
        question = Question(wanted, skip_deleting, np.zeros(self._size, np.int64))
        for pod, slot in placed:
            if question.matches(pod):
                question.counts[slot] += 1
        self._questions[key] = question
        return question.counts

    def groups(self, *kinds: Kind) -> Iterator[Group]:
        for kind in kinds:
            yield from self._by_kind[kind].values()

    def account(self, pod: PodInfo, slot: int, sign: int) -> None:
        """A pod came to a node (+1), or left it (-1)."""
        for question in self._questions.values():
            if question.matches(pod):
                question.counts[slot] += sign
        for kind, weight, term in pod.terms:
            key = (kind, weight, term.key)
            group = self._by_kind[kind].get(key)
            if group is None:
                group = Group(term, kind, weight, np.zeros(self._size, np.int64))
                self._by_kind[kind][key] = group
            group.counts[slot] += sign
            group.total += sign
            if not group.total:
                del self._by_kind[kind][key]

    def grow(self, more: int) -> None:
        self._size += more
        everything: list[Any] = [*self._questions.values(), *self.groups(*Kind)]
        for item in everything:
            item.counts = np.concatenate((item.counts, np.zeros(more, np.int64)))


def _answer(answers: dict[Hashable, bool], selector: LabelSelector, pod: PodInfo) -> bool:
    known = answers.get(pod.labels_key)
    if known is None:
        if len(answers) >= ANSWERS_KEPT:
            answers.clear()
        known = answers[pod.labels_key] = selector.matches(pod.labels)
    return known
