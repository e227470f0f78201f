"""Acting as somebody else: the Impersonate-* headers, and who may send them.

Two ways lead there. Constrained impersonation (KEP-5284) asks first whether the caller may do *this
request* in the guise (`impersonate-on:<mode>:<verb>`), then whether it may take on the user at all
(`impersonate:<mode>`); there is a mode for a service account's own node, for nodes, for service
accounts and for everybody else. The old way asks for the plain verb `impersonate` on users, groups,
service accounts, uids and extras, and covers every request. The first that succeeds counts; if none
does, the error is that of the first that applied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from urllib.parse import unquote

from navarch.api.errors import ApiError, bad_request
from navarch.apiserver.authentication.claims import (
    EXTRA_PREFIX,
    UNAUTHENTICATED,
    legible,
    service_account_groups,
    split_service_account,
    with_standing,
)
from navarch.apiserver.authorization import forbidden_error, require
from navarch.apiserver.authorization.combined import SYSTEM_MASTERS
from navarch.apiserver.authorization.node import NODE_USER_PREFIX, NODES_GROUP
from navarch.apiserver.authorization.rules import quoted
from navarch.apiserver.contracts import ANONYMOUS, Attributes, Authorizer, RequestInfo, UserInfo

AUTHENTICATION_GROUP = "authentication.k8s.io"

_EXTRA_HEADER = "impersonate-extra-"
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PREFIXED_PATH = re.compile(_SUBDOMAIN.pattern + r"/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")
_MANY = 4
"""From so many groups or extra values on, permission for all of them (`*`) is asked for first."""


@dataclass(frozen=True, slots=True)
class _Mode:
    name: str
    applies: Callable[[UserInfo, UserInfo], bool]
    """(who is wanted, who asks)"""


def impersonate(
    headers: Iterable[tuple[str, str]], attributes: Attributes, authorizer: Authorizer
) -> UserInfo | None:
    """The user to go on as, None when the request does not ask for another one.

    `attributes` are those of the request with its authenticated user. Raises ApiError: 400 for
    headers without Impersonate-User, 403 when the caller may not."""
    wanted = _wanted_user(headers)
    if wanted is None:
        return None
    first_error: ApiError | None = None
    for mode in _MODES:
        if not mode.applies(wanted, attributes.user):
            continue
        try:
            return _constrained(mode.name, wanted, attributes, authorizer)
        except ApiError as error:
            first_error = first_error or error
    try:
        return _check_user("impersonate", "", wanted, attributes.user, authorizer)
    except ApiError as error:
        raise first_error or error from None


def _wanted_user(headers: Iterable[tuple[str, str]]) -> UserInfo | None:
    name = uid = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    asked = False
    for raw_header, value in headers:
        header = raw_header.lower()
        if not header.startswith("impersonate-"):
            continue
        value = legible(value)
        if header == "impersonate-user":
            name = name or value
        elif header == "impersonate-uid":
            uid = uid or value
            asked = asked or bool(value)
        elif header == "impersonate-group":
            groups.append(value)
            asked = True
        elif header.startswith(_EXTRA_HEADER):
            extra.setdefault(unquote(header.removeprefix(_EXTRA_HEADER)), []).append(value)
            asked = True
    frozen = {key: tuple(values) for key, values in extra.items()}
    if name:
        return UserInfo(name, uid, tuple(groups), frozen)
    if asked:
        raise bad_request(
            f"requested uid {quoted(uid)}, groups {groups}, extra {extra} "
            "without impersonating a user name"
        )
    return None


def _constrained(
    mode: str, wanted: UserInfo, attributes: Attributes, authorizer: Authorizer
) -> UserInfo:
    caller = attributes.user
    if mode == "associated-node":
        # The node is the caller's own, whichever that is: one permission serves every node.
        keys = tuple(sorted(caller.extra))
        caller = replace(caller, extra={f"{EXTRA_PREFIX}associated-node-keys": keys})
    verb = f"impersonate-on:{mode}:{attributes.info.verb}"
    info = replace(attributes.info, verb=verb)
    selectors = attributes.field_selector, attributes.label_selector
    require(authorizer, Attributes(caller, info, *selectors))
    return _check_user(f"impersonate:{mode}", AUTHENTICATION_GROUP, wanted, caller, authorizer)


def _check_user(
    verb: str, group: str, wanted: UserInfo, caller: UserInfo, authorizer: Authorizer
) -> UserInfo:
    """The wanted user, complete, when `caller` has `verb` on everything it is made of."""

    def check(resource: str, name: str, api_group: str = group, **more: str) -> None:
        info = RequestInfo(True, "", verb, api_group, "v1", resource, name=name, **more)
        require(authorizer, Attributes(caller, info))

    constrained = bool(group)
    groups = wanted.groups
    account, node = split_service_account(wanted.name), _node_name(wanted.name)
    if account is not None:
        check("serviceaccounts", account[1], namespace=account[0])
        groups = groups or service_account_groups(account[0])
    elif constrained and node:
        check("nodes", "*" if verb == "impersonate:associated-node" else node)
        groups = (NODES_GROUP,)
    else:
        check("users", wanted.name)
    if wanted.uid:
        check("uids", wanted.uid, AUTHENTICATION_GROUP)
    if constrained:
        _check_constrained_extent(verb, group, wanted, caller)
    if not (constrained and len(wanted.groups) >= _MANY and _passes(check, "groups", "*")):
        for name in wanted.groups:
            check("groups", name)
    values = [(key, value) for key, all_of in wanted.extra.items() for value in all_of]
    many = constrained and len(values) >= _MANY
    if not (many and _passes(check, "userextras", "*", AUTHENTICATION_GROUP, subresource="*")):
        for key, value in values:
            check("userextras", value, AUTHENTICATION_GROUP, subresource=key)
    if wanted.name == ANONYMOUS.name and UNAUTHENTICATED not in groups:
        groups = (*groups, UNAUTHENTICATED)
    return with_standing(replace(wanted, groups=groups))


def _passes(check: Callable[..., None], *args: str, **more: str) -> bool:
    try:
        check(*args, **more)
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


def _check_constrained_extent(verb: str, group: str, wanted: UserInfo, caller: UserInfo) -> None:
    """What constrained impersonation refuses to everybody (and the old way could not take back)."""

    def refuse(resource: str, api_group: str, name: str, why: str) -> ApiError:
        info = RequestInfo(True, "", verb, api_group, "v1", resource, name=name)
        return forbidden_error(Attributes(caller, info), why)

    if "" in wanted.groups:
        raise refuse("groups", group, "", "impersonating the empty string group is not allowed")
    if SYSTEM_MASTERS in wanted.groups:
        why = "impersonating the system:masters group is not allowed"
        raise refuse("groups", group, SYSTEM_MASTERS, why)
    for key, values in wanted.extra.items():
        why = ""
        if not _PREFIXED_PATH.fullmatch(key):
            why = f"impersonating an invalid key in extra is not allowed: {quoted(key)}"
        elif key != key.lower():
            why = f"impersonating a non-lowercase key in extra is not allowed: {quoted(key)}"
        elif "" in values:
            why = "impersonating the empty string value in extra is not allowed"
        if why:
            raise refuse("userextras", AUTHENTICATION_GROUP, "", why)


def _node_name(user: str) -> str:
    """The node whose user this is, "" if it is no node's."""
    name = user.removeprefix(NODE_USER_PREFIX)
    is_node = name != user and len(name) <= 253 and _SUBDOMAIN.fullmatch(name)
    return name if is_node else ""


def _name_only(wanted: UserInfo) -> bool:
    return not (wanted.uid or wanted.groups or wanted.extra)


def _is_own_node(wanted: UserInfo, caller: UserInfo) -> bool:
    node = _node_name(wanted.name)
    own = caller.extra.get(f"{EXTRA_PREFIX}node-name")
    is_account = split_service_account(caller.name) is not None
    return _name_only(wanted) and bool(node) and is_account and own == (node,)


_MODES = (
    _Mode("associated-node", _is_own_node),
    _Mode("arbitrary-node", lambda u, _: _name_only(u) and bool(_node_name(u.name))),
    _Mode(
        "serviceaccount", lambda u, _: _name_only(u) and split_service_account(u.name) is not None
    ),
    _Mode(
        "user-info", lambda u, _: not _node_name(u.name) and split_service_account(u.name) is None
    ),
)
