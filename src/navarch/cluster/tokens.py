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
from navarch.cluster.profile import ClusterError, Paths, Profile

ALPHABET = string.ascii_lowercase + string.digits
TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
GROUP = "system:bootstrappers:kubeadm:default-node-token"
TYPE = "bootstrap.kubernetes.io/token"
SECRETS = "/api/v1/namespaces/kube-system/secrets"
CLUSTER_CONFIG = "navarch-config"
SIGNER_ROLE = "kubeadm:bootstrap-signer-clusterinfo"
RBAC = "rbac.authorization.k8s.io"
CERTIFICATES = "certificates.k8s.io"


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
    body = json.dumps(secret(token, ttl, description, datetime.now(UTC))).encode()
    try:
        api.request("POST", SECRETS, body)
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
    try:
        api.request("DELETE", f"{SECRETS}/bootstrap-token-{identifier}")
    except ApiUnavailableError as error:
        if error.status == 404:
            raise ClusterError(f"there is no token {identifier}") from error
        raise


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


def objects(profile: Profile, paths: Paths) -> list[tuple[str, dict[str, Any]]]:
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
    nodes, bootstrappers = _subject("Group", "system:nodes"), _subject("Group", GROUP)
    everybody = [_subject("User", "system:anonymous")]
    approving = f"system:{CERTIFICATES}:certificatesigningrequests"
    return [
        _map("kube-public", "cluster-info", {"kubeconfig": kubeconfig.render(info)}),
        *_readable(
            "kube-public", "cluster-info", "kubeadm:bootstrap-signer-clusterinfo", everybody
        ),
        _map("kube-system", CLUSTER_CONFIG, {"cluster.json": json.dumps(ranges)}),
        *_readable("kube-system", CLUSTER_CONFIG, "navarch:config", [bootstrappers, nodes]),
        # Who joins looks whether its name is taken.
        _cluster_role("kubeadm:get-nodes", [_rule("", "get", "nodes")]),
        _cluster_binding("kubeadm:get-nodes", "kubeadm:get-nodes", bootstrappers),
        _cluster_binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", bootstrappers),
        _cluster_binding(
            "kubeadm:node-autoapprove-bootstrap", f"{approving}:nodeclient", bootstrappers
        ),
        *certificate_rights(),
    ]


Placed = tuple[str, dict[str, Any]]


def certificate_rights() -> list[Placed]:
    """That nodes renew their certificates without anybody's doing (kubeadm does the same)."""
    nodes = _subject("Group", "system:nodes")
    manager = _subject("User", "system:kube-controller-manager")
    requests = "certificatesigningrequests"
    return [
        _cluster_binding(
            "kubeadm:node-autoapprove-certificate-rotation",
            f"system:{CERTIFICATES}:{requests}:selfnodeclient",
            nodes,
        ),
        _cluster_role(
            "navarch:node-certificates",
            [
                _rule(CERTIFICATES, "create", f"{requests}/selfnodeserver"),
                _rule(CERTIFICATES, "create", f"{requests}/nodeproxyclient"),
            ],
        ),
        _cluster_binding("navarch:node-certificates", "navarch:node-certificates", nodes),
        _cluster_role(
            "navarch:node-approver",
            [
                {
                    **_rule(CERTIFICATES, "approve", "signers"),
                    "resourceNames": [
                        "kubernetes.io/kubelet-serving",
                        "kubernetes.io/kube-apiserver-client",
                    ],
                }
            ],
        ),
        _cluster_binding("navarch:node-approver", "navarch:node-approver", manager),
    ]


def _subject(kind: str, name: str) -> dict[str, str]:
    return {"apiGroup": RBAC, "kind": kind, "name": name}


def _rule(group: str, verb: str, resource: str) -> dict[str, list[str]]:
    return {"apiGroups": [group], "verbs": [verb], "resources": [resource]}


def _map(namespace: str, name: str, data: dict[str, str]) -> Placed:
    metadata = {"name": name, "namespace": namespace}
    return (
        f"/api/v1/namespaces/{namespace}/configmaps",
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
    )


def _readable(namespace: str, name: str, role: str, subjects: list[dict[str, str]]) -> list[Placed]:
    """A role to read one ConfigMap, and its binding."""
    rules = [{**_rule("", "get", "configmaps"), "resourceNames": [name]}]
    metadata = {"name": role, "namespace": namespace}
    reference = {"apiGroup": RBAC, "kind": "Role", "name": role}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("roles", "Role", {"rules": rules}),
        ("rolebindings", "RoleBinding", {"roleRef": reference, "subjects": subjects}),
    ]
    return [
        (
            f"/apis/{RBAC}/v1/namespaces/{namespace}/{plural}",
            {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, **body},
        )
        for plural, kind, body in kinds
    ]


def _cluster_role(name: str, rules: list[Any]) -> Placed:
    return (
        f"/apis/{RBAC}/v1/clusterroles",
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": rules,
        },
    )


def _cluster_binding(name: str, role: str, subject: dict[str, str]) -> Placed:
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
    return (
        f"/apis/{RBAC}/v1/clusterrolebindings",
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": reference,
            "subjects": [subject],
        },
    )
