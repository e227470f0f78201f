"""A registry on loopback (OCI Distribution Specification 1.1, the part that pulls need).

It serves image archives, with or without a password or a token, and fails in the ways that tests
order. What it was asked, and with which credentials, can be read afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    authorization: str


@dataclass
class Registry:
    """See the module. Names are repositories, such as `team/web`."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By repository and tag or digest."""
    passwords: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the first part of a repository's name: who may pull from it."""
    by_token: bool = False
    """Whether passwords are shown to the token service instead of the registry."""
    failing: dict[str, int] = field(default_factory=dict)
    """Status codes by repository."""
    held: set[str] = field(default_factory=set)
    """Repositories whose layers do not come."""
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.released = asyncio.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, repository: str, tag: str, archive: Path) -> str:
        """Serves the image of an OCI archive; returns its digest."""
        with tarfile.open(archive) as tar:
            found = {
                member.name: content.read()
                for member in tar
                if (content := tar.extractfile(member)) is not None
            }
        for name, blob in found.items():
            if name.startswith("blobs/"):
                self.blobs["sha256:" + name.rpartition("/")[2]] = blob
        (entry,) = json.loads(found["index.json"])["manifests"]
        return self.add_manifest(repository, tag, self.blobs[entry["digest"]])

    def add_manifest(self, repository: str, tag: str, manifest: bytes) -> str:
        digest = digest_of(manifest)
        self.manifests[repository, tag] = self.manifests[repository, digest] = manifest
        return digest

    def add_blob(self, blob: bytes) -> str:
        self.blobs[digest_of(blob)] = blob
        return digest_of(blob)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        header = request.headers.get("Authorization", "")
        self.asked.append(Asked(request.method, request.path, header))
        if request.path == "/token":
            return await self._token(request)
        if request.path in ("/v2", "/v2/"):
            return web.json_response({})
        repository, _, rest = request.path.removeprefix("/v2/").rpartition("/")
        repository, _, kind = repository.rpartition("/")
        if repository in self.failing:
            raise _error(self.failing[repository])
        self._authorize(repository, header)
        if kind == "manifests":
            return self._manifest(repository, rest)
        if repository in self.held and self._is_layer(repository, rest):
            await self.released.wait()
        blob = self.blobs.get(rest)
        if blob is None:
            raise _error(404)
        return web.Response(body=blob, content_type="application/octet-stream")

    def _manifest(self, repository: str, reference: str) -> web.Response:
        manifest = self.manifests.get((repository, reference))
        if manifest is None:
            raise _error(404)
        kind = json.loads(manifest).get("mediaType", MANIFEST)
        headers = {"Docker-Content-Digest": digest_of(manifest)}
        return web.Response(body=manifest, content_type=kind, headers=headers)

    def _is_layer(self, repository: str, digest: str) -> bool:
        return any(
            digest in [layer["digest"] for layer in json.loads(manifest)["layers"]]
            for (name, _), manifest in self.manifests.items()
            if name == repository
        )

    def _authorize(self, repository: str, header: str) -> None:
        users = self.passwords.get(repository.partition("/")[0])
        if users is None:
            return
        kind, _, shown = header.partition(" ")
        if self.by_token:
            if kind == "Bearer" and shown in {f"token-of-{user}" for user in users}:
                return
            challenge = f'Bearer realm="http://{self.host}/token",service="test"'
        else:
            if kind == "Basic" and _user(shown) in users.items():
                return
            challenge = 'Basic realm="test"'
        raise _error(401, {"WWW-Authenticate": challenge})

    async def _token(self, request: web.Request) -> web.Response:
        """OAuth2's way (a form) and the older one (Basic)."""
        form = await request.post()
        if form:
            user, password = str(form.get("username", "")), str(form.get("password", ""))
        else:
            user, password = _user(request.headers.get("Authorization", "").partition(" ")[2])
        everybody = {
            name: word for users in self.passwords.values() for name, word in users.items()
        }
        if user and everybody.get(user) != password:
            raise _error(401)
        token = f"token-of-{user or 'nobody'}"
        return web.json_response({"token": token, "access_token": token, "expires_in": 60})


def _user(basic: str) -> tuple[str, str]:
    user, _, password = base64.b64decode(basic).decode().partition(":")
    return user, password


def _error(status: int, headers: Mapping[str, str] | None = None) -> web.HTTPException:
    answers: dict[int, Any] = {
        401: web.HTTPUnauthorized,
        403: web.HTTPForbidden,
        404: web.HTTPNotFound,
        500: web.HTTPInternalServerError,
        503: web.HTTPServiceUnavailable,
    }
    error: web.HTTPException = answers[status](headers=headers, text='{"errors": []}')
    return error


@asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    """A registry that runs."""
    here = Registry()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", here.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        here.port = runner.addresses[0][1]
        yield here
    finally:
        here.released.set()
        await runner.cleanup()
