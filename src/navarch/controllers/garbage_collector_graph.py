"""Who owns whom: the graph of all objects of the cluster, as the garbage collector sees it.

A node is an object, known by its uid; edges are owner references. An owner that is referred to but
was never seen gets a *virtual* node, which stands for "somebody says that this exists" until the
object is seen or the server says that there is none. Nothing here speaks to the server: changes go
in, and out come the uids of the nodes that have to be looked at (`look`), and the references that
point out of their namespace (`report`).

A reference names its owner by kind and name besides the uid. Where several dependents of one
virtual owner disagree on these, each claim is verified in turn; a false claim costs only those who
made it (upstream's `graph_builder.go`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from navarch.api.types.meta_v1 import OwnerReference

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
ABSENT_LIMIT = 500


class Identity(NamedTuple):
    """Which object: for an owner that was never seen, as its dependents say. Sorted by kind."""

    kind: str
    api_version: str
    namespace: str
    name: str
    uid: str

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        return (
            f"[{self.api_version}/{self.kind}, namespace: {self.namespace}, "
            f"name: {self.name}, uid: {self.uid}]"
        )


class Metadata(Protocol):
    """What of an object matters here."""

    uid: str
    name: str
    namespace: str
    ownerReferences: list[OwnerReference]
    finalizers: list[str]
    deletionTimestamp: str | None


_NOBODY: frozenset[Node] = frozenset()


@dataclass(slots=True, eq=False)
class Node:
    identity: Identity
    is_virtual: bool = False
    owners: Sequence[OwnerReference] = ()
    dependents: set[Node] | frozenset[Node] = _NOBODY
    """A set of its own only with the first: most objects own nothing."""
    is_deleting: bool = False
    is_foreground: bool = False
    """Deleted, and waiting for its blocking dependents to go."""
    is_orphaning: bool = False
    """Deleted, and waiting for its dependents to be let go."""
    looks: int = 0
    """How often it was looked at in vain."""

    def gain(self, dependent: Node) -> None:
        if not isinstance(self.dependents, set):
            self.dependents = set()
        self.dependents.add(dependent)

    def lose(self, dependent: Node) -> None:
        if isinstance(self.dependents, set):
            self.dependents.discard(dependent)

    def blocking_dependents(self) -> list[Node]:
        """Those that say that this one's deletion has to wait for theirs."""
        uid = self.identity.uid
        return [
            dependent
            for dependent in self.dependents
            if any(ref.uid == uid and ref.blockOwnerDeletion for ref in dependent.owners)
        ]


def claimed(reference: OwnerReference, namespace: str) -> Identity:
    """The owner as an object in `namespace` describes it."""
    return Identity(reference.kind, reference.apiVersion, namespace, reference.name, reference.uid)


def agrees(reference: OwnerReference, identity: Identity) -> bool:
    """Whether a reference describes that object, leaving the namespace aside."""
    return claimed(reference, identity.namespace) == identity


class Graph:
    """`look(uid)` is called for what needs a look, `report(dependent, reference)` for an owner that
    is in another namespace than its dependent."""

    def __init__(
        self, look: Callable[[str], None], report: Callable[[Node, OwnerReference], None]
    ) -> None:
        self._look = look
        self._report = report
        self.nodes: dict[str, Node] = {}
        self._absent: OrderedDict[Identity, None] = OrderedDict()

    def is_absent(self, identity: Identity) -> bool:
        """Whether the server has said that there is no such object. A uid is never used again, so
        this stays true."""
        return identity in self._absent

    def note_absent(self, identity: Identity) -> None:
        self._absent[identity] = None
        self._absent.move_to_end(identity)
        if len(self._absent) > ABSENT_LIMIT:
            self._absent.popitem(last=False)

    def observe(self, identity: Identity, metadata: Metadata) -> None:
        """An informer has shown the object, for the first time or changed."""
        node = self.nodes.get(identity.uid)
        owners = tuple(metadata.ownerReferences)
        if node is None:
            node = self.nodes[identity.uid] = Node(identity)
        elif node.is_virtual:
            self._reveal(node, identity)
        self._set_owners(node, owners)
        was_orphaning, was_foreground = node.is_orphaning, node.is_foreground
        node.is_deleting = bool(metadata.deletionTimestamp)
        node.is_orphaning = node.is_deleting and ORPHAN in metadata.finalizers
        node.is_foreground = node.is_deleting and FOREGROUND in metadata.finalizers
        if node.is_orphaning and not was_orphaning:
            self._look(identity.uid)
        elif node.is_foreground and not was_foreground:
            self._look_all(node.dependents)
            self._look(identity.uid)

    def _reveal(self, node: Node, identity: Identity) -> None:
        """A virtual node turns out to be real; those who described it wrongly are looked at."""
        node.is_virtual = False
        node.looks = 0
        if node.identity != identity:
            _, mistaken = self._divide(node.dependents, identity)
            node.identity = identity
            for dependent in mistaken:
                self._report_if_elsewhere(dependent, node)
            self._look_all(mistaken)

    def _set_owners(self, node: Node, owners: Sequence[OwnerReference]) -> None:
        before = {reference.uid: reference for reference in node.owners}
        after = {reference.uid: reference for reference in owners}
        node.owners = owners
        for uid, reference in before.items():
            now = after.get(uid)
            if reference.blockOwnerDeletion and not (now and now.blockOwnerDeletion):
                self._look_if_known(uid)
            if now is None and (owner := self.nodes.get(uid)) is not None:
                owner.lose(node)
        self._link(node, [after[uid] for uid in after if uid not in before])

    def _link(self, node: Node, references: Iterable[OwnerReference]) -> None:
        """Make the node a dependent of these owners. One that contradicts what is known of its
        owner is looked at: the references of all others are no longer its guarantee."""
        namespace = node.identity.namespace
        is_doubtful = False
        for reference in references:
            owner = self.nodes.get(reference.uid)
            if owner is None:
                owner = Node(claimed(reference, namespace), is_virtual=True)
                self.nodes[reference.uid] = owner
                owner.gain(node)
                self._look(reference.uid)
                continue
            owner.gain(node)
            self._report_if_elsewhere(node, owner)
            is_elsewhere = owner.identity.namespace != namespace and bool(
                owner.identity.namespace or owner.is_virtual
            )
            is_doubtful |= is_elsewhere or not agrees(reference, owner.identity)
        if is_doubtful:
            self._look(node.identity.uid)

    def _report_if_elsewhere(self, node: Node, owner: Node) -> None:
        if owner.is_virtual or owner.identity.namespace in ("", node.identity.namespace):
            return
        for reference in node.owners:
            if reference.uid == owner.identity.uid:
                self._report(node, reference)
                return

    def forget(self, uid: str) -> None:
        """An informer has shown that the object is gone."""
        node = self.nodes.get(uid)
        if node is not None:
            self._remove(node)

    def disprove(self, identity: Identity) -> None:
        """The server says that there is no such object (or another one of that name)."""
        node = self.nodes.get(identity.uid)
        if node is None:
            return
        believers, others = self._divide(node.dependents, identity)
        if node.is_virtual and others:
            self._disappoint(identity, believers)
            if node.identity == identity:
                node.identity = self._next_claim(others, identity)
                self._look(identity.uid)
        elif not node.is_virtual and node.identity != identity:
            self._disappoint(identity, believers)
        else:
            self._remove(node)

    def _disappoint(self, identity: Identity, believers: Sequence[Node]) -> None:
        if believers:
            self.note_absent(identity)
            self._look_all(believers)

    def _next_claim(self, dependents: Iterable[Node], disproved: Identity) -> Identity:
        """Another description of the same uid, all being tried in turn."""
        claims: set[Identity] = set()
        for dependent in dependents:
            for reference in dependent.owners:
                if reference.uid == disproved.uid:
                    claim = claimed(reference, dependent.identity.namespace)
                    same_kind = claim[:2] == disproved[:2]
                    if not disproved.namespace and same_kind:
                        claim = claim._replace(namespace="")
                    claims.add(claim)
        ordered = sorted(claims - {disproved})
        later = [claim for claim in ordered if claim > disproved]
        return (later or ordered or [disproved])[0]

    @staticmethod
    def _divide(dependents: Iterable[Node], identity: Identity) -> tuple[list[Node], list[Node]]:
        """Dependents whose references describe the owner like this, and those that do otherwise."""
        believers: list[Node] = []
        others: list[Node] = []
        for dependent in dependents:
            own = [ref for ref in dependent.owners if ref.uid == identity.uid]
            is_near = identity.namespace in ("", dependent.identity.namespace)
            right = [is_near and agrees(reference, identity) for reference in own]
            if any(right):
                believers.append(dependent)
            if not all(right):
                others.append(dependent)
        return believers, others

    def _remove(self, node: Node) -> None:
        del self.nodes[node.identity.uid]
        if node.dependents:
            self.note_absent(node.identity)
            self._look_all(node.dependents)
        for reference in node.owners:
            owner = self.nodes.get(reference.uid)
            if owner is not None:
                owner.lose(node)
                if owner.is_foreground:
                    self._look(reference.uid)
                elif owner.is_virtual and not owner.dependents:
                    # Nobody claims any more that it exists.
                    del self.nodes[reference.uid]

    def _look_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._look(node.identity.uid)

    def _look_if_known(self, uid: str) -> None:
        if uid in self.nodes:
            self._look(uid)
