"""The ciphers that seal values, in upstream's formats, so that data can change hands either way.

A sealed value is `k8s:enc:<provider>:v1:<key name>:` and then the provider's own bytes. Only
`aesgcm` binds a value to the key of the store it stands under; the others' values could be moved
about by someone who can write the disk, which is one reason not to choose `aescbc`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from navarch.store.sealing import Unsealable

KEY_SIZES = {"aescbc": (16, 24, 32), "aesgcm": (16, 24, 32), "secretbox": (32,)}
"""By provider, in bytes."""
_BLOCK = 16
_NONCE = 12


class Cipher(Protocol):
    """One key of one provider. `where` is the store's key."""

    def seal(self, where: str, plain: bytes) -> bytes: ...

    def unseal(self, where: str, sealed: bytes) -> bytes:
        """Raises Unsealable."""
        ...


@dataclass(frozen=True)
class AesCbc:
    """AES-CBC with PKCS#7 padding and a random first block; no protection against changes."""

    secret: bytes

    def seal(self, where: str, plain: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        first = os.urandom(_BLOCK)
        fill = _BLOCK - len(plain) % _BLOCK
        encryptor = Cipher(algorithms.AES(self.secret), modes.CBC(first)).encryptor()
        return first + encryptor.update(plain + bytes([fill]) * fill) + encryptor.finalize()

    def unseal(self, where: str, sealed: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            raise Unsealable("the stored data is not a multiple of the block size")
        decryptor = Cipher(algorithms.AES(self.secret), modes.CBC(sealed[:_BLOCK])).decryptor()
        padded = decryptor.update(sealed[_BLOCK:]) + decryptor.finalize()
        fill = padded[-1]
        if not 1 <= fill <= _BLOCK or padded[-fill:] != bytes([fill]) * fill:
            raise Unsealable("invalid padding on input")
        return padded[:-fill]


@dataclass(frozen=True)
class AesGcm:
    """AES-GCM with random nonces: a key is good for some hundred thousand million writes."""

    secret: bytes

    def seal(self, where: str, plain: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self.secret).encrypt(nonce, plain, where.encode())

    def unseal(self, where: str, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self.secret).decrypt(sealed[:_NONCE], sealed[_NONCE:], where.encode())
        except (InvalidTag, ValueError) as error:
            raise Unsealable("message authentication failed") from error


@dataclass(frozen=True)
class Secretbox:
    """XSalsa20 and Poly1305, as NaCl puts them together."""

    secret: bytes

    def seal(self, where: str, plain: bytes) -> bytes:
        from nacl.secret import SecretBox

        return bytes(SecretBox(self.secret).encrypt(plain))

    def unseal(self, where: str, sealed: bytes) -> bytes:
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox

        try:
            return bytes(SecretBox(self.secret).decrypt(sealed))
        except (CryptoError, ValueError) as error:
            raise Unsealable("message authentication failed") from error


_CIPHERS: dict[str, Callable[[bytes], Cipher]] = {
    "aescbc": AesCbc,
    "aesgcm": AesGcm,
    "secretbox": Secretbox,
}


def cipher_of(provider: str, secret: bytes) -> Cipher:
    return _CIPHERS[provider](secret)
