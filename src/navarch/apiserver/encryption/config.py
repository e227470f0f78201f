"""The encryption configuration (apiserver.config.k8s.io/v1 EncryptionConfiguration), and the sealer
that it makes.

The first provider of a resource writes, all of them read. So a key is changed in three steps: add
the new one as the second everywhere, make it the first, write every object anew; then the old one
can go. `identity` writes plain text and reads it.

`kms` is refused by name: keys that another program holds are not supported.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from navarch.api.kinds import KINDS
from navarch.apiserver.configuration_file import Strict, read_configuration
from navarch.apiserver.encryption.providers import KEY_SIZES, Cipher, cipher_of
from navarch.store.sealing import SEALED, Unsealable, mark_of

ROOT = "/registry/"


class Key(Strict):
    name: str = ""
    secret: str = ""


class Keys(Strict):
    keys: list[Key] = []


class Provider(Strict):
    aesgcm: Keys | None = None
    aescbc: Keys | None = None
    secretbox: Keys | None = None
    identity: dict[str, Any] | None = None
    kms: dict[str, Any] | None = None


class Rule(Strict):
    resources: list[str] = []
    providers: list[Provider] = []


class EncryptionConfiguration(Strict):
    apiVersion: str = ""
    kind: str = ""
    resources: list[Rule] = []


@dataclass(frozen=True, slots=True)
class Chain:
    """The providers of one resource: what its values are written with, and what can read them, by
    mark. Plain values are read whether `identity` is named or not."""

    mark: bytes
    cipher: Cipher | None
    readers: dict[bytes, Cipher]


PLAIN = Chain(b"", None, {})


class ConfiguredSealer:
    """Implements `Sealer` by a file, which may change while the server runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chains = load_chains(path)

    def reload(self) -> None:
        """Raises ConfigurationError; then the configuration there was goes on. Keys that are gone
        still open what lies in the history until the next start."""
        before, chains = self._chains, load_chains(self.path)
        self._chains = {
            pattern: replace(chain, readers={**before[pattern].readers, **chain.readers})
            if pattern in before
            else chain
            for pattern, chain in chains.items()
        }

    def _chain(self, key: str) -> Chain:
        chains = self._chains
        resource, group = resource_of(key)
        for pattern in (f"{resource}.{group}", f"*.{group}", "*.*"):
            found = chains.get(pattern)
            if found is not None:
                return found
        return PLAIN

    def mark(self, key: str) -> bytes:
        return self._chain(key).mark

    def seal(self, key: str, value: bytes) -> bytes:
        chain = self._chain(key)
        return chain.mark + chain.cipher.seal(key, value) if chain.cipher is not None else value

    def unseal(self, key: str, value: bytes) -> bytes:
        mark = mark_of(value)
        cipher = self._chain(key).readers.get(mark)
        if cipher is None:
            raise Unsealable(f"no matching key was found for the provider {mark.decode()!r}")
        return cipher.unseal(key, value[len(mark) :])


def load_chains(path: Path) -> dict[str, Chain]:
    """By pattern (`secrets.`, `*.apps`, `*.*`), its providers. Raises ConfigurationError."""
    what = "an encryption configuration"
    config = read_configuration(path, EncryptionConfiguration, what, _problems)
    providers: dict[str, list[Provider]] = {}
    for rule in config.resources:
        for resource in rule.resources:
            pattern = _pattern(resource)
            group = pattern.partition(".")[2]
            # What an earlier rule covers by a wildcard is not this one's any more.
            if not {"*.*", f"*.{group}"} & (providers.keys() - {pattern}):
                providers.setdefault(pattern, []).extend(rule.providers)
    return {pattern: _chain_of(found) for pattern, found in providers.items()}


def _pattern(resource: str) -> str:
    """`secrets` is `secrets.`: the resource of the core group."""
    return resource if "." in resource else f"{resource}."


def _chain_of(providers: list[Provider]) -> Chain:
    ciphers: list[tuple[bytes, Cipher | None]] = []
    for provider in providers:
        if provider.identity is not None:
            ciphers.append((b"", None))
        for name, keys in _keyed(provider):
            for key in keys:
                mark = SEALED + f"{name}:v1:{key.name}:".encode()
                ciphers.append((mark, cipher_of(name, base64.b64decode(key.secret))))
    mark, first = ciphers[0]
    readers: dict[bytes, Cipher] = {}
    for each, cipher in ciphers:
        if cipher is not None:
            readers.setdefault(each, cipher)
    return Chain(mark, first, readers)


def _keyed(provider: Provider) -> Iterator[tuple[str, list[Key]]]:
    for name in KEY_SIZES:
        keys: Keys | None = getattr(provider, name)
        if keys is not None:
            yield name, keys.keys


def _problems(config: EncryptionConfiguration) -> Iterator[str]:
    found = f"{config.apiVersion} {config.kind}"
    if found != "apiserver.config.k8s.io/v1 EncryptionConfiguration":
        yield f"expected apiserver.config.k8s.io/v1 EncryptionConfiguration, not {found.strip()!r}"
    if not config.resources:
        yield "resources: Required value: at least one resources is required"
    for index, rule in enumerate(config.resources):
        where = f"resources[{index}]"
        if not rule.resources:
            yield f"{where}.resources: Required value: at least one is required"
        if not rule.providers:
            yield f"{where}.providers: Required value: at least one is required"
        yield from _resource_problems(rule.resources, f"{where}.resources")
        for number, provider in enumerate(rule.providers):
            yield from _provider_problems(provider, f"{where}.providers[{number}]")


def _resource_problems(resources: list[str], where: str) -> Iterator[str]:
    patterns = [_pattern(each) for each in resources]
    if len(set(patterns)) < len(patterns):
        yield f"{where}: the same resource cannot be specified multiple times"
    for text, pattern in zip(resources, patterns, strict=True):
        resource, _, group = pattern.partition(".")
        if text == "*":
            yield (
                f"{where}: use '*.' to encrypt all the resources from core API group or *.* to "
                "encrypt all resources"
            )
        if text != text.lower():
            yield f"{where}: resource name should not contain capital letters: {text!r}"
        if group == "*" and resource != "*":
            yield f"{where}: encrypting the same resource across groups is not supported: {text!r}"
        if group == "events.k8s.io":
            yield f"{where}: '*.events.k8s.io' objects are stored as 'events': use that"
        wider = {"*.*", f"*.{group}"} - {pattern}
        if wider & set(patterns):
            yield f"{where}: overlapping resources such as 'secrets' and '*.' are not allowed"


def _provider_problems(provider: Provider, where: str) -> Iterator[str]:
    if provider.kms is not None:
        yield f"{where}.kms: key management services are not supported; use secretbox or aesgcm"
        return
    given = [name for name in (*KEY_SIZES, "identity") if getattr(provider, name) is not None]
    if len(given) != 1:
        many = "more than one provider specified in a single element" if given else "no provider"
        yield f"{where}: {many}"
    for name, keys in _keyed(provider):
        if not keys:
            yield f"{where}.{name}.keys: Required value: at least one is required"
        if len({key.name for key in keys}) < len(keys):
            yield f"{where}.{name}.keys: key names must be unique"
        for number, key in enumerate(keys):
            yield from _key_problems(key, KEY_SIZES[name], f"{where}.{name}.keys[{number}]")


def _key_problems(key: Key, sizes: tuple[int, ...], where: str) -> Iterator[str]:
    """What is wrong with a key; never what it is."""
    if not key.name:
        yield f"{where}.name: Required value: name is a mandatory field for a key"
    if ":" in key.name:
        yield f"{where}.name: must not contain ':'"
    try:
        size = len(base64.b64decode(key.secret, validate=True))
    except binascii.Error:
        yield f"{where}.secret: secrets must be base64 encoded"
        return
    if size not in sizes:
        expected = " ".join(map(str, sizes))
        yield (
            f"{where}.secret: secret is not of the expected length, got {size}, expected one of "
            f"[{expected}]"
        )


@lru_cache(maxsize=1)
def _built_in() -> dict[str, tuple[str, str]]:
    """(resource, group) by the part of the store's key that built-in kinds have."""
    return {
        kind.storage_prefix: (kind.stored_kind.plural, kind.stored_kind.group)
        for kind in KINDS
        if kind.storage_prefix
    }


def resource_of(key: str) -> tuple[str, str]:
    """The resource and group that a key of the store is of."""
    parts = key.removeprefix(ROOT).split("/", 2)
    known = _built_in()
    for prefix in ("/".join(parts[:2]), parts[0]):
        if prefix in known:
            return known[prefix]
    # What is left is a custom resource, which has its group in front.
    return (parts[1], parts[0]) if len(parts) > 1 else (parts[0], "")
