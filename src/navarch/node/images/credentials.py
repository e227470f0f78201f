"""What to show a registry for an image: which entries of docker configurations fit it. Pure.

An entry's key is a host, perhaps with wildcards for whole or parts of labels, perhaps with a port
and the beginning of a path (`*.registry.example/team`). Several entries may fit one image; they are
tried in turn, longer paths of the same host first. Keys, order and the formats of secrets are
upstream's (`pkg/credentialprovider/keyring.go`).
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from navarch.api.types.core_v1 import Secret

from ..cri.values import Credentials
from .names import ImageName

_HUB_KEY = "index.docker.io"
_SECRET_FORMATS = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
}


class BrokenCredentials(Exception):
    """A docker configuration cannot be read."""


@dataclass(frozen=True, slots=True)
class Source:
    """The object that credentials come from; those of the node itself have none."""

    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class TrackedCredentials:
    """Credentials, and whose they are: who may use an image that was pulled with them."""

    credentials: Credentials = field(repr=False)
    source: Source | None = None

    @property
    def hash(self) -> str:
        """Tells the same user and password again without keeping them."""
        shown = {
            key: value
            for key in ("username", "password")
            if (value := getattr(self.credentials, key))
        }
        return hashlib.sha256(msgspec.json.encode(shown)).hexdigest()


Entry = Mapping[str, Any]


class Keyring:
    """Entries by key; those added under the same key are tried in the order of adding."""

    def __init__(self) -> None:
        self._entries: dict[str, list[TrackedCredentials]] = {}

    def add(self, auths: Mapping[str, Entry], source: Source | None = None) -> None:
        """Adds the `auths` of a docker configuration; raises `BrokenCredentials`."""
        for key, entry in auths.items():
            found = TrackedCredentials(_credentials(entry), source)
            self._entries.setdefault(_normalized(key), []).append(found)

    def lookup(self, image: ImageName) -> list[TrackedCredentials]:
        """What to try for the image, in order; empty means: pull without."""
        keys = sorted(
            (key for key in self._entries if matches(key, image.repository)), reverse=True
        )
        if not keys and image.registry == "docker.io" and _HUB_KEY in self._entries:
            keys = [_HUB_KEY]
        return [each for key in keys for each in self._entries[key]]


def keyring_of(secrets: Iterable[Secret]) -> Keyring:
    """The keyring of a pod's pull secrets; raises `BrokenCredentials`."""
    keyring = Keyring()
    for secret in secrets:
        text = secret.data.get(_SECRET_FORMATS.get(secret.type or "", ""))
        if not text:
            continue
        meta = secret.metadata
        source = Source("Secret", meta.namespace, meta.name, meta.uid)
        try:
            document = base64.b64decode(text)
            keyring.add(auths_of(document, nested=secret.type.endswith("json")), source)
        except (BrokenCredentials, binascii.Error) as error:
            raise BrokenCredentials(f"secret {meta.namespace}/{meta.name}: {error}") from None
    return keyring


def auths_of(document: bytes, *, nested: bool = True) -> Mapping[str, Entry]:
    """The entries of a docker configuration (`config.json`), or of the older, flat format."""
    try:
        if nested:
            return msgspec.json.decode(document, type=_Configuration).auths or {}
        flat: dict[str, dict[str, Any]] = msgspec.json.decode(
            document, type=dict[str, dict[str, Any]]
        )
        return flat
    except msgspec.MsgspecError as error:
        # What the decoder says may quote the file.
        del error
        raise BrokenCredentials("not a docker configuration") from None


class _Configuration(msgspec.Struct):
    auths: dict[str, dict[str, Any]] | None = None


def matches(pattern: str, repository: str) -> bool:
    """Whether a key (or a credential provider's `matchImages`) fits `host[:port]/path`.

    A `*` stands for one label of the host or a part of one, never for several."""
    host, _, path = pattern.partition("/")
    given_host, _, given_path = repository.partition("/")
    labels, port = _split_host(host)
    given_labels, given_port = _split_host(given_host)
    if port != given_port or len(labels) != len(given_labels):
        return False
    if path and not given_path.startswith(path):
        return False
    return all(map(fnmatch.fnmatchcase, given_labels, labels))


def _split_host(host: str) -> tuple[list[str], str]:
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    return name.strip("[]").split("."), port


def _normalized(key: str) -> str:
    bare = key.removeprefix("https://").removeprefix("http://")
    host, _, path = bare.partition("/")
    for version in ("v1/", "v2/"):
        path = path.removeprefix(version) if path.startswith(version) else path
    return f"{host}/{path}" if path else host


def _credentials(entry: Entry) -> Credentials:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    auth = str(entry.get("auth") or "").strip()
    if auth:
        try:
            decoded = base64.b64decode(auth + "=" * (-len(auth) % 4), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise BrokenCredentials("illegal base64 data in an auth field") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise BrokenCredentials(
                "unable to parse auth field, must be formatted as base64(username:password)"
            )
    return Credentials(username=username, password=password)
