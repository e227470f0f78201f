"""Bootstrap tokens: what a machine has to have in hand to join the cluster, and what it finds then.

`prepare` puts into the API what a machine that joins will look for: the ConfigMap `cluster-info`,
which everybody may read and which the token's signature makes trustworthy; the ranges of the
cluster; and the rights of who holds a token, which are to ask for a node's certificate and no more.
The names of roles and groups are kubeadm's.

Source: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/, kubeadm's
`token` and `bootstraptoken` phases.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from navarch.api.times import format_time
from navarch.cluster import kubeconfig, pki
from navarch.cluster.api import Api, ApiUnavailableError
from navarch.cluster.manifests import Placed, manifests
from navarch.cluster.profile import ClusterError, Paths, Profile

ALPHABET = string.ascii_lowercase + string.digits
TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
GROUP = "system:bootstrappers:kubeadm:default-node-token"
TYPE = "bootstrap.kubernetes.io/token"
SECRETS = "/api/v1/namespaces/kube-system/secrets"
CLUSTER_CONFIG = "navarch-config"


@dataclass(frozen=True, slots=True)
class Token:
    """What `navarch token list` shows of one."""

    token: str
    expires: str
    usages: tuple[str, ...]
    description: str
    groups: str


def new_token() -> str:
    def word(length: int) -> str:
        return "".join(secrets.choice(ALPHABET) for _ in range(length))

    return f"{word(6)}.{word(16)}"


def secret(token: str, ttl: timedelta, description: str, now: datetime) -> dict[str, Any]:
    """A token as it is kept; a `ttl` of 0 never ends."""
    match = TOKEN.fullmatch(token)
    if match is None:
        raise ClusterError(
            f"{token!r} is not a token",
            "A token is six and sixteen characters: abcdef.0123456789abcdef",
        )
    data = {
        "token-id": match[1],
        "token-secret": match[2],
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": GROUP,
        **({"description": description} if description else {}),
        **({"expiration": format_time(now + ttl)} if ttl else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"bootstrap-token-{match[1]}", "namespace": "kube-system"},
        "type": TYPE,
        "stringData": data,
    }


def create(api: Api, wanted: str, ttl: timedelta, description: str) -> str:
    token = wanted or new_token()
    try:
        api.send("POST", SECRETS, secret(token, ttl, description, datetime.now(UTC)))
    except ApiUnavailableError as error:
        if error.status == 409:
            raise ClusterError(f"a token with the id {token[:6]} exists already") from error
        raise
    return token


def listed(api: Api) -> list[Token]:
    items = api.get(f"{SECRETS}?fieldSelector=type%3D{TYPE.replace('/', '%2F')}")["items"]
    return [_token(item.get("data") or {}) for item in items]


def _token(data: Mapping[str, str]) -> Token:
    texts = {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}
    prefix = "usage-bootstrap-"
    usages = [
        key.removeprefix(prefix)
        for key, value in texts.items()
        if key.startswith(prefix) and value == "true"
    ]
    return Token(
        f"{texts.get('token-id', '')}.{texts.get('token-secret', '')}",
        texts.get("expiration", ""),
        tuple(sorted(usages)),
        texts.get("description", ""),
        texts.get("auth-extra-groups", ""),
    )


def delete(api: Api, token: str) -> None:
    """By the whole token, or its id."""
    identifier = token.partition(".")[0]
    if not re.fullmatch(r"[a-z0-9]{6}", identifier):
        raise ClusterError(f"{token!r} is neither a token nor a token's id")
    if not api.remove(f"{SECRETS}/bootstrap-token-{identifier}"):
        raise ClusterError(f"there is no token {identifier}")


def authority_hash(certificate: bytes) -> str:
    """How a machine that joins knows the cluster's authority: the hash of its public key, which
    stays the same when the certificate is renewed (RFC 7469)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = x509.load_pem_x509_certificate(certificate).public_key()
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"


def join_address(profile: Profile) -> str:
    """Where other machines reach the API server."""
    chosen = [each for each in profile.listen_addresses if each not in pki.EVERYWHERE]
    address = next(iter([*chosen, *profile.server_names]), profile.host_address)
    return f"[{address}]:{profile.api_port}" if ":" in address else f"{address}:{profile.api_port}"


def join_command(profile: Profile, paths: Paths, token: str) -> str:
    digest = authority_hash((paths.pki / "ca.crt").read_bytes())
    return (
        f"navarch join {join_address(profile)} --token {token} "
        f"--discovery-token-ca-cert-hash {digest}"
    )


def prepare(api: Api, profile: Profile, paths: Paths) -> None:
    """Everything a machine that joins needs to find."""
    for collection, value in objects(profile, paths):
        api.put_in_place(collection, value)


def objects(profile: Profile, paths: Paths) -> list[Placed]:
    """Collections and what is in them."""
    authority = base64.b64encode((paths.pki / "ca.crt").read_bytes()).decode()
    server = f"https://{join_address(profile)}"
    cluster = {"server": server, "certificate-authority-data": authority}
    info: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "", "cluster": cluster}],
        "contexts": None,
        "current-context": "",
        "preferences": {},
        "users": None,
    }
    ranges = {
        "name": profile.name,
        "families": list(profile.families),
        "nodeSubnets": list(profile.subnets),
        "serviceSubnets": list(profile.service_cidrs),
        "podSubnets": list(profile.pod_cidrs),
        "clusterDomain": profile.cluster_domain,
        "podNetwork": profile.pod_network,
        "foreignNetwork": bool(profile.cni),
        "metadataBlocked": profile.metadata_blocked,
        "networkPolicy": "on" if profile.enforces_policies else "off",
    }
    return [
        *manifests(
            "joining",
            kubeconfig=kubeconfig.render(info),
            cluster=json.dumps(ranges),
            bootstrappers=GROUP,
        ),
        *manifests("certificates"),
    ]
