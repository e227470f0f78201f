"""The approver: lets kubelets have their client certificates without anybody's doing.

A kubelet starts with a bootstrap token, asks for a certificate as its node, and later renews it.
Who may do so is a question to the authorizer: `create` on the subresource `nodeclient` of signing
requests for a first certificate, on `selfnodeclient` for one in the asker's own name. Certificates
for serving are never approved here, for nobody knows which addresses really are a node's own.

Source: upstream's `pkg/controller/certificates/approver`.
"""

from __future__ import annotations

from navarch.api.objects import copy_object
from navarch.api.pem import parse_signing_request
from navarch.api.types.authorization_v1 import (
    ResourceAttributes,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
)
from navarch.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestCondition,
)
from navarch.client import Controller, ControllerContext
from navarch.controllers.csr_checks import (
    KUBELET_CLIENT,
    Wanted,
    has_condition,
    kubelet_client_problem,
    read,
)

ASK_AGAIN_SECONDS = 60.0
"""The right may be given later."""
MESSAGES = {
    "selfnodeclient": "Auto approving self kubelet client certificate after SubjectAccessReview.",
    "nodeclient": "Auto approving kubelet client certificate after SubjectAccessReview.",
}


def rights_for(request: CertificateSigningRequest, wanted: Wanted) -> list[str]:
    """The subresources of which one has to be allowed to who asks; none: not for us to approve."""
    spec = request.spec
    if spec.signerName != KUBELET_CLIENT or kubelet_client_problem(wanted, spec.usages):
        return []
    is_own = spec.username == wanted.common_name
    return ["selfnodeclient", "nodeclient"] if is_own else ["nodeclient"]


class CsrApprovingController(Controller):
    """Watches: signing requests."""

    name = "csrapproving"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.requests = context.informers.informer(CertificateSigningRequest)
        self.watch(self.requests)

    async def reconcile(self, key: str) -> None:
        request = self.requests.cache.get(key)
        if request is None or request.status.certificate:
            return
        if has_condition(request, "Approved", "Denied"):
            return
        if request.spec.signerName != KUBELET_CLIENT:
            return
        rights = rights_for(request, read(parse_signing_request(request.spec.request)))
        for right in rights:
            if await self._is_allowed(request, right):
                await self._approve(request, MESSAGES[right])
                return
        if rights:
            self.log.info("%s: recognized as %s, but not allowed", key, rights)
            self.queue.add_after(key, ASK_AGAIN_SECONDS)

    async def _is_allowed(self, request: CertificateSigningRequest, subresource: str) -> bool:
        spec = request.spec
        review = SubjectAccessReview(
            spec=SubjectAccessReviewSpec(
                user=spec.username,
                uid=spec.uid,
                groups=spec.groups,
                extra=spec.extra,
                resourceAttributes=ResourceAttributes(
                    group="certificates.k8s.io",
                    version="*",
                    resource="certificatesigningrequests",
                    subresource=subresource,
                    verb="create",
                ),
            )
        )
        answer = await self.client.resource(SubjectAccessReview).create(review)
        return answer.status.allowed

    async def _approve(self, request: CertificateSigningRequest, message: str) -> None:
        approved = copy_object(request)
        approved.status.conditions.append(
            CertificateSigningRequestCondition(
                type="Approved", status="True", reason="AutoApproved", message=message
            )
        )
        resource = self.client.resource(CertificateSigningRequest)
        await resource.update(approved, subresource="approval")
