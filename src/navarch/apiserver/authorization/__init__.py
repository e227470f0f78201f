"""Authorization: may this user do that? system:masters, then the node authorizer, then RBAC."""

from __future__ import annotations

from dataclasses import dataclass

from navarch.apiserver.authorization.bootstrap_policy import node_rules
from navarch.apiserver.authorization.combined import (
    CombinedAuthorizer,
    forbidden_error,
    require,
)
from navarch.apiserver.authorization.node import NodeAuthorizer
from navarch.apiserver.authorization.node_graph import NodeGraph
from navarch.apiserver.authorization.rbac import RbacAuthorizer
from navarch.apiserver.contracts import Attributes, Decision, Lookup

__all__ = ["Authorization", "build_authorizer", "forbidden_error", "require"]


@dataclass(frozen=True, slots=True)
class Authorization:
    """The authorizer of requests, and RBAC by itself for the escalation checks and rule reviews."""

    combined: CombinedAuthorizer
    rbac: RbacAuthorizer

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        return self.combined.authorize(attributes)


def build_authorizer(lookup: Lookup) -> Authorization:
    """The default authorizers (mode Node,RBAC), subscribed to the objects they decide by."""
    rbac = RbacAuthorizer(lookup)
    node = NodeAuthorizer(NodeGraph(lookup), node_rules())
    return Authorization(CombinedAuthorizer((node, rbac)), rbac)
