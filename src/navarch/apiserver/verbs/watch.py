"""Watches: the initial state, what was missed, and then every change as it happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

from aiohttp import HttpVersion11
from aiohttp.web import StreamResponse

from navarch.api.errors import ApiError, gone
from navarch.apiserver.core import Core
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.messages import MessageResponse, lines, wants_messages
from navarch.apiserver.http.negotiation import JSON, not_acceptable
from navarch.apiserver.http.options import list_options
from navarch.apiserver.http.respond import base_headers, encode_json
from navarch.apiserver.http.transform import check_include, transform_object
from navarch.apiserver.hub.cache import Expired
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.hub.watcher import ConvertingWatcher, Form, Selection, Watcher
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs.read import chosen, wait_for_revision
from navarch.apiserver.verbs.selection import selection_of

INITIAL_BATCH = 256 * 1024


async def watch(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """Stream changes until the client leaves, its timeout passes or it falls behind."""
    if call.representation.media_type != JSON:
        raise not_acceptable("application/json")
    options = list_options(call, is_watch=True)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    name = call.info.name if call.target.is_item else ""
    selection = selection_of(resource, namespace, options, name)
    form = _form(call, resource)
    wants_state = options.send_initial_events
    if wants_state is None:
        wants_state = not options.revision
    elif wants_state and options.revision:
        await wait_for_revision(core, options.revision)
    if options.revision and not wants_state:
        await core.hub.recall(resource.cache, options.revision)
    if resource.converter is not None and wants_state:
        # A webhook that is out of order is a failure now, not an event in a stream later.
        await resource.views(list(resource.cache.select(selection.broad)))
    response = await _start(call)
    # From here to the registration nothing may wait: the state and the revision belong together.
    now = core.hub.revision_of(resource.cache)
    starts_now = wants_state or not options.revision
    after = now if starts_now else options.revision or 0
    watcher = _watcher(resource, selection, form, after, options.allow_bookmarks)
    try:
        resource.cache.add_watcher(watcher)
    except Expired as error:
        await response.write(_error_line(gone(str(error)).to_status()))
        return response
    scope = selection if resource.converter is None else selection.broad
    state: Sequence[Entry] = resource.cache.snapshot(scope) if wants_state else []
    least = core.options.min_request_timeout_seconds
    seconds = options.timeout_seconds or least * (1 + random.random())
    timer = asyncio.get_running_loop().call_later(max(seconds, 0), watcher.finish)
    connection = core.connection_of(call.request)
    connection.on_lost.add(watcher.close)
    core.gauge("watches", 1)
    try:
        state = await chosen(state, scope)
        if resource.converter is not None:
            state = list(filter(selection.matches, await resource.views(state)))
        if state and form.later is not None:
            watcher.form = form.later
        await _send_state(response, form, state)
        if options.send_initial_events and options.allow_bookmarks:
            await response.write(form.bookmark(after, True))
        if core.flow_control is not None:
            # What follows costs little and lasts: only the beginning of a watch takes seats.
            core.flow_control.leave(call)
        while lines := await watcher.take():
            await response.write(lines)
    except ApiError as error:
        await response.write(_error_line(error.to_status()))
    finally:
        core.gauge("watches", -1)
        connection.on_lost.discard(watcher.close)
        timer.cancel()
        resource.cache.remove_watcher(watcher)
    return response


def _watcher(
    resource: Resource, selection: Selection, form: Form, after: int, bookmarks: bool
) -> Watcher:
    if resource.converter is None:
        return Watcher(selection, form, after, bookmarks)
    return ConvertingWatcher(selection, form, after, bookmarks, resource.views)


async def _start(call: Call) -> StreamResponse:
    """Send the headers at once: clients wait for them before they trust the watch."""
    if wants_messages(call):
        messages = MessageResponse(call, (), lines)
        if call.trail is not None:
            call.trail.started(101)
        await messages.prepare(call.request)
        return messages
    headers = base_headers(call)
    headers["Content-Type"] = JSON
    response = StreamResponse(headers=headers)
    if call.request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    else:
        response.force_close()  # The end of the connection is the end of the stream.
    if call.trail is not None:
        call.trail.started(200)
    writer = await response.prepare(call.request)
    assert writer is not None
    writer.send_headers()
    return response


async def _send_state(response: StreamResponse, form: Form, state: Iterable[Entry]) -> None:
    """The objects there are, as ADDED events, in pieces that leave others their turn."""
    lines: list[bytes] = []
    size = 0
    for entry in state:
        line = form.encode("ADDED", entry)
        form = form.later or form
        lines.append(line)
        size += len(line)
        if size >= INITIAL_BATCH:
            await response.write(b"".join(lines))
            lines.clear()
            size = 0
    if lines:
        await response.write(b"".join(lines))


def _error_line(status: dict[str, object]) -> bytes:
    return b'{"type":"ERROR","object":%b}\n' % encode_json(status)


def _form(call: Call, resource: Resource) -> Form:
    """How this watch wants its events."""
    wanted = call.representation
    if wanted.transform:
        include = call.parameter("includeObject")
        name = (
            f"{resource.kind.api_version} {wanted.transform} {wanted.transform_version} {include}"
        )

        check_include(include)

        def encode_view(event: str, entry: Entry) -> bytes:
            view = transform_object(resource, resource.decode(entry), wanted, include)
            return b'{"type":"%b","object":%b}\n' % (event.encode(), encode_json(view))

        def encode_rows(event: str, entry: Entry) -> bytes:
            view = transform_object(resource, resource.decode(entry), wanted, include)
            view["columnDefinitions"] = None
            return b'{"type":"%b","object":%b}\n' % (event.encode(), encode_json(view))

        bookmarks = _bookmarks(*_view_names(wanted.transform, wanted.transform_version))
        if wanted.transform != "Table":
            return Form(name, encode_view, bookmarks)
        later = Form(f"{name} rows", encode_rows, bookmarks)
        return Form(name, encode_view, bookmarks, later)
    head = resource.head
    convert = resource.convert_out

    def encode(event: str, entry: Entry) -> bytes:
        tail = entry.tail if convert is None else resource.tail(entry)
        return b'{"type":"%b","object":%b%b}\n' % (event.encode(), head, tail)

    kind = resource.kind
    return Form(kind.api_version, encode, _bookmarks(kind.api_version, kind.kind))


def _view_names(transform: str, version: str) -> tuple[str, str]:
    kind = "Table" if transform == "Table" else "PartialObjectMetadata"
    return f"meta.k8s.io/{version}", kind


def _bookmarks(api_version: str, kind: str) -> Callable[[int, bool], bytes]:
    """Makes the BOOKMARK lines of a form."""

    def bookmark(revision: int, is_initial_end: bool) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(revision)}
        if is_initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: dict[str, object] = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
        if kind == "Table":
            obj |= {"columnDefinitions": [], "rows": [_bookmark_row(metadata, api_version)]}
        return b'{"type":"BOOKMARK","object":%b}\n' % encode_json(obj)

    return bookmark


def _bookmark_row(metadata: dict[str, object], api_version: str) -> dict[str, object]:
    partial = {"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata}
    return {"cells": [], "object": partial}
