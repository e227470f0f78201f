"""The node authorizer: a kubelet gets at its own node, its own pods and what those need, only.

A node is a user `system:node:<name>` in the group `system:nodes`. Reads of secrets, config maps,
claims and the like are allowed by relation (`node_graph`); its own objects by name; everything else
by the rules of the ClusterRole `system:node`. What depends on the body of a write (which labels,
which pod, which token) is the NodeRestriction admission plug-in's.
"""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.selectors import SelectorError, parse_field_selector
from navarch.apiserver.authorization.node_graph import NodeGraph
from navarch.apiserver.authorization.rules import Rule
from navarch.apiserver.contracts import Attributes, Decision, UserInfo

NODE_USER_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"

Answer = tuple[Decision, str]

_ALLOWED: Answer = (Decision.ALLOW, "")
_OWN_OBJECT_VERBS = ("get", "create", "update", "patch", "delete")


def node_of(user: UserInfo) -> str | None:
    """The name of the node that `user` is ("" if it does not say which), None if it is no node."""
    if not user.name.startswith(NODE_USER_PREFIX) or NODES_GROUP not in user.groups:
        return None
    return user.name.removeprefix(NODE_USER_PREFIX)


class NodeAuthorizer:
    """Implements `Authorizer`; has no opinion on users who are not nodes."""

    def __init__(self, graph: NodeGraph, rules: Sequence[Rule]) -> None:
        self._graph = graph
        self._rules = rules
        self._special = {
            ("", "secrets"): self._read_related,
            ("", "configmaps"): self._read_related,
            ("", "persistentvolumeclaims"): self._claim,
            ("", "persistentvolumes"): self._get_related,
            ("resource.k8s.io", "resourceclaims"): self._get_related,
            ("storage.k8s.io", "volumeattachments"): self._get_related,
            ("", "serviceaccounts"): self._service_account,
            ("coordination.k8s.io", "leases"): self._lease,
            ("storage.k8s.io", "csinodes"): self._csi_node,
            ("resource.k8s.io", "resourceslices"): self._resource_slice,
            ("", "nodes"): self._node,
            ("", "pods"): self._pod,
        }

    def authorize(self, attributes: Attributes) -> Answer:
        node = node_of(attributes.user)
        if node is None:
            return Decision.NO_OPINION, ""
        if not node:
            return _no(f'unknown node for user "{attributes.user.name}"')
        info = attributes.info
        if info.is_resource:
            special = self._special.get((info.group, info.resource))
            if special is not None:
                return special(node, attributes)
        if any(rule.allows(info) for rule in self._rules):
            return _ALLOWED
        return _no("")

    def _related(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if not info.name:
            return _no("No Object name found")
        if self._graph.relates(node, (info.resource, info.namespace, info.name)):
            return _ALLOWED
        return _no(f"no relationship found between node '{node}' and this object")

    def _read_related(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if info.verb not in ("get", "list", "watch"):
            return _no("can only read resources of this type")
        if info.subresource:
            return _no("cannot read subresource")
        if not info.namespace:
            return _no("can only read namespaced object of this type")
        return self._related(node, attributes)

    def _get_related(self, node: str, attributes: Attributes) -> Answer:
        if attributes.info.verb != "get":
            return _no("can only get individual resources of this type")
        if attributes.info.subresource:
            return _no("cannot get subresource")
        return self._related(node, attributes)

    def _claim(self, node: str, attributes: Attributes) -> Answer:
        if attributes.info.subresource != "status":
            # Upstream's nodes ask again and again; a claim they may read they may watch here, too.
            return self._read_related(node, attributes)
        if attributes.info.verb not in ("update", "patch"):
            return _no("can only get/update/patch this type")
        return self._related(node, attributes)

    def _service_account(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if info.verb == "get" and not info.subresource:
            return self._read_related(node, attributes)
        if info.verb != "create" or not info.name:
            return _no("can only create tokens for individual service accounts")
        if info.subresource != "token":
            return _no("can only create token subresource of serviceaccount")
        return self._related(node, attributes)

    def _lease(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if info.verb not in _OWN_OBJECT_VERBS:
            return _no("can only get, create, update, patch, or delete a node lease")
        if info.namespace != "kube-node-lease":
            return _no('can only access leases in the "kube-node-lease" system namespace')
        if info.verb != "create" and info.name != node:
            return _no("can only access node lease with the same name as the requesting node")
        return _ALLOWED

    def _csi_node(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if info.verb not in _OWN_OBJECT_VERBS:
            return _no("can only get, create, update, patch, or delete a CSINode")
        if info.subresource:
            return _no("cannot authorize CSINode subresources")
        if info.verb != "create" and info.name != node:
            return _no("can only access CSINode with the same name as the requesting node")
        return _ALLOWED

    def _resource_slice(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if info.subresource:
            return _no("cannot authorize ResourceSlice subresources")
        if info.verb == "create":
            return _ALLOWED
        if info.verb in ("get", "update", "patch", "delete"):
            return self._related(node, attributes)
        if info.verb in ("watch", "list", "deletecollection"):
            if _selects_only(attributes, "spec.nodeName", node):
                return _ALLOWED
            return _no(
                "can only list/watch/deletecollection resourceslices with nodeName field selector"
            )
        return _no(
            "only the following verbs are allowed for a ResourceSlice: "
            "get, watch, list, create, update, patch, delete, deletecollection"
        )

    def _node(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if not info.subresource and info.verb in ("create", "update", "patch"):
            return _ALLOWED
        if not info.subresource and info.verb in ("get", "list", "watch"):
            if info.name == node:
                return _ALLOWED
            if not info.name:
                return _no(f"node '{node}' cannot read all nodes, only its own Node object")
            return _no(f"node '{node}' cannot read '{info.name}', only its own Node object")
        if info.subresource == "status" and info.verb in ("update", "patch"):
            return _ALLOWED
        return _no("")

    def _pod(self, node: str, attributes: Attributes) -> Answer:
        info = attributes.info
        if not info.subresource:
            if info.verb == "get":
                return self._get_related(node, attributes)
            if info.verb in ("list", "watch"):
                if _selects_only(attributes, "spec.nodeName", node):
                    return _ALLOWED
                if info.name:
                    return self._related(node, attributes)
                return _no("can only list/watch pods with spec.nodeName field selector")
            if info.verb in ("create", "delete"):
                return _ALLOWED
        elif (info.subresource == "status" and info.verb in ("update", "patch")) or (
            info.subresource == "eviction" and info.verb == "create"
        ):
            return _ALLOWED
        return _no("")


def _no(reason: str) -> Answer:
    return Decision.NO_OPINION, reason


def _selects_only(attributes: Attributes, field: str, value: str) -> bool:
    """Whether the field selector demands `field=value` (further demands only narrow it)."""
    try:
        return parse_field_selector(attributes.field_selector).exact(field) == value
    except SelectorError:
        return False
