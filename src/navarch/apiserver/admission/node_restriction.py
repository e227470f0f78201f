"""NodeRestriction: what a kubelet may write, as far as it depends on what is in the body.

The node authorizer lets a node write nodes, pods, tokens and so on; this plug-in narrows that to
its own node (without taints, owners or labels that would draw workloads to it), mirror pods and
status of its own pods, and tokens bound to pods that run on it. It is on by default here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from navarch.api.errors import not_found
from navarch.apiserver.admission.base import (
    MIRROR_ANNOTATION,
    AdmissionAccess,
    Plugin,
    annotations_of,
    denied,
    labels_of,
    spec_of,
)
from navarch.apiserver.admission.certificates import requested_subject
from navarch.apiserver.authorization.node import NODE_USER_PREFIX, node_of
from navarch.apiserver.contracts import (
    AdmissionRequest,
    Attributes,
    Authorizer,
    Decision,
    Object,
    RequestInfo,
)
from navarch.apiserver.podrefs import (
    claim_name,
    config_map_names,
    projections,
    secret_names,
    volumes,
)

_KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)
_KUBELET_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_RESTRICTED_DOMAIN = "node-restriction.kubernetes.io"
_NODE_SIGNERS = ("kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet")
_CLAIM_STATUS_FIELDS = ("capacity", "conditions", "allocatedResources", "allocatedResourceStatuses")

_API_VOLUMES = {
    "configMap": "configmaps (via configmap volumes)",
    "secret": "secrets (via secret volumes)",
    "csi": "csidrivers (via CSI volumes)",
    "glusterfs": "endpoints (via glusterFS volumes)",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims (via ephemeral volumes)",
    "azureFile": "secrets (via azureFile volumes)",
}
_API_PROJECTIONS = {
    "configMap": "configmaps (via projected volumes)",
    "secret": "secrets (via projected volumes)",
    "serviceAccountToken": "serviceaccounts (via projected volumes)",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "podcertificates",
}

Check = Callable[[str, AdmissionRequest], None]


class NodeRestriction(Plugin):
    name = "NodeRestriction"
    operations = ("CREATE", "UPDATE", "DELETE")

    def __init__(self, access: AdmissionAccess, authorizer: Authorizer) -> None:
        self._access = access
        self._authorizer = authorizer
        self._checks: dict[tuple[str, str], Check] = {
            ("", "pods"): self._pod,
            ("", "nodes"): self._node,
            ("", "persistentvolumeclaims"): self._claim,
            ("", "serviceaccounts"): self._service_account,
            ("coordination.k8s.io", "leases"): self._lease,
            ("storage.k8s.io", "csinodes"): self._csi_node,
            ("resource.k8s.io", "resourceslices"): self._resource_slice,
            ("certificates.k8s.io", "certificatesigningrequests"): self._signing_request,
        }

    def handles(self, request: AdmissionRequest) -> bool:
        info = request.info
        return (info.group, info.resource) in self._checks and node_of(request.user) is not None

    async def admit(self, request: AdmissionRequest) -> None:
        node = node_of(request.user)
        if not node:
            raise denied(request, f'could not determine node from user "{request.user.name}"')
        self._checks[request.info.group, request.info.resource](node, request)

    def _check_own_pod(self, node: str, request: AdmissionRequest, why: str) -> None:
        pod = self._existing_pod(request, request.info.name)
        if spec_of(pod).get("nodeName") != node:
            raise denied(request, f"{why} pods with spec.nodeName set to itself")

    def _pod(self, node: str, request: AdmissionRequest) -> None:
        subresource, operation = request.info.subresource, request.operation
        if subresource == "status":
            self._pod_status(node, request)
        elif subresource == "eviction":
            self._check_own_pod(node, request, f"node {node} can only evict")
        elif subresource:
            why = f"unexpected pod subresource \"{subresource}\", only 'status' and 'eviction' are"
            raise denied(request, f"{why} allowed")
        elif operation == "CREATE":
            self._mirror_pod(node, request)
        elif operation == "DELETE":
            self._check_own_pod(node, request, f'node "{node}" can only delete')
        else:
            why = f'unexpected operation "{operation}", node "{node}" can only create and delete'
            raise denied(request, f"{why} mirror pods")

    def _mirror_pod(self, node: str, request: AdmissionRequest) -> None:
        pod = request.obj or {}
        if MIRROR_ANNOTATION not in annotations_of(pod):
            why = f'pod does not have "{MIRROR_ANNOTATION}" annotation, node "{node}" can only'
            raise denied(request, f"{why} create mirror pods")
        only = f'node "{node}" can only create pods with'
        if spec_of(pod).get("nodeName") != node:
            raise denied(request, f"{only} spec.nodeName set to itself")
        owners = pod["metadata"].get("ownerReferences") or []
        if len(owners) > 1:
            raise denied(request, f"{only} a single owner reference set to itself")
        owner = owners[0] if owners else {}
        named = (owner.get("apiVersion"), owner.get("kind"), owner.get("name"))
        if named != ("v1", "Node", node):
            raise denied(request, f"{only} an owner reference set to itself")
        if not owner.get("controller"):
            raise denied(request, f"{only} a controller owner reference set to itself")
        if owner.get("blockOwnerDeletion"):
            why = f'node "{node}" must not set blockOwnerDeletion on an owner reference'
            raise denied(request, why)
        existing = self._access.lookup.get("nodes", "", node)
        if existing is None:
            raise not_found("nodes", "", node)
        uid = existing["metadata"].get("uid")
        if owner.get("uid") != uid:
            why = f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}"
            raise denied(request, why)
        referred = next(_api_references(pod), "")
        if referred:
            raise denied(request, f'node "{node}" can not create pods that reference {referred}')

    def _pod_status(self, node: str, request: AdmissionRequest) -> None:
        old, new = request.old or {}, request.obj or {}
        if request.operation != "UPDATE":
            raise denied(request, f'unexpected operation "{request.operation}"')
        if spec_of(old).get("nodeName") != node:
            why = "can only update pod status for pods with spec.nodeName set to itself"
            raise denied(request, f'node "{node}" {why}')
        if labels_of(old) != labels_of(new):
            raise denied(request, f'node "{node}" cannot update labels through pod status')
        for field, title in (
            ("resourceClaimStatuses", "resource claim statues"),
            ("extendedResourceClaimStatus", "extended resource claim status"),
        ):
            before, after = ((o.get("status") or {}).get(field) or None for o in (old, new))
            if before != after:
                raise denied(request, f'node "{node}" cannot update {title}')

    def _existing_pod(self, request: AdmissionRequest, name: str) -> Object:
        pod = self._access.lookup.get("pods", request.info.namespace, name)
        if pod is None:
            raise not_found("pods", "", name)
        return pod

    def _node(self, node: str, request: AdmissionRequest) -> None:
        new, old = request.obj, request.old
        name = request.info.name or ((new or {}).get("metadata") or {}).get("name", "")
        if name != node:
            raise denied(request, f'node "{node}" is not allowed to modify node "{name}"')
        if new is None or request.operation == "DELETE":
            return
        if request.operation == "UPDATE" and old is not None:
            if (spec_of(new).get("taints") or []) != (spec_of(old).get("taints") or []):
                raise denied(request, f'node "{node}" is not allowed to modify taints')
            owners = [(o["metadata"].get("ownerReferences") or []) for o in (new, old)]
            if owners[0] != owners[1]:
                raise denied(request, f'node "{node}" is not allowed to modify ownerReferences')
        source = spec_of(new).get("configSource")
        if source is not None and source != spec_of(old).get("configSource"):
            why = "is not allowed to update configSource to a new non-nil configSource"
            if request.operation == "CREATE":
                why = "is not allowed to create pods with a non-nil configSource"
            raise denied(request, f'node "{node}" {why}')
        labels = ", ".join(sorted(_forbidden_labels(labels_of(new), labels_of(old))))
        if labels and request.operation == "CREATE":
            why = f'node "{node}" is not allowed to set the following labels: {labels}'
            raise denied(request, why)
        if labels:
            raise denied(request, f"is not allowed to modify labels: {labels}")

    def _claim(self, node: str, request: AdmissionRequest) -> None:
        if request.info.subresource != "status":
            raise denied(request, "may only update PVC status")
        if request.operation != "UPDATE":
            raise denied(request, f'unexpected operation "{request.operation}"')
        if _beyond_capacity(request.obj) != _beyond_capacity(request.old):
            why = "is not allowed to update fields other than status.quantity and status.conditions"
            raise denied(request, f'node "{node}" {why}')

    def _service_account(self, node: str, request: AdmissionRequest) -> None:
        if request.operation != "CREATE" or request.info.subresource != "token":
            return
        spec = spec_of(request.obj)
        ref = spec.get("boundObjectRef") or {}
        named = ref.get("apiVersion") == "v1" and ref.get("kind") == "Pod" and ref.get("name")
        if not named:
            raise denied(request, "node requested token not bound to a pod")
        if not ref.get("uid"):
            raise denied(request, "node requested token with a pod binding without a uid")
        pod = self._existing_pod(request, ref["name"])
        if ref["uid"] != pod["metadata"].get("uid"):
            why = f"the UID in the bound object reference ({ref['uid']}) does not match the UID in"
            end = "The object might have been deleted and then recreated"
            raise denied(request, f"{why} record. {end}")
        if spec_of(pod).get("nodeName") != node:
            why = "node requested token bound to a pod scheduled on a different node"
            raise denied(request, why)
        audiences = spec.get("audiences") or [""]
        if len(audiences) > 1:
            raise denied(request, "node may only request 0 or 1 audiences")
        self._audience(audiences[0], pod, request)

    def _audience(self, audience: str, pod: Object, request: AdmissionRequest) -> None:
        """The pod must ask for the audience in a volume, or the node have a right to it."""
        for volume in volumes(pod):
            for source in projections(volume):
                token = source.get("serviceAccountToken")
                if token is not None and (token.get("audience") or "") == audience:
                    return
            driver = self._access.lookup.get(
                "csidrivers.storage.k8s.io", "", self._driver(pod, volume)
            )
            for wanted in spec_of(driver).get("tokenRequests") or ():
                if wanted.get("audience", "") == audience:
                    return
        verb, info = "request-serviceaccounts-token-audience", request.info
        asked = RequestInfo(
            True, "", verb, "", "v1", audience, namespace=info.namespace, name=info.name
        )
        if self._authorizer.authorize(Attributes(request.user, asked))[0] is not Decision.ALLOW:
            user = request.user.name
            why = f'audience "{audience}" not found in pod spec volume, {user} is not authorized to'
            raise denied(request, f"{why} request tokens for this audience")

    def _driver(self, pod: Object, volume: Object) -> str:
        """The CSI driver behind a volume: named in it, or by way of its claim and volume."""
        inline = (volume.get("csi") or {}).get("driver")
        if inline:
            return str(inline)
        for name in claim_name(pod, volume):
            namespace = pod["metadata"].get("namespace", "")
            claim = self._access.lookup.get("persistentvolumeclaims", namespace, name)
            bound = spec_of(claim).get("volumeName") or ""
            persistent = self._access.lookup.get("persistentvolumes", "", bound)
            return str((spec_of(persistent).get("csi") or {}).get("driver") or "")
        return ""

    def _lease(self, node: str, request: AdmissionRequest) -> None:
        if request.info.namespace != "kube-node-lease":
            why = 'can only access leases in the "kube-node-lease" system namespace'
            raise denied(request, why)
        if _own_name(request) != node:
            why = "can only access node lease with the same name as the requesting node"
            raise denied(request, why)

    def _csi_node(self, node: str, request: AdmissionRequest) -> None:
        if _own_name(request) != node:
            why = "can only access CSINode with the same name as the requesting node"
            raise denied(request, why)

    def _resource_slice(self, node: str, request: AdmissionRequest) -> None:
        verb = {"CREATE": "create", "DELETE": "delete"}.get(request.operation)
        obj = request.obj if request.operation == "CREATE" else request.old
        if verb and spec_of(obj).get("nodeName") != node:
            why = f"can only {verb} ResourceSlice with the same NodeName as the requesting node"
            raise denied(request, why)

    def _signing_request(self, node: str, request: AdmissionRequest) -> None:
        spec = spec_of(request.obj)
        if request.operation != "CREATE" or spec.get("signerName") not in _NODE_SIGNERS:
            return
        try:
            name, _ = requested_subject(spec)
        except ValueError as error:
            raise denied(request, f"unable to parse csr: {error}") from error
        if name != NODE_USER_PREFIX + node:
            raise denied(request, f"can only create a node CSR with CN={NODE_USER_PREFIX}{node}")


def _own_name(request: AdmissionRequest) -> str:
    if request.operation == "CREATE":
        return str(((request.obj or {}).get("metadata") or {}).get("name", ""))
    return request.info.name


def _forbidden_labels(new: Mapping[str, str], old: Mapping[str, str]) -> Iterator[str]:
    """Labels that differ and are not the node's to set: those of a restricted domain, and those of
    Kubernetes' own domains that the kubelet does not manage."""
    for label in new.keys() | old.keys():
        if new.get(label) == old.get(label):
            continue
        domain = label.partition("/")[0] if "/" in label else ""
        own = label in _KUBELET_LABELS or any(_within(domain, d) for d in _KUBELET_LABEL_DOMAINS)
        kubernetes = _within(domain, "kubernetes.io") or _within(domain, "k8s.io")
        if _within(domain, _RESTRICTED_DOMAIN) or (kubernetes and not own):
            yield label


def _within(domain: str, parent: str) -> bool:
    return domain == parent or domain.endswith(f".{parent}")


def _beyond_capacity(claim: Object | None) -> Object:
    """The claim without what a node may change when it has grown the file system."""
    claim = claim or {}
    skipped = ("resourceVersion", "managedFields")
    metadata = {k: v for k, v in (claim.get("metadata") or {}).items() if k not in skipped}
    status = claim.get("status") or {}
    rest = {k: v for k, v in status.items() if k not in _CLAIM_STATUS_FIELDS}
    return {**claim, "metadata": metadata, "status": rest}


def _api_references(pod: Object) -> Iterator[str]:
    """What a pod takes from the API: none of it may a mirror pod have, for it would give the node
    rights on it."""
    spec = spec_of(pod)
    if spec.get("serviceAccountName"):
        yield "serviceaccounts"
    if any(secret_names(pod)):
        yield "secrets"
    if any(config_map_names(pod)):
        yield "configmaps"
    if spec.get("resourceClaims"):
        yield "resourceclaims"
    for volume in volumes(pod):
        yield from (title for field, title in _API_VOLUMES.items() if volume.get(field) is not None)
        for source in projections(volume):
            yield from (t for field, t in _API_PROJECTIONS.items() if source.get(field) is not None)
