"""Certificates and signing requests as text (RFC 7468), read as upstream reads them.

Upstream takes the first PEM block of a request whatever stands before it, and of a certificate
chain every block there is. X.509 itself is the library's, which is loaded only where it is needed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateSigningRequest

_BLOCK = re.compile(r"-----BEGIN ([^\n-]+)-----[ \t\r]*\n(.*?)-----END \1-----", re.DOTALL)
_HEADER = re.compile(r"^[^\n:]+:[^\n]*\n", re.MULTILINE)
_FAILURES = {
    "RSAPublicKey": "crypto/rsa: verification error",
    "Ed25519PublicKey": "x509: Ed25519 verification failure",
}
"""What upstream says of a signature that is none, by the kind of key; else it is of ECDSA."""


@dataclass(frozen=True, slots=True)
class Block:
    type: str
    content: bytes
    has_headers: bool = False


def pem_blocks(text: str) -> Iterator[Block]:
    """The well-formed blocks of a text; what is around and between them is passed over."""
    for match in _BLOCK.finditer(text):
        body = match[2]
        headers = _HEADER.match(body)
        if headers:
            body = body.partition("\n\n")[2]
        try:
            content = base64.b64decode("".join(body.split()), validate=True)
        except binascii.Error:
            continue
        yield Block(match[1], content, headers is not None)


def decode_base64(encoded: str) -> str:
    """The text in a field that holds bytes; "" when there is none."""
    try:
        return base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def parse_signing_request(encoded: str) -> CertificateSigningRequest:
    """The PKCS#10 request in `spec.request`. Raises ValueError."""
    from cryptography.x509 import load_der_x509_csr

    block = next(pem_blocks(decode_base64(encoded)), None)
    if block is None or block.type != "CERTIFICATE REQUEST":
        raise ValueError("PEM block type must be CERTIFICATE REQUEST")
    request = load_der_x509_csr(block.content)
    # These are read lazily, and may be malformed by themselves.
    _ = request.subject, request.extensions
    return request


def check_signature(request: CertificateSigningRequest) -> None:
    """That who asks has the key the request is about. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        is_valid = request.is_signature_valid
        kind = type(request.public_key()).__name__
    except (UnsupportedAlgorithm, ValueError) as error:
        algorithm = "x509: cannot verify signature: algorithm unimplemented"
        raise ValueError(algorithm) from error
    if not is_valid:
        raise ValueError(_FAILURES.get(kind, "x509: ECDSA verification failure"))


def parse_certificates(text: str) -> list[Certificate]:
    """A chain of certificates, and nothing else. Raises ValueError."""
    from cryptography.x509 import load_der_x509_certificate

    found = []
    for block in pem_blocks(text):
        if block.type != "CERTIFICATE":
            raise ValueError(f'only CERTIFICATE PEM blocks are allowed, found "{block.type}"')
        if block.has_headers:
            raise ValueError("no PEM block headers are permitted")
        found.append(load_der_x509_certificate(block.content))
    if not found:
        raise ValueError("must contain at least one CERTIFICATE PEM block")
    return found
