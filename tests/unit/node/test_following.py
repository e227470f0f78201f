"""Which objects are watched for which pods, and who is told of a change."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest import mock

import pytest
from tests.unit.node.builders import make_pod

from navarch.api.types.core_v1 import ConfigMap, PersistentVolumeClaim, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.clock import FakeClock
from navarch.node import following
from navarch.node.following import Follower, mounted_objects
from navarch.node.objects import CLAIMS, ROOT_CERTIFICATES, ApiObjects, Reference


def config_map(name: str) -> dict[str, Any]:
    return {"name": name, "configMap": {"name": name}}


def pod(uid: str, *volumes: dict[str, Any], **metadata: Any) -> Pod:
    return make_pod(metadata={"uid": uid, **metadata}, volumes=list(volumes))


def reference(name: str, plural: str = "configmaps") -> Reference:
    return Reference(plural, "default", name)


def test_what_is_mounted() -> None:
    sources = [
        {"configMap": {"name": "a"}},
        {"secret": {"name": "b"}},
        {"configMap": {"name": "kube-root-ca.crt"}},
        {"serviceAccountToken": {"path": "t"}},
    ]
    volumes = [
        {"name": "all", "projected": {"sources": sources}},
        {"name": "c", "secret": {"secretName": "c"}},
        {"name": "d", "emptyDir": {}},
        {"name": "e", "persistentVolumeClaim": {"claimName": "e"}},
        {"name": "f", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
    ]
    expected = {
        reference("a"),
        reference("b", "secrets"),
        reference("c", "secrets"),
        reference("e", CLAIMS),
        reference("web-f", CLAIMS),
    }
    assert mounted_objects(pod("1", *volumes)) == expected
    ended = pod("1", *volumes)
    ended.status.phase = "Succeeded"
    assert not mounted_objects(ended)
    assert not mounted_objects(pod("1", *volumes, deletionTimestamp="2026-01-01T00:00:00Z"))


class Server:
    """An API server with ConfigMaps of one version each."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.clock = FakeClock()

    def resource(self, kind: type) -> Server:
        return self

    async def patch(self, name: str, namespace: str, *change: Any, **how: Any) -> Any:
        return PersistentVolumeClaim(metadata=ObjectMeta(name=name, resourceVersion="patched"))

    async def find(self, name: str, namespace: str) -> ConfigMap | None:
        if name not in self.versions:
            return None
        version = self.versions[name]
        return ConfigMap(
            metadata=ObjectMeta(name=name, namespace=namespace, resourceVersion=version)
        )


class Watches(Follower):
    """A follower whose watches only say that they are there."""

    def __init__(self, objects: ApiObjects) -> None:
        self.told: list[str] = []
        self.watched: list[str] = []
        super().__init__(cast("Client", None), objects, self.told.append)

    async def _watch(self, reference: Reference) -> None:
        self.watched.append(reference.name)
        try:
            await asyncio.Event().wait()
        finally:
            self.watched.remove(reference.name)

    def tell(self, name: str, version: str, plural: str = "configmaps") -> list[str]:
        self.told.clear()
        self._told(reference(name, plural), version)
        return sorted(self.told)


async def test_watches_are_shared_limited_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WATCH_LIMIT", 2)
    server = Server(a="1")
    follower = Watches(ApiObjects(cast("Client", server), server.clock))
    one, two = pod("1", config_map("a"), config_map("b")), pod("2", config_map("a"))
    follower.follow(one)
    task = asyncio.create_task(follower.run())
    await server.clock.settle()
    follower.follow(two)
    follower.follow(pod("3", config_map("c")))
    await server.clock.settle()
    assert sorted(follower.watched) == ["a", "b"], "the third has no room"
    follower.forget(one)
    await server.clock.settle()
    assert sorted(follower.watched) == ["a", "c"]
    two.status.phase = "Failed"
    follower.follow(two)
    await server.clock.settle()
    assert follower.watched == ["c"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert follower.watched == []


async def test_only_who_has_an_old_version_is_told() -> None:
    server = Server(a="1")
    objects = ApiObjects(cast("Client", server), server.clock)
    follower = Watches(objects)
    for uid in ("1", "2"):
        follower.follow(pod(uid, config_map("a"), config_map("none")))
    assert follower.tell("a", "1") == [], "nobody has read it yet"
    await objects.config_map("default", "a")
    assert await objects.config_map("default", "none") is None
    assert follower.tell("a", "1") == []
    server.versions["a"] = "2"
    shared = await objects.config_map("default", "a", fresh=False)
    assert shared is not None and shared.metadata.resourceVersion == "1"
    assert follower.tell("a", "2") == ["1", "2"]
    read = await objects.config_map("default", "a", fresh=False)
    assert read is not None and read.metadata.resourceVersion == "2", "the old one is not shared"
    assert follower.tell("a", "2") == []
    assert follower.tell("a", "") == ["1", "2"], "it is gone"
    assert follower.tell("none", "5") == ["1", "2"], "it has come"


async def test_changes_of_claims_are_told_but_not_the_agents_own() -> None:
    server = Server(data="1")
    objects = ApiObjects(cast("Client", server), server.clock)
    follower = Watches(objects)
    follower.follow(pod("1", {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}))
    claim = await objects.claim("default", "data")
    assert claim is not None
    assert follower.tell("data", "1", CLAIMS) == []
    assert follower.tell("data", "2", CLAIMS) == ["1"], "it has been bound"
    await objects.change_claim(claim, {})
    assert follower.tell("data", "patched", CLAIMS) == []


async def test_a_crowd_reads_the_root_certificates_once() -> None:
    server = Server(**{ROOT_CERTIFICATES: "1", "own": "1"})
    objects = ApiObjects(cast("Client", server), server.clock)
    for name, reads in ((ROOT_CERTIFICATES, 1), ("own", 3)):
        with mock.patch.object(server, "find", wraps=server.find) as find:
            found = await asyncio.gather(*(objects.config_map("default", name) for _ in range(3)))
        assert all(each is not None for each in found) and find.call_count == reads
