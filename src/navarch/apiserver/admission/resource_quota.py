"""ResourceQuota: what a namespace may use up in all, reserved before the object is stored.

The last plug-in of all, for it writes: the use is added to the quota's status by compare and swap,
so that two API servers cannot both give away the rest. A use that is reserved for an object which
then is not stored is given back by the controller's next count. A quota whose status has no `hard`
yet (the controller has not seen it) limits nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from navarch.api import quota as rules
from navarch.api.errors import ApiError
from navarch.api.pod_resources import Amounts, parse_amounts
from navarch.api.times import now as current_time
from navarch.apiserver.admission.base import AdmissionAccess, Plugin, denied
from navarch.apiserver.contracts import AdmissionRequest, Object

RETRIES = 3
MOST_WRITTEN = 1000


@dataclass(frozen=True, slots=True)
class _Reservation:
    """A quota, and its `status.used` as the write would leave it."""

    quota: Object
    used: dict[str, str]


class ResourceQuota(Plugin):
    name = "ResourceQuota"

    def __init__(self, access: AdmissionAccess, now: Callable[[], datetime] = current_time) -> None:
        self._access = access
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One per namespace, for as long as a request holds or awaits it."""
        self._written: dict[tuple[str, str], Object] = {}
        """Quotas as this plug-in left them, for the time until the cache has them too. Those that
        were deleted meanwhile are found out when there are many; to forget one is only slower."""

    def handles(self, request: AdmissionRequest) -> bool:
        info = request.info
        if not info.namespace or request.obj is None or _resource(request) in rules.UNTRACKED:
            return False
        if info.resource == "pods" and not info.group:
            return _handles_pod(request)
        if info.resource == "services" and not info.group:
            return not info.subresource and request.operation in ("CREATE", "UPDATE")
        if info.resource == "persistentvolumeclaims" and not info.group:
            return _handles_claim(request)
        return not info.subresource and request.operation == "CREATE"

    async def validate(self, request: AdmissionRequest) -> None:
        namespace = request.info.namespace
        quotas = list(self._access.lookup.list("resourcequotas", namespace))
        if not quotas:
            return
        async with self._locks.setdefault(namespace, asyncio.Lock()):
            await self._reserve(request, quotas)

    async def _reserve(self, request: AdmissionRequest, quotas: Iterable[Object]) -> None:
        for attempt in range(RETRIES + 1):
            current = [self._newest(quota) for quota in quotas]
            reservations = plan(request, current, self._now(), self._access.lookup)
            if request.dry_run:
                return
            lost = [r.quota for r in reservations if not await self._write(r, attempt == RETRIES)]
            if not lost:
                return
            quotas = [quota for quota in [await self._reread(q) for q in lost] if quota is not None]

    async def _write(self, reservation: _Reservation, last: bool) -> bool:
        """Whether the reservation was written; a lost race is raised only the last time."""
        quota = reservation.quota
        status = {**(quota.get("status") or {}), "used": reservation.used}
        try:
            written = await self._access.update_status(
                "resourcequotas", {**quota, "status": status}
            )
        except ApiError as error:
            if error.is_not_found:
                return True
            if error.is_conflict and not last:
                return False
            raise
        if len(self._written) >= MOST_WRITTEN:
            self._written.clear()
        self._written[_key(quota)] = written
        return True

    async def _reread(self, quota: Object) -> Object | None:
        self._written.pop(_key(quota), None)
        return await self._access.get("resourcequotas", *_key(quota))

    def _newest(self, quota: Object) -> Object:
        written = self._written.get(_key(quota))
        if written is None:
            return quota
        if _revision(written) > _revision(quota):
            return written
        del self._written[_key(quota)]
        return quota


def plan(
    request: AdmissionRequest,
    quotas: Iterable[Object],
    now: datetime,
    others: rules.Others | None = None,
) -> list[_Reservation]:
    """The quotas that the request uses, each with its new use. Raises ApiError 403 when it asks for
    more than is left, or does not say what it asks for."""
    obj, resource = request.obj or {}, _resource(request)
    needed = rules.usage(resource, obj, now, others)
    old = request.old if request.operation == "UPDATE" else None
    growth = _growth(needed, rules.usage(resource, old, now, others)) if old is not None else needed
    result = []
    for quota in quotas:
        status = quota.get("status") or {}
        hard, used = parse_amounts(status.get("hard")), parse_amounts(status.get("used"))
        names = rules.matching_names(resource, hard)
        if not names or not rules.in_scope(quota, resource, obj):
            continue
        name = quota["metadata"]["name"]
        missing = rules.missing_compute(obj, names) if resource == "pods" else ""
        if missing:
            raise denied(request, f"failed quota: {name}: must specify {missing}")
        unknown = ",".join(sorted(names)) if any(n not in used for n in names) else ""
        if unknown:
            raise denied(request, f"status unknown for quota: {name}, resources: {unknown}")
        counted_before = old is not None and rules.in_scope(quota, resource, old)
        delta = growth if counted_before else needed
        asked = {n: value for n, value in delta.items() if n in hard and value}
        if not asked:
            continue
        total = {n: used[n] + value for n, value in asked.items()}
        exceeded = sorted(n for n, value in total.items() if value > hard[n])
        if exceeded and request.info.subresource != "status":
            raise denied(
                request,
                f"exceeded quota: {name}, requested: {_print(asked, exceeded)}, "
                f"used: {_print(used, exceeded)}, limited: {_print(hard, exceeded)}",
            )
        texts = {n: str(value) for n, value in total.items()}
        result.append(_Reservation(quota, {**(status.get("used") or {}), **texts}))
    return result


def _growth(new: Amounts, old: Amounts) -> Amounts:
    """What is used more than before; what shrinks is given back by the controller's count."""
    return {
        n: (v - old[n] if n in old else v) for n, v in new.items() if n not in old or v > old[n]
    }


def _print(amounts: Amounts, names: Iterable[str]) -> str:
    return ",".join(f"{name}={amounts[name]}" for name in names)


def _resource(request: AdmissionRequest) -> str:
    info = request.info
    return f"{info.resource}.{info.group}" if info.group else info.resource


def _handles_pod(request: AdmissionRequest) -> bool:
    subresource = request.info.subresource
    if subresource == "resize":
        return request.operation == "UPDATE"
    if subresource or request.operation != "UPDATE":
        return not subresource and request.operation == "CREATE"
    # A deadline that comes or goes moves the pod from one scope to the other.
    old, new = request.old or {}, request.obj or {}
    return rules.is_terminating(old) != rules.is_terminating(new)


def _handles_claim(request: AdmissionRequest) -> bool:
    if request.info.subresource == "status":
        return bool(_allocated(request.obj) != _allocated(request.old))
    return not request.info.subresource and request.operation in ("CREATE", "UPDATE")


def _allocated(claim: Object | None) -> Any:
    return (((claim or {}).get("status") or {}).get("allocatedResources") or {}).get("storage")


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _revision(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)
