"""What the admission plug-ins share: their base class, what they may read and write, refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from navarch.api.errors import ApiError, forbidden
from navarch.apiserver.contracts import AdmissionRequest, Lookup, Object

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class AdmissionAccess:
    """What plug-ins reach. `lookup` reads caches, which may be a moment behind; `get` reads the
    newest state and is for the case that the cache says no. `update_status` writes an object's
    status (`resourcequotas`) against its resourceVersion and answers the written object; it raises
    the Conflict of a lost race."""

    lookup: Lookup
    get: Callable[[str, str, str], Awaitable[Object | None]]
    update_status: Callable[[str, Object], Awaitable[Object]]

    async def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """From the cache if it is there, else the newest state."""
        found = self.lookup.get(resource, namespace, name)
        return found if found is not None else await self.get(resource, namespace, name)


class Plugin:
    """A plug-in says what it handles and overrides one or both phases."""

    name: str = ""
    mutates: ClassVar[bool] = False
    """Whether `admit` may add what has to be defaulted: the object is defaulted again then."""
    operations: ClassVar[tuple[str, ...]] = ("CREATE", "UPDATE")
    resources: ClassVar[frozenset[tuple[str, str]]] = frozenset()
    """(group, resource) of what it looks at; empty for everything."""
    subresources: ClassVar[tuple[str, ...]] = ("",)
    admits: ClassVar[bool] = False
    validates: ClassVar[bool] = False
    """Whether the plug-in has a part in the phase."""
    is_static: ClassVar[bool] = True
    """Whether what it handles depends on nothing but operation, resource and subresource."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.admits = cls.admit is not Plugin.admit
        cls.validates = cls.validate is not Plugin.validate
        cls.is_static = cls.handles is Plugin.handles

    def handles(self, request: AdmissionRequest) -> bool:
        info = request.info
        return (
            request.operation in self.operations
            and info.subresource in self.subresources
            and (not self.resources or (info.group, info.resource) in self.resources)
        )

    async def admit(self, request: AdmissionRequest) -> None:
        return None

    async def validate(self, request: AdmissionRequest) -> None:
        return None


class ReadingPlugin(Plugin):
    """A plug-in that looks at other objects."""

    def __init__(self, access: AdmissionAccess) -> None:
        self._access = access


def denied(request: AdmissionRequest, why: str) -> ApiError:
    """The 403 of a plug-in. A new object may have no name yet: then its generateName stands. So
    does it while a generated name is not to be seen yet: told again by those who try again, the
    same complaint is then one event, and one condition."""
    info = request.info
    metadata = (request.obj or {}).get("metadata") or {}
    given = "" if request.is_name_generated else info.name or metadata.get("name")
    name = given or metadata.get("generateName") or "Unknown"
    return forbidden(info.resource, info.group, name, why)


def spec_of(obj: Object | None) -> Object:
    """The spec, {} if there is none. To change it use `setdefault`."""
    spec: Object = (obj or {}).get("spec") or {}
    return spec


def annotations_of(obj: Object | None) -> Mapping[str, str]:
    annotations: Mapping[str, str] = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    return annotations


def labels_of(obj: Object | None) -> Mapping[str, str]:
    labels: Mapping[str, str] = ((obj or {}).get("metadata") or {}).get("labels") or {}
    return labels


def newest_default(classes: list[Object], *annotations: str) -> Object | None:
    """The class marked as the default; of several the newest, then the first by name."""
    marked = [
        item
        for item in classes
        if any(annotations_of(item).get(annotation) == "true" for annotation in annotations)
    ]
    marked.sort(key=lambda item: str(item["metadata"]["name"]))
    newest: Callable[[Object], Any] = lambda item: item["metadata"].get("creationTimestamp") or ""  # noqa: E731
    return max(marked, key=newest, default=None)
