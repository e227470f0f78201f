"""The record of one request, and the events it becomes.

A request has up to three stages: it was received; its response began (long-running requests only:
watches, logs, terminals); its response is complete. A failure inside the server is a fourth. Each
stage that the policy does not leave out is one event, a line of JSON. JSON's own quoting is what
makes injection impossible: no character of a URL, a header or an object can end a line or a string.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from navarch.api.times import format_micro_time
from navarch.apiserver.audit.policy import Verdict
from navarch.apiserver.contracts import RequestInfo, UserInfo

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

log = logging.getLogger(__name__)

Object = dict[str, Any]
Write = Callable[[bytes], None]

USER_AGENT_LIMIT = 1024
LONG_RUNNING = frozenset({"attach", "exec", "log", "portforward", "proxy"})
_encode = msgspec.json.Encoder().encode


def is_long_running(info: RequestInfo) -> bool:
    if not info.is_resource:
        return info.path.startswith("/debug/pprof/")
    return info.verb in ("watch", "proxy") or info.subresource in LONG_RUNNING


class AuditTrail:
    """Implements `Trail`; writes the events through `write`."""

    def __init__(
        self, verdict: Verdict, request: BaseRequest, subject: tuple[UserInfo, RequestInfo, str],
        write: Write,
    ) -> None:  # fmt: skip
        """`subject` is the authenticated user, what it asks for, and the audit id."""
        user, info, audit_id = subject
        self.verdict = verdict
        self.wants_request = verdict.includes("Request")
        self.wants_response = verdict.includes("RequestResponse")
        self._write = write
        self._is_long = is_long_running(info)
        self._has_started = False
        self._received = datetime.now(UTC)
        self._annotations: dict[str, str] = {}
        self._status: Object | None = None
        self._request_object: msgspec.Raw | None = None
        self._response_object: msgspec.Raw | None = None
        self._reference = _reference(info) if info.is_resource else None
        agent = request.headers.get("User-Agent", "")
        if len(agent) > USER_AGENT_LIMIT:
            agent = f"{agent[:USER_AGENT_LIMIT]}...TRUNCATED"
        self._head: Object = {
            "level": verdict.level,
            "auditID": clean(audit_id),
            "requestURI": clean(request.raw_path),
            "verb": info.verb,
            "user": user_object(user),
            "impersonatedUser": None,
            "sourceIPs": source_addresses(request.headers, request.remote),
            "userAgent": clean(agent),
        }

    # ---- what the server learns on the way

    def annotate(self, key: str, value: str, *, level: str = "Metadata") -> None:
        if not self.verdict.includes(level):
            return
        if key in self._annotations:
            if self._annotations[key] != value:
                log.warning("audit annotation %s is there already; the first value stays", key)
            return
        self._annotations[clean(key)] = clean(value)

    def impersonated(self, user: UserInfo) -> None:
        self._head["impersonatedUser"] = user_object(user)

    def request_object(self, obj: Any) -> None:
        """What the request carries; at Metadata level no more than which object it is about."""
        metadata = obj.get("metadata") if isinstance(obj, Mapping) else None
        if isinstance(metadata, Mapping):
            self._refer(metadata)
        if self.wants_request:
            self._request_object = msgspec.Raw(_encode(self._shown(obj)))

    def request_patch(self, patch: Any) -> None:
        if self.wants_request:
            self._request_object = msgspec.Raw(_encode(patch))

    def _refer(self, metadata: Mapping[str, Any]) -> None:
        reference = self._reference
        if reference is not None:
            for field in ("namespace", "name", "uid", "resourceVersion"):
                if not reference.get(field) and isinstance(metadata.get(field), str):
                    reference[field] = metadata[field]

    def response_object(self, body: bytes) -> None:
        """The JSON that goes back."""
        if not self.wants_response:
            return
        if self.verdict.omits_managed_fields:
            body = _encode(self._shown(msgspec.json.decode(body)))
        self._response_object = msgspec.Raw(body)

    def response_status(self, status: Mapping[str, Any]) -> None:
        """The `Status` that goes back: its bounded fields stand in every record."""
        kept = ("status", "message", "reason", "details", "code")
        found = {key: status[key] for key in kept if status.get(key)}
        self._status = {"metadata": {}, **found}
        if self.wants_response:
            self._response_object = msgspec.Raw(_encode(status))

    def _shown(self, obj: Any) -> Any:
        return without_managed_fields(obj) if self.verdict.omits_managed_fields else obj

    # ---- stages

    def received(self) -> None:
        self._emit("RequestReceived", self._received, with_details=False)

    def started(self, status: int) -> None:
        """The head of the response is on its way."""
        if self._is_long and not self._has_started:
            self._has_started = True
            self._set_code(status)
            self._emit("ResponseStarted", datetime.now(UTC))

    def refused(self, message: str) -> None:
        """Authentication failed: this is the only event there is."""
        self._status = {"metadata": {}, "status": "Failure", "message": message, "code": 401}
        self._emit("ResponseStarted", datetime.now(UTC))

    def complete(self, status: int | None) -> None:
        """`status` None: the client left before there was an answer."""
        if status is None and self._status is None:
            early = {"status": "Success", "message": "Connection closed early", "code": 200}
            self._status = {"metadata": {}, **early}
        if status is not None and not self._has_started:
            self._set_code(status)
        self.started(status or 200)
        self._emit("ResponseComplete", datetime.now(UTC))

    def panicked(self, problem: str) -> None:
        message = f"APIServer panic'd: {problem}"
        reason = {"reason": "InternalError", "message": clean(message)}
        self._status = {"metadata": {}, "status": "Failure", **reason, "code": 500}
        self._emit("Panic", datetime.now(UTC))

    def _set_code(self, status: int) -> None:
        self._status = {**(self._status or {"metadata": {}}), "code": status}

    def _emit(self, stage: str, now: datetime, with_details: bool = True) -> None:
        if stage in self.verdict.omitted:
            return
        event: Object = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "",
            "auditID": "",
        }
        event |= {"stage": stage, **self._head}
        event["objectRef"] = self._reference
        if with_details:
            event["responseStatus"] = self._status
            event["requestObject"] = self._request_object
            event["responseObject"] = self._response_object
        event["requestReceivedTimestamp"] = format_micro_time(self._received)
        event["stageTimestamp"] = format_micro_time(now)
        event["annotations"] = self._annotations or None
        self._write(_encode({key: value for key, value in event.items() if value is not None}))


def _reference(info: RequestInfo) -> Object:
    found = {
        "resource": info.resource,
        "namespace": info.namespace,
        "name": info.name,
        "apiGroup": info.group,
        "apiVersion": info.version,
        "subresource": info.subresource,
    }
    return {key: clean(value) for key, value in found.items() if value}


def user_object(user: UserInfo) -> Object:
    extra = {clean(key): tuple(map(clean, values)) for key, values in user.extra.items()}
    groups = tuple(map(clean, user.groups))
    return UserInfo(clean(user.name), clean(user.uid), groups, extra).to_object()


def clean(text: str) -> str:
    """Text that UTF-8 can carry: bytes of a header or URL that were none become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def source_addresses(headers: Mapping[str, str], remote: str | None) -> list[str]:
    """Where a request comes from, by what proxies say and then, always, the peer itself."""
    said = [*headers.get("X-Forwarded-For", "").split(",")]
    found = [address for each in said if (address := _address(each))]
    real = _address(headers.get("X-Real-Ip", ""))
    if real and real not in found:
        found.append(real)
    peer = _address(remote or "")
    if peer and (not found or found[-1] != peer):
        found.append(peer)
    return found


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return ""


def without_managed_fields(obj: Any) -> Any:
    """A copy of an object, list or table without the record of who wrote which field."""
    if not isinstance(obj, dict):
        return obj
    result = dict(obj)
    metadata = result.get("metadata")
    if isinstance(metadata, dict) and "managedFields" in metadata:
        result["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    if isinstance(result.get("items"), list):
        result["items"] = [without_managed_fields(each) for each in result["items"]]
    if result.get("kind") == "Table" and isinstance(result.get("rows"), list):
        result["rows"] = [
            {**row, "object": without_managed_fields(row.get("object"))} for row in result["rows"]
        ]
    return result
