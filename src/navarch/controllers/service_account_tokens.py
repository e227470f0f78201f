"""The service-account token controller: fills the secrets that hold tokens which never expire.

Pods get tokens of limited life through TokenRequest. Whoever needs a lasting one creates a Secret
of the type `kubernetes.io/service-account-token` with the annotation
`kubernetes.io/service-account.name`; this controller puts in the token, the certificates of the
API server and the namespace, and deletes the secret with the account. A secret that is gone is also
taken off the account's list. Such a token (issuer `kubernetes/serviceaccount`) is good for as long
as its secret exists.

Source: upstream's `pkg/controller/serviceaccount/tokens_controller.go`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from navarch.api.errors import ApiError, ignoring, outdated
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Secret, ServiceAccount
from navarch.client import Controller, ControllerContext, object_key

TYPE = "kubernetes.io/service-account-token"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"
ISSUER = "kubernetes/serviceaccount"
_PREFIX = "kubernetes.io/serviceaccount/"

Sign = Callable[[dict[str, Any]], str]
"""Makes a token of claims."""


def belongs(secret: Secret, account: ServiceAccount) -> bool:
    """Whether the secret is for this account, and not for an earlier one of its name."""
    annotations = secret.metadata.annotations
    if annotations.get(NAME) != account.metadata.name:
        return False
    return annotations.get(UID) in (None, "", account.metadata.uid)


def claims(account: ServiceAccount, secret: Secret) -> dict[str, Any]:
    meta = account.metadata
    return {
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{meta.namespace}:{meta.name}",
        f"{_PREFIX}namespace": meta.namespace,
        f"{_PREFIX}secret.name": secret.metadata.name,
        f"{_PREFIX}service-account.name": meta.name,
        f"{_PREFIX}service-account.uid": meta.uid,
    }


def filled(secret: Secret, account: ServiceAccount, ca: str, sign: Sign) -> Secret:
    """The secret with all that it has to have; what is there stays, but for an old CA."""
    result = copy_object(secret)
    if ca:
        result.data["ca.crt"] = _encoded(ca)
    if not result.data.get("namespace"):
        result.data["namespace"] = _encoded(secret.metadata.namespace)
    if not result.data.get("token"):
        result.data["token"] = _encoded(sign(claims(account, secret)))
    if result.data != secret.data:
        result.metadata.annotations[NAME] = account.metadata.name
        result.metadata.annotations[UID] = account.metadata.uid
    return result


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def signer(private_key: bytes) -> Sign:
    """Signs with a PEM key; the key's id is the hash of its public half, as the API server's is."""
    import hashlib

    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    key: Any = load_pem_private_key(private_key, None)
    algorithm = "RS256"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {384: "ES384", 521: "ES512"}.get(key.curve.key_size, "ES256")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_id = base64.urlsafe_b64encode(hashlib.sha256(public).digest()).rstrip(b"=").decode()

    def sign(contents: dict[str, Any]) -> str:
        return jwt.encode(contents, key, algorithm, {"kid": key_id, "typ": None})

    return sign


class ServiceAccountTokensController(Controller):
    """Watches: token secrets, and accounts by the token secrets they have."""

    name = "serviceaccount-token"

    def __init__(
        self, context: ControllerContext, read_key: Callable[[], bytes], read_ca: Callable[[], str]
    ) -> None:
        super().__init__(context)
        self.read_key = read_key
        self.read_ca = read_ca
        self._sign: Sign | None = None
        self.accounts = context.informers.informer(ServiceAccount)
        self.secrets = context.informers.informer(Secret, field_selector=f"type={TYPE}")
        self.watch(self.secrets)
        self.watch(self.accounts, self._secrets_of)
        self.secrets.add_handler(on_delete=self._secret_gone)
        self._gone: dict[str, Secret] = {}

    def _secrets_of(self, account: ServiceAccount) -> list[str]:
        secrets = self.secrets.cache.list(account.metadata.namespace)
        return [object_key(secret) for secret in secrets if belongs(secret, account)]

    def _secret_gone(self, secret: Secret) -> None:
        account = self._account_of(secret)
        if account is not None and _refers(account, secret):
            self._gone[object_key(secret)] = secret

    def _account_of(self, secret: Secret) -> ServiceAccount | None:
        name = secret.metadata.annotations.get(NAME)
        account = self.accounts.cache.get(f"{secret.metadata.namespace}/{name}")
        return account if account is not None and belongs(secret, account) else None

    async def reconcile(self, key: str) -> None:
        secret = self.secrets.cache.get(key)
        if secret is None:
            if (gone := self._gone.pop(key, None)) is not None:
                await self._unlist(gone)
            return
        if not secret.metadata.annotations.get(NAME):
            return
        account = self._account_of(secret) or await self._live_account(secret)
        with ignoring(outdated):
            if account is None:
                await self.client.resource(Secret).remove(secret)
            else:
                await self._fill(secret, account)

    async def _fill(self, secret: Secret, account: ServiceAccount) -> None:
        if self._sign is None:
            self._sign = signer(self.read_key())
        wanted = filled(secret, account, self.read_ca(), self._sign)
        if wanted.data != secret.data:
            await self.client.resource(Secret).update(wanted)

    async def _live_account(self, secret: Secret) -> ServiceAccount | None:
        """What the server says: the account may be so new that the cache lacks it."""
        meta, accounts = secret.metadata, self.client.resource(ServiceAccount)
        account = await accounts.find(meta.annotations[NAME], meta.namespace)
        return account if account is not None and belongs(secret, account) else None

    async def _unlist(self, secret: Secret) -> None:
        account = self._account_of(secret)
        if account is None or not _refers(account, secret):
            return
        changed = copy_object(account)
        changed.secrets = [ref for ref in account.secrets if ref.name != secret.metadata.name]
        try:
            await self.client.resource(ServiceAccount).update(changed)
        except ApiError as error:
            if error.is_conflict:
                self._gone[object_key(secret)] = secret
            elif error.is_not_found:
                return
            raise


def _refers(account: ServiceAccount, secret: Secret) -> bool:
    return any(reference.name == secret.metadata.name for reference in account.secrets)
