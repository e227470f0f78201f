"""The key pairs behind service-account tokens: loading, key ids, the public key set (JWKS).

One private key signs; any number of public keys verify, so that keys can be rotated: tokens of the
old key stay good as long as its public half is in the list. A key's id (`kid`) is the hash of its
public half, so it needs no configuration and is the same in every API server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_CURVES = {
    "secp256r1": ("ES256", "P-256"),
    "secp384r1": ("ES384", "P-384"),
    "secp521r1": ("ES512", "P-521"),
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key with the one algorithm it may be used with: a token does not get to choose."""

    key_id: str
    algorithm: str
    key: PublicKey

    @classmethod
    def from_public_key(cls, key: PublicKey) -> VerificationKey:
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(_base64url(hashlib.sha256(der).digest()), _algorithm(key), key)

    def to_jwk(self) -> dict[str, str]:
        """The key as a JSON Web Key (RFC 7517)."""
        common = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        numbers = self.key.public_numbers()
        if isinstance(numbers, rsa.RSAPublicNumbers):
            return {**common, "kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
        size = (self.key.key_size + 7) // 8
        return {
            **common,
            "kty": "EC",
            "crv": _CURVES[numbers.curve.name][1],
            "x": _integer(numbers.x, size),
            "y": _integer(numbers.y, size),
        }


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The signing key and all keys that verify, by id."""

    signing_key: PrivateKey
    signing_key_id: str
    algorithm: str
    verification_keys: dict[str, VerificationKey] = field(default_factory=dict)

    @classmethod
    def load(cls, signing_key_file: Path, public_key_files: Iterable[Path] = ()) -> KeyRing:
        """Read PEM files. The signing key's public half verifies too, listed or not. Raises
        ValueError or OSError when a file holds no usable key."""
        private = load_pem_private_key(signing_key_file.read_bytes(), password=None)
        if not isinstance(private, PrivateKey):
            raise ValueError(f"{signing_key_file}: neither an RSA nor an elliptic-curve key")
        return cls.from_keys(private, [key for path in public_key_files for key in _read(path)])

    @classmethod
    def from_keys(cls, private: PrivateKey, public: Iterable[PublicKey] = ()) -> KeyRing:
        own = VerificationKey.from_public_key(private.public_key())
        keys = [own, *map(VerificationKey.from_public_key, public)]
        return cls(private, own.key_id, own.algorithm, {key.key_id: key for key in keys})

    def candidates(self, key_id: str) -> list[VerificationKey]:
        """The keys that may have signed a token: the one it names, or all if it names none."""
        if not key_id:
            return list(self.verification_keys.values())
        found = self.verification_keys.get(key_id)
        return [found] if found else []

    def to_jwks(self) -> dict[str, list[dict[str, str]]]:
        return {"keys": [key.to_jwk() for key in self.verification_keys.values()]}

    def algorithms(self) -> list[str]:
        return sorted({key.algorithm for key in self.verification_keys.values()})


def _read(path: Path) -> list[PublicKey]:
    """All keys of a PEM file: public keys, certificates, or private keys' public halves."""
    keys: list[PublicKey] = []
    for match in _PEM.finditer(path.read_bytes()):
        key: Any
        label, pem = match.group(1), match.group(0)
        if label == b"CERTIFICATE":
            key = x509.load_pem_x509_certificate(pem).public_key()
        elif label.endswith(b"PRIVATE KEY"):
            key = load_pem_private_key(pem, password=None).public_key()
        else:
            key = load_pem_public_key(pem)
        if not isinstance(key, PublicKey):
            raise ValueError(f"{path}: neither an RSA nor an elliptic-curve key")
        keys.append(key)
    if not keys:
        raise ValueError(f"{path}: no PEM key found")
    return keys


def _algorithm(key: PublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    if key.curve.name not in _CURVES:
        raise ValueError(f"curve {key.curve.name} cannot sign tokens: use P-256, P-384 or P-521")
    return _CURVES[key.curve.name][0]


def _integer(value: int, size: int = 0) -> str:
    return _base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
