"""Sends requests at random to a server in this process and judges every answer.

What must hold: no status of 500 and above but those that say that time ran out or that somebody
else failed, a well-made Status with every refusal, an answer in time, nothing in the error log,
memory within bounds, and every object that was stored readable in all forms at the end.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from tests.api.conftest import Api, secured_server
from tests.api.hostile import NAMESPACE, ROOT, furnish, resident
from tests.fuzz.client import Client, Reply
from tests.fuzz.generator import GLOBAL, NAMES, THING, THING_DEFINITION, Generator, Request

from navarch.api.kinds import KINDS, Kind

MEBIBYTE = 1 << 20
PROCESSOR_SECONDS = 0.5
"""The time that one request may take of this process, client included."""
CONNECTING = ("proxy", "exec", "attach", "portforward", "log")
NAMESPACES = ("default", *NAMES)


@dataclass
class Report:
    requests: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    grown: int = 0
    """Bytes of memory more than after the first third."""

    def __str__(self) -> str:
        counted = ", ".join(f"{code}: {number}" for code, number in sorted(self.statuses.items()))
        return (
            f"{self.requests} requests ({counted}); slowest {self.slowest:.3f} s of processor; "
            f"{self.grown / MEBIBYTE:.1f} MiB more memory; {len(self.findings)} findings"
        )


class Complaints(logging.Handler):
    """Errors that were logged since they were last asked for."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter("%(message)s").format(record)[-3000:])

    def take(self) -> list[str]:
        found, self.found = self.found, []
        return found


def judge(request: Request, reply: Reply) -> str:
    """What is wrong with an answer; "" for nothing."""
    status = reply.status
    path = request.path.partition("?")[0]
    if status >= 500:
        is_connecting = path.rpartition("/")[2] in CONNECTING or "/proxy" in path
        if status != 504 and not is_connecting:
            return f"status {status}"
    if not reply.is_whole or request.method == "HEAD":
        return ""
    kind = reply.headers.get("content-type", "")
    body = reply.body
    if reply.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    if not kind.startswith("application/json"):
        return "" if kind or not body else "no content type"
    try:
        value = json.loads(body)
    except ValueError as error:
        return f"the answer is no JSON: {error}"
    if status >= 400:
        return judge_status(status, value)
    return ""


def judge_status(status: int, value: Any) -> str:
    if not isinstance(value, dict) or (value.get("kind"), value.get("apiVersion")) != (
        "Status", "v1",
    ):  # fmt: skip
        return "a refusal without a Status"
    if value.get("status") != "Failure" or value.get("code") != status or not value.get("message"):
        return "a Status that is not well made"
    if not value.get("reason") and status != 417:
        return "a Status without a reason"
    if len(value["message"]) > 300_000:
        return "a Status that is endless"
    return ""


class Fuzzer:
    def __init__(self, api: Api, seed: int, on_finding: Callable[[str], None]) -> None:
        self.api = api
        self.on_finding = on_finding
        self.generator = Generator(seed)
        self.client = Client(api.server.port)
        self.report = Report()
        self.complaints = Complaints()

    async def run(self, requests: int) -> Report:
        logging.getLogger().addHandler(self.complaints)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, found: self.complaints.found.append(str(found)))
        try:
            before = 0
            for number in range(requests):
                if number == requests // 3:
                    before = resident()
                await self.one(self.generator.request())
            self.report.grown = resident() - before
            await self.read_back()
        finally:
            self.client.close()
            loop.set_exception_handler(None)
            logging.getLogger().removeHandler(self.complaints)
        return self.report

    async def one(self, request: Request) -> None:
        report = self.report
        report.requests += 1
        began = time.process_time()
        try:
            reply = await self.client.send(request)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.client.close()
            self.find(f"no answer: {error!r}", request)
            return
        took = time.process_time() - began
        report.slowest = max(report.slowest, took)
        report.statuses[reply.status] = report.statuses.get(reply.status, 0) + 1
        problem = judge(request, reply)
        if not problem and took > PROCESSOR_SECONDS:
            problem = f"{took:.2f} s of processor time"
        logged = self.complaints.take()
        if problem or logged:
            self.find(problem or "an error in the log", request, reply.body, logged)

    def find(
        self, problem: str, request: Request, body: bytes = b"", logged: list[str] | None = None
    ) -> None:
        lines = [f"{problem}: {request}", body[:1000].decode(errors="replace"), *(logged or [])]
        self.report.findings.append("\n".join(filter(None, lines)))
        self.on_finding(self.report.findings[-1])

    async def read_back(self) -> None:
        """Everything that was stored can be read, in every form, and be deleted."""
        kinds: list[Kind] = [kind for kind in KINDS if "list" in kind.verbs]
        for kind in [*kinds, THING]:
            root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
            for accept in ("application/json", "application/yaml",
                           "application/json;as=Table;v=v1;g=meta.k8s.io"):  # fmt: skip
                path = f"{root}/{kind.plural}"
                await self.one(Request("GET", path, (*self.as_root(), ("Accept", accept))))
            found = (await self.api.get(f"{root}/{kind.plural}", **ROOT)).ok()["items"]
            for item in found:
                metadata = item["metadata"]
                place = f"/namespaces/{metadata['namespace']}" if kind.namespaced else ""
                path = f"{root}{place}/{kind.plural}/{quote(metadata['name'], safe='')}"
                answer = await self.api.get(path, **ROOT)
                if answer.status != 200 or answer.json["metadata"] != metadata:
                    self.report.findings.append(f"cannot be read again: {path}")
            if kind.namespaced and kind.plural not in GLOBAL:
                path = f"{root}/namespaces/default/{kind.plural}?gracePeriodSeconds=0"
                if "deletecollection" in kind.verbs:
                    await self.one(Request("DELETE", path, self.as_root()))

    @staticmethod
    def as_root() -> tuple[tuple[str, str], ...]:
        return ("Test-User", "root"), ("Test-Groups", "system:masters")


async def fuzz(
    requests: int, seed: int, on_finding: Callable[[str], None] = lambda text: None
) -> Report:
    """Start a server, furnish it, and send it the requests of the seed."""
    with tempfile.TemporaryDirectory() as directory:
        async with (
            secured_server(Path(directory)) as server,
            aiohttp.ClientSession() as session,
        ):
            api = Api(server, session)
            await furnish(api)
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            (await api.post(path, THING_DEFINITION, **ROOT)).ok(201)
            things = "/apis/fuzz.example/v1/namespaces/default/things"
            async with asyncio.timeout(60):
                while (await api.get(things, **ROOT)).status != 200:  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.02)
            report = await Fuzzer(api, seed, on_finding).run(requests)
            (await api.get(f"{NAMESPACE}/configmaps", **ROOT)).ok()
            return report
