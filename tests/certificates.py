"""Keys, signing requests, authorities and what they sign, for tests."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = Encoding.PEM


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption())


def subject(common_name: str, *organizations: str) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def alternatives(*names: str) -> x509.SubjectAlternativeName:
    """DNS names, IP addresses, e-mail addresses and URIs, told apart by their looks."""

    def general(name: str) -> x509.GeneralName:
        if "://" in name:
            return x509.UniformResourceIdentifier(name)
        if "@" in name:
            return x509.RFC822Name(name)
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName([general(name) for name in names])


def signing_request(common_name: str, *organizations: str, names: tuple[str, ...] = ()) -> str:
    """A PKCS#10 request as the API object has it."""
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(subject(common_name, *organizations))
    if names:
        builder = builder.add_extension(alternatives(*names), critical=False)
    signed = builder.sign(new_key(), SHA256())
    return base64.b64encode(signed.public_bytes(PEM)).decode()


def authority(life: timedelta = timedelta(days=3650)) -> tuple[bytes, bytes]:
    """The certificate and the key of a new authority."""
    key, name, now = new_key(), subject("authority"), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, SHA256()).public_bytes(PEM), key_pem(key)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs with a key of its own; its certificate is `<name>.crt` in the directory."""

    def __init__(self, directory: Path, name: str = "test-ca") -> None:
        self._directory = directory
        certificate, key = authority()
        self._certificate = x509.load_pem_x509_certificate(certificate)
        self._key = load_pem_private_key(key, None)
        self.file = directory / f"{name}.crt"
        self.file.write_bytes(certificate)

    def issue(self, name: str, *groups: str, address: str = "") -> Pair:
        """A client's certificate, or with an address a server's."""
        key, now = new_key(), datetime.now(UTC)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if address else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(name, *groups))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if address:
            builder = builder.add_extension(alternatives(address), critical=False)
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        certificate = builder.sign(self._key, SHA256())
        stem = f"{name.replace(':', '-')}-{certificate.serial_number % 10000}"
        pair = Pair(self._directory / f"{stem}.crt", self._directory / f"{stem}.key")
        pair.certificate.write_bytes(certificate.public_bytes(PEM))
        pair.key.write_bytes(key_pem(key))
        return pair
