"""Keeps the objects of flow control: those that every cluster has, and the Dangling condition of
every FlowSchema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.patch.common import copy_json
from navarch.apiserver.bootstrap import Access
from navarch.apiserver.flowcontrol.control import ADJUST_SECONDS, FlowControl
from navarch.apiserver.flowcontrol.objects import LEVELS, SCHEMAS, dangling, flow_objects, upkeep
from navarch.apiserver.registry.registry import Registry

Object = dict[str, Any]

CHECK_SECONDS = 60.0

log = logging.getLogger(__name__)


class FlowUpkeep:
    """The steady work of flow control."""

    def __init__(self, registry: Registry, access: Access, control: FlowControl | None) -> None:
        self._registry = registry
        self._access = access
        self._control = control
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Make what is missing; then follow changes."""
        await self.turn()
        for resource in (SCHEMAS, LEVELS):
            self._access.lookup.subscribe(resource, lambda old, new: self._wake.set())

    async def turn(self) -> None:
        """Make and mend our own objects, then the conditions of all schemas."""
        writes = []
        for name, wanted in flow_objects():
            there = self._access.lookup.get(name, "", wanted["metadata"]["name"])
            obj = upkeep(wanted, there)
            if obj is not None:
                write = self._access.create if there is None else self._access.replace
                writes.append(self._write(write, name, copy_json(obj)))
        await asyncio.gather(*writes)
        await self._tell()

    async def _tell(self) -> None:
        lookup = self._access.lookup
        await asyncio.gather(*(self._write(self._judge, each) for each in lookup.list(SCHEMAS)))

    async def _write(self, write: Callable[..., Awaitable[Any]], *what: Any) -> None:
        """Another server does the same work: whoever is first is as good."""
        try:
            await write(*what)
        except ApiError as error:
            if not (error.is_already_exists or error.is_conflict or error.is_not_found):
                raise

    async def _judge(self, schema: Object) -> None:
        level = (schema["spec"].get("priorityLevelConfiguration") or {}).get("name", "")
        is_there = self._access.lookup.get(LEVELS, "", level) is not None
        status, reason, message = dangling(level, is_there)
        wanted = {"type": "Dangling", "status": status, "reason": reason, "message": message}

        def change(obj: Object) -> None:
            conditions = obj.setdefault("status", {}).setdefault("conditions", [])
            found = next((each for each in conditions if each.get("type") == "Dangling"), None)
            if found is None:
                found = {}
                conditions.append(found)
            if found.get("status") != status:
                found["lastTransitionTime"] = self._registry.timestamp()
            found |= wanted

        conditions = (schema.get("status") or {}).get("conditions") or ()
        if any(wanted.items() <= each.items() for each in conditions):
            return
        resource = self._registry.catalog.by_name(SCHEMAS)
        assert resource is not None
        await self._registry.modify(resource, ("", schema["metadata"]["name"]), change)

    async def run(self) -> None:
        """Until cancelled: conditions at once, our own objects and the limits from time to time."""
        loop = asyncio.get_running_loop()
        checked = adjusted = loop.time()
        while True:
            try:
                async with asyncio.timeout(ADJUST_SECONDS):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                pass
            now = loop.time()
            try:
                if self._control is not None and now - adjusted >= ADJUST_SECONDS - 0.01:
                    adjusted = now
                    self._control.adjust()
                if now - checked >= CHECK_SECONDS:
                    checked = now
                    await self.turn()
                else:
                    await self._tell()
            except Exception:
                log.exception("the upkeep of flow control failed; it is tried again")
                await asyncio.sleep(1)
