"""The aggregation layer (kube-aggregator): group versions of other servers under this one's roof.

One task follows each APIService with a service, as long as there is one: it judges availability,
writes the condition, and fetches what the server serves, again and again, at once when its Service
or endpoints change and sooner than usual while something is wrong. Routing, discovery and OpenAPI
read what the followers found.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.availability import (
    LOCAL,
    Verdict,
    judge,
    probe,
    service_of,
    with_condition,
)
from navarch.apiserver.aggregation.extension import SLICES, Extensions
from navarch.apiserver.aggregation.proxy import Proxy
from navarch.apiserver.aggregation.records import API_SERVICES, Record, Records, available_condition
from navarch.apiserver.aggregation.register import AutoRegister
from navarch.apiserver.aggregation.remote_discovery import RemoteDiscovery
from navarch.apiserver.aggregation.remote_openapi import RemoteOpenApi
from navarch.apiserver.connect.forward import Forwarder
from navarch.apiserver.discovery.documents import Registrations, RemoteVersion
from navarch.apiserver.http.app import App
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.openapi.documents import OpenApi
from navarch.apiserver.upkeep import ended

Object = dict[str, Any]

RECHECK_SECONDS = 30.0
FIRST_RETRY_SECONDS = 0.25

log = logging.getLogger(__name__)


class Aggregator:
    """Owns the followers and hands out what they found."""

    def __init__(
        self, app: App, forwarder: Forwarder, registered: Registrations, openapi: OpenApi
    ) -> None:
        core = app.core
        self._core = core
        self._registered = registered
        self.records = Records()
        self.extensions = Extensions(core.options, core.lookup, forwarder)
        self._register = AutoRegister(core)
        self._discovery = RemoteDiscovery(self.extensions)
        self._openapi = RemoteOpenApi(self.extensions, openapi)
        self._resource = core.catalog.get("apiregistration.k8s.io", "v1", "apiservices")
        self._wakes: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_running = False
        self._refusals: Counter[tuple[str, str]] = Counter()
        """How often each APIService became unavailable, by reason."""
        app.metric_sources.append(self._metrics)
        proxy = Proxy(app, self.extensions)
        for listener in (proxy.changed, self._register.changed, self._changed):
            self.records.on_change(listener)

    async def start(self) -> None:
        """Take up the APIServices there are and make the automatic ones, before requests come."""
        self.records.follow(self._core.lookup)
        await self._register.start()
        for resource in ("services", SLICES):
            cache = self._core.lookup.cache(resource)
            assert cache is not None
            cache.add_listener(partial(self._service_changed, resource))

    async def run(self) -> None:
        """Follow, until cancelled."""
        self._is_running = True
        try:
            for record in list(self.records.by_name.values()):
                self._follow(record)
            await self._register.run()
        finally:
            self._is_running = False
            await ended(self._tasks.values())

    # ---- changes

    def _changed(self, old: Record | None, new: Record | None) -> None:
        registered = self._registered
        if old is not None:
            key = old.group, old.version
            registered.priorities.pop(key, None)
            if new is None or new.service is None:
                registered.remote.pop(key, None)
                self._openapi.forget(old)
                self._discovery.forget_others(
                    {each.service for each in self.records.remote.values() if each.service}
                )
        if new is not None:
            key = new.group, new.version
            registered.priorities[key] = new.group_priority, new.version_priority
            if new.service is not None:
                registered.remote.setdefault(key, RemoteVersion())
        registered.changed()
        if new is not None:
            if old is None or replace(old, is_available=new.is_available) != new:
                self._follow(new)
        elif old is not None:
            self._wake(old.name)

    def _service_changed(self, resource: str, old: Entry | None, new: Entry | None) -> None:
        """A Service or an EndpointSlice changed; there are many, and few of them are ours."""
        if not self.records.remote:
            return
        entry = new or old
        assert entry is not None
        where = service_of(resource, entry)
        for record in self.records.remote.values():
            ref = record.service
            if ref is not None and (ref.namespace, ref.name) == where:
                self._wake(record.name)

    def _wake(self, name: str) -> None:
        event = self._wakes.get(name)
        if event is not None:
            event.set()

    def _follow(self, record: Record) -> None:
        """Make sure that a task looks at this record. A local one that says it is available needs
        no task."""
        name = record.name
        if name in self._tasks:
            self._wake(name)
        elif self._is_running and (record.service is not None or not self._is_local(name)):
            self._wakes[name] = asyncio.Event()
            task = asyncio.create_task(self._run(name), name=f"APIService {name}")
            self._tasks[name] = task
            task.add_done_callback(lambda _: self._forget(name))

    def _forget(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._wakes.pop(name, None)
        record = self.records.by_name.get(name)
        if record is not None and record.service is not None:
            # It came back while its task was ending.
            self._follow(record)

    def _is_local(self, name: str) -> bool:
        obj = self._core.lookup.get(API_SERVICES, "", name)
        condition = available_condition(obj) if obj is not None else None
        return condition is not None and condition.get("reason") == LOCAL.reason

    # ---- one APIService

    async def _run(self, name: str) -> None:
        failures = 0
        wake = self._wakes[name]
        while (record := self.records.by_name.get(name)) is not None:
            wake.clear()
            is_good = False
            try:
                if record.service is None:
                    await self._publish(name, LOCAL)
                    return
                is_good = await self._turn(record)
            except ApiError as error:
                if not error.is_not_found:
                    log.warning("APIService %s: %s", name, error)
            except Exception:
                log.exception("APIService %s", name)
            failures = 0 if is_good else failures + 1
            seconds = min(FIRST_RETRY_SECONDS * 2**failures, RECHECK_SECONDS)
            try:
                async with asyncio.timeout(seconds if failures else RECHECK_SECONDS):
                    await wake.wait()
            except TimeoutError:
                continue

    async def _turn(self, record: Record) -> bool:
        """Judge, tell, and fetch; whether all is well."""
        assert record.service is not None
        verdict = judge(self._core.lookup, record.service)
        if verdict is None:
            verdict = await probe(self.extensions, record)
        await self._publish(record.name, verdict)
        resources: tuple[Object, ...] = ()
        problem = "" if verdict.is_available else verdict.message
        if not problem:
            try:
                resources = await self._discovery.resources(record)
            except ApiError as error:
                problem = error.message
        self._show(record, RemoteVersion(resources, is_fresh=not problem))
        if not problem:
            try:
                await self._openapi.refresh(record)
            except ApiError as error:
                # Clients do without: nothing but explanations and client-side checks is missing.
                problem = f"OpenAPI: {error.message}"
        if problem:
            log.info("APIService %s: %s", record.name, problem)
        return not problem

    def _show(self, record: Record, found: RemoteVersion) -> None:
        key = record.group, record.version
        if self.records.by_name.get(record.name) is None or key not in self._registered.remote:
            return
        if self._registered.remote[key] != found:
            self._registered.remote[key] = found
            self._registered.changed()

    async def _publish(self, name: str, verdict: Verdict) -> None:
        obj = self._core.lookup.get(API_SERVICES, "", name)
        now = self._core.registry.timestamp()
        was = self.records.by_name.get(name)
        if not verdict.is_available and (was is None or was.is_available):
            self._refusals[name, verdict.reason] += 1
        if obj is None or not with_condition({**obj, "status": _copied(obj)}, verdict, now):
            return

        def change(current: Object) -> None:
            with_condition(current, verdict, now)

        await self._core.registry.modify(self._resource, ("", name), change)

    def _metrics(self) -> Iterator[str]:
        yield "# TYPE aggregator_unavailable_apiservice gauge"
        for name, record in self.records.by_name.items():
            value = int(not record.is_available)
            yield f'aggregator_unavailable_apiservice{{name="{name}"}} {value}'
        yield "# TYPE aggregator_unavailable_apiservice_total counter"
        for (name, reason), count in self._refusals.items():
            labels = f'name="{name}",reason="{reason}"'
            yield f"aggregator_unavailable_apiservice_total{{{labels}}} {count}"


def _copied(obj: Object) -> Object:
    """The status, its conditions fit to be changed."""
    status = dict(obj.get("status") or {})
    status["conditions"] = [dict(each) for each in status.get("conditions") or ()]
    return status
