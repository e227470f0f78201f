"""What a service-account token says: the registered JWT claims and the one of Kubernetes."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from navarch.apiserver.contracts import ANONYMOUS, UserInfo

USER_PREFIX = "system:serviceaccount:"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
EXTRA_PREFIX = "authentication.kubernetes.io/"
CREDENTIAL_ID = f"{EXTRA_PREFIX}credential-id"


class Reference(msgspec.Struct, omit_defaults=True):
    """An object a token is bound to; the uid keeps a new object of the same name from counting."""

    name: str = ""
    uid: str = ""


class KubernetesClaims(msgspec.Struct, omit_defaults=True):
    namespace: str = ""
    serviceaccount: Reference = msgspec.field(default_factory=Reference)
    pod: Reference | None = None
    secret: Reference | None = None
    node: Reference | None = None
    warnafter: int | None = None


class Claims(msgspec.Struct, omit_defaults=True):
    iss: str
    sub: str = ""
    aud: list[str] | str = msgspec.field(default_factory=list)
    exp: float | None = None
    iat: float | None = None
    nbf: float | None = None
    jti: str = ""
    kubernetes: KubernetesClaims = msgspec.field(
        default_factory=KubernetesClaims, name="kubernetes.io"
    )

    def audiences(self) -> list[str]:
        return [self.aud] if isinstance(self.aud, str) else self.aud


def service_account_groups(namespace: str) -> tuple[str, str]:
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")


def legible(header: str) -> str:
    """A header's value as text that can be written out again: bytes that were no UTF-8, which
    Python keeps as lone surrogates, become replacement characters."""
    return header.encode(errors="surrogateescape").decode(errors="replace")


def split_service_account(user: str) -> tuple[str, str] | None:
    """(namespace, name) of a service account's user name, None for any other user."""
    parts = user.split(":")
    if len(parts) != 4 or not user.startswith(USER_PREFIX) or not parts[2] or not parts[3]:
        return None
    return parts[2], parts[3]


def with_standing(user: UserInfo) -> UserInfo:
    """The user in the group `system:authenticated`, unless it is anonymous or says otherwise."""
    if user.name == ANONYMOUS.name or not {AUTHENTICATED, UNAUTHENTICATED}.isdisjoint(user.groups):
        return user
    return replace(user, groups=(*user.groups, AUTHENTICATED))
