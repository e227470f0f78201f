"""The guard that lets a test fail which changes what is in a cache."""

from __future__ import annotations

from tests.caches import CacheGuard

from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Cache


def test_changes_in_place_are_told_also_of_what_has_gone(cache_guard: CacheGuard) -> None:
    cache: Cache[Pod] = Cache()
    pods = {name: Pod(metadata=ObjectMeta(name=name)) for name in ("gone", "kept", "right")}
    for name, pod in pods.items():
        cache.put(name, pod)
    pods["gone"].metadata.labels["a"] = "1"
    pods["kept"].spec.nodeName = "n1"
    cache.remove("gone")
    told = cache_guard.changed()
    assert [each.partition(":")[0] for each in told] == ["Pod gone", "Pod kept"]
    assert cache_guard.changed() == []
