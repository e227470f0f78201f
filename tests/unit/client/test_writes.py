"""A controller waits until its informers show what it wrote."""

from __future__ import annotations

from typing import Any

from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Cache, FakeClock, Writes
from navarch.client.writes import TIMEOUT_SECONDS


class Shown:
    """As much of an informer as is looked at."""

    def __init__(self, version: str = "") -> None:
        self.resource_version = version
        self.cache: Cache[Pod] = Cache()


def pod(version: str = "", uid: str = "u", deleted: str | None = None) -> Pod:
    meta = ObjectMeta(name="p", namespace="a", uid=uid, resourceVersion=version)
    meta.deletionTimestamp = deleted
    return Pod(metadata=meta)


def test_a_write_is_seen_when_the_informer_has_come_to_its_version() -> None:
    writes, informer = Writes(FakeClock()), Shown("5")
    shown: Any = informer
    assert writes.are_seen("k")
    writes.wrote("k", shown, pod("9"))
    writes.wrote("k", shown, pod("7"))
    assert writes.are_pending("k")
    informer.resource_version = "8"
    assert not writes.are_seen("k")
    assert writes.are_seen("other")
    informer.resource_version = ""
    assert not writes.are_seen("k"), "it is about to list again"
    informer.resource_version = "12"
    assert writes.are_seen("k"), "also when the object itself came and went unseen"
    assert not writes.are_pending("k")


def test_a_deletion_is_seen_when_the_object_is_gone_or_going_or_another() -> None:
    for after in (None, pod(deleted="2026-01-01T00:00:00Z"), pod(uid="v")):
        writes, informer = Writes(FakeClock()), Shown("5")
        shown: Any = informer
        informer.cache.put("a/p", pod())
        writes.deleted("k", shown, pod())
        assert not writes.are_seen("k")
        informer.cache.remove("a/p")
        if after is not None:
            informer.cache.put("a/p", after)
        assert writes.are_seen("k")


def test_what_is_known_to_be_gone_must_not_even_linger() -> None:
    writes, informer = Writes(FakeClock()), Shown("5")
    shown: Any = informer
    informer.cache.put("a/p", pod(deleted="2026-01-01T00:00:00Z"))
    writes.deleted("k", shown, pod(), is_gone=True)
    assert not writes.are_seen("k")
    informer.cache.remove("a/p")
    assert writes.are_seen("k")


async def test_nobody_waits_for_ever_or_for_one_of_the_past() -> None:
    clock = FakeClock()
    writes, shown = Writes(clock), Shown("5")
    informer: Any = shown
    writes.wrote("k", informer, pod("9"))
    await clock.advance(TIMEOUT_SECONDS + 1)
    assert writes.are_seen("k")
    writes.wrote("k", informer, pod("9"))
    writes.forget("k")
    assert writes.are_seen("k")
