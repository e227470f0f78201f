"""Who is woken by what, and when: the part that all controllers of pods share."""

from __future__ import annotations

from typing import Any

from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import LabelSelector, ObjectMeta, OwnerReference
from navarch.client import Client, ClientConfig, ControllerContext, FakeClock, InformerFactory
from navarch.client.objects import WatchEvent
from navarch.controllers.pods import LONGEST_PAUSE, PACE_SECONDS
from navarch.controllers.replicaset import ReplicaSetController

LABELS = {"app": "web"}


class Stage:
    """A controller whose informers are told what to show."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        client = Client(ClientConfig("http://nowhere.example"), clock=self.clock)
        context = ControllerContext(client, InformerFactory(client), self.clock)
        self.controller = ReplicaSetController(context)
        self._version = 0

    def show(self, kind: str, obj: Any) -> None:
        self._version += 1
        obj.metadata.resourceVersion = str(self._version)
        of_pods = isinstance(obj, Pod)
        informer: Any = self.controller.pods if of_pods else self.controller.owners
        informer._handle(WatchEvent(kind, obj))

    def woken(self) -> int:
        """How many keys wait; they are taken out."""
        queue = self.controller.queue
        count = len(queue)
        while len(queue):
            key = queue._ready.popleft()
            queue._dirty.pop(key)
        return count


def owner(uid: str = "u") -> ReplicaSet:
    return ReplicaSet(
        metadata=ObjectMeta(name="web", namespace="a", uid=uid),
        spec=ReplicaSetSpec(selector=LabelSelector(matchLabels=LABELS)),
    )


def pod(name: str = "p", uid: str = "u", kind: str = "ReplicaSet", **labels: str) -> Pod:
    reference = OwnerReference(kind=kind, name="web", uid=uid, controller=True)
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="a",
            uid=name,
            labels=labels or LABELS,
            ownerReferences=[reference] if uid else [],
        )
    )


def test_a_pod_wakes_its_owner_and_nobody_else() -> None:
    stage = Stage()
    stage.show("ADDED", owner())
    assert stage.woken() == 1
    stage.show("ADDED", pod("mine"))
    assert stage.woken() == 1
    stage.show("ADDED", pod("of the past", "v"))
    stage.show("ADDED", pod("of another kind", "u", "StatefulSet"))
    assert stage.woken() == 0
    stage.show("DELETED", pod("mine"))
    assert stage.woken() == 1


def test_an_orphan_wakes_whoever_could_adopt_it_when_its_labels_change() -> None:
    stage = Stage()
    stage.show("ADDED", owner())
    stage.woken()
    stage.show("ADDED", pod("p", ""))
    assert stage.woken() == 1
    stage.show("MODIFIED", pod("p", ""))
    assert stage.woken() == 0, "a heartbeat of its node, say"
    stage.show("MODIFIED", pod("p", "", app="web", more="x"))
    assert stage.woken() == 1
    leaving = pod("q", "")
    leaving.metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    stage.show("ADDED", leaving)
    assert stage.woken() == 0
    stage.show("DELETED", pod("p", ""))
    assert stage.woken() == 0


async def test_the_more_pods_the_longer_their_events_are_gathered() -> None:
    stage = Stage()
    stage.show("ADDED", owner())
    stage.woken()
    stage.controller.set_size("a/web", 1000)
    stage.show("ADDED", pod("p"))
    stage.show("ADDED", pod("q"))
    assert stage.woken() == 0
    await stage.clock.advance(1000 * PACE_SECONDS + 0.001)
    assert stage.woken() == 1
    stage.controller.set_size("a/web", 10**9)
    stage.show("ADDED", pod("r"))
    await stage.clock.advance(LONGEST_PAUSE + 0.001)
    assert stage.woken() == 1


def test_who_waits_for_own_writes_is_woken_at_once() -> None:
    stage = Stage()
    stage.show("ADDED", owner())
    stage.woken()
    controller = stage.controller
    controller.set_size("a/web", 5000)
    made = pod("p")
    made.metadata.resourceVersion = "2"
    controller.writes.wrote("a/web", controller.pods, made)
    assert controller.is_behind("a/web")
    stage.show("ADDED", made)
    assert stage.woken() == 1
    assert not controller.is_behind("a/web")
    stage.show("MODIFIED", pod("p"))
    assert stage.woken() == 0


def test_what_one_controls_is_found_without_looking_at_the_rest() -> None:
    stage = Stage()
    mine = owner()
    stage.show("ADDED", mine)
    for name, uid in (("mine", "u"), ("stray", ""), ("other", "v")):
        stage.show("ADDED", pod(name, uid))
    elsewhere = pod("far", "")
    elsewhere.metadata.namespace = "b"
    stage.show("ADDED", elsewhere)
    found = stage.controller.dependents(stage.controller.pods, mine)
    assert [each.metadata.name for each in found] == ["mine", "stray"]
