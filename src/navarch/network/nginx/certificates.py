"""Secrets as certificates and password files of the data plane.

A Secret is read when somebody who may do so names it, and its content is checked before nginx sees
any of it: a key that does not belong to its certificate is never served.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from navarch.api.types.core_v1 import Secret
from navarch.network.nginx.document import digest
from navarch.network.nginx.model import Certificate


class SecretError(ValueError):
    """A Secret does not hold what it should."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, and the names it is for."""

    name: str
    certificate: Certificate
    hosts: frozenset[str]

    def covers(self, host: str) -> bool:
        """By the rules for TLS (RFC 6125): a wildcard stands for one label."""
        return host in self.hosts or f"*.{host.partition('.')[2]}" in self.hosts


def value(secret: Secret, key: str) -> bytes:
    """One of the Secret's values."""
    if key not in secret.data:
        raise SecretError(f"Secret {secret.metadata.name} has no {key}")
    try:
        return base64.b64decode(secret.data[key])
    except binascii.Error as error:
        raise SecretError(f"Secret {secret.metadata.name}: {key} is not base64") from error


def pair_of(secret: Secret) -> Pair:
    """The certificate in a Secret of type kubernetes.io/tls."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain, key = value(secret, "tls.crt"), value(secret, "tls.key")
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        problem = "does not hold a certificate and its key in PEM"
        raise SecretError(f"Secret {secret.metadata.name} {problem}") from error
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    of_certificate = certificates[0].public_key().public_bytes(encoding, form)
    if of_certificate != private.public_key().public_bytes(encoding, form):
        problem = "tls.key is not the key of tls.crt"
        raise SecretError(f"Secret {secret.metadata.name}: {problem}")
    text, key_text = chain.decode("ascii", "replace"), key.decode("ascii", "replace")
    return Pair(digest(text + key_text), Certificate(text, key_text), _names(certificates[0]))


def _names(certificate: object) -> frozenset[str]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    assert isinstance(certificate, x509.Certificate)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        if names:
            return frozenset(name.lower() for name in names)
    except x509.ExtensionNotFound:
        pass
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return frozenset(str(each.value).lower() for each in common)


def authorities(secret: Secret) -> str:
    """The certificates that others' are checked against: key ca.crt."""
    from cryptography import x509

    text = value(secret, "ca.crt")
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise SecretError(f"Secret {secret.metadata.name}: ca.crt is not in PEM") from error
    return text.decode("ascii", "replace")


def passwords(secret: Secret, kind: str) -> str:
    """The lines of a password file: the Secret's `auth`, or its keys as users."""
    if kind == "auth-file":
        return value(secret, "auth").decode(errors="replace")
    lines = []
    for user in sorted(secret.data):
        hashed = value(secret, user).decode(errors="replace").strip()
        if "\n" in hashed or "\r" in hashed:
            raise SecretError(f"Secret {secret.metadata.name}: {user} is not one password")
        lines.append(f"{user}:{hashed}\n")
    return "".join(lines)
