"""Affinity terms of pods: which other pods they want near them, or far from them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from navarch.api.objects import decode, encode
from navarch.api.selectors import NOTHING, LabelSelector, label_selector_from_object
from navarch.api.types import meta_v1
from navarch.api.types.core_v1 import PodAffinity, PodAffinityTerm, PodAntiAffinity

if TYPE_CHECKING:
    from navarch.scheduler.podinfo import PodInfo

Affinities = tuple[PodAffinity | None, PodAntiAffinity | None]
Namespaces = Mapping[str, Mapping[str, str]]
"""The labels of every namespace."""


def parse_selector(selector: meta_v1.LabelSelector | None) -> LabelSelector:
    """`label_selector_from_object`, remembering what it has read: pods of one owner have the same
    selectors."""
    return NOTHING if selector is None else _parsed(encode(selector))


@lru_cache(maxsize=2048)
def _parsed(data: bytes) -> LabelSelector:
    return label_selector_from_object(decode(meta_v1.LabelSelector, data))


@dataclass(frozen=True, slots=True)
class Term:
    """Pods with certain labels in certain namespaces, and the topology they are looked for in."""

    key: Hashable
    """Equal for equal terms."""
    topology_key: str
    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None = None

    def covers(self, namespace: str, namespaces: Namespaces) -> bool:
        """Whether pods of a namespace are meant."""
        if namespace in self.namespaces:
            return True
        selector = self.namespace_selector
        return selector is not None and selector.matches(namespaces.get(namespace))

    def resolved(self, namespaces: Namespaces) -> frozenset[str] | None:
        """The namespaces that are meant; None for all of them."""
        selector = self.namespace_selector
        if selector is None:
            return self.namespaces
        if selector.empty:
            return None
        chosen = (name for name, labels in namespaces.items() if selector.matches(labels))
        return self.namespaces.union(chosen)

    def matches(self, pod: PodInfo, namespaces: Namespaces) -> bool:
        return self.covers(pod.namespace, namespaces) and self.selector.matches(pod.labels)


def parse_term(term: PodAffinityTerm, namespace: str) -> Term:
    """An affinity term of a pod. Without namespaces and selector of namespaces the pod's own is
    meant. Keys of labels to be matched have been made part of the selector by the API server."""
    names = frozenset(term.namespaces)
    if not names and term.namespaceSelector is None:
        names = frozenset([namespace])
    selector = term.namespaceSelector
    return Term(
        (encode((term.labelSelector, selector)), names, term.topologyKey),
        term.topologyKey,
        parse_selector(term.labelSelector),
        names,
        None if selector is None else parse_selector(selector),
    )


class Kind(Enum):
    """What a pod that is on a node says about others."""

    REQUIRED = "required affinity"
    REQUIRED_ANTI = "required anti-affinity"
    PREFERRED = "preferred affinity"
    PREFERRED_ANTI = "preferred anti-affinity"


Placement = tuple[Kind, int, Term]
"""What a pod says about being near to others; the weight counts for preferences only."""


def terms_of(pod: PodInfo) -> tuple[Placement, ...]:
    """All terms of a pod, those of preferences without a weight left out."""
    affinity = pod.pod.spec.affinity
    if affinity is None or (affinity.podAffinity is None and affinity.podAntiAffinity is None):
        return ()
    return _terms_of(encode((affinity.podAffinity, affinity.podAntiAffinity)), pod.namespace)


@lru_cache(maxsize=2048)
def _terms_of(data: bytes, namespace: str) -> tuple[Placement, ...]:
    """Pods of one owner have the same terms."""
    near, apart = msgspec.json.decode(data, type=Affinities)
    return tuple(_terms(near, apart, namespace))


def _terms(
    near: PodAffinity | None, apart: PodAntiAffinity | None, namespace: str
) -> Iterator[Placement]:
    for source, required, preferred in (
        (near, Kind.REQUIRED, Kind.PREFERRED),
        (apart, Kind.REQUIRED_ANTI, Kind.PREFERRED_ANTI),
    ):
        if source is None:
            continue
        for term in source.requiredDuringSchedulingIgnoredDuringExecution:
            yield required, 1, parse_term(term, namespace)
        for weighted in source.preferredDuringSchedulingIgnoredDuringExecution:
            if weighted.weight:
                yield preferred, weighted.weight, parse_term(weighted.podAffinityTerm, namespace)
