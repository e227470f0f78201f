"""The API objects a pod refers to: ConfigMaps, Secrets, claims, tokens. Read when they are needed.

A starting pod always reads afresh, for it may refer to an object made a moment before it. Pods that
run are refreshed about once a minute, and then share what was read a few seconds ago: a node full
of pods asks for each object once, and keeps no watch open per object.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from navarch.api.errors import ApiError
from navarch.api.objects import decode, to_object
from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import (
    ConfigMap,
    PersistentVolume,
    PersistentVolumeClaim,
    Secret,
    ServiceAccount,
)
from navarch.api.types.node_v1 import RuntimeClass
from navarch.client.client import Client
from navarch.client.clock import Clock
from navarch.client.objects import KubernetesObject

SHARED_SECONDS = 10.0
"""How old a read may be for a refresh of a running pod."""

K = TypeVar("K", bound=KubernetesObject)


class Objects(Protocol):
    """Where the agent gets objects from; None means the API says there is no such object."""

    async def config_map(
        self, namespace: str, name: str, *, fresh: bool = True
    ) -> ConfigMap | None: ...

    async def secret(self, namespace: str, name: str, *, fresh: bool = True) -> Secret | None: ...

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None: ...

    async def volume(self, name: str) -> PersistentVolume | None: ...

    async def claim_expanded(self, claim: PersistentVolumeClaim, capacity: str) -> None: ...

    async def runtime_class(self, name: str) -> RuntimeClass | None: ...

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest: ...


class ApiObjects:
    """`Objects` from the API server."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._read: dict[tuple[type, str, str], tuple[float, object]] = {}

    async def config_map(
        self, namespace: str, name: str, *, fresh: bool = True
    ) -> ConfigMap | None:
        return await self._shared(ConfigMap, namespace, name, fresh)

    async def secret(self, namespace: str, name: str, *, fresh: bool = True) -> Secret | None:
        return await self._shared(Secret, namespace, name, fresh)

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        return await self._get(PersistentVolumeClaim, namespace, name)

    async def volume(self, name: str) -> PersistentVolume | None:
        return await self._get(PersistentVolume, "", name)

    async def claim_expanded(self, claim: PersistentVolumeClaim, capacity: str) -> None:
        """Writes that a claim's file system has its new size: its growth is over."""
        over = ("FileSystemResizePending", "Resizing")
        conditions = [each for each in claim.status.conditions if each.type not in over]
        status = {
            "capacity": {"storage": capacity},
            "conditions": [to_object(each) for each in conditions],
            "allocatedResourceStatuses": {"storage": None},
        }
        await self._client.resource(PersistentVolumeClaim).patch(
            claim.metadata.name,
            claim.metadata.namespace,
            {"metadata": {"uid": claim.metadata.uid}, "status": status},
            subresource="status",
        )

    async def runtime_class(self, name: str) -> RuntimeClass | None:
        return await self._get(RuntimeClass, "", name)

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        accounts = self._client.resource(ServiceAccount)
        return decode(
            TokenRequest, await accounts.post_subresource(account, namespace, "token", request)
        )

    async def _shared(self, kind: type[K], namespace: str, name: str, fresh: bool) -> K | None:
        key = (kind, namespace, name)
        now = self._clock.monotonic()
        read_at, known = self._read.get(key, (-SHARED_SECONDS, None))
        if not fresh and now - read_at < SHARED_SECONDS:
            return known  # type: ignore[return-value]
        found = await self._get(kind, namespace, name)
        # What was read long ago is of no use to anybody and only takes memory (and holds secrets).
        self._read = {
            each: value for each, value in self._read.items() if now - value[0] < SHARED_SECONDS
        }
        self._read[key] = (now, found)
        return found

    async def _get(self, kind: type[K], namespace: str, name: str) -> K | None:
        try:
            return await self._client.resource(kind).get(name, namespace)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
