"""`/logs/`: the node's own log files, and (if the node was told so) its journal.

A path leads to a file below the node's log directory or to nothing: `..` and links cannot lead out,
also when somebody moves things meanwhile, because the kernel resolves the path and vouches for it.
`?query=` (KEP-2258) asks for the logs of services: from the journal where journald has them, from
files named after the service elsewhere.
"""

from __future__ import annotations

import asyncio
import html
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from multidict import MultiMapping

from navarch.api.errors import ApiError, FieldError, invalid, too_many
from navarch.api.times import TimeError, parse_time

from ..volumes.kernel import open_beneath

CHUNK = 64 * 1024
MAX_SERVICES = 4
MAX_TAIL_LINES = 100_000
QUERY_SECONDS = 30.0
_UNSAFE_NAME = re.compile(r"[^a-zA-Z\-_.:0-9@]+")
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True)
class LogQuery:
    """What somebody wants to know of some services, or one file."""

    services: Sequence[str] = ()
    file: str = ""
    arguments: Sequence[str] = ()
    """For journalctl; without them, files named after services will do."""


def open_log(root: Path, path: str) -> int:
    """Opens a file or directory below `root`. Raises OSError; a device is never opened, and a pipe
    is not waited for."""
    base = os.path.realpath(root)
    # Links in /var/log/containers are absolute, as kubelets make them.
    target = os.path.relpath(os.path.realpath(os.path.join(base, path)), base)
    directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_beneath(directory, target, os.O_PATH)
    finally:
        os.close(directory)
    try:
        mode = os.fstat(found).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileNotFoundError(path)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(found)


def listing(opened: int) -> str:
    """A directory as Go's file server shows it."""
    names = []
    with os.scandir(opened) as entries:
        for entry in entries:
            names.append(entry.name + ("/" if entry.is_dir() else ""))
    links = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in sorted(names))
    head = '<!doctype html>\n<meta name="viewport" content="width=device-width">\n'
    return f"{head}<pre>\n{links}</pre>\n"


async def serve_logs(request: web.Request, root: Path, *, may_query: bool) -> web.StreamResponse:
    """Answers a request for `/logs/<path>`."""
    path = request.match_info.get("path", "")
    if may_query and not path and ("query" in request.query or "unit" in request.query):
        return await _answer_query(request, root, parse_query(request.query, root))
    try:
        opened = await asyncio.to_thread(open_log, root, path)
    except (OSError, ValueError):
        # Whether it is elsewhere, forbidden or simply not there is nobody's business.
        raise ApiError(404, "NotFound", "404 page not found\n") from None
    try:
        status = os.fstat(opened)
        if stat.S_ISDIR(status.st_mode):
            if path and not path.endswith("/"):
                name = quote(path.rpartition("/")[2])
                return web.Response(status=301, headers={"Location": f"{name}/"})
            text = await asyncio.to_thread(listing, opened)
            return web.Response(text=text, content_type="text/html")
        packed = path.endswith((".gz", ".xz", ".zst"))
        kind = {"Content-Type": "application/octet-stream"} if packed else _TEXT
        response = web.StreamResponse(headers=kind)
        response.content_length = status.st_size
        await response.prepare(request)
        remaining = status.st_size
        while remaining and request.method != "HEAD":
            # What is written meanwhile is not part of the answer, whose length is told already.
            chunk = await asyncio.to_thread(os.read, opened, min(CHUNK, remaining))
            if not chunk:
                raise ConnectionResetError(f"{path} became shorter")
            await response.write(chunk)
            remaining -= len(chunk)
        await response.write_eof()
        return response
    finally:
        os.close(opened)


def parse_query(query: MultiMapping[str], root: Path) -> LogQuery:
    """Raises ApiError 400 with all that is wrong, in upstream's words."""
    asked = query.getall("query", [])
    files = [each for each in asked if "/" in each or "\\" in each]
    services = [
        *(each for each in asked if each not in files and each.strip()),
        *(each for each in query.getall("unit", []) if each.strip()),
    ]
    arguments: list[str] = []
    errors = [*_source_errors(files, services), *_option_errors(query, arguments)]
    if files and not errors:
        if arguments:
            errors.append(invalid("query", files[0], "cannot specify file with options"))
        try:
            os.close(open_log(root, files[0].lstrip("/")))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "invalid name"
            errors.append(invalid("query", files[0], why.lower()))
    if errors:
        texts = [f"{error.field}: {error.message}" for error in errors]
        text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        raise ApiError(400, "BadRequest", text + "\n")
    return LogQuery(services, files[0] if files else "", arguments)


def _source_errors(files: Sequence[str], services: Sequence[str]) -> Iterator[FieldError]:
    if not files and not services:
        yield invalid("unit", "", "unit cannot be empty")
    for service in services:
        if len(service) > 256:
            yield invalid("query", service[:256], "length must be less than 256")
        elif _UNSAFE_NAME.search(service) or service.startswith("-"):
            yield invalid("query", service, "input contains unsupported characters")
    if len(services) > MAX_SERVICES:
        yield too_many("query", len(services), MAX_SERVICES)
    if files and services:
        yield invalid("query", ", ".join([*files, *services]), "cannot specify a file and service")
    elif len(files) > 1:
        yield invalid("query", ", ".join(files), "cannot specify more than one file")


def _option_errors(query: MultiMapping[str], arguments: list[str]) -> Iterator[FieldError]:
    """Checks the options and fills in the arguments that they become."""
    moments = {}
    for name, flag in (("sinceTime", "since"), ("untilTime", "until")):
        text = query.get(name, "")
        if not text:
            continue
        try:
            moments[name] = parse_time(text)
        except TimeError:
            yield invalid(name, text, "invalid time format")
            continue
        arguments.append(f"--{flag}={moments[name]:%Y-%m-%d %H:%M:%S}")
    if len(moments) == 2 and moments["sinceTime"] > moments["untilTime"]:
        yield invalid("untilTime", query["untilTime"], "must be after `sinceTime`")
    for name, low, high, flags in (
        ("boot", -(1 << 31), 0, ("--boot={}",)),
        ("tailLines", 0, MAX_TAIL_LINES, ("--pager-end", "--lines={}")),
    ):
        text = query.get(name, "")
        if not text:
            continue
        if re.fullmatch(r"[+-]?[0-9]{1,9}", text) is None:
            yield invalid(name, text, f'strconv.Atoi: parsing "{text}": invalid syntax')
        elif not low <= int(text) <= high:
            limits = "less than 1" if name == "boot" else f"between {low} and {high}, inclusive"
            yield invalid(name, int(text), f"must be {limits}")
        else:
            arguments.extend(flag.format(int(text)) for flag in flags)
    pattern = query.get("pattern", "")
    if pattern:
        try:
            re.compile(pattern)
        except re.error as error:
            yield invalid("pattern", pattern, f"error parsing regexp: {error}")
        arguments.append(f"--grep={pattern}")


async def _answer_query(request: web.Request, root: Path, query: LogQuery) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain;charset=UTF-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        async with asyncio.timeout(QUERY_SECONDS):
            async for chunk in _found(root, query):
                await response.write(chunk)
    except TimeoutError:
        await response.write(b"\ncontext error: context deadline exceeded\n")
    await response.write_eof()
    return response


async def _found(root: Path, query: LogQuery) -> AsyncIterator[bytes]:
    if query.file:
        async for chunk in _file(root, query.file.lstrip("/")):
            yield chunk
        return
    units = b"".join([each async for each in _journal("--field", "_SYSTEMD_UNIT")]).decode()
    known = [each for each in query.services if f"{each}.service" in units]
    in_files = [each for each in query.services if each not in known]
    if in_files and query.arguments:
        names = " ".join(in_files)
        yield (
            f"\noptions present and query resolved to log files for [{names}]\n"
            "try without specifying options\n"
        ).encode()
        return
    for service in in_files:
        async for chunk in _service_file(root, service):
            yield chunk
    if known:
        options = ["--utc", "--no-pager", "--output=short-precise", *query.arguments]
        async for chunk in _journal(*options, *(f"--unit={each}" for each in known)):
            yield chunk


async def _service_file(root: Path, service: str) -> AsyncIterator[bytes]:
    for name in (service, f"{service}.log", f"{service}/{service}.log"):
        try:
            async for chunk in _file(root, name):
                yield chunk
            return
        except FileNotFoundError:
            continue
        except OSError as error:
            yield f"\nerror getting log for {service}: {error.strerror}\n".encode()
            return
    yield f"\nlog not found for {service}\n".encode()


async def _file(root: Path, name: str) -> AsyncIterator[bytes]:
    opened = await asyncio.to_thread(open_log, root, name)
    try:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise FileNotFoundError(name)
        while chunk := await asyncio.to_thread(os.read, opened, CHUNK):
            yield chunk
    finally:
        os.close(opened)


async def _journal(*arguments: str) -> AsyncIterator[bytes]:
    """What journalctl prints; nothing where there is none."""
    try:
        process = await asyncio.create_subprocess_exec(
            "journalctl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return
    assert process.stdout is not None
    try:
        while chunk := await process.stdout.read(CHUNK):
            yield chunk
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
