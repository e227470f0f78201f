"""What the agent writes about pods: their status, and their final deletion.

One writer per pod keeps the writes in order and sends only the newest status: whatever became true
while a patch was under way goes into the next one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from navarch.api.errors import ApiError
from navarch.api.numbers import natural
from navarch.api.objects import Object, to_object
from navarch.api.types.core_v1 import Pod, PodStatus
from navarch.client.client import Client
from navarch.client.clock import Clock
from navarch.client.resource import PatchType

from .conditions import DISRUPTION, OWN_CONDITIONS
from .figures import pod_start_seconds

log = logging.getLogger(__name__)

_OWN_FIELDS = (
    "observedGeneration",
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "qosClass",
    "allocatedResources",
    "resources",
)
_REPLACED_LISTS = ("hostIPs", "podIPs")
"""Lists that a strategic merge patch would merge by key unless it is told to replace them."""
_REPLACED_MAPS = ("allocatedResources", "resources")


class PodApi(Protocol):
    """The API's pods, as far as the agent changes them."""

    async def patch_status(self, namespace: str, name: str, patch: Object) -> Pod: ...

    async def create(self, pod: Pod) -> Pod: ...

    async def delete(self, namespace: str, name: str, uid: str, grace: int) -> None: ...


class ClientPodApi:
    """`PodApi` over the API server."""

    def __init__(self, client: Client) -> None:
        self._pods = client.resource(Pod)

    async def patch_status(self, namespace: str, name: str, patch: Object) -> Pod:
        return await self._pods.patch(
            name, namespace, patch, subresource="status", patch_type=PatchType.STRATEGIC
        )

    async def create(self, pod: Pod) -> Pod:
        return await self._pods.create(pod)

    async def delete(self, namespace: str, name: str, uid: str, grace: int) -> None:
        await self._pods.delete(name, namespace, uid=uid, grace_period=grace)


def status_patch(uid: str, before: PodStatus, after: PodStatus) -> Object | None:
    """The strategic merge patch that makes the API's status what the agent says; None if it is.

    Conditions of others are not named and so stay as they are; the uid keeps the patch from a
    successor of the same name.
    """
    old, new = to_object(before), to_object(after)
    patch: Object = {}
    for name in _OWN_FIELDS:
        if old.get(name) == new.get(name):
            continue
        value = new.get(name)
        if value and name in _REPLACED_LISTS:
            value = [{"$patch": "replace"}, *value]
        elif name in _REPLACED_MAPS:
            value = {**(value or {}), "$patch": "replace"}
        patch[name] = value
    conditions = _changed_conditions(old, new)
    if conditions:
        patch["conditions"] = conditions
    if not patch:
        return None
    return {"metadata": {"uid": uid}, "status": patch}


def _changed_conditions(old: Object, new: Object) -> list[dict[str, Any]]:
    before = {each["type"]: each for each in old.get("conditions", [])}
    after = {each["type"]: each for each in new.get("conditions", [])}
    changed: list[dict[str, Any]] = []
    for kind in (*OWN_CONDITIONS, DISRUPTION):
        if kind in after:
            if before.get(kind) != after[kind]:
                dropped = {name: None for name in before.get(kind, {}) if name not in after[kind]}
                changed.append({**dropped, **after[kind]})
        elif kind in before and kind != DISRUPTION:
            changed.append({"type": kind, "$patch": "delete"})
    return changed


class StatusWriter:
    """Writes one pod's status."""

    def __init__(self, api: PodApi, clock: Clock) -> None:
        self._api, self._clock = api, clock
        self._since = clock.monotonic()
        self._known: Pod | None = None
        self._wanted: PodStatus | None = None
        self._task: asyncio.Task[None] | None = None
        self.gone = False
        """The API no longer has the pod."""

    def seen(self, pod: Pod) -> None:
        """A version of the pod has come from the API (an older one than ours does not count)."""
        if self._known is None or _version(pod) >= _version(self._known):
            self._known = pod
            self.gone = False
        if self._wanted is not None and not self._is_writing:
            self.submit(self._wanted)

    @property
    def _is_writing(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def wanted(self) -> PodStatus | None:
        """The status that is still on its way to the API."""
        return self._wanted

    @property
    def status(self) -> PodStatus | None:
        """The newest status that the API is known to have."""
        return self._known.status if self._known is not None else None

    def submit(self, status: PodStatus) -> None:
        """Makes this the status to be written; returns at once."""
        self._wanted = status
        if not self._is_writing:
            self._task = asyncio.get_running_loop().create_task(self._write(), name="pod-status")

    async def flush(self) -> None:
        """Waits until everything submitted is written (or the pod is gone)."""
        while self._task is not None and self._is_writing:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        delay, conflicts = 0.1, 0
        while self._wanted is not None and self._known is not None and not self.gone:
            known, wanted = self._known, self._wanted
            patch = status_patch(known.metadata.uid, known.status, wanted)
            if patch is None:
                if self._wanted is wanted:
                    self._wanted = None
                continue
            meta = known.metadata
            try:
                self.seen(await self._api.patch_status(meta.namespace, meta.name, patch))
            except ApiError as error:
                conflicts = conflicts + 1 if error.is_conflict else 0
                if error.is_not_found or conflicts > 3:
                    # Deleted, or another pod of that name: there is nobody left to tell.
                    self.gone = True
                    return
                log.warning("status of %s/%s: %s", meta.namespace, meta.name, error)
                await self._clock.sleep(delay)
                delay = min(delay * 2, 10.0)
                continue
            delay = 0.1
            if (known.status.phase, wanted.phase) == ("Pending", "Running"):
                pod_start_seconds.observe(self._clock.monotonic() - self._since)
            if self._wanted is wanted:
                self._wanted = None


def _version(pod: Pod) -> int:
    return natural(pod.metadata.resourceVersion) or 0
