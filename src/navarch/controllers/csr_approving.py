"""The approver: lets kubelets have their client certificates without anybody's doing.

A kubelet starts with a bootstrap token, asks for a certificate as its node, and later renews it.
Who may do so is a question to the authorizer: `create` on the subresource `nodeclient` of signing
requests for a first certificate, on `selfnodeclient` for one in the asker's own name.

Two more kinds are this project's own, for nodes that have joined; upstream leaves them to people.
They, too, are a question to the authorizer, so that who wants to look for himself takes the right
away (ClusterRole `navarch:node-certificates`):

* `selfnodeserver`: a node's certificate for serving. Nobody knows which addresses really are its
  own; so it gets those that no other Node has and that are not the API server's.
* `nodeproxyclient`: the identity of the Service proxy and what else runs beside a kubelet.

Source: upstream's `pkg/controller/certificates/approver`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

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
from navarch.api.types.core_v1 import Node
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.client import Controller, ControllerContext
from navarch.controllers.csr_checks import (
    CLIENT,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    Wanted,
    has_condition,
    kubelet_client_problem,
    problem_for,
    read,
)

ASK_AGAIN_SECONDS = 60.0
"""The right may be given later."""
MESSAGES = {
    "selfnodeclient": "Auto approving self kubelet client certificate after SubjectAccessReview.",
    "nodeclient": "Auto approving kubelet client certificate after SubjectAccessReview.",
    "selfnodeserver": "Auto approving self kubelet serving certificate after SubjectAccessReview.",
    "nodeproxyclient": "Auto approving node proxy certificate after SubjectAccessReview.",
}
PROXY_USER = "system:kube-proxy"
NODE_GROUP, NODE_PREFIX = "system:nodes", "system:node:"


def rights_for(request: CertificateSigningRequest, wanted: Wanted) -> list[str]:
    """The subresources of which one has to be allowed to who asks; none: not for us to approve."""
    spec = request.spec
    by_node = NODE_GROUP in spec.groups and spec.username.startswith(NODE_PREFIX)
    if spec.signerName == CLIENT:
        proxy = Wanted(PROXY_USER, ())
        return ["nodeproxyclient"] if by_node and wanted == proxy else []
    if spec.signerName == KUBELET_SERVING:
        own = by_node and spec.username == wanted.common_name
        problem = problem_for(KUBELET_SERVING, wanted, spec.usages)
        return ["selfnodeserver"] if own and not problem else []
    if spec.signerName != KUBELET_CLIENT or kubelet_client_problem(wanted, spec.usages):
        return []
    is_own = spec.username == wanted.common_name
    return ["selfnodeclient", "nodeclient"] if is_own else ["nodeclient"]


def serving_problem(wanted: Wanted, nodes: Iterable[Node], reserved: Collection[str]) -> str:
    """Why these names and addresses cannot be taken for a node's own; "" if they can."""
    own = wanted.common_name.removeprefix(NODE_PREFIX)
    if set(wanted.dns_names) - {own}:
        return "names of others"
    addresses = {ipaddress.ip_address(each) for each in wanted.ip_addresses}
    if any(each.is_loopback or each.is_unspecified or each.is_multicast for each in addresses):
        return "addresses that are nobody's"
    if addresses & {ipaddress.ip_address(each) for each in reserved}:
        return "addresses of the API server"
    for node in nodes:
        taken = {each.address for each in node.status.addresses}
        if node.metadata.name != own and taken & set(map(str, addresses)):
            return f"addresses of the node {node.metadata.name}"
    return ""


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
        if request.spec.signerName not in (KUBELET_CLIENT, KUBELET_SERVING, CLIENT):
            return
        wanted = read(parse_signing_request(request.spec.request))
        rights = rights_for(request, wanted)
        if request.spec.signerName == KUBELET_SERVING and rights:
            nodes = (await self.client.resource(Node).list()).items
            if problem := serving_problem(wanted, nodes, await self._servers()):
                self.log.warning("%s: not approved, it has %s", key, problem)
                return
        for right in rights:
            if await self._is_allowed(request, right):
                await self._approve(request, MESSAGES[right])
                return
        if rights:
            self.log.info("%s: recognized as %s, but not allowed", key, rights)
            self.queue.add_after(key, ASK_AGAIN_SECONDS)

    async def _servers(self) -> list[str]:
        """The API servers' addresses."""
        selector = "kubernetes.io/service-name=kubernetes"
        slices = self.client.resource(EndpointSlice)
        found = (await slices.list("default", label_selector=selector)).items
        return [
            address for each in found for entry in each.endpoints for address in entry.addresses
        ]

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
