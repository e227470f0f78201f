"""Front proxies: those who have authenticated the user already and say so in headers.

A front proxy shows a certificate of an authority of its own; its word is good for any user, so that
authority must sign nothing else, and a certificate of the users' authority gives the headers no
meaning at all (https://kubernetes.io/docs/reference/access-authn-authz/authentication/
#authenticating-proxy). Our own requests to extension API servers are of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from navarch.api.errors import unauthorized
from navarch.apiserver.authentication.claims import legible
from navarch.apiserver.contracts import PeerCertificate, UserInfo
from navarch.apiserver.options import ServerOptions


class Authorities:
    """The certificates of one bundle of authorities."""

    def __init__(self, path: Path | None) -> None:
        """None: no authority at all. Raises OSError or ValueError."""
        self._path = path
        self.reload()

    def reload(self) -> None:
        pem = self._path.read_bytes() if self._path is not None else b""
        self._certificates = x509.load_pem_x509_certificates(pem) if pem else []
        self._roots = {each.public_bytes(Encoding.DER) for each in self._certificates}

    def vouch_for(self, peer: PeerCertificate) -> bool:
        """Whether it is one of these that TLS verified the peer to. When TLS cannot say, the
        peer's certificate must have been issued by one of them directly."""
        if peer.root:
            return peer.root in self._roots
        certificate = x509.load_der_x509_certificate(peer.der)
        for authority in self._certificates:
            try:
                certificate.verify_directly_issued_by(authority)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The headers that name a user. The first header there is names it; groups and extras come
    from all of them."""

    username: tuple[str, ...] = ("X-Remote-User",)
    uid: tuple[str, ...] = ("X-Remote-Uid",)
    group: tuple[str, ...] = ("X-Remote-Group",)
    extra_prefix: tuple[str, ...] = ("X-Remote-Extra-",)

    @classmethod
    def of(cls, options: ServerOptions) -> RequestHeaders:
        return cls(
            options.requestheader_username_headers,
            options.requestheader_uid_headers,
            options.requestheader_group_headers,
            options.requestheader_extra_headers_prefix,
        )

    def user(self, headers: Mapping[str, str]) -> UserInfo | None:
        pairs = [(name.lower(), legible(value)) for name, value in headers.items()]
        name = _first(pairs, self.username)
        if not name:
            return None
        groups = tuple(
            value
            for wanted in self.group
            for header, value in pairs
            if header == wanted.lower() and value
        )
        extra: dict[str, tuple[str, ...]] = {}
        for prefix in self.extra_prefix:
            for header, value in pairs:
                if header.startswith(prefix.lower()):
                    key = unquote(header[len(prefix) :])
                    extra[key] = (*extra.get(key, ()), value)
        return UserInfo(name, _first(pairs, self.uid), groups, extra)

    def is_one(self, header: str) -> bool:
        """Whether a header is one of these: none may reach a server behind us as the client sent
        it."""
        low = header.lower()
        named = (*self.username, *self.uid, *self.group)
        return any(low == each.lower() for each in named) or any(
            low.startswith(prefix.lower()) for prefix in self.extra_prefix
        )


def _first(pairs: list[tuple[str, str]], wanted: tuple[str, ...]) -> str:
    found = (value for each in wanted for header, value in pairs if header == each.lower())
    return next((value for value in found if value), "")


@dataclass(frozen=True, slots=True)
class FrontProxies:
    """Takes the word of the front proxies of one authority; `allowed_names` empty: of all."""

    authorities: Authorities
    allowed_names: frozenset[str]
    headers: RequestHeaders

    def user(self, headers: Mapping[str, str], peer: PeerCertificate) -> UserInfo | None:
        """The user that the proxy names, None when it names none. Raises ApiError 401 when the
        peer is no front proxy."""
        if not self.authorities.vouch_for(peer):
            raise unauthorized()
        if self.allowed_names:
            subject = x509.load_der_x509_certificate(peer.der).subject
            names = {each.value for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
            if not names & self.allowed_names:
                raise unauthorized()
        return self.headers.user(headers)
