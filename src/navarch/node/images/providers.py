"""Credential providers: programs that give the node passwords for registries (KEP-2133, KEP-4412).

Clouds hand out passwords that are good for hours. A provider is a program in
`--image-credential-provider-bin-dir` that reads a CredentialProviderRequest on standard input and
writes a CredentialProviderResponse; which provider is asked for which images stands in a
CredentialProviderConfig. Answers are kept for as long as they or the configuration say, under the
image, its registry, or for all. With `tokenAttributes` a provider is given a token of the pod's
service account, and its answers are for that account (or that token) only.

Behaviour, limits and messages are upstream's (`pkg/credentialprovider/plugin`): a provider that
fails is told of in the log, and the pull goes on without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from navarch.api.errors import ApiError
from navarch.api.times import parse_duration
from navarch.api.types.authentication_v1 import BoundObjectReference, TokenRequest, TokenRequestSpec
from navarch.api.types.core_v1 import Pod, ServiceAccount
from navarch.client.clock import Clock

from . import figures
from .credentials import Keyring, Source, TrackedCredentials, matches
from .names import ImageName
from .provider_config import ProviderConfig, TokenAttributes

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
END_SECONDS = 2.0
ANSWER_LIMIT = 1 << 20
EVERYTHING = "<global>"


class _AuthConfig(msgspec.Struct):
    username: str = ""
    password: str = ""


class _Response(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""
    cacheKeyType: str = ""
    cacheDuration: str | None = None
    auth: dict[str, _AuthConfig] | None = None


class ProviderFailed(Exception):
    """A provider gave no credentials. The text never holds what it answered."""


@dataclass(frozen=True, slots=True)
class _Account:
    """The service account on whose behalf a provider is asked."""

    source: Source
    annotations: Mapping[str, str]
    token: str

    def cache_key(self, attributes: TokenAttributes) -> str:
        parts = [self.source.namespace, self.source.name, self.source.uid]
        parts += [text for pair in sorted(self.annotations.items()) for text in pair]
        if attributes.cacheType == "Token":
            parts += ["token", self.token_hash]
        return "\0".join(parts)

    @property
    def token_hash(self) -> str:
        return hashlib.sha256(self.token.encode()).hexdigest()


class Accounts(Protocol):
    """The API's service accounts, as far as providers are given tokens of them."""

    async def service_account(self, namespace: str, name: str) -> ServiceAccount | None: ...

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest: ...


Auths = dict[str, dict[str, str]]


class CredentialProvider:
    """One provider of the configuration."""

    def __init__(
        self, config: ProviderConfig, directory: Path, accounts: Accounts, clock: Clock
    ) -> None:
        self._config, self._program = config, directory / config.name
        self._accounts, self._clock = accounts, clock
        self._cache: dict[tuple[str, str], tuple[float, Auths]] = {}
        """Entries of docker configurations by key and account, and when they are of no use."""
        self._under_way: dict[tuple[str, ...], asyncio.Task[_Response]] = {}

    async def lookup(self, pod: Pod, image: ImageName) -> list[TrackedCredentials]:
        """The provider's credentials for the image; none where it has none or fails."""
        if not any(matches(each, image.repository) for each in self._config.matchImages):
            return []
        try:
            account = await self._account(pod)
            if account is None and self._config.is_refused_without_account(pod):
                return []
            auths = await self._auths(image.repository, account)
        except (ProviderFailed, ApiError) as failure:
            log.error("credential provider %s for %s: %s", self._config.name, image, failure)
            return []
        keyring = Keyring()
        keyring.add(auths, account.source if account is not None else None)
        return keyring.lookup(image)

    async def _account(self, pod: Pod) -> _Account | None:
        """The pod's account with a fresh token, where the provider wants one."""
        attributes, name = self._config.tokenAttributes, pod.spec.serviceAccountName
        if attributes is None or not name:
            return None
        meta = pod.metadata
        account = await self._accounts.service_account(meta.namespace, name)
        if account is None:
            raise ProviderFailed(f'serviceaccount "{name}" not found')
        present = account.metadata.annotations
        if any(key not in present for key in attributes.requiredServiceAccountAnnotationKeys):
            return None
        wanted = (
            *attributes.requiredServiceAccountAnnotationKeys,
            *attributes.optionalServiceAccountAnnotationKeys,
        )
        bound = BoundObjectReference(apiVersion="v1", kind="Pod", name=meta.name, uid=meta.uid)
        request = TokenRequest(
            spec=TokenRequestSpec(
                audiences=[attributes.serviceAccountTokenAudience], boundObjectRef=bound
            )
        )
        request.metadata.uid = account.metadata.uid
        answer = await self._accounts.token(meta.namespace, name, request)
        source = Source("ServiceAccount", meta.namespace, name, account.metadata.uid)
        annotations = {key: present[key] for key in wanted if key in present}
        return _Account(source, annotations, answer.status.token)

    async def _auths(self, image: str, account: _Account | None) -> Auths:
        attributes = self._config.tokenAttributes
        owner = account.cache_key(attributes) if account and attributes else ""
        registry = image.partition("/")[0]
        now = self._clock.monotonic()
        self._cache = {key: value for key, value in self._cache.items() if value[0] > now}
        for key in (image, registry, EVERYTHING):
            if (key, owner) in self._cache:
                return self._cache[key, owner][1]
        response = await self._ask_once(image, account)
        auths = {
            key: {"username": each.username, "password": each.password}
            for key, each in (response.auth or {}).items()
        }
        keys = {"Image": image, "Registry": registry, "Global": EVERYTHING}
        if response.cacheKeyType not in keys:
            raise ProviderFailed(
                f"the plug-in did not return a valid cacheKeyType: {response.cacheKeyType[:50]!r}"
            )
        kept_by_account = attributes is not None and attributes.cacheType != "Token"
        passwords = [each["password"] for each in auths.values()]
        if kept_by_account and account is not None and account.token in passwords:
            # Kept by account, a token would be shown after its pod is gone.
            raise ProviderFailed(
                "the plug-in returned the service account token as the password, which is not "
                "allowed when the cache type is not Token"
            )
        seconds = self._seconds(response)
        if seconds > 0:
            self._cache[keys[response.cacheKeyType], owner] = (now + seconds, auths)
        return auths

    def _seconds(self, response: _Response) -> float:
        if response.cacheDuration is None:
            return self._config.cache_seconds
        try:
            return parse_duration(response.cacheDuration)
        except ValueError:
            raise ProviderFailed("the plug-in returned an invalid cacheDuration") from None

    async def _ask_once(self, image: str, account: _Account | None) -> _Response:
        """Pods that want the same at the same time share one run of the program."""
        key = (image, account.token_hash, str(account.annotations)) if account else (image,)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(image, account), name=f"provider {image}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._under_way.pop(key, None))
        # One pod's end must not end what others wait for.
        return await asyncio.shield(task)

    async def _ask(self, image: str, account: _Account | None) -> _Response:
        request: dict[str, object] = {
            "apiVersion": self._config.apiVersion,
            "kind": "CredentialProviderRequest",
            "image": image,
        }
        if account is not None:
            request["serviceAccountToken"] = account.token
            if account.annotations:
                request["serviceAccountAnnotations"] = account.annotations
        name = self._config.name
        try:
            with figures.provider_seconds.labels(name).time():
                output = await self._run(msgspec.json.encode(request))
        except ProviderFailed:
            figures.provider_errors.labels(name).inc()
            raise
        try:
            response = msgspec.json.decode(output, type=_Response)
        except msgspec.MsgspecError:
            raise ProviderFailed(
                "error decoding credential provider plugin response from stdout"
            ) from None
        if response.apiVersion != self._config.apiVersion:
            raise ProviderFailed(
                "apiVersion from credential plugin response did not match expected apiVersion:"
                f"{self._config.apiVersion}, actual apiVersion:{response.apiVersion[:100]}"
            )
        if response.kind != "CredentialProviderResponse":
            raise ProviderFailed(f"unexpected Kind: {response.kind[:100]!r}")
        return response

    async def _run(self, request: bytes) -> bytes:
        """Runs the program, in a process group of its own so that nothing of it is left over."""
        environment = {**os.environ, **{each.name: each.value for each in self._config.env}}
        try:
            process = await asyncio.create_subprocess_exec(
                str(self._program),
                *self._config.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderFailed(f"error execing credential provider plugin: {error}") from error
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                output, complaint = await self._converse(process, request)
                code = await process.wait()
        except TimeoutError:
            raise ProviderFailed("context deadline exceeded") from None
        finally:
            await _end(process)
        if code != 0:
            text = complaint.decode(errors="replace").strip()[:1000]
            raise ProviderFailed(f"exit status {code}: {text}")
        return output

    async def _converse(
        self, process: asyncio.subprocess.Process, request: bytes
    ) -> tuple[bytes, bytes]:
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(request)
            await stdin.drain()
        stdin.close()
        output, complaint = await asyncio.gather(_read(stdout), _read(stderr))
        if len(output) > ANSWER_LIMIT:
            raise ProviderFailed(f"the plug-in wrote more than {ANSWER_LIMIT} bytes")
        return output, complaint


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills the program and all it has begun. Its end is only seen when its output is read to the
    end, which something that has left the process group may keep open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)

    async def drain(stream: asyncio.StreamReader | None) -> None:
        while stream is not None and await stream.read(65536):
            pass

    with suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(drain(process.stdout), drain(process.stderr))
            await process.wait()


async def _read(stream: asyncio.StreamReader) -> bytes:
    """What a program writes; of what goes beyond the limit only that it does."""
    read = bytearray()
    while block := await stream.read(65536):
        read += block[: ANSWER_LIMIT + 1 - len(read)]
    return bytes(read)
