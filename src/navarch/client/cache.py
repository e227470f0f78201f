"""The objects an informer knows, by key and by index. Objects in it are shared: never change them,
take `copy_object` first."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, KeysView
from typing import Generic, TypeVar

from navarch.client.objects import split_key

T = TypeVar("T")

IndexFunction = Callable[[T], Iterable[str]]


class Cache(Generic[T]):
    """Readers use `get`, `list`, `by_index` and `keys`; only the informer writes."""

    def __init__(self) -> None:
        self._objects: dict[str, T] = {}
        self._functions: dict[str, IndexFunction[T]] = {}
        self._indexes: dict[str, dict[str, dict[str, T]]] = {}
        self._namespaces: dict[str, dict[str, T]] | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: str) -> T | None:
        """The object with the key `namespace/name` (or just the name, without a namespace)."""
        return self._objects.get(key)

    def keys(self) -> KeysView[str]:
        return self._objects.keys()

    def list(self, namespace: str = "") -> builtins.list[T]:
        """All objects, or those of one namespace, in no particular order."""
        if not namespace:
            return [*self._objects.values()]
        if self._namespaces is None:
            # Built when first asked for: most caches are never read by namespace.
            self._namespaces = {}
            for key, obj in self._objects.items():
                self._namespaces.setdefault(split_key(key)[0], {})[key] = obj
        return [*self._namespaces.get(namespace, {}).values()]

    def by_index(self, index: str, value: str) -> builtins.list[T]:
        """The objects for which the index function gave `value`."""
        return [*self._indexes[index].get(value, {}).values()]

    def index_values(self, index: str) -> builtins.list[str]:
        """All values that an index has objects for."""
        return [*self._indexes[index]]

    def add_index(self, name: str, function: IndexFunction[T]) -> None:
        """Keep an index. `function` must be pure: an object's values are asked for again when it
        leaves. Several users may ask for the same one."""
        if self._functions.get(name) is function:
            return
        if name in self._functions:
            raise ValueError(f"there is an index {name!r} already")
        self._functions[name] = function
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            _insert(self._indexes[name], function(obj), key, obj)

    def put(self, key: str, obj: T) -> None:
        self.remove(key)
        self._objects[key] = obj
        if self._namespaces is not None:
            self._namespaces.setdefault(split_key(key)[0], {})[key] = obj
        for name, function in self._functions.items():
            _insert(self._indexes[name], function(obj), key, obj)

    def remove(self, key: str) -> None:
        old = self._objects.pop(key, None)
        if old is None:
            return
        if self._namespaces is not None:
            _discard(self._namespaces, (split_key(key)[0],), key)
        for name, function in self._functions.items():
            _discard(self._indexes[name], function(old), key)


def _insert(index: dict[str, dict[str, T]], values: Iterable[str], key: str, obj: T) -> None:
    for value in values:
        index.setdefault(value, {})[key] = obj


def _discard(index: dict[str, dict[str, T]], values: Iterable[str], key: str) -> None:
    for value in values:
        bucket = index.get(value)
        if bucket is not None:
            bucket.pop(key, None)
            if not bucket:
                del index[value]
