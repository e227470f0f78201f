"""What a machine that is about to join learns from the cluster, and why it believes it.

The API server's description of itself (`cluster-info`) may be read by anybody and comes from a
server nobody has vouched for yet. The token's signature shows that who wrote it knows the token,
the authority's hash that it is the right cluster. What follows is asked in the token's name, from
a server with a certificate of that authority: the cluster's ranges, its version, its nodes.

Source: kubeadm's `discovery` and its phases of `join`.
"""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from navarch import KUBERNETES_VERSION
from navarch.api.trust import trusting
from navarch.cluster import readiness, tokens
from navarch.cluster.api import ApiUnavailableError, Connection, Trust
from navarch.cluster.profile import ClusterError

CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
CLUSTER_CONFIG = f"/api/v1/namespaces/kube-system/configmaps/{tokens.CLUSTER_CONFIG}"
TIMEOUT = 10.0
LONGEST = 1 << 20
"""The most that is read of a server nobody has vouched for, in bytes."""
PATIENCE = 3.0
"""How long a new token may take, in seconds, until the cluster has signed with it."""
OLDEST_KUBELET = 3
"""How many minor versions a kubelet may be older than the API server (the version skew policy)."""


class UnknownTokenError(ClusterError):
    """Nothing is signed by the token: it is new, wrong or has expired."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A cluster that is believed."""

    authority: bytes
    description: dict[str, Any]
    """Its ranges, as `tokens.objects` writes them."""
    connection: Connection
    """In the token's name."""


def trusted_authority(data: dict[str, str], token: str, hashes: Sequence[str]) -> bytes:
    """The authority in a `cluster-info`, if both the token's signature and the hash vouch for it.
    Raises ClusterError."""
    import yaml

    from navarch.controllers.bootstrap_tokens import KUBECONFIG, SIGNATURE, detached_signature

    identifier, _, key = token.partition(".")
    content, signature = data.get(KUBECONFIG, ""), data.get(f"{SIGNATURE}{identifier}", "")
    if not signature:
        raise UnknownTokenError(
            "the cluster does not know this token, or it has expired",
            "Make another one there: navarch token create",
        )
    if not hmac.compare_digest(signature, detached_signature(content, identifier, key)):
        raise ClusterError(
            "the cluster's signature is not by this token", "Check --token, and the server."
        )
    try:
        cluster = yaml.safe_load(content)["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"])
        found = tokens.authority_hash(authority)
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ClusterError(f"the cluster's description cannot be read: {error}") from error
    if hashes and not any(hmac.compare_digest(found, each) for each in hashes):
        raise ClusterError(
            f"the cluster's authority is {found}, which is not what was given",
            "Either the hash is of another cluster, or somebody stands in between.",
        )
    return authority


def discover(place: tuple[str, int], token: str, hashes: Sequence[str]) -> Discovered:
    """The cluster behind an address. Raises ClusterError when there is none to be believed."""

    def authority(trust: Trust) -> bytes:
        connection = Connection(place, trust, timeout=TIMEOUT, most=LONGEST)
        try:
            return trusted_authority(_ask(connection, place, CLUSTER_INFO)["data"], token, hashes)
        finally:
            connection.close()

    # Nobody vouches for the server yet. What it says is checked by signature and hash instead.
    found = _patiently(lambda: authority(ssl._create_unverified_context))

    def trust() -> ssl.SSLContext:
        return trusting(found.decode("ascii"))

    # Once more, now only from who has a certificate of that authority (as kubeadm does).
    # Only who says nothing of himself may read it: so the token comes after that.
    if authority(trust) != found:
        raise ClusterError("the cluster's authority has changed meanwhile", "Try again.")
    connection = Connection(place, trust, token, TIMEOUT)
    try:
        description = json.loads(_ask(connection, place, CLUSTER_CONFIG)["data"]["cluster.json"])
    except (KeyError, ValueError, TypeError) as error:
        raise ClusterError(f"the cluster's ranges cannot be read: {error}") from error
    return Discovered(found, description, connection)


def _patiently(look: Callable[[], bytes]) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return look()
        except UnknownTokenError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _ask(connection: Connection, place: tuple[str, int], path: str) -> Any:
    try:
        return connection.get(path)
    except ApiUnavailableError as error:
        if error.status:
            raise ClusterError(
                f"the API server answers {error.status} to {path}",
                "On the cluster's machine run: navarch token create",
            ) from error
        raise ClusterError(
            f"the API server at {place[0]}:{place[1]} cannot be asked: {error.__cause__}",
            "There, the server must listen for other machines: navarch start --listen-address",
        ) from error
    except ValueError as error:
        raise ClusterError(f"{place[0]}:{place[1]} is no API server: {error}") from error


def check_version(server: str, own: str = KUBERNETES_VERSION) -> None:
    """Refuse a node that is newer than the API server, or too old for it. Raises ClusterError."""
    there, here = _minor(server), _minor(own)
    if not there - OLDEST_KUBELET <= here <= there:
        raise ClusterError(
            f"this machine would be a node of {own}, and the API server is {server}",
            f"Nodes are at most {OLDEST_KUBELET} minor versions older than the API server, and "
            "never newer: install a Navarch that fits.",
        )


def _minor(version: str) -> int:
    major, minor = version.removeprefix("v").split(".")[:2]
    return int(major) * 1000 + int(minor)


def check_cluster(found: Discovered, node: str) -> None:
    """Refuse what the cluster would take, and be the worse for. Raises ClusterError."""
    try:
        check_version(str(found.connection.get("/version")["gitVersion"]))
        other = found.connection.get(f"/api/v1/nodes/{node}")
    except ApiUnavailableError as error:
        if error.status in (403, 404):  # nobody of that name, or a cluster that does not tell
            return
        raise ClusterError(f"the API server cannot be asked: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"the API server's version cannot be read: {error}") from error
    if readiness.is_ready(other):
        raise ClusterError(
            f"the cluster has a node {node} already, and it is ready",
            "Choose another name: --node-name NAME; or delete that node there first: "
            f"navarch node delete {node}",
        )
