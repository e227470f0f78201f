"""The API objects a pod refers to: ConfigMaps, Secrets, claims, tokens. Read when they are needed.

A starting pod reads afresh, for it may refer to an object made a moment before it (but the root
certificates, which every pod has, are read once for a whole crowd). Pods that run are refreshed
when what they refer to has changed (see `following`) and about once a minute, and then share what
was read a few seconds ago: a node full of pods asks for each object once.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol, TypeVar

from navarch.api.objects import Object, decode
from navarch.api.types.authentication_v1 import TokenRequest
from navarch.api.types.core_v1 import (
    ConfigMap,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Secret,
    ServiceAccount,
)
from navarch.api.types.node_v1 import RuntimeClass
from navarch.client.client import Client
from navarch.client.clock import Clock
from navarch.client.objects import KubernetesObject
from navarch.client.resource import PatchType

ROOT_CERTIFICATES = "kube-root-ca.crt"
"""Every pod has it and it changes once in years."""
SHARED_SECONDS = 10.0
"""How old a read may be for a refresh of a running pod."""
CLAIMS = "persistentvolumeclaims"

K = TypeVar("K", bound=KubernetesObject)
F = TypeVar("F", ConfigMap, Secret)


class Reference(NamedTuple):
    """A ConfigMap, Secret or claim by its name."""

    plural: str
    namespace: str
    name: str


class Objects(Protocol):
    """Where the agent gets objects from; None means the API says there is no such object."""

    async def config_map(
        self, namespace: str, name: str, *, fresh: bool = True
    ) -> ConfigMap | None: ...

    async def secret(self, namespace: str, name: str, *, fresh: bool = True) -> Secret | None: ...

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None: ...

    async def volume(self, name: str) -> PersistentVolume | None: ...

    async def change_claim(
        self, claim: PersistentVolumeClaim, status: Object, *, checked: bool = True
    ) -> PersistentVolumeClaim: ...

    async def runtime_class(self, name: str) -> RuntimeClass | None: ...

    async def node(self, name: str) -> Node | None: ...

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest: ...


class ApiObjects:
    """`Objects` from the API server."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._read: dict[Reference, tuple[float, ConfigMap | Secret | None]] = {}
        self._reading = asyncio.Lock()
        self._versions: dict[Reference, str | None] = {}
        """What was handed out last of each object that is followed: None if nothing was yet, empty
        if it was not there."""

    async def config_map(
        self, namespace: str, name: str, *, fresh: bool = True
    ) -> ConfigMap | None:
        reference = Reference("configmaps", namespace, name)
        if name != ROOT_CERTIFICATES:
            return await self._shared(ConfigMap, reference, fresh)
        async with self._reading:
            fresh &= self._read.get(reference, (0.0, None))[1] is None
            return await self._shared(ConfigMap, reference, fresh)

    async def secret(self, namespace: str, name: str, *, fresh: bool = True) -> Secret | None:
        return await self._shared(Secret, Reference("secrets", namespace, name), fresh)

    async def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        found = await self._get(PersistentVolumeClaim, namespace, name)
        self._handed_out(Reference(CLAIMS, namespace, name), found)
        return found

    async def volume(self, name: str) -> PersistentVolume | None:
        return await self._get(PersistentVolume, "", name)

    async def change_claim(
        self, claim: PersistentVolumeClaim, status: Object, *, checked: bool = True
    ) -> PersistentVolumeClaim:
        """Changes a claim's status by a strategic merge patch; `checked` if it may not have been
        changed meanwhile."""
        metadata = {"uid": claim.metadata.uid}
        if checked:
            metadata["resourceVersion"] = claim.metadata.resourceVersion
        changed = await self._client.resource(PersistentVolumeClaim).patch(
            claim.metadata.name,
            claim.metadata.namespace,
            {"metadata": metadata, "status": status},
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )
        self._handed_out(Reference(CLAIMS, claim.metadata.namespace, claim.metadata.name), changed)
        return changed

    async def runtime_class(self, name: str) -> RuntimeClass | None:
        return await self._get(RuntimeClass, "", name)

    async def node(self, name: str) -> Node | None:
        return await self._get(Node, "", name)

    async def service_account(self, namespace: str, name: str) -> ServiceAccount | None:
        return await self._get(ServiceAccount, namespace, name)

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        accounts = self._client.resource(ServiceAccount)
        return decode(
            TokenRequest, await accounts.post_subresource(account, namespace, "token", request)
        )

    def remember(self, reference: Reference) -> None:
        """Somebody wants to know when the object differs from what was handed out."""
        self._versions.setdefault(reference, None)

    def supersede(self, reference: Reference, version: str) -> bool:
        """The object has this version now (none: it is gone). Whether what was handed out last is
        out of date; it is not handed out again then."""
        if self._versions.get(reference) in (None, version):
            return False
        self._read.pop(reference, None)
        return True

    def forget(self, reference: Reference) -> None:
        """Nobody wants to know any more."""
        self._versions.pop(reference, None)

    async def _shared(self, kind: type[F], reference: Reference, fresh: bool) -> F | None:
        now = self._clock.monotonic()
        read_at, known = self._read.get(reference, (-SHARED_SECONDS, None))
        if not fresh and now - read_at < SHARED_SECONDS:
            return known  # type: ignore[return-value]
        found = await self._get(kind, reference.namespace, reference.name)
        # What was read long ago is of no use to anybody and only takes memory (and holds secrets).
        self._read = {
            each: value for each, value in self._read.items() if now - value[0] < SHARED_SECONDS
        }
        self._read[reference] = (now, found)
        self._handed_out(reference, found)
        return found

    def _handed_out(self, reference: Reference, found: KubernetesObject | None) -> None:
        if reference in self._versions:
            self._versions[reference] = "" if found is None else found.metadata.resourceVersion

    async def _get(self, kind: type[K], namespace: str, name: str) -> K | None:
        return await self._client.resource(kind).find(name, namespace)
