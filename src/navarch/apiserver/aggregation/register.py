"""The APIServices that nobody writes by hand: one for every group version this server serves.

Those of built-in groups are made and set right once, at start (`automanaged: onstart`): whoever
changes or deletes one later is left in peace until the next start. Those of custom resources are
kept right all the time (`automanaged: true`), and go when the last definition of their version
goes. An APIService without the label belongs to whoever made it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from enum import Enum
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.kinds import GROUPS, GROUPS_BY_NAME
from navarch.apiserver.aggregation.records import API_SERVICES, Record
from navarch.apiserver.core import Core
from navarch.apiserver.security import system_context
from navarch.apiserver.verbs.delete import DeleteOptions, Deletion

Object = dict[str, Any]

MANAGED = "kube-aggregator.kubernetes.io/automanaged"
ON_START = "onstart"
ALWAYS = "true"
CUSTOM_GROUP_PRIORITY = 1000
CUSTOM_VERSION_PRIORITY = 100
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class Action(Enum):
    NOTHING = "nothing"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


def local_service(group: str, version: str) -> Object:
    """The APIService of a group version that is served here."""
    built_in = GROUPS_BY_NAME.get(group)
    is_own = built_in is not None and version in built_in.versions
    spec: Object = {
        "version": version,
        "groupPriorityMinimum": built_in.priority if built_in else CUSTOM_GROUP_PRIORITY,
        "versionPriority": built_in.versions[version]
        if built_in and is_own
        else CUSTOM_VERSION_PRIORITY,
    }
    if group:
        spec["group"] = group
    labels = {MANAGED: ON_START if is_own else ALWAYS}
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}", "labels": labels},
        "spec": spec,
    }


def built_in_services() -> Iterator[Object]:
    """Those of all built-in group versions."""
    for group in GROUPS:
        for version in group.versions:
            yield local_service(group.name, version)


def plan(wanted: Object | None, there: Object | None, is_start: bool) -> Action:
    """What to do about one name."""
    if there is None:
        if wanted is None or (_managed(wanted) == ON_START and not is_start):
            return Action.NOTHING
        return Action.CREATE
    managed = _managed(there)
    if managed not in (ON_START, ALWAYS) or (managed == ON_START and not is_start):
        return Action.NOTHING
    if wanted is None:
        return Action.DELETE
    return Action.NOTHING if there.get("spec") == wanted["spec"] else Action.UPDATE


def _managed(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(MANAGED, ""))


class AutoRegister:
    """Keeps the automatic APIServices in step with what the catalog serves."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._resource = core.catalog.get("apiregistration.k8s.io", "v1", "apiservices")
        self._wanted: dict[str, Object] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Set everything right as it is at start, then follow the catalog."""
        self._wanted = {each["metadata"]["name"]: each for each in built_in_services()}
        self._refresh()
        names = set(self._wanted)
        names |= {each["metadata"]["name"] for each in self._core.lookup.list(API_SERVICES)}
        await asyncio.gather(*(self._try(name, is_start=True) for name in sorted(names)))
        self._dirty.clear()
        self._core.catalog.on_change(self._refresh)

    def changed(self, old: Record | None, new: Record | None) -> None:
        """An APIService was written: somebody may have taken away or bent one of ours."""
        record = new or old
        if record is not None:
            self._mark(record.name)

    def _mark(self, name: str) -> None:
        self._dirty.add(name)
        self._wake.set()

    def _refresh(self) -> None:
        """Compare what is wanted with what the catalog serves now."""
        served = {(each.kind.group, each.kind.version) for each in self._core.catalog.custom()}
        wanted = {obj["metadata"]["name"]: obj for obj in (local_service(*each) for each in served)}
        for name, obj in list(self._wanted.items()):
            if _managed(obj) == ALWAYS and name not in wanted:
                del self._wanted[name]
                self._mark(name)
        for name, obj in wanted.items():
            if name not in self._wanted:
                self._wanted[name] = obj
                self._mark(name)

    async def run(self) -> None:
        """Handle what was marked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._dirty = self._dirty, set()
            for name in names:
                if not await self._try(name):
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self._mark, name)

    async def _try(self, name: str, is_start: bool = False) -> bool:
        """One turn; False when somebody else was faster, or it has to be tried again."""
        try:
            await self._turn(name, is_start)
        except ApiError as error:
            if not (error.is_conflict or error.is_not_found or error.is_already_exists):
                log.warning("APIService %s: %s", name, error)
            return False
        return True

    async def _turn(self, name: str, is_start: bool = False) -> None:
        core, resource = self._core, self._resource
        wanted = self._wanted.get(name)
        there = core.lookup.get(API_SERVICES, "", name)
        action = plan(wanted, there, is_start)
        if action is Action.CREATE and wanted is not None:
            obj = {**wanted, "metadata": dict(wanted["metadata"])}
            await core.registry.create(resource, obj, system_context(resource, obj, "create"))
        elif action is Action.UPDATE and wanted is not None:
            spec = wanted["spec"]
            context = system_context(resource, wanted, "update")
            await core.registry.update(
                resource, ("", name), lambda old: {**old, "spec": dict(spec)}, context
            )
        elif action is Action.DELETE and there is not None:
            context = system_context(resource, there, "delete")
            options = DeleteOptions(uid=there["metadata"]["uid"])
            await Deletion(core.registry, resource, options, context, is_admitted=True).run(
                "", name
            )
