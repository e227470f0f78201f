"""Authorization: may this user do that? system:masters, then the node authorizer, then RBAC; and
before them what the addons' components are denied."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from navarch.apiserver.authorization.bootstrap_policy import node_rules
from navarch.apiserver.authorization.combined import CombinedAuthorizer, forbidden_error, require
from navarch.apiserver.authorization.configuration import load_authorizers, webhook_of
from navarch.apiserver.authorization.named_secrets import NamedSecrets
from navarch.apiserver.authorization.node import NodeAuthorizer
from navarch.apiserver.authorization.node_graph import NodeGraph
from navarch.apiserver.authorization.rbac import RbacAuthorizer
from navarch.apiserver.contracts import Attributes, Authorizer, Decision, Lookup

__all__ = ["Authorization", "build_authorizer", "forbidden_error", "require"]


@dataclass(frozen=True, slots=True)
class Authorization:
    """The authorizer of requests, and RBAC by itself for the escalation checks and rule reviews.
    `has_remotes`: some decisions come over the network, and have to be prepared."""

    combined: CombinedAuthorizer
    rbac: RbacAuthorizer
    has_remotes: bool = False

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        return self.combined.authorize(attributes)

    async def prepare(self, attributes: Attributes) -> None:
        """Ask those over the network whose word counts here, before `authorize`."""
        if self.has_remotes:
            await self.combined.prepare(attributes)


def build_authorizer(
    lookup: Lookup, file: Path | None = None, now: Callable[[], float] = time.time
) -> Authorization:
    """The authorizers of a file, else Node and RBAC, subscribed to the objects they decide by.
    Raises OSError or ValueError when the file cannot be used."""
    rbac = RbacAuthorizer(lookup)
    node = NodeAuthorizer(NodeGraph(lookup), node_rules())
    named = NamedSecrets(lookup)
    if file is None:
        return Authorization(CombinedAuthorizer((named, node, rbac)), rbac)
    local: dict[str, Authorizer] = {"Node": node, "RBAC": rbac}
    entries = load_authorizers(file)
    chain = [local.get(each.type) or webhook_of(each, now) for each in entries]
    has_remotes = any(each.type == "Webhook" for each in entries)
    return Authorization(CombinedAuthorizer((named, *chain)), rbac, has_remotes)
