"""The ownership graph: what is looked at after which change."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from navarch.api.types.meta_v1 import OwnerReference
from navarch.controllers.garbage_collector import Owners, Verdict, judge, propagation
from navarch.controllers.garbage_collector_graph import (
    FOREGROUND,
    ORPHAN,
    Graph,
    Identity,
    Node,
)


@dataclass
class Meta:
    uid: str
    name: str = ""
    namespace: str = "default"
    ownerReferences: list[OwnerReference] = field(default_factory=list)
    finalizers: list[str] = field(default_factory=list)
    deletionTimestamp: str | None = None


class World:
    """A graph with names for uids; all objects are of the kind Thing."""

    def __init__(self) -> None:
        self.looked: list[str] = []
        self.reported: list[tuple[str, str]] = []
        self.graph = Graph(self.looked.append, self._report)

    def _report(self, node: Node, reference: OwnerReference) -> None:
        self.reported.append((node.identity.uid, reference.uid))

    def see(
        self,
        uid: str,
        *owners: OwnerReference,
        namespace: str = "default",
        kind: str = "Thing",
        finalizers: tuple[str, ...] = (),
        deleted: bool = False,
    ) -> list[str]:
        """What is looked at when the object is shown like this."""
        self.looked.clear()
        identity = Identity(kind, "v1", namespace, uid, uid)
        stamp = "2026-01-01T00:00:00Z" if deleted else None
        meta = Meta(uid, uid, namespace, [*owners], [*finalizers], stamp)
        self.graph.observe(identity, meta)
        return sorted(self.looked)

    def lose(self, uid: str) -> list[str]:
        self.looked.clear()
        self.graph.forget(uid)
        return sorted(self.looked)

    def disprove(self, uid: str, **claim: str) -> list[str]:
        self.looked.clear()
        known = {"kind": "Thing", "api_version": "v1", "namespace": "default", "name": uid}
        self.graph.disprove(Identity(**{**known, **claim}, uid=uid))
        return sorted(self.looked)


def ref(uid: str, blocks: bool = False, kind: str = "Thing", name: str = "") -> OwnerReference:
    return OwnerReference(
        apiVersion="v1",
        kind=kind,
        name=name or uid,
        uid=uid,
        blockOwnerDeletion=blocks or None,
    )


@pytest.fixture
def world() -> World:
    return World()


def test_an_owner_that_is_known_needs_no_look(world: World) -> None:
    assert world.see("owner") == []
    assert world.see("child", ref("owner")) == []


def test_an_unknown_owner_is_looked_for(world: World) -> None:
    assert world.see("child", ref("owner")) == ["owner"]
    assert world.graph.nodes["owner"].is_virtual
    assert world.see("owner") == []
    assert not world.graph.nodes["owner"].is_virtual


def test_when_an_owner_goes_its_dependents_are_looked_at(world: World) -> None:
    world.see("owner")
    world.see("one", ref("owner"))
    world.see("two", ref("owner"))
    assert world.lose("owner") == ["one", "two"]
    assert world.graph.is_absent(Identity("Thing", "v1", "default", "owner", "owner"))


def test_an_owner_that_does_not_exist_is_forgotten(world: World) -> None:
    world.see("child", ref("owner"))
    assert world.disprove("owner") == ["child"]
    assert "owner" not in world.graph.nodes


def test_a_virtual_owner_goes_with_its_last_dependent(world: World) -> None:
    world.see("child", ref("owner"))
    world.lose("child")
    assert not world.graph.nodes


def test_foreground_deletion_looks_at_owner_and_dependents_once(world: World) -> None:
    world.see("owner")
    world.see("child", ref("owner", blocks=True))
    assert world.see("owner", finalizers=(FOREGROUND,), deleted=True) == ["child", "owner"]
    assert world.see("owner", finalizers=(FOREGROUND,), deleted=True) == []
    assert [n.identity.uid for n in world.graph.nodes["owner"].blocking_dependents()] == ["child"]
    assert world.lose("child") == ["owner"]


def test_a_finalizer_without_deletion_means_nothing(world: World) -> None:
    assert world.see("owner", finalizers=(FOREGROUND, ORPHAN)) == []


def test_orphaning_looks_at_the_owner_only(world: World) -> None:
    world.see("owner")
    world.see("child", ref("owner"))
    assert world.see("owner", finalizers=(ORPHAN,), deleted=True) == ["owner"]


def test_an_owner_is_looked_at_when_a_dependent_stops_blocking_it(world: World) -> None:
    world.see("owner")
    world.see("child", ref("owner", blocks=True))
    assert world.see("child", ref("owner")) == ["owner"]
    world.see("child", ref("owner", blocks=True))
    assert world.see("child") == ["owner"]
    assert not world.graph.nodes["owner"].dependents


def test_an_owner_elsewhere_is_reported_and_the_dependent_looked_at(world: World) -> None:
    world.see("owner", namespace="other")
    assert world.see("child", ref("owner")) == ["child"]
    assert world.reported == [("child", "owner")]


def test_the_same_when_the_owner_is_seen_later(world: World) -> None:
    world.see("child", ref("owner"))
    assert world.see("owner", namespace="other") == ["child"]
    assert world.reported == [("child", "owner")]


def test_cluster_scoped_owners_are_near_to_all(world: World) -> None:
    world.see("owner", namespace="")
    assert world.see("child", ref("owner")) == []
    assert world.reported == []


def test_a_wrong_description_costs_only_who_made_it(world: World) -> None:
    world.see("owner")
    world.see("honest", ref("owner"))
    assert world.see("liar", ref("owner", name="other")) == ["liar"]
    assert world.disprove("owner", name="other") == ["liar"]
    assert "owner" in world.graph.nodes


def test_claims_about_an_unseen_owner_are_tried_in_turn(world: World) -> None:
    world.see("one", ref("owner", name="a"))
    world.see("two", ref("owner", name="b"))
    assert world.disprove("owner", name="a") == ["one", "owner"]
    assert world.graph.nodes["owner"].identity.name == "b"
    assert world.disprove("owner", name="b") == ["owner", "two"]
    world.lose("one")
    assert world.disprove("owner", name="b") == ["two"]
    assert "owner" not in world.graph.nodes


@pytest.mark.parametrize(
    ("solid", "dangling", "waiting", "has_dependents", "verdict"),
    [
        (1, 0, 0, True, Verdict.KEEP),
        (1, 1, 0, True, Verdict.TRIM),
        (1, 0, 1, True, Verdict.TRIM),
        (0, 1, 0, True, Verdict.DELETE),
        (0, 1, 1, True, Verdict.FOREGROUND),
        (0, 0, 1, False, Verdict.DELETE),
    ],
)
def test_verdicts(
    solid: int, dangling: int, waiting: int, has_dependents: bool, verdict: Verdict
) -> None:
    owners = Owners([ref("s")] * solid, [ref("d")] * dangling, [ref("w")] * waiting)
    assert judge(owners, has_dependents) is verdict


@pytest.mark.parametrize(
    ("finalizers", "policy"),
    [([], "Background"), ([FOREGROUND], "Foreground"), ([FOREGROUND, ORPHAN], "Orphan")],
)
def test_propagation(finalizers: list[str], policy: str) -> None:
    assert propagation(finalizers) == policy
