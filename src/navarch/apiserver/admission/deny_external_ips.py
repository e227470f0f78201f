"""DenyServiceExternalIPs: no Service claims further addresses outside of the cluster.

Whoever may write Services could lead away what all pods and nodes send to any address in the world
(CVE-2020-8554). Addresses that a Service has already stay, and may be removed. As upstream, it is
off until asked for (`--enable-admission-plugins`).
"""

from __future__ import annotations

from navarch.apiserver.admission.base import Plugin, denied, spec_of
from navarch.apiserver.contracts import AdmissionRequest


class DenyServiceExternalIPs(Plugin):
    name = "DenyServiceExternalIPs"
    resources = frozenset({("", "services")})

    async def validate(self, request: AdmissionRequest) -> None:
        wanted, known = (
            set(spec_of(each).get("externalIPs") or ()) for each in (request.obj, request.old)
        )
        if wanted - known:
            raise denied(request, "Use of external IPs is denied by admission control")
