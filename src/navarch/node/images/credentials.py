"""Registry credentials out of a pod's imagePullSecrets. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from navarch.api.types.core_v1 import Secret

from ..cri.values import Credentials
from .names import DOCKER_HUB, ImageName

_HUB_ALIASES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def credentials_for(image: ImageName, secrets: Iterable[Secret]) -> list[Credentials]:
    """What to try for the image, most specific entry first; empty means: pull without."""
    found: list[tuple[int, Credentials]] = []
    for secret in secrets:
        for key, entry in _entries(secret).items():
            length = _match(key, image)
            if length is not None:
                found.append((length, _credentials(key, entry)))
    found.sort(key=lambda each: -each[0])
    return [each for _, each in found]


def _entries(secret: Secret) -> Mapping[str, Mapping[str, Any]]:
    for key in (".dockerconfigjson", ".dockercfg"):
        text = secret.data.get(key)
        if text is None:
            continue
        try:
            document = msgspec.json.decode(base64.b64decode(text))
        except (msgspec.DecodeError, binascii.Error):
            return {}
        entries = document.get("auths", {}) if key == ".dockerconfigjson" else document
        return {name: value for name, value in entries.items() if isinstance(value, dict)}
    return {}


def _match(key: str, image: ImageName) -> int | None:
    """How much of the image's name the entry covers, None if it is for something else."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, path = bare.partition("/")
    if path in ("v1", "v2") or path.startswith(("v1/", "v2/")):
        path = path[3:]
    if image.registry == DOCKER_HUB:
        if host not in _HUB_ALIASES:
            return None
    elif not _host_matches(host, image.registry):
        return None
    if path and image.path != path and not image.path.startswith(path + "/"):
        return None
    return len(path)


def _host_matches(pattern: str, host: str) -> bool:
    """A `*` stands for one whole or partial label, never for several."""
    import fnmatch

    wanted, given = pattern.split("."), host.split(".")
    return len(wanted) == len(given) and all(
        fnmatch.fnmatchcase(label, glob) for label, glob in zip(given, wanted, strict=True)
    )


def _credentials(key: str, entry: Mapping[str, Any]) -> Credentials:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    auth = str(entry.get("auth", ""))
    if auth and not username:
        try:
            username, _, password = base64.b64decode(auth).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username = password = ""
    return Credentials(
        username=username,
        password=password,
        server=key,
        identity_token=str(entry.get("identitytoken", "")),
        registry_token=str(entry.get("registrytoken", "")),
    )
