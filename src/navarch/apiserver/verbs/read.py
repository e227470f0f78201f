"""GET of one object, and lists: answered from the hub's bytes."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import msgspec
from aiohttp.web import StreamResponse

from navarch.api.errors import ApiError, bad_request, gone, not_found
from navarch.apiserver.core import Core
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import JSON
from navarch.apiserver.http.options import ListOptions, list_options, parse_revision
from navarch.apiserver.http.respond import (
    accepts_gzip,
    base_headers,
    encode_json,
    respond_bytes,
    respond_object,
)
from navarch.apiserver.http.transform import transform_list, transform_object
from navarch.apiserver.http.turns import slices
from navarch.apiserver.hub.cache import KeptPage
from navarch.apiserver.hub.entry import Entry, entry_of
from navarch.apiserver.hub.watcher import Selection
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs.selection import selection_of
from navarch.store.contract import Compacted, FutureRevision, KeyValue

STREAM_THRESHOLD = 64 * 1024
PIECE_BYTES = 1024 * 1024
KEPT_BYTES = 4 * 1024 * 1024
KEPT_PAGES = 4
SMALL_LIST, SMALL_BYTES = 256, 256 * 1024
"""What is below is answered at once, what is above in turns or in a thread."""
FUTURE_SECONDS = 3.0
BAD_TOKEN = "invalid continue token: continue key is not valid"
TOKEN_VERSION = "meta.k8s.io/v1"


async def get(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """One object, at the newest revision (or a newer one than was asked for)."""
    if call.target.query:
        text = call.parameter("resourceVersion")
        if text:
            await wait_for_revision(core, parse_revision(text))
    info = call.info
    namespace = info.namespace if resource.kind.namespaced else ""
    entry = resource.cache.get(namespace, info.name)
    if entry is None:
        raise not_found(resource.kind.plural, resource.kind.group, info.name)
    if resource.converter is not None:
        entry = await resource.view(entry)
    if call.representation.transform:
        obj = resource.decode(entry)
        include = call.parameter("includeObject")
        return respond_object(call, transform_object(resource, obj, call.representation, include))
    return respond_bytes(call, resource.body(entry))


async def wait_for_revision(core: Core, revision: int) -> None:
    """Wait for a revision that has not happened yet. Raises 504 after three seconds."""
    if revision <= core.hub.revision:
        return
    try:
        async with asyncio.timeout(FUTURE_SECONDS):
            await core.hub.wait_for(revision)
    except TimeoutError:
        text = f"Too large resource version: {revision}, current: {core.hub.revision}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        details = {"causes": [cause], "retryAfterSeconds": 1}
        raise ApiError(504, "Timeout", text, details) from None


@dataclass(frozen=True, slots=True)
class Page:
    """The entries of a list and what its metadata says. `next_key` is the path to go on after."""

    entries: Sequence[Entry]
    revision: int
    next_key: str = ""
    remaining: int = 0
    kept: KeptPage | None = None
    """Where the cache keeps this page, if it does."""


Parts = tuple[bytes | memoryview, ...]
"""A tail as the pieces it is joined of; the last one is nearly all of it."""


async def list_objects(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """A list, whole or in pages."""
    options = list_options(call, is_watch=False)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    selection = selection_of(resource, namespace, options)
    page = await find_page(core, resource, selection, options)
    metadata: dict[str, object] = {"resourceVersion": str(page.revision)}
    if page.next_key:
        metadata["continue"] = encode_token(page.revision, page.next_key)
        if selection.everything and page.remaining:
            metadata["remainingItemCount"] = page.remaining
    if call.representation.transform:
        view = await _transformed(call, resource, page.entries, metadata)
        if len(page.entries) <= SMALL_LIST:
            return respond_object(call, view)
        return await asyncio.to_thread(respond_object, call, view)
    if resource.is_custom:  # Go's untyped lists always say where they go on
        metadata = {"continue": "", **metadata}
    head = b'{"kind":%b,"apiVersion":%b,"metadata":%b,"items":[' % (
        encode_json(resource.kind.list_kind),
        encode_json(resource.kind.api_version),
        encode_json(metadata),
    )
    return await _respond_list(call, resource, head, page)


async def _transformed(
    call: Call, resource: Resource, entries: Sequence[Entry], metadata: dict[str, object]
) -> dict[str, Any]:
    """A list in the view that was negotiated."""
    include = call.parameter("includeObject")
    wanted = call.representation
    result: dict[str, Any] = transform_list(resource, [], wanted, metadata, include)
    rows = result["rows" if wanted.transform == "Table" else "items"]
    async for part in slices(entries):
        objects = [resource.decode(entry) for entry in part]
        view = transform_list(resource, objects, wanted, metadata, include)
        rows += view["rows" if wanted.transform == "Table" else "items"]
    return result


async def _respond_list(call: Call, resource: Resource, head: bytes, page: Page) -> StreamResponse:
    """Join the entries' bytes and send them without copying them once more."""
    pieces: Iterable[bytes]
    if page.kept is not None and resource.convert_out is None:
        pieces = _kept_items(resource, page.kept)
        size = sum(map(len, pieces))
    else:
        item_head, entries = resource.item_head, page.entries
        tails: Iterable[Parts]
        if resource.convert_out is None:
            tails = (entry.tail_parts for entry in entries)  # never all of a big list at once
            size = sum(entry.tail_size for entry in entries)
        else:
            converted = [resource.tail(entry) async for part in slices(entries) for entry in part]
            tails = ((tail,) for tail in converted)
            size = sum(map(len, converted))
        size += len(entries) * (len(item_head) + 1) - bool(entries)
        pieces = _join(tails, item_head)
    is_plain = call.representation.media_type == JSON and not call.wants_indent
    is_recorded = call.trail is not None and call.trail.wants_response
    if size < STREAM_THRESHOLD or not is_plain or is_recorded or accepts_gzip(call):
        body = b"".join((head, *pieces, b"]}"))
        if size < SMALL_BYTES:
            return respond_bytes(call, body)
        # To compress, indent or write as YAML what is big would hold up everybody else.
        return await asyncio.to_thread(respond_bytes, call, body)
    headers = base_headers(call)
    headers["Content-Type"] = JSON
    response = StreamResponse(headers=headers)
    response.content_length = len(head) + size + 2
    await response.prepare(call.request)
    await response.write(head)
    for piece in pieces:
        await response.write(piece)
        await asyncio.sleep(0)
    await response.write(b"]}")
    await response.write_eof()
    return response


def _kept_items(resource: Resource, kept: KeptPage) -> list[bytes]:
    """The joined items of a page that many ask for; joined at the first request."""
    pieces = kept.joined.get(resource.item_head)
    if pieces is None:
        tails = (entry.tail_parts for entry in kept.entries)
        pieces = kept.joined[resource.item_head] = list(_join(tails, resource.item_head))
    return pieces


def _join(tails: Iterable[Parts], item_head: bytes) -> Iterator[bytes]:
    """The items in pieces of about a megabyte, so that a big list is never joined as a whole."""
    separator = b"," + item_head
    parts: list[bytes | memoryview] = []
    gathered = 0
    for index, tail in enumerate(tails):
        parts.append(separator if index else item_head)
        parts.extend(tail)
        gathered += len(tail[-1])
        if gathered >= PIECE_BYTES:
            yield b"".join(parts)
            parts.clear()
            gathered = 0
    if parts:
        yield b"".join(parts)


# ---- paging


async def find_page(
    core: Core, resource: Resource, selection: Selection, options: ListOptions
) -> Page:
    """The entries that a list's options ask for, in the resource's version. Raises 400, 410, 500,
    504."""
    if resource.converter is None:
        return await _find_page(core, resource, selection, options)
    limit = options.limit
    if not selection.everything:
        # What is selected shows only in the converted objects: all are looked at.
        match = options.match or ("Exact" if limit and options.revision else "")
        options = replace(options, limit=0, match=match)
    page = await _find_page(core, resource, selection.broad, options)
    views = list(filter(selection.matches, await resource.views(page.entries)))
    if selection.everything or not limit or len(views) <= limit:
        return replace(page, entries=views, kept=None)
    left = len(views) - limit
    return Page(views[:limit], page.revision, views[limit - 1].path, left)


async def _find_page(
    core: Core, resource: Resource, selection: Selection, options: ListOptions
) -> Page:
    """The same, in the stored version."""
    hub, cache = core.hub, resource.cache
    if options.continue_token:
        if options.revision:
            raise bad_request("specifying resource version is not allowed when using continue")
        revision, start = decode_token(options.continue_token)
        if revision > 0 and cache.revision > revision:
            return await _stored_page(core, resource, selection, options, (revision, start))
        shown = revision if revision > 0 else hub.revision_of(cache)
        return await _page(resource, selection, options.limit, shown, start)
    asked = options.revision or 0
    if asked:
        await wait_for_revision(core, asked)
        is_exact = options.match == "Exact" or (not options.match and options.limit)
        if is_exact and cache.revision > asked:
            return await _stored_page(core, resource, selection, options, (asked, ""))
        if is_exact:
            return await _page(resource, selection, options.limit, asked)
    limit = options.limit if options.revision != 0 else 0
    shown = hub.revision_of(cache)
    if selection.everything:
        return _kept_page(resource, selection, limit, shown)
    return await _page(resource, selection, limit, shown)


def _kept_page(resource: Resource, selection: Selection, limit: int, revision: int) -> Page:
    """The first page of everything in a namespace or in all, kept until something there changes:
    informers, controllers and people ask for the same lists."""
    cache = resource.cache
    key = (selection.namespace, limit)
    version = cache.revision_in(selection.namespace)
    kept = cache.pages.get(key)
    if kept is None or kept.version != version:
        page = _cached_page(resource, selection, limit, revision, "")
        if sum(entry.tail_size for entry in page.entries) > KEPT_BYTES:
            return page
        if len(cache.pages) >= KEPT_PAGES:
            cache.pages.clear()
        kept = KeptPage(version, page.entries, page.next_key, page.remaining)
        cache.pages[key] = kept
    return Page(kept.entries, revision, kept.next_key, kept.remaining, kept)


async def _page(
    resource: Resource, selection: Selection, limit: int, revision: int, start: str = ""
) -> Page:
    """A page of what is in the cache now, from a path on."""
    if selection.everything:
        return _cached_page(resource, selection, limit, revision, start)
    cache = resource.cache
    if selection.name and not start:
        return Page(cache.snapshot(selection), revision)
    # What is taken down now belongs to one revision, however long it takes to look at all of it.
    entries = cache.snapshot(selection, start)
    found = await chosen(entries, selection, limit)
    if limit and len(found) > limit:
        return Page(found[:limit], revision, found[limit - 1].path, 1)
    return Page(found, revision)


async def chosen(entries: Sequence[Entry], selection: Selection, limit: int = 0) -> Sequence[Entry]:
    """Those of the entries that a selection's predicate wants; with a limit, hardly more than that
    many, and one more if there is one."""
    if selection.everything:
        return entries
    found: list[Entry] = []
    async for part in slices(entries, 256):
        found += filter(selection.matches, part)
        if limit and len(found) > limit:
            break
    return found


def _cached_page(
    resource: Resource, selection: Selection, limit: int, revision: int, start: str
) -> Page:
    """A page of everything."""
    cache = resource.cache
    entries = cache.scan(selection.namespace, start)
    found = list(islice(entries, limit)) if limit else list(entries)
    is_full = limit and len(found) == limit
    remaining = cache.count_after(selection.namespace, found[-1].path) if is_full else 0
    if not remaining:
        return Page(found, revision)
    return Page(found, revision, found[-1].path, remaining)


def _present(resource: Resource, kv: KeyValue) -> Entry | None:
    """The entry in the cache if it has not changed since: nearly all have not."""
    namespace, _, name = kv.key[len(resource.stored_kind.prefix) :].rpartition("/")
    entry = resource.cache.get(namespace, name)
    return entry if entry is not None and entry.revision == kv.mod_revision else None


async def _stored_page(
    core: Core,
    resource: Resource,
    selection: Selection,
    options: ListOptions,
    position: tuple[int, str],
) -> Page:
    """A page of the past, read from the store's own history."""
    revision, start = position
    stored = resource.stored_kind
    prefix = stored.prefix
    if selection.namespace and stored.namespaced:
        prefix += selection.namespace + "/"
    begin = f"{stored.prefix}{start}\0" if start else ""
    found: list[Entry] = []
    limit = options.limit
    while True:
        size = max(limit - len(found), 100) if limit and not selection.everything else limit
        try:
            result = await core.store.range(prefix, limit=size, start=begin, at_revision=revision)
        except Compacted:
            raise _expired(revision, start) from None
        except FutureRevision as error:
            raise gone(str(error)) from None
        for index, kv in enumerate(result.items):
            entry = _present(resource, kv) or entry_of(kv, stored, None)
            if not selection.everything and not selection.matches(entry):
                continue
            found.append(entry)
            if limit and len(found) == limit:
                left = result.remaining + len(result.items) - index - 1
                return Page(found, revision, entry.path if left else "", left)
        if not result.remaining:
            return Page(found, revision)
        begin = result.items[-1].key + "\0"


class _ExpiredList(ApiError):
    """410 with a token to go on with, inconsistently."""

    def __init__(self, status: int, reason: str, message: str, token: str) -> None:
        super().__init__(status, reason, message)
        self.token = token

    def to_status(self) -> dict[str, Any]:
        status = super().to_status()
        status["metadata"] = {"continue": self.token}
        return status


def _expired(revision: int, start: str) -> ApiError:
    """410; a list that was under way gets a token to go on with at the present revision."""
    if not start:
        return gone("The resourceVersion for the provided list is too old.")
    return _ExpiredList(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can "
        "start a new list without the continue parameter, or use the continue token in this "
        "response to retrieve the remainder of the results. Continuing with the provided token "
        "results in an inconsistent list - objects that were created, modified, or deleted between "
        "the time the first chunk was returned and now may show up in the list.",
        token=encode_token(-1, start),
    )


def encode_token(revision: int, path: str) -> str:
    """A continue token: the snapshot's revision, and where to go on (just behind `path`)."""
    text = msgspec.json.encode({"v": TOKEN_VERSION, "rv": revision, "start": path + "\0"})
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, str]:
    """Revision and path of a token; the revision is -1 for an inconsistent one. Raises 400."""
    try:
        padded = token + "=" * (-len(token) % 4)
        data = msgspec.json.decode(base64.urlsafe_b64decode(padded.encode("ascii")))
        version, revision, start = data["v"], data["rv"], data["start"]
        if version != TOKEN_VERSION or type(revision) is not int or type(start) is not str:
            raise ValueError("wrong version or types")
    except (ValueError, KeyError, TypeError, binascii.Error, msgspec.DecodeError) as error:
        raise bad_request(f"{BAD_TOKEN}: {error}") from None
    path = start.removesuffix("\0")
    if not path or ".." in path.split("/") or path.count("/") > 1 or path.startswith("/"):
        raise bad_request(f"{BAD_TOKEN}: invalid start")
    if revision == 0 or revision < -1:
        raise bad_request(f"{BAD_TOKEN}: incorrect encoded start resourceVersion")
    return revision, path
