"""Bootstrap tokens: what a machine has in hand before it belongs to the cluster.

A token is a Secret `kube-system/bootstrap-token-<id>` of its own type. Two controllers look after
them:

* the signer puts a signature with each token into the ConfigMap `kube-public/cluster-info`, which
  everybody may read: who holds the token can tell by it that the certificate authority in there is
  the right one (a detached JSON Web Signature, RFC 7515, over the text of the kubeconfig);
* the cleaner deletes tokens that have expired.

Source: upstream's `pkg/controller/bootstrap`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from navarch.api.objects import copy_object
from navarch.api.times import TimeError, parse_time
from navarch.api.types.core_v1 import ConfigMap, Secret
from navarch.client import Controller, ControllerContext, Informer, split_key

TYPE = "bootstrap.kubernetes.io/token"
TOKENS, PUBLIC = "kube-system", "kube-public"
CLUSTER_INFO = "cluster-info"
KUBECONFIG = "kubeconfig"
SIGNATURE = "jws-kubeconfig-"
_NAME = re.compile(r"bootstrap-token-([a-z0-9]{6})")


def value(secret: Secret, key: str) -> str:
    return base64.b64decode(secret.data.get(key, "")).decode("utf-8", "replace")


def expiry(secret: Secret) -> datetime | None:
    """When the token expires; None for never. A time that cannot be read was long ago."""
    text = value(secret, "expiration")
    if not text:
        return None
    try:
        return parse_time(text)
    except TimeError:
        return parse_time("0001-01-01T00:00:00Z")


def signing_tokens(secrets: Iterable[Secret], now: datetime) -> dict[str, str]:
    """The tokens that may sign: secret by id."""
    found: dict[str, str] = {}
    for secret in secrets:
        match = _NAME.fullmatch(secret.metadata.name)
        identifier, text = value(secret, "token-id"), value(secret, "token-secret")
        expires = expiry(secret)
        if (
            match
            and match[1] == identifier
            and text
            and (expires is None or now < expires)
            and value(secret, "usage-bootstrap-signing") == "true"
        ):
            found[identifier] = text
    return found


def detached_signature(content: str, identifier: str, secret: str) -> str:
    """A compact JWS without its payload, which is next to it."""
    header = _base64url(json.dumps({"alg": "HS256", "kid": identifier}, separators=(",", ":")))
    signed = f"{header}.{_base64url(content)}"
    mark = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{header}..{_base64url(mark)}"


def _base64url(data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(data: Mapping[str, str], tokens: Mapping[str, str]) -> dict[str, str]:
    """The ConfigMap's data with one signature for each token, and no others."""
    content = data.get(KUBECONFIG)
    if content is None:
        return dict(data)
    result = {key: text for key, text in data.items() if not key.startswith(SIGNATURE)}
    for identifier, secret in tokens.items():
        result[f"{SIGNATURE}{identifier}"] = detached_signature(content, identifier, secret)
    return result


def _tokens(context: ControllerContext) -> Informer[Secret]:
    return context.informers.informer(Secret, TOKENS, field_selector=f"type={TYPE}")


class BootstrapSigner(Controller):
    """Watches: the ConfigMap, and tokens by it."""

    name = "bootstrapsigner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        selector = f"metadata.name={CLUSTER_INFO}"
        self.maps = context.informers.informer(ConfigMap, PUBLIC, field_selector=selector)
        self.tokens = _tokens(context)
        self.watch(self.maps)
        self.watch(self.tokens, lambda _: f"{PUBLIC}/{CLUSTER_INFO}")

    async def reconcile(self, key: str) -> None:
        present = self.maps.cache.get(key)
        if present is None:
            return
        data = signed(present.data, signing_tokens(self.tokens.cache.list(), self.clock.now()))
        if data != present.data:
            changed = copy_object(present)
            changed.data = data
            await self.client.resource(ConfigMap).update(changed)


class TokenCleaner(Controller):
    """Watches: tokens."""

    name = "tokencleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.tokens = _tokens(context)
        self.watch(self.tokens)

    async def reconcile(self, key: str) -> None:
        secret = self.tokens.cache.get(key)
        expires = expiry(secret) if secret is not None else None
        if secret is None or expires is None:
            return
        left = (expires - self.clock.now()).total_seconds()
        if left > 0:
            self.queue.add_after(key, left)
            return
        namespace, name = split_key(key)
        await self.client.resource(Secret).delete(name, namespace, uid=secret.metadata.uid)
