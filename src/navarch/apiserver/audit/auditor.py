"""Audit as the front door uses it: opens a trail for each request that the policy is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from navarch.api.errors import internal_error
from navarch.apiserver.audit.backend import AuditLog, LogOptions
from navarch.apiserver.audit.policy import Policy, load_policy
from navarch.apiserver.audit.trail import AuditTrail
from navarch.apiserver.contracts import Attributes, UserInfo
from navarch.apiserver.options import ServerOptions

if TYPE_CHECKING:
    from navarch.apiserver.http.call import Call

NOBODY = UserInfo("")


class Auditor:
    """A policy and the log that its events go to."""

    def __init__(self, policy: Policy, backend: AuditLog) -> None:
        self._policy = policy
        self.backend = backend

    async def begin(self, call: Call) -> None:
        """Record that a request of a known user was received. Raises ApiError 500 in the strict
        mode when that cannot be written."""
        trail = self._open(call, call.user)
        if trail is None:
            return
        call.trail = trail
        await self.backend.room()
        trail.received()
        if self.backend.options.mode == "blocking-strict" and not await self.backend.flushed():
            raise internal_error("failed to store audit event")

    def refused(self, call: Call, has_certificate: bool) -> None:
        """Record that nobody knows whose request this is."""
        trail = self._open(call, NOBODY)
        if trail is not None:
            trail.refused(attempted(call.request.headers, has_certificate))

    def metrics(self) -> Iterator[str]:
        for name, value in (
            ("apiserver_audit_event_total", self.backend.written),
            ('apiserver_audit_error_total{plugin="log"}', self.backend.dropped),
        ):
            yield f"# TYPE {name.partition('{')[0]} counter"
            yield f"{name} {value}"

    def _open(self, call: Call, user: UserInfo) -> AuditTrail | None:
        verdict = self._policy.judge(Attributes(user, call.info))
        if verdict.level == "None":
            return None
        subject = (user, call.info, call.audit_id)
        return AuditTrail(verdict, call.request, subject, self.backend.put)


def attempted(headers: Mapping[str, str], has_certificate: bool) -> str:
    """Which credentials a refused request brought, never what they were."""
    tried = []
    scheme = headers.get("Authorization", "").partition(" ")[0].lower()
    if scheme in ("basic", "bearer"):
        tried.append(scheme)
    if "base64url.bearer.authorization.k8s.io." in headers.get("Sec-WebSocket-Protocol", ""):
        tried.append("websocket protocol token")
    if has_certificate:
        tried.append("x509")
    if not tried:
        return "Authentication failed, no credentials provided"
    return f"Authentication failed, attempted: {', '.join(tried)}"


def build_auditor(options: ServerOptions) -> Auditor | None:
    """None when nothing is audited. Raises ValueError."""
    if options.audit_policy_file is None or not options.audit_log_path:
        if options.audit_log_path or options.audit_policy_file:
            raise ValueError("an audit log needs both --audit-policy-file and --audit-log-path")
        return None
    log_options = LogOptions(
        options.audit_log_path,
        options.audit_log_maxsize,
        options.audit_log_maxbackup,
        options.audit_log_maxage,
        options.audit_log_compress,
        options.audit_log_mode,
        options.audit_log_batch_buffer_size,
    )
    return Auditor(load_policy(options.audit_policy_file), AuditLog(log_options))
