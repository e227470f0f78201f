"""A `Lookup` over objects in memory: what the watch caches are to the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from navarch.apiserver.contracts import Object

Callback = Callable[[Object | None, Object | None], None]


class MemoryLookup:
    """Objects by resource, namespace and name; every change is told to subscribers at once."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._callbacks: dict[str, list[Callback]] = {}

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def labels(self, resource: str, namespace: str, name: str) -> Mapping[str, str]:
        obj = self.get(resource, namespace, name) or {"metadata": {}}
        return obj["metadata"].get("labels") or {}

    def list(self, resource: str, namespace: str = "") -> Iterable[Object]:
        for (held_in, _), obj in self._objects.get(resource, {}).items():
            if not namespace or held_in == namespace:
                yield obj

    def subscribe(self, resource: str, callback: Callback) -> None:
        self._callbacks.setdefault(resource, []).append(callback)
        for obj in self._objects.get(resource, {}).values():
            callback(None, obj)

    def follow(self, resource: str, callback: Callable[[str, str, Object | None], None]) -> None:
        def tell(old: Object | None, new: Object | None) -> None:
            metadata = (new or old or {})["metadata"]
            callback(metadata.get("namespace", ""), metadata["name"], new)

        self.subscribe(resource, tell)

    def put(self, resource: str, obj: Object) -> Object:
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        held = self._objects.setdefault(resource, {})
        old, held[key] = held.get(key), obj
        self._tell(resource, old, obj)
        return obj

    def remove(self, resource: str, namespace: str, name: str) -> None:
        self._tell(resource, self._objects[resource].pop((namespace, name)), None)

    def _tell(self, resource: str, old: Object | None, new: Object | None) -> None:
        for callback in self._callbacks.get(resource, ()):
            callback(old, new)
