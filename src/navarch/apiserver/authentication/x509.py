"""Client certificates: the common name is the user, the organisations are its groups.

TLS has verified the chain already; a certificate is parsed once and remembered by its bytes. Its
end of validity is looked at with every request, for a connection can outlive it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from navarch.api.errors import unauthorized
from navarch.apiserver.authentication.claims import AUTHENTICATED, CREDENTIAL_ID
from navarch.apiserver.authentication.front_proxy import Authorities
from navarch.apiserver.contracts import PeerCertificate, UserInfo

USER_UID = ObjectIdentifier("1.3.6.1.4.1.57683.2")
"""A subject attribute that carries the user's uid."""
CACHE_LIMIT = 4096


class CertificateUsers:
    """Tells the user of a certificate. `authorities` are those of users, where TLS verifies by
    others as well."""

    def __init__(self, now: Callable[[], float], authorities: Authorities | None = None) -> None:
        self._now = now
        self.authorities = authorities
        self._known: dict[bytes, tuple[UserInfo | None, float, float]] = {}

    def user(self, peer: PeerCertificate) -> UserInfo | None:
        """The user, None if none is named. Raises ApiError 401 when the certificate has expired or
        is not a user's."""
        if self.authorities is not None and not self.authorities.vouch_for(peer):
            raise unauthorized()
        certificate = peer.der
        known = self._known.get(certificate)
        if known is None:
            if len(self._known) >= CACHE_LIMIT:
                self._known.clear()
            known = self._known[certificate] = _parse(certificate)
        user, begins, ends = known
        if not begins <= self._now() <= ends:
            raise unauthorized()
        return user


def _parse(der: bytes) -> tuple[UserInfo | None, float, float]:
    certificate = x509.load_der_x509_certificate(der)
    begins = certificate.not_valid_before_utc.timestamp()
    ends = certificate.not_valid_after_utc.timestamp()
    names = _values(certificate, NameOID.COMMON_NAME)
    uids = _values(certificate, USER_UID)
    if not names or not names[-1]:
        return None, begins, ends
    if len(uids) > 1 or uids == [""]:
        raise unauthorized()
    groups = _values(certificate, NameOID.ORGANIZATION_NAME)
    if AUTHENTICATED not in groups:
        groups.append(AUTHENTICATED)
    fingerprint = hashlib.sha256(der).hexdigest()
    extra = {CREDENTIAL_ID: (f"X509SHA256={fingerprint}",)}
    return UserInfo(names[-1], uids[0] if uids else "", tuple(groups), extra), begins, ends


def _values(certificate: x509.Certificate, oid: ObjectIdentifier) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(oid)]
