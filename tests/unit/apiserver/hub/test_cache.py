"""The cache of one resource: order, selection, history and what watchers are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from navarch.apiserver.hub.cache import HISTORY_EVENTS, Cache, Expired
from navarch.apiserver.hub.change import Change
from navarch.apiserver.hub.entry import Entry, Facts, StoredKind, encode_stored, entry_of
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.hub.lookup import HubLookup
from navarch.apiserver.hub.watcher import Form, Selection, Watcher
from navarch.store.contract import KeyValue
from navarch.store.memory import open_memory_store

PODS = StoredKind("/registry/pods/", "v1", "Pod", True, ("spec.nodeName",), lambda obj: {})
TEXT = Form("text", lambda event, entry: f"{event} {entry.path}\n".encode(), lambda *_: b"mark\n")


def entry(path: str, revision: int, label: str = "", node: str = "") -> Entry:
    namespace, _, name = path.rpartition("/")
    tail = b'"metadata":{"resourceVersion":"%d","name":"x"}}' % revision
    return Entry(namespace, name, tail, Facts({"app": label}, (node,)), (revision, revision))


class Story:
    """Writes to a cache, one revision after the other."""

    def __init__(self) -> None:
        self.cache = Cache(PODS, "spec.nodeName")
        self.revision = 0

    def put(self, path: str, label: str = "", node: str = "") -> None:
        self.revision += 1
        new = entry(path, self.revision, label, node)
        self.cache.record(Change(self.revision, self.cache.put(new), new, 0.0))

    def remove(self, path: str) -> None:
        self.revision += 1
        namespace, _, name = path.rpartition("/")
        old = self.cache.remove(namespace, name, self.revision)
        self.cache.record(Change(self.revision, old, None, 0.0))

    def watch(self, selection: Selection, after: int | None = None) -> Watcher:
        watcher = Watcher(selection, TEXT, self.revision if after is None else after, False)
        self.cache.add_watcher(watcher)
        return watcher


async def told(watcher: Watcher) -> list[str]:
    watcher.finish()
    return (await watcher.take()).decode().split("\n")[:-1]


def labelled(value: str) -> Selection:
    return Selection(matches=lambda each: each.facts.labels["app"] == value)


async def test_labels_are_known_without_decoding() -> None:
    """What is stored of these objects has none: they are told from the facts."""
    story = Story()
    story.put("a/x", label="web")
    lookup = HubLookup(Hub(open_memory_store()), {"pods": story.cache}.get)
    assert lookup.labels("pods", "a", "x") == {"app": "web"}
    assert lookup.labels("pods", "a", "y") == lookup.labels("nodes", "", "x") == {}


def test_objects_come_in_the_order_of_their_keys() -> None:
    story = Story()
    for path in ("b/x", "a-b/x", "a/z", "a/b", "a/a"):
        story.put(path)
    story.remove("a/b")
    assert [each.path for each in story.cache.scan()] == ["a-b/x", "a/a", "a/z", "b/x"]
    assert [each.path for each in story.cache.scan(after="a/a")] == ["a/z", "b/x"]
    assert [each.path for each in story.cache.scan("a", "a/a")] == ["a/z"]
    assert [each.path for each in story.cache.scan("c")] == []


def test_pods_of_a_node_are_found_without_a_look_at_the_others() -> None:
    story = Story()
    for path in ("b/x", "a-b/x", "a/z", "a/b", "c/moved", "c/gone"):
        story.put(path, node="n1")
    story.put("a/other", node="n2")
    story.put("a/waits")
    story.put("c/moved", node="n2")
    story.put("a/z", "again", "n1")
    story.remove("c/gone")

    def found(namespace: str = "", after: str = "") -> list[str]:
        selection = Selection(namespace, indexed="n1")
        return [each.path for each in story.cache.snapshot(selection, after)]

    assert found() == ["a-b/x", "a/b", "a/z", "b/x"]
    assert found("a") == ["a/b", "a/z"]
    assert found(after="a/b") == ["a/z", "b/x"]
    assert story.cache.snapshot(Selection("a", indexed="n1"))[1].facts.labels == {"app": "again"}
    story.cache.reset()
    assert found() == []


async def test_whoever_listens_learns_what_was_missed() -> None:
    story = Story()
    for path in ("n/changed", "n/gone", "n/same"):
        story.put(path)
    same, watcher = story.cache.get("n", "same"), story.watch(Selection())
    heard: list[tuple[int, int]] = []
    story.cache.add_listener(
        lambda old, new: heard.append((old.revision if old else 0, new.revision if new else 0))
    )
    assert same is not None
    story.cache.fill([entry("n/changed", 5), entry("n/new", 6), same], 7)
    assert heard == [(1, 5), (0, 6), (2, 0)]
    assert [each.path for each in story.cache.scan()] == ["n/changed", "n/new", "n/same"]
    assert story.cache.get("n", "same") is same
    assert watcher.closed
    with pytest.raises(Expired):
        story.watch(Selection(), after=6)


async def test_an_object_that_stops_matching_is_deleted_for_the_watcher() -> None:
    story = Story()
    watcher = story.watch(labelled("red"))
    story.put("n/a", "red")
    story.put("n/a", "blue")
    story.put("n/a", "red")
    story.put("n/b", "blue")
    story.remove("n/a")
    assert await told(watcher) == ["ADDED n/a", "DELETED n/a", "ADDED n/a", "DELETED n/a"]


async def test_a_watch_from_the_past_misses_nothing() -> None:
    story = Story()
    for number in range(3):
        story.put(f"n/{number}")
    watcher = story.watch(Selection("n"), after=1)
    story.remove("n/0")
    assert await told(watcher) == ["ADDED n/1", "ADDED n/2", "DELETED n/0"]


async def test_a_watch_from_the_future_is_silent_until_then() -> None:
    story = Story()
    watcher = story.watch(Selection(), after=2)
    for number in range(3):
        story.put(f"n/{number}")
    assert await told(watcher) == ["ADDED n/2"]


async def test_watches_of_one_node_see_pods_come_and_go() -> None:
    story = Story()
    watchers = {
        node: story.watch(Selection(matches=_on(node), indexed=node)) for node in ("n1", "n2")
    }
    story.put("n/a")
    story.put("n/a", node="n1")
    story.put("n/a", node="n2")
    assert await told(watchers["n1"]) == ["ADDED n/a", "DELETED n/a"]
    assert await told(watchers["n2"]) == ["ADDED n/a"]


def _on(node: str) -> Callable[[Entry], bool]:
    return lambda each: each.facts.fields[0] == node


def test_history_is_bounded_and_says_so() -> None:
    story = Story()
    for _ in range(HISTORY_EVENTS + 5):
        story.put("n/a")
    with pytest.raises(Expired):
        story.watch(Selection(), after=4)
    story.watch(Selection(), after=5)
    story.cache.trim(now=10_000.0)
    assert not story.cache.history
    with pytest.raises(Expired):
        story.watch(Selection(), after=story.revision - 1)
    story.watch(Selection())


async def test_a_watcher_that_does_not_keep_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("navarch.apiserver.hub.watcher.MAX_PENDING_EVENTS", 2)
    story = Story()
    watcher = story.watch(Selection())
    for _ in range(3):
        story.put("n/a")
    assert watcher.closed
    assert await watcher.take() == b""


def test_the_deleted_object_carries_the_revision_of_its_deletion() -> None:
    obj = {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"}, "spec": {}}
    value = encode_stored(obj, PODS)
    old = entry_of(KeyValue("/registry/pods/n/a", value, 3, 4), PODS, None)
    assert old.decode(PODS)["metadata"]["resourceVersion"] == "4"
    gone = Change(9, old, None, 0.0).deleted_entry()
    assert gone.decode(PODS)["metadata"]["resourceVersion"] == "9"


def test_values_in_another_order_are_brought_into_ours() -> None:
    value = b'{"kind":"Pod","metadata":{"name":"a"},"apiVersion":"v1","spec":{"x":1}}'
    found = entry_of(KeyValue("/registry/pods/n/a", value, 1, 2), PODS, None)
    assert found.decode(PODS) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"resourceVersion": "2", "name": "a"},
        "spec": {"x": 1},
    }
