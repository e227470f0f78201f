"""Objects as the scheduler has decided they shall be, before informers show them so."""

from __future__ import annotations

from typing import Generic, TypeVar

from navarch.client import Informer, KubernetesObject, object_key

T = TypeVar("T", bound=KubernetesObject)


class Assumed(Generic[T]):
    """Looks through an informer's cache; what was assumed of an object hides the state that this
    was decided upon, until a newer one comes."""

    def __init__(self, informer: Informer[T]) -> None:
        self._informer = informer
        self._objects: dict[str, tuple[T, bool]] = {}
        """And whether the API server has it so."""

    def get(self, key: str) -> T | None:
        known = self._informer.cache.get(key)
        if key not in self._objects:
            return known
        mine, is_written = self._objects[key]
        is_same = known is not None and known.metadata.uid == mine.metadata.uid
        if known is not None and is_same and _version(known) + is_written <= _version(mine):
            return mine
        del self._objects[key]
        return known

    def known(self, key: str) -> T | None:
        """What the informer says."""
        return self._informer.cache.get(key)

    def put(self, obj: T, is_written: bool = False) -> None:
        self._objects[object_key(obj)] = (obj, is_written)

    def forget(self, key: str) -> None:
        """It did not come to be."""
        if key in self._objects and not self._objects[key][1]:
            del self._objects[key]


def _version(obj: KubernetesObject) -> int:
    return int(obj.metadata.resourceVersion or "0")
