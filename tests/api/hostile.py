"""What the tests of hostile input share: a refusal as a row of a table, and what every refusal is.

A refusal is a Status of the right code and reason, comes at once, and leaves nothing behind: the
store's revision is what it was, and the process has hardly grown.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Answer, Api, config_map

Object = dict[str, Any]

NAMESPACE = "/api/v1/namespaces/default"
CM = f"{NAMESPACE}/configmaps"
PODS = f"{NAMESPACE}/pods"
ROOT = {"user": "root", "groups": "system:masters"}
PROCESSOR_SECONDS = 0.5
"""What one request may take of this process, client included: other than the clock on the wall, it
does not depend on who else keeps the machine busy."""
GROWTH_BYTES = 50 << 20

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    504: "Timeout",
}


@dataclass(frozen=True)
class Refusal:
    """A request and the answer it deserves. Status codes tell the reason where none is given."""

    method: str
    path: str
    status: int
    message: str
    """A part of the message."""
    body: Any = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    causes: tuple[str, ...] = ()
    """Fields that the Status complains about."""
    user: dict[str, str] = field(default_factory=lambda: ROOT)


def resident() -> int:
    """Bytes of memory that this process, server and client, holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextmanager
def bounded() -> Iterator[None]:
    """What happens inside takes little time of the processor and leaves little memory behind."""
    before, began = resident(), time.process_time()
    yield
    took = time.process_time() - began
    assert took < PROCESSOR_SECONDS, f"{took:.2f} s of processor time"
    grown = resident() - before
    assert grown < GROWTH_BYTES, f"{grown >> 20} MiB more memory"


def row(name: str, request: str, status: int, message: str = "", **more: Any) -> Any:
    """A test case; `request` is method and path."""
    method, _, path = request.partition(" ")
    return pytest.param(Refusal(method, path, status, message, **more), id=name)


async def refuse(api: Api, case: Refusal) -> Answer:
    """Send the request and check everything that is the same for all refusals."""
    before = await api.server.store.revision()
    headers = {**case.headers}
    if case.content_type and case.body is not None:
        headers.setdefault("Content-Type", case.content_type)
    with bounded():
        answer = await api.request(case.method, case.path, case.body, headers=headers, **case.user)
    shown = answer.body[:2000].decode(errors="replace")
    assert answer.status == case.status, shown
    status = answer.json
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert status["code"] == case.status
    assert status["reason"] == (case.reason or REASONS[case.status]), shown
    assert status["metadata"] == {}
    assert status["message"], "a refusal says why"
    assert len(status["message"]) < 20_000
    assert case.message in status["message"]
    fields = {each.get("field", "") for each in status.get("details", {}).get("causes", ())}
    assert fields.issuperset(case.causes), shown
    assert await api.server.store.revision() == before, "something was stored"
    return answer


def pod(name: str, **spec: Any) -> Object:
    """A pod as a client would send it."""
    containers = [{"name": "c", "image": "busybox"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers, **spec},
    }


async def furnish(api: Api) -> None:
    """Objects for the tests to run into, one of a kind, each named `there`."""
    for path, body in (
        (f"{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}}),
        (CM, config_map("there", key="value")),
        (PODS, pod("there")),
        (
            f"{NAMESPACE}/services",
            {"metadata": {"name": "there"}, "spec": {"ports": [{"port": 1}]}},
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            {
                "metadata": {"name": "there"},
                "spec": {
                    "selector": {"matchLabels": {"a": "b"}},
                    "template": {
                        "metadata": {"labels": {"a": "b"}},
                        "spec": {"containers": [{"name": "c", "image": "i"}]},
                    },
                },
            },
        ),
    ):
        (await api.post(path, body, **ROOT)).ok(201)
