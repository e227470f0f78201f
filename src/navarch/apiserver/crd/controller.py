"""What happens to a CustomResourceDefinition: its names are accepted, its resources are served, and
when it is deleted its objects go first.

`plan` decides on the status from the definition and its neighbours; `CustomResources` writes it,
serves what is established and empties what is being deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.kinds import KINDS
from navarch.api.patch.common import copy_json
from navarch.api.validation.definitions import approval, is_protected
from navarch.apiserver.core import Core
from navarch.apiserver.crd.serving import (
    cache_for,
    converter_of,
    converts_by_webhook,
    custom_resources,
    storage_version,
    stored_kind,
)
from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.security import system_context
from navarch.apiserver.verbs.delete import DeleteOptions, Deletion
from navarch.apiserver.webhooks.conversion import WebhookConverter

Object = dict[str, Any]

NAME = "customresourcedefinitions.apiextensions.k8s.io"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


def condition(crd: Object, kind: str) -> Object | None:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), None)


def is_established(crd: Object) -> bool:
    found = condition(crd, "Established")
    return found is not None and found.get("status") == "True"


def accepted_names(crd: Object, others: Iterable[Object]) -> tuple[Object, tuple[str, str]]:
    """The names that a definition may have, each for itself, and the reason and message of the
    last that somebody else in the group has already; ("", "") for none."""
    wanted, group = crd["spec"]["names"], crd["spec"]["group"]
    plurals: set[str] = set()
    kinds: set[str] = set()
    for other in others:
        if other["metadata"]["name"] == crd["metadata"]["name"] or other["spec"]["group"] != group:
            continue
        held = (other.get("status") or {}).get("acceptedNames") or {}
        plurals |= {held.get("plural", ""), held.get("singular", "")}
        plurals |= set(held.get("shortNames") or ())
        kinds |= {held.get("kind", ""), held.get("listKind", "")}
    for kind in KINDS:
        if kind.group == group:
            plurals |= {kind.plural, kind.singular, *kind.short_names}
            kinds |= {kind.kind, kind.list_kind}
    accepted: Object = {"plural": "", "kind": ""}
    accepted |= copy_json((crd.get("status") or {}).get("acceptedNames") or {})
    problem = ("", "")
    for field, reason, taken in (
        ("plural", "PluralConflict", plurals),
        ("singular", "SingularConflict", plurals),
        ("shortNames", "ShortNamesConflict", plurals),
        ("kind", "KindConflict", kinds),
        ("listKind", "ListKindConflict", kinds),
        ("categories", "", set[str]()),
    ):
        value, before = wanted.get(field), accepted.get(field)
        each, old = (value or [], before or []) if isinstance(value, list) else ([value], [before])
        used = [name for name in each if name and name in taken and name not in old]
        if used:
            messages = [f'"{name}" is already in use' for name in used]
            text = messages[0] if len(messages) == 1 else f"[{', '.join(messages)}]"
            problem = (reason, text)
        elif value:
            accepted[field] = copy_json(value)
        else:
            accepted.pop(field, None)
    return accepted, problem


def plan(crd: Object, others: Iterable[Object], now: str) -> Object:
    """The status that the definition should have."""
    status: Object = copy_json(crd.get("status") or {})
    status["acceptedNames"], problem = accepted_names(crd, others)
    wanted = [("NamesAccepted", "False", *problem)]
    if not problem[0]:
        wanted = [("NamesAccepted", "True", "NoConflicts", "no conflicts found")]
        wanted.append(
            ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted")
        )
    elif not is_established(crd):
        wanted.append(("Established", "False", "NotAccepted", "not all names are accepted"))
    if is_protected(crd["spec"]["group"]):
        wanted.append(_approval(crd))
    stored = storage_version(crd)
    versions = status.get("storedVersions") or []
    if stored not in versions:
        versions.append(stored)
    status["storedVersions"] = versions
    conditions = status["conditions"] = status.get("conditions") or []
    for each in wanted:
        set_condition(conditions, each, now)
    return status


def _approval(crd: Object) -> tuple[str, str, str, str]:
    state, reason = approval(crd)
    status = "True" if state == "Approved" else "False"
    name = "Unapproved" if state == "Bypassed" else state
    return "KubernetesAPIApprovalPolicyConformant", status, f"{name}Annotation", reason


def set_condition(conditions: list[Object], wanted: tuple[str, str, str, str], now: str) -> None:
    """Set a condition; its transition time moves only with its status."""
    kind, status, reason, message = wanted
    found = next((each for each in conditions if each.get("type") == kind), None)
    if found is None:
        found = {"type": kind}
        conditions.append(found)
    if found.get("status") != status:
        found["lastTransitionTime"] = now
    found |= {"status": status, "reason": reason, "message": message}


class CustomResources:
    """Keeps the catalog in step with the definitions there are."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._definitions = core.catalog.get("apiextensions.k8s.io", "v1", NAME.partition(".")[0])
        self._dirty: asyncio.Queue[str] = asyncio.Queue()
        self._served: dict[str, tuple[str, str]] = {}
        self._converters: dict[str, WebhookConverter] = {}

    async def start(self) -> None:
        """Serve what is established already, before the first request."""
        for crd in list(self._core.lookup.list(NAME)):
            await self._turn(crd["metadata"]["name"])
        self._core.lookup.subscribe(NAME, self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        obj = new or old
        assert obj is not None
        self._dirty.put_nowait(obj["metadata"]["name"])

    async def run(self) -> None:
        """Handle changes one by one, until cancelled."""
        while True:
            name = await self._dirty.get()
            try:
                is_done = await self._turn(name)
            except ApiError as error:
                log.warning("custom resource definition %s: %s", name, error)
                is_done = False
            except Exception:
                log.exception("custom resource definition %s", name)
                is_done = False
            if not is_done:
                loop = asyncio.get_running_loop()
                loop.call_later(RETRY_SECONDS, self._dirty.put_nowait, name)

    async def _turn(self, name: str) -> bool:
        """Bring one definition's status and service up to date; False to be called again."""
        crd = self._core.lookup.get(NAME, "", name)
        if crd is None:
            self._unserve(name)
            return True
        status = plan(crd, self._core.lookup.list(NAME), self._core.registry.timestamp())
        if status != (crd.get("status") or {}):
            crd = await self._write_status(name, status)
        if is_established(crd):
            await self._serve(name, crd)
        if crd["metadata"].get("deletionTimestamp"):
            return await self._empty(name, crd)
        return True

    async def _write_status(self, name: str, status: Object) -> Object:
        def change(obj: Object) -> None:
            obj["status"] = status

        return await self._core.registry.modify(self._definitions, ("", name), change)

    # ---- serving

    async def _serve(self, name: str, crd: Object) -> None:
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        cache = cache_for(self._core.hub, stored_kind(crd, plural))
        await self._core.hub.load(cache)
        self._served[name] = (group, plural)
        converter = self._converter(name, crd, cache)
        self._core.catalog.set_custom(group, plural, custom_resources(crd, cache, converter))

    def _converter(self, name: str, crd: Object, cache: Cache) -> WebhookConverter | None:
        """The definition's converter: the one there is while nothing about conversion changes. When
        something does, watches end, for they show what the old one made of the objects."""
        before = self._converters.pop(name, None)
        if not converts_by_webhook(crd):
            converter = None
        elif before is not None and before.is_of(crd):
            converter = before
        else:
            converter = converter_of(crd, self._core.webhooks, cache.stored)
        if converter is not None:
            self._converters[name] = converter
        if converter is not before:
            for watcher in cache.watchers():
                watcher.finish()
        return converter

    def _unserve(self, name: str) -> None:
        self._converters.pop(name, None)
        group, plural = self._served.pop(name, ("", ""))
        if plural:
            self._core.catalog.set_custom(group, plural, [])
            self._core.hub.unregister(f"/registry/{group}/{plural}/")

    # ---- deleting

    async def _empty(self, name: str, crd: Object) -> bool:
        """Delete the objects of a definition that is being deleted, then let it go."""
        if FINALIZER not in (crd["metadata"].get("finalizers") or ()):
            return True
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        resource = self._core.catalog.by_group(group, plural)
        if resource is not None and resource.cache.count:
            await self._delete_objects(resource)
            if resource.cache.count:
                return False

        def release(obj: Object) -> Object:
            finalizers = obj["metadata"].get("finalizers") or []
            obj["metadata"]["finalizers"] = [each for each in finalizers if each != FINALIZER]
            return obj

        context = system_context(self._definitions, crd, "update")
        await self._core.registry.update(self._definitions, ("", name), release, context)
        return True

    async def _delete_objects(self, resource: Resource) -> None:
        for entry in list(resource.cache.scan()):
            obj = {"metadata": {"namespace": entry.namespace, "name": entry.name}}
            context = system_context(resource, obj, "delete")
            # What goes at once need not be converted: its webhook is often gone before it.
            lingers = entry.decode(resource.stored_kind)["metadata"].get("finalizers")
            deleted = resource if lingers else replace(resource, converter=None)
            deletion = Deletion(
                self._core.registry, deleted, DeleteOptions(), context, is_admitted=True
            )
            try:
                await deletion.run(entry.namespace, entry.name)
            except ApiError as error:
                if not error.is_not_found:
                    raise
