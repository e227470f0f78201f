"""Webhook tokens: another server says whose a token is, by the answer to a TokenReview.

The server is named by a kubeconfig file, as upstream has it. Answers are kept for a while; a server
that does not answer makes the token bad.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.trust import trusting
from navarch.apiserver.authentication.tokens import INVALID, ForeignToken, TokenError, VerifiedToken
from navarch.apiserver.contracts import UserInfo
from navarch.apiserver.http.answer import read_answer

TIMEOUT_SECONDS = 30.0
MAX_ANSWER = 1024 * 1024
API_VERSIONS = ("v1", "v1beta1")


@dataclass(frozen=True)
class Remote:
    """A server of a kubeconfig file's current context, and how to speak to it."""

    url: str
    tls: ssl.SSLContext
    headers: dict[str, str]

    async def ask(self, review: object, seconds: float) -> bytes:
        """The body of its answer to a review. Raises OSError when there is none."""
        import aiohttp

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
                session.post(
                    self.url,
                    data=msgspec.json.encode(review),
                    headers={"Content-Type": "application/json", **self.headers},
                    ssl=self.tls,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status // 100 != 2:
                    raise OSError(f"it answers {response.status}")
                body = await read_answer(response.content, MAX_ANSWER)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"it cannot be asked: {type(error).__name__}") from error
        if len(body) > MAX_ANSWER:
            raise OSError("its answer is too large")
        return body


def load_remote(path: Path) -> Remote:
    """Raises OSError, and ValueError when the file does not say where to ask."""
    import yaml

    data = yaml.safe_load(path.read_bytes())
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no kubeconfig")
    context = _named(data, "contexts", data.get("current-context"), "context")
    cluster = _named(data, "clusters", context.get("cluster"), "cluster")
    user = _named(data, "users", context.get("user"), "user")
    url = cluster.get("server", "")
    if not str(url).startswith("https://"):
        raise ValueError(f"{path}: the server has to be an https address, not {url!r}")
    unknown = user.keys() - {
        "client-certificate", "client-key", "client-certificate-data", "client-key-data",
        "token", "tokenFile",
    }  # fmt: skip
    if unknown:
        raise ValueError(f"{path}: not supported for this: {', '.join(sorted(unknown))}")
    authority = _content(cluster, "certificate-authority", path)
    tls = trusting(authority.decode())
    if cluster.get("tls-server-name") or cluster.get("insecure-skip-tls-verify"):
        raise ValueError(f"{path}: the server's certificate has to fit its address")
    certificate = _content(user, "client-certificate", path)
    if certificate:
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + _content(user, "client-key", path))
            file.flush()
            tls.load_cert_chain(file.name)
    token = user.get("token") or ""
    if user.get("tokenFile"):
        token = (path.parent / user["tokenFile"]).read_text().strip()
    return Remote(url, tls, {"Authorization": f"Bearer {token}"} if token else {})


def _named(data: dict[str, Any], listed: str, name: object, what: str) -> dict[str, Any]:
    if not name:
        return {}
    for each in data.get(listed) or ():
        if each.get("name") == name:
            return dict(each.get(what) or {})
    raise ValueError(f"there is no {what} {name!r}")


def _content(entry: dict[str, Any], field: str, path: Path) -> bytes:
    data = entry.get(f"{field}-data")
    if data:
        return base64.b64decode(data)
    named = entry.get(field)
    return (path.parent / named).read_bytes() if named else b""


class WebhookTokens:
    """Implements `TokenAuthenticator`."""

    def __init__(self, remote: Remote, version: str = "v1beta1") -> None:
        if version not in API_VERSIONS:
            raise ValueError(f"TokenReview has no version {version}")
        self._remote = remote
        self._version = version

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        review = {
            "kind": "TokenReview",
            "apiVersion": f"authentication.k8s.io/{self._version}",
            "metadata": {"creationTimestamp": None},
            "spec": {"token": token, "audiences": list(audiences)},
        }
        status = await self._ask(review)
        if not status.get("authenticated"):
            if status.get("error"):
                raise TokenError(str(status["error"]))
            raise ForeignToken(INVALID)
        said = status.get("audiences")
        matched = tuple(each for each in said or audiences if each in audiences)
        if not matched:
            raise ForeignToken(INVALID)
        return VerifiedToken(user_of(status.get("user") or {}), matched)

    async def _ask(self, review: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(await self._remote.ask(review, TIMEOUT_SECONDS))
        except OSError as error:
            raise TokenError(f"the token webhook has no answer: {error}") from error
        except msgspec.DecodeError as error:
            raise TokenError("the token webhook's answer is no JSON") from error
        status = answer.get("status") if isinstance(answer, dict) else None
        return status if isinstance(status, dict) else {}


def user_of(found: dict[str, Any]) -> UserInfo:
    """A user out of an answer, whatever else stands in it."""
    extra = {
        str(key).lower(): tuple(str(each) for each in values or ())
        for key, values in (found.get("extra") or {}).items()
    }
    groups = tuple(str(each) for each in found.get("groups") or ())
    return UserInfo(str(found.get("username") or ""), str(found.get("uid") or ""), groups, extra)
