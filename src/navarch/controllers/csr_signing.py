"""The signers of the `kubernetes.io` names: turn approved signing requests into certificates.

All four sign with the cluster's certificate authority; they differ in what they let through (see
`csr_checks`). A certificate takes over the subject, the public key and the alternative names of the
request and nothing else of it: what it may be used for is said in the API object, and no request
makes an authority. It begins five minutes in the past, for clocks that are behind.

A request that breaks its signer's rules gets the condition `Failed`. Other signers' requests are
none of ours. Source: upstream's `pkg/controller/certificates/signer` and `authority`.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from navarch.api.objects import copy_object
from navarch.api.pem import check_signature, parse_signing_request
from navarch.api.times import format_time
from navarch.api.types.certificates_v1 import (
    CertificateSigningRequest,
    CertificateSigningRequestCondition,
)
from navarch.client import Controller, ControllerContext
from navarch.controllers.csr_checks import SIGNERS, Wanted, has_condition, problem_for, read

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

BACKDATE = timedelta(minutes=5)
SHORT = timedelta(hours=8)
"""Shorter lives than this are given in full, without taking back what was added at the front."""
SHORTEST = timedelta(minutes=10)
KEY_USAGES = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "key agreement": "key_agreement",
    "data encipherment": "data_encipherment",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
EXTENDED_USAGES = {
    "any": "2.5.29.37.0",
    "server auth": "1.3.6.1.5.5.7.3.1",
    "client auth": "1.3.6.1.5.5.7.3.2",
    "code signing": "1.3.6.1.5.5.7.3.3",
    "email protection": "1.3.6.1.5.5.7.3.4",
    "s/mime": "1.3.6.1.5.5.7.3.4",
    "ipsec end system": "1.3.6.1.5.5.7.3.5",
    "ipsec tunnel": "1.3.6.1.5.5.7.3.6",
    "ipsec user": "1.3.6.1.5.5.7.3.7",
    "timestamping": "1.3.6.1.5.5.7.3.8",
    "ocsp signing": "1.3.6.1.5.5.7.3.9",
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}


class SigningError(Exception):
    """The authority cannot sign (now)."""


class Authority:
    """A certificate and its key, as PEM files hold them."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificate

        self.certificate = load_pem_x509_certificate(certificate)
        self.key = cast("CertificateIssuerPrivateKeyTypes", load_pem_private_key(key, None))

    def hash(self) -> hashes.HashAlgorithm | None:
        """What goes with the key: none for Ed25519, which hashes by itself."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, rsa

        if isinstance(self.key, rsa.RSAPrivateKey):
            return hashes.SHA256()
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            sizes: dict[int, hashes.HashAlgorithm] = {384: hashes.SHA384(), 521: hashes.SHA512()}
            return sizes.get(self.key.curve.key_size, hashes.SHA256())
        return None


def lifetime(expiration_seconds: int | None, longest: timedelta) -> timedelta:
    """As long as asked for, within limits."""
    if expiration_seconds is None:
        return longest
    return min(longest, max(SHORTEST, timedelta(seconds=expiration_seconds)))


def validity(life: timedelta, expires: datetime, now: datetime) -> tuple[datetime, datetime]:
    """From when to when, not longer than the authority itself, which `expires`. Raises
    SigningError."""
    if now >= expires:
        text = f"refusing to sign a certificate that expired in the past: NotAfter={expires}"
        raise SigningError(text)
    end = now + life if life < SHORT else now + life - BACKDATE
    return now - BACKDATE, min(end, expires)


def sign(
    request: x509.CertificateSigningRequest,
    usages: Sequence[str],
    authority: Authority,
    life: timedelta,
    now: datetime,
) -> bytes:
    """The certificate as PEM. Raises ValueError, SigningError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    check_signature(request)
    issuer = authority.certificate
    begins, ends = validity(life, issuer.not_valid_after_utc, now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension, is_critical in _extensions(read(request), usages, issuer):
        builder = builder.add_extension(extension, is_critical)
    certificate = builder.sign(authority.key, authority.hash())  # type: ignore[arg-type]
    return certificate.public_bytes(Encoding.PEM)


def _extensions(
    wanted: Wanted, usages: Sequence[str], issuer: x509.Certificate
) -> list[tuple[x509.ExtensionType, bool]]:
    from cryptography import x509

    result: list[tuple[x509.ExtensionType, bool]] = []
    flags = {KEY_USAGES[usage] for usage in usages if usage in KEY_USAGES}
    if flags:
        # These two only qualify an agreement on keys.
        if "key_agreement" not in flags:
            flags -= {"encipher_only", "decipher_only"}
        every = dict.fromkeys(KEY_USAGES.values(), False) | dict.fromkeys(flags, True)
        result.append((x509.KeyUsage(**every), True))
    purposes = sorted({EXTENDED_USAGES[usage] for usage in usages if usage in EXTENDED_USAGES})
    if purposes:
        identifiers = [x509.ObjectIdentifier(purpose) for purpose in purposes]
        result.append((x509.ExtendedKeyUsage(identifiers), False))
    result.append((x509.BasicConstraints(ca=False, path_length=None), True))
    try:
        above = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above)
        result.append((identifier, False))
    except x509.ExtensionNotFound:
        pass
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in wanted.dns_names]
    names += [x509.RFC822Name(name) for name in wanted.emails]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in wanted.ip_addresses]
    names += [x509.UniformResourceIdentifier(uri) for uri in wanted.uris]
    if names:
        # Without a subject, the alternatives are all that says who it is for.
        is_critical = not (wanted.common_name or wanted.organizations)
        result.append((x509.SubjectAlternativeName(names), is_critical))
    return result


class CsrSigningController(Controller):
    """Watches: signing requests."""

    name = "csrsigning"

    def __init__(
        self,
        context: ControllerContext,
        read_authority: Callable[[], tuple[bytes, bytes]],
        longest: timedelta,
    ) -> None:
        super().__init__(context)
        self.read_authority = read_authority
        self.longest = longest
        self.requests = context.informers.informer(CertificateSigningRequest)
        self.watch(self.requests)

    async def reconcile(self, key: str) -> None:
        request = self.requests.cache.get(key)
        if request is None or request.status.certificate:
            return
        spec = request.spec
        if spec.signerName not in SIGNERS or not has_condition(request, "Approved"):
            return
        if has_condition(request, "Denied", "Failed"):
            return
        parsed = parse_signing_request(spec.request)
        answered = copy_object(request)
        problem = problem_for(spec.signerName, read(parsed), spec.usages)
        if problem:
            answered.status.conditions.append(
                CertificateSigningRequestCondition(
                    type="Failed",
                    status="True",
                    reason="SignerValidationFailure",
                    message=problem,
                    lastUpdateTime=format_time(self.clock.now()),
                )
            )
        else:
            # Read anew each time, for the authority may be replaced.
            authority = Authority(*self.read_authority())
            life = lifetime(spec.expirationSeconds, self.longest)
            signed = sign(parsed, spec.usages, authority, life, self.clock.now())
            answered.status.certificate = base64.b64encode(signed).decode()
        await self.client.resource(CertificateSigningRequest).update_status(answered)
