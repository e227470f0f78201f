"""The cleaner of signing requests: they are made by machines, and nobody would take them away.

An answered one (issued, denied or failed) is kept for an hour, one that waits (for approval, or for
its signer) for a day, and one whose certificate has expired goes at once.
Source: upstream's `pkg/controller/certificates/cleaner`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from navarch.api.pem import decode_base64, parse_certificates
from navarch.api.times import parse_time
from navarch.api.types.certificates_v1 import CertificateSigningRequest
from navarch.client import Controller, ControllerContext

ANSWERED = timedelta(hours=1)
PENDING = timedelta(hours=24)


def due(request: CertificateSigningRequest) -> datetime | None:
    """When the request is to be deleted; None if only a change can tell."""
    return min(_reasons(request), default=None)


def _reasons(request: CertificateSigningRequest) -> Iterator[datetime]:
    certificate, conditions = request.status.certificate, request.status.conditions
    if not conditions and request.metadata.creationTimestamp:
        yield parse_time(request.metadata.creationTimestamp) + PENDING
    for condition in conditions:
        expires = _expiry(certificate) if condition.type == "Approved" and certificate else None
        if expires is not None:
            yield expires
        if not condition.lastUpdateTime:
            continue
        since = parse_time(condition.lastUpdateTime)
        if condition.type in ("Denied", "Failed"):
            yield since + ANSWERED
        elif condition.type == "Approved":
            yield since + (ANSWERED if certificate else PENDING)


def _expiry(certificate: str) -> datetime | None:
    try:
        return parse_certificates(decode_base64(certificate))[0].not_valid_after_utc
    except ValueError:
        return None


class CsrCleanerController(Controller):
    """Watches: signing requests."""

    name = "csrcleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.requests = context.informers.informer(CertificateSigningRequest)
        self.watch(self.requests)

    async def reconcile(self, key: str) -> None:
        request = self.requests.cache.get(key)
        when = due(request) if request is not None else None
        if request is None or when is None:
            return
        left = (when - self.clock.now()).total_seconds()
        if left > 0:
            self.queue.add_after(key, left)
            return
        await self.client.resource(CertificateSigningRequest).delete(
            key, uid=request.metadata.uid, resource_version=request.metadata.resourceVersion
        )
