"""`metrics.k8s.io/v1beta1`: what nodes and pods use, for `kubectl top` and autoscalers.

In other clusters metrics-server answers here, an extension API server that somebody installs.
Navarch answers by itself as long as nobody does: there is no APIService for the group then, so that
installing metrics-server finds its place free (Helm takes over nothing that it has not made).
Once an APIService with that name exists the group is its server's, and it is ours again when it is
gone.

What exists and what selectors match is the API server's own knowledge; what is used is asked of the
kubelets (`scraper`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp.web import StreamResponse

from navarch.api.errors import bad_request, method_not_allowed, not_found
from navarch.api.kinds import Kind
from navarch.api.quantity import Format, Quantity, parse_quantity
from navarch.api.selectors import SelectorError, parse_field_selector
from navarch.api.times import format_duration, format_time
from navarch.apiserver.aggregation.records import Record, Records
from navarch.apiserver.aggregation.remote_discovery import from_legacy
from navarch.apiserver.core import Core
from navarch.apiserver.discovery.documents import Registrations, RemoteVersion
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import negotiate
from navarch.apiserver.http.options import list_options
from navarch.apiserver.http.respond import respond_not_found, respond_object
from navarch.apiserver.http.transform import transform_unstored
from navarch.apiserver.http.turns import off_loop, slices
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.openapi.documents import OpenApi
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.tables.table import Table, columns
from navarch.apiserver.usage.documents import (
    API_VERSION,
    BASE,
    GROUP,
    KINDS,
    PRIORITY,
    RESOURCES,
    VERSION,
    extension,
)
from navarch.apiserver.usage.samples import NODE, Key, Usage
from navarch.apiserver.usage.scraper import PodName, UsageScraper
from navarch.apiserver.usage.simulated import (
    PREFIX,
    container_usages,
    is_silent,
    is_simulated,
    total,
)
from navarch.apiserver.verbs.read import chosen
from navarch.apiserver.verbs.selection import selection_of

Object = dict[str, Any]
ROW_BYTES = 200
"""Of a table, roughly."""
Found = Mapping[str, Mapping[Key, Usage | None]]


class UsageApi:
    """Serves the group version while nobody else does."""

    def __init__(
        self, app: App, scraper: UsageScraper, registered: Registrations, openapi: OpenApi
    ) -> None:
        self._app = app
        self._scraper = scraper
        self._registered = registered
        self._openapi = openapi
        self._resources = tuple(from_legacy(RESOURCES))

    def follow(self, records: Records) -> None:
        """Step in now and whenever the group version is nobody's. Call it after all others have
        begun to listen: they forget what they were told of an APIService that goes."""

        def changed(old: Record | None, new: Record | None) -> None:
            if any((each.group, each.version) == (GROUP, VERSION) for each in (old, new) if each):
                self._settle(records)

        records.on_change(changed)
        self._settle(records)

    def _settle(self, records: Records) -> None:
        key = GROUP, VERSION
        if key in records.remote:
            return
        self._app.remote[key] = self.handle
        self._registered.remote[key] = RemoteVersion(self._resources, is_fresh=True)
        self._registered.priorities[key] = PRIORITY
        self._registered.changed()
        self._openapi.set_extension(BASE.lstrip("/"), extension())

    # ---- requests

    async def handle(self, core: Core, call: Call) -> StreamResponse:
        info = call.info
        kind = KINDS.get(info.resource)
        if not info.is_resource:
            call.representation = negotiate(call.request.headers.get("Accept"))
            return respond_object(call, RESOURCES)
        is_elsewhere = kind is not None and (
            (info.namespace != "" and not kind.namespaced)
            or (info.namespace == "" and kind.namespaced and call.target.is_item)
        )
        if kind is None or call.target.is_malformed or info.subresource or is_elsewhere:
            return respond_not_found(call)
        if info.verb not in kind.verbs:
            raise method_not_allowed()
        call.representation = negotiate(call.request.headers.get("Accept"))
        resource = core.catalog.get("", "v1", kind.plural)
        head: Object = {"kind": kind.kind, "apiVersion": API_VERSION}
        if info.verb == "get":
            found = await self._one(core, call, resource, kind)
            view = {**head, **found[0]}
        else:
            found = await self._usages(core, resource, await _selected(call, resource))
            view = {**head, "kind": kind.list_kind, "metadata": {}}
        wanted = call.representation
        if wanted.transform:
            rows = [{**head, **each} for each in found]
            include = call.parameter("includeObject")
            size = ROW_BYTES * len(rows)
            view = await off_loop(size, transform_unstored, _TABLE, rows, wanted, include)
        elif info.verb != "get":
            view["items"] = [
                msgspec.Raw(msgspec.json.encode(each))
                async for part in slices(found)
                for each in part
            ]
        return respond_object(call, view)

    async def _one(self, core: Core, call: Call, resource: Resource, kind: Kind) -> list[Object]:
        """What a node or pod uses. Raises 404, also for what is there and tells nothing (yet)."""
        info = call.info
        entry = resource.cache.get(info.namespace, info.name)
        if entry is None:
            raise not_found(kind.plural, "", info.name)
        found = await self._usages(core, resource, [entry])
        if not found:
            name = f"{info.namespace}/{info.name}" if info.namespace else info.name
            raise not_found(kind.kind.lower(), GROUP, name)
        return found

    async def _usages(
        self, core: Core, resource: Resource, entries: Sequence[Entry]
    ) -> list[Object]:
        answer = self._pods if resource.name == "pods" else self._nodes
        return await answer(core, entries)

    async def _nodes(self, core: Core, entries: Sequence[Entry]) -> list[Object]:
        real: list[str] = []
        simulated: dict[str, Usage] = {}
        now = datetime.now(UTC).timestamp()
        for entry in entries:
            node = core.lookup.get("nodes", "", entry.name)
            if not is_simulated(node):
                real.append(entry.name)
            elif not is_silent(node):
                simulated[entry.name] = Usage(now, 1.0, 0, 0)
        if simulated:
            await _add_pods(core, simulated)
        found = await self._scraper.usages(dict.fromkeys(real, ()))
        result = []
        for entry in entries:
            usage = simulated.get(entry.name) or found.get(entry.name, {}).get(NODE)
            if usage is not None:
                result.append({**_head(entry, usage), "usage": _amounts(usage)})
        return result

    async def _pods(self, core: Core, entries: Sequence[Entry]) -> list[Object]:
        running, node_of = await _running(core, entries)
        nodes = {name: core.lookup.get("nodes", "", name) for name in set(node_of.values())}
        simulated = {name for name, node in nodes.items() if is_simulated(node)}
        wanted: dict[str, set[PodName]] = {name: set() for name in nodes.keys() - simulated}
        simulated = {name for name in simulated if not is_silent(nodes[name])}
        for each in running:
            if node_of[each] in wanted:
                wanted[node_of[each]].add((each.namespace, each.name))
        by_pod = _by_pod(await self._scraper.usages(wanted))
        now = datetime.now(UTC).timestamp()
        resource = core.catalog.get("", "v1", "pods")
        result = []
        async for part in slices(running):
            for entry in part:
                containers: Mapping[str, Usage | None]
                if node_of[entry] in simulated:
                    containers = container_usages(resource.decode(entry), now)
                else:
                    where = node_of[entry], entry.namespace, entry.name
                    containers = by_pod.get(where, {})
                known = {name: use for name, use in containers.items() if use is not None}
                if known and len(known) == len(containers):
                    result.append(_pod_metrics(entry, known))
        return result


async def _running(core: Core, entries: Sequence[Entry]) -> tuple[list[Entry], dict[Entry, str]]:
    """The pods that run, and the node of each."""
    names = core.catalog.get("", "v1", "pods").stored_kind.field_names
    node, phase = names.index("spec.nodeName"), names.index("status.phase")
    node_of = {
        each: each.facts.fields[node]
        async for part in slices(entries, 256)
        for each in part
        if each.facts.fields[phase] == "Running" and each.facts.fields[node]
    }
    return list(node_of), node_of


def _by_pod(found: Found) -> dict[tuple[str, str, str], dict[str, Usage | None]]:
    """The containers of each pod, by the pod's node, namespace and name: a pod that was made anew
    elsewhere under its old name is not what its last node still reports."""
    result: dict[tuple[str, str, str], dict[str, Usage | None]] = {}
    for node, usages in found.items():
        for key, usage in usages.items():
            if key != NODE:
                namespace, pod, container = key
                result.setdefault((node, namespace, pod), {})[container] = usage
    return result


async def _add_pods(core: Core, usages: dict[str, Usage]) -> None:
    """Add to simulated nodes what their pods use."""
    resource = core.catalog.get("", "v1", "pods")
    running, node_of = await _running(core, list(resource.cache.scan()))
    mark = PREFIX.encode()
    async for part in slices(running):
        for entry in part:
            node = usages.get(node_of[entry])
            if node is not None and mark in entry.tail:
                more = container_usages(resource.decode(entry), node.time).values()
                usages[node_of[entry]] = total((node, *more), node.time)


async def _selected(call: Call, resource: Resource) -> Sequence[Entry]:
    """The nodes or pods that a list is about. Raises 400."""
    options = list_options(call, is_watch=False)
    if options.field_selector:
        known = ("metadata.name", "metadata.namespace")
        try:
            requirements = parse_field_selector(options.field_selector).requirements
        except SelectorError as error:
            raise bad_request(str(error)) from None
        for each in requirements:
            if each.field not in known:
                text = f'"{each.field}" is not a known field selector: only "{known[0]}"'
                raise bad_request(f'{text}, "{known[1]}"')
    selection = selection_of(resource, call.info.namespace, options)
    return await chosen(resource.cache.snapshot(selection), selection)


# ---- objects


def _head(entry: Entry, usage: Usage) -> Object:
    metadata: Object = {"name": entry.name}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    metadata["creationTimestamp"] = format_time(datetime.now(UTC))
    if entry.facts.labels:
        metadata["labels"] = dict(entry.facts.labels)
    return {
        "metadata": metadata,
        "timestamp": format_time(datetime.fromtimestamp(usage.time, UTC)),
        "window": format_duration(round(usage.window, 3)),
    }


def _pod_metrics(entry: Entry, usages: Mapping[str, Usage]) -> Object:
    """The pod is as old as its oldest sample."""
    containers = [{"name": name, "usage": _amounts(each)} for name, each in usages.items()]
    return {**_head(entry, min(usages.values())), "containers": containers}


def _amounts(usage: Usage) -> Object:
    """As metrics-server writes them: cores in billionths, memory in kibibytes."""
    return {
        "cpu": str(parse_quantity(f"{usage.nanocores}n")),
        "memory": str(Quantity.of(usage.memory, Format.BINARY)),
    }


def _cells(obj: Object, now: datetime) -> list[Any]:
    usages = [each["usage"] for each in obj.get("containers") or (obj,)]
    cells = [obj["metadata"]["name"]]
    for name in ("cpu", "memory"):
        total = parse_quantity("0")
        for usage in usages:
            total = parse_quantity(usage[name]) + total
        cells.append(str(total))
    return [*cells, obj["window"]]


_TABLE = Table(columns("Name|cpu|memory|Window"), _cells)
