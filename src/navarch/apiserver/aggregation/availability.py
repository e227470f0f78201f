"""Whether an extension API server can be used: the `Available` condition of its APIService.

`judge` looks at the Service and its endpoints; only where these are in order is the server itself
asked for its discovery document, several times at once, and one good answer is enough.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.extension import SLICES, Extensions, service_port, slices_of
from navarch.apiserver.aggregation.records import AVAILABLE, Record, ServiceRef, available_condition
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.hub.entry import Entry

Object = dict[str, Any]

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The condition to be shown."""

    is_available: bool
    reason: str
    message: str


LOCAL = Verdict(True, "Local", "Local APIServices are always available")
PASSED = Verdict(True, "Passed", "all checks passed")


def judge(lookup: Lookup, ref: ServiceRef) -> Verdict | None:
    """What is wrong with the Service or its endpoints; None when the server must be asked."""
    where = f'service/{ref.name} in "{ref.namespace}"'
    service = lookup.get("services", ref.namespace, ref.name)
    if service is None:
        return Verdict(False, "ServiceNotFound", f"{where} is not present")
    if (service.get("spec") or {}).get("type", "ClusterIP") != "ClusterIP":
        return None
    port = service_port(service, ref.port)
    if port is None:
        return Verdict(False, "ServicePortError", f"{where} is not listening on port {ref.port}")
    slices = slices_of(lookup, ref)
    if not slices:
        return Verdict(False, "EndpointsNotFound", f"cannot find endpointslices for {where}")
    name = port.get("name") or ""
    if not any(_serves(each, name) for each in slices):
        text = f'endpointslices for {where} have no addresses with port name "{name}"'
        return Verdict(False, "MissingEndpoints", text)
    return None


def _serves(endpoint_slice: Object, port_name: str) -> bool:
    is_ready = any(
        (each.get("conditions") or {}).get("ready") is not False
        for each in endpoint_slice.get("endpoints") or ()
    )
    ports = endpoint_slice.get("ports") or ()
    return is_ready and any(
        (each.get("name") or "") == port_name and each.get("port") for each in ports
    )


async def probe(extensions: Extensions, record: Record) -> Verdict:
    """Ask the server for the group version's discovery document."""
    tasks = [asyncio.create_task(_ask(extensions, record)) for _ in range(ATTEMPTS)]
    try:
        problem = ""
        for next_done in asyncio.as_completed(tasks):
            problem = await next_done
            if not problem:
                return PASSED
        return Verdict(False, "FailedDiscoveryCheck", problem)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(extensions: Extensions, record: Record) -> str:
    """The problem, "" when there is none."""
    where = record.path
    try:
        where = f"https://{extensions.backend(record).authority}{record.path}"
        answer = await extensions.fetch(record, record.path)
    except ApiError as error:
        return f"failing or missing response from {where}: {error.message}"
    if 200 <= answer.status < 300:
        return ""
    return f"failing or missing response from {where}: bad status from {where}: {answer.status}"


def with_condition(obj: Object, verdict: Verdict, now: str) -> bool:
    """Put the verdict into an APIService's status; False when it says so already."""
    found = available_condition(obj)
    status = "True" if verdict.is_available else "False"
    if found is None:
        found = {"type": AVAILABLE}
        conditions = obj.setdefault("status", {}).setdefault("conditions", [])
        conditions.append(found)
    elif (found.get("status"), found.get("reason"), found.get("message")) == (
        status,
        verdict.reason,
        verdict.message,
    ):
        return False
    if found.get("status") != status:
        found["lastTransitionTime"] = now
    found |= {"status": status, "reason": verdict.reason, "message": verdict.message}
    return True


def service_of(resource: str, entry: Entry) -> tuple[str, str]:
    """Namespace and name of the Service that a Service or EndpointSlice is about."""
    if resource == SLICES:
        return entry.namespace, entry.facts.labels.get("kubernetes.io/service-name", "")
    return entry.namespace, entry.name
