"""The authorizers in their order, and the 403 a request gets that none of them allows."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.api.errors import ApiError, forbidden
from navarch.apiserver.authorization.rules import quoted
from navarch.apiserver.contracts import Attributes, Authorizer, Decision

SYSTEM_MASTERS = "system:masters"


class CombinedAuthorizer:
    """`system:masters` may do everything; else the first authorizer with an opinion decides, and
    nobody's opinion is no."""

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        if SYSTEM_MASTERS in attributes.user.groups:
            return Decision.ALLOW, ""
        reasons = []
        for authorizer in self._authorizers:
            decision, reason = authorizer.authorize(attributes)
            if decision is not Decision.NO_OPINION:
                return decision, reason
            if reason:
                reasons.append(reason)
        return Decision.NO_OPINION, "\n".join(reasons)

    async def prepare(self, attributes: Attributes) -> None:
        """Let those who have to ask others do so, as far as their word will count."""
        if SYSTEM_MASTERS in attributes.user.groups:
            return
        for authorizer in self._authorizers:
            ask = getattr(authorizer, "prepare", None)
            if ask is not None:
                await ask(attributes)
            if authorizer.authorize(attributes)[0] is not Decision.NO_OPINION:
                return


_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Messages may end up in a browser: upstream lets nothing in that looks like HTML."""


def forbidden_error(attributes: Attributes, reason: str) -> ApiError:
    """The 403 of a denied request, in upstream's words."""
    info, user = attributes.info, quoted(attributes.user.name)
    if not info.is_resource:
        what = f"User {user} cannot {info.verb} path {quoted(info.path)}"
    else:
        resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        scope = (
            f"in the namespace {quoted(info.namespace)}"
            if info.namespace
            else "at the cluster scope"
        )
        what = (
            f"User {user} cannot {info.verb} resource {quoted(resource)} "
            f"in API group {quoted(info.group)} {scope}"
        )
    what = what.translate(_ESCAPES)
    return forbidden(info.resource, info.group, info.name, f"{what}: {reason}" if reason else what)


def require(authorizer: Authorizer, attributes: Attributes) -> None:
    """Raises ApiError 403 unless the request is allowed."""
    decision, reason = authorizer.authorize(attributes)
    if decision is not Decision.ALLOW:
        raise forbidden_error(attributes, reason)
