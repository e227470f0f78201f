"""`navarch join`: this machine becomes a node of a cluster that runs elsewhere.

    find      cluster-info, from a server nobody has vouched for yet: the token's signature shows
              that who wrote it knows the token, the authority's hash that it is the right cluster
    ask       a certificate as this node, in the token's name; then, as this node, one to serve with
              and one for what runs beside the kubelet (all of which are renewed while it runs)
    run       the same processes as on any node: containerd, kubelet, proxy, name server and so on

The machine keeps what it has learned as a profile of its own, so that `navarch start`, `stop`,
`status`, `logs` and `delete` (here called `leave`) mean what they always mean.

Source: kubeadm's `discovery` and the kubelet's TLS bootstrap
(https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from navarch.cluster import kubeconfig, profile, tokens
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.progress import Progress

CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
CLUSTER_CONFIG = f"/api/v1/namespaces/kube-system/configmaps/{tokens.CLUSTER_CONFIG}"
TIMEOUT = 10.0
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What the user typed."""

    name: str
    """Of the profile on this machine."""
    server: str
    token: str
    hashes: tuple[str, ...] = ()
    trust_anybody: bool = False
    """Whether a cluster without a hash is believed: whoever holds the token can then pose as it."""
    node_name: str = ""
    node_addresses: tuple[str, ...] = ()
    timeout: float = 120.0


def parse_server(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[address]:port` or a URL. Raises ClusterError."""
    match = re.fullmatch(r"(?:https://)?(?:\[([0-9a-fA-F:]+)\]|([^:/\[\]]+)):(\d{1,5})/?", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ClusterError(f"{text!r} is not HOST:PORT", "The port is that of the API server.")
    return match[1] or match[2], int(match[3])


def check(request: JoinRequest) -> None:
    """Refuse what cannot work before anything is asked. Raises ClusterError."""
    parse_server(request.server)
    if tokens.TOKEN.fullmatch(request.token) is None:
        raise ClusterError("this is not a token", "Get one there: navarch token create")
    if not request.hashes and not request.trust_anybody:
        raise ClusterError(
            "without the hash of its authority the cluster cannot be told from an impostor",
            "Add --discovery-token-ca-cert-hash as `navarch token create` prints it, or, if you "
            "must, --discovery-token-unsafe-skip-ca-verification.",
        )
    for each in request.hashes:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", each):
            raise ClusterError(f"{each!r} is not a hash", "It reads sha256: and 64 digits.")
    if request.node_name and not _NODE_NAME.fullmatch(request.node_name):
        raise ClusterError(f"{request.node_name!r} cannot be a node's name")
    for address in request.node_addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ClusterError(f"--node-ip: {address!r} is not an address") from None


def trusted_authority(
    data: dict[str, str], token: str, hashes: Sequence[str]
) -> tuple[bytes, dict[str, Any]]:
    """The authority in a `cluster-info`, and the cluster entry, if both the token's signature and
    the hash vouch for it. Raises ClusterError."""
    import yaml

    from navarch.controllers.bootstrap_tokens import KUBECONFIG, SIGNATURE, detached_signature

    identifier, _, key = token.partition(".")
    content, signature = data.get(KUBECONFIG, ""), data.get(f"{SIGNATURE}{identifier}", "")
    if not signature:
        raise ClusterError(
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
    return authority, cluster


class Server:
    """Requests to the API server before there is a kubeconfig."""

    def __init__(self, host: str, port: int, authority: bytes = b"", token: str = "") -> None:
        self._place = host, port
        self._token = token
        if authority:
            self._context = ssl.create_default_context(cadata=authority.decode("ascii"))
        else:
            # Nobody vouches for it yet. What it says is checked by signature and hash instead.
            self._context = ssl._create_unverified_context()

    def get(self, path: str) -> Any:
        host, port = self._place
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connection = http.client.HTTPSConnection(host, port, context=self._context, timeout=TIMEOUT)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            content = answer.read(1 << 20)
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(
                f"the API server at {host}:{port} cannot be asked: {error}",
                "There, the server must listen for other machines: navarch start --listen-address",
            ) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ClusterError(
                f"the API server answers {answer.status} to {path}",
                "On the cluster's machine run: navarch token create",
            )
        return json.loads(content)


def discover(request: JoinRequest) -> tuple[bytes, dict[str, Any]]:
    """The cluster's authority, and what the cluster says of itself."""
    host, port = parse_server(request.server)
    first = Server(host, port).get(CLUSTER_INFO)["data"]
    authority, _ = trusted_authority(first, request.token, request.hashes)
    # Once more, now only from who has a certificate of that authority (as kubeadm does).
    # Only who says nothing of himself may read it: so the token comes after that.
    second = Server(host, port, authority).get(CLUSTER_INFO)["data"]
    again, _ = trusted_authority(second, request.token, request.hashes)
    if again != authority:
        raise ClusterError("the cluster's authority has changed meanwhile", "Try again.")
    try:
        server = Server(host, port, authority, request.token)
        return authority, json.loads(server.get(CLUSTER_CONFIG)["data"]["cluster.json"])
    except (KeyError, ValueError, TypeError) as error:
        raise ClusterError(f"the cluster's ranges cannot be read: {error}") from error


def own_address(host: str, port: int) -> str:
    """The address this machine reaches the server from: found by the kernel, nothing is sent."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def joined_profile(request: JoinRequest, cluster: dict[str, Any]) -> Profile:
    """This machine's profile. Raises ClusterError when the cluster's ranges are not ranges."""
    host, port = parse_server(request.server)
    values: dict[str, Any] = {}
    try:
        for key, field in (
            ("nodeSubnets", "subnet"),
            ("serviceSubnets", "service_cidr"),
            ("podSubnets", "pod_cidr"),
        ):
            for text in cluster[key]:
                network = ipaddress.ip_network(text)
                values[field if network.version == 4 else f"{field}6"] = str(network)
        families = tuple(str(each) for each in cluster["families"])
        domain, mode = str(cluster["clusterDomain"]), str(cluster["podNetwork"])
    except (KeyError, ValueError, TypeError) as error:
        raise ClusterError(f"the cluster's ranges cannot be read: {error}") from error
    addresses = request.node_addresses or (own_address(host, port),)
    name = request.node_name or socket.gethostname().lower()
    if name == "localhost" or not _NODE_NAME.fullmatch(name):
        raise ClusterError(f"{name!r} cannot be a node's name", "Choose one: --node-name NAME")
    if re.fullmatch(rf"{re.escape(str(cluster.get('name', '')))}(-m\d{{2,}})?", name):
        raise ClusterError(
            f"{name} is what the cluster calls nodes of its own", "Choose another: --node-name NAME"
        )
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Profile(
        name=request.name,
        families=families,
        cluster_domain=domain,
        pod_network=mode,
        metadata_blocked=bool(cluster.get("metadataBlocked")),
        api_port=port,
        joined=server,
        joined_node=name,
        joined_addresses=addresses,
        **values,
    )


def write_kubeconfigs(found: Profile, paths: Paths) -> None:
    """The kubelet's identity, and that of what runs beside it. Each key is with its certificate in
    one file, which is renewed as a whole."""
    directory = paths.node(found.joined_node)
    for user in ("kubelet", "proxy"):
        pair = str(directory / "pki" / f"{user}.pem")
        kubeconfig.write(
            directory / f"{user}.conf",
            kubeconfig.by_files(found.node_server, str(directory / "pki" / "ca.crt"), pair, pair),
        )


async def _certificates(found: Profile, paths: Paths, authority: bytes, token: str) -> None:
    """Ask for everything the node needs, unless it has it from an earlier attempt."""
    from navarch.client import Client, ClientConfig
    from navarch.client.config import Pem
    from navarch.node import certificates

    directory = paths.node(found.joined_node) / "pki"
    own = certificates.node_client(
        found.joined_node, directory / "kubelet.pem", directory / "kubelet.pem"
    )
    config = ClientConfig(server=found.node_server, ca=Pem(data=authority), token=token)
    async with Client(config) as client:
        await certificates.obtain(client, own, 60.0)
    write_kubeconfigs(found, paths)
    serving, proxy = directory / "kubelet-serving.pem", directory / "proxy.pem"
    path = directory.parent / "kubelet.conf"
    async with Client(ClientConfig.from_kubeconfig(path)) as client:
        await certificates.obtain(
            client,
            certificates.node_serving(found.joined_node, found.joined_addresses, serving, serving),
            60.0,
        )
        await certificates.obtain(client, certificates.proxy_client(proxy, proxy), 60.0)


def join(request: JoinRequest, progress: Progress) -> Profile:
    """Make this machine a node, and start it."""
    from navarch.api.errors import ApiError
    from navarch.cluster import start
    from navarch.node.certificates import NotIssuedError

    check(request)
    if os.geteuid() != 0:
        raise ClusterError("a node needs root", "Run: sudo navarch join")
    paths = profile.paths_of(profile.check_name(request.name))
    if profile.load(request.name) is not None:
        raise ClusterError(
            f"the profile {request.name} exists already on this machine",
            "Leave that cluster first: navarch leave; or choose another name: -p NAME",
        )
    start.check_tools()
    progress.step("Finding the cluster")
    authority, described = discover(request)
    found = joined_profile(request, described)
    with start.exclusive(request.name):
        try:
            profile.save(found)
            directory = paths.node(found.joined_node)
            (directory / "pki").mkdir(mode=0o700, parents=True, exist_ok=True)
            profile.write_file(directory / "pki" / "ca.crt", authority, 0o644)
            progress.step(f"Asking for certificates as node {found.joined_node}")
            asyncio.run(_certificates(found, paths, authority, request.token))
        except (ApiError, NotIssuedError) as error:
            profile.forget(request.name)
            raise ClusterError(
                f"the cluster gives no certificate: {error}",
                "There, see: kubectl get csr. The token may have expired: navarch token create",
            ) from error
        except BaseException:
            profile.forget(request.name)
            raise
    start.start(start.StartRequest(request.name, timeout=request.timeout), progress)
    return replace(found)


def is_ready(found: Profile, paths: Paths) -> bool:
    """Whether the node says of itself that it is ready, asked as the node."""
    directory = paths.node(found.joined_node)
    context = ssl.create_default_context(cafile=str(directory / "pki" / "ca.crt"))
    context.load_cert_chain(directory / "pki" / "kubelet.pem")
    host, port = parse_server(found.joined)
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=TIMEOUT)
    try:
        connection.request("GET", f"/api/v1/nodes/{found.joined_node}")
        answer = connection.getresponse()
        node = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    if answer.status != 200:
        return False
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def bring_up(found: Profile, progress: Progress, timeout: float, *, wait: bool) -> None:
    """Start this machine's node, or mend it."""
    import time

    from navarch.cluster import joined_network, network_plugin, readiness, start

    start.check_tools()
    paths = profile.paths_of(found.name)
    paths.create()
    network_plugin.place(found, paths, found.joined_node)
    write_kubeconfigs(found, paths)
    start.make_namespaces(found, paths)
    joined_network.apply(found, paths)
    progress.step(f"Starting the node {found.joined_node}")
    start.supervise(found, paths)
    readiness.bring_pause_image(found, paths, found.joined_node)
    if not wait:
        return
    waiting = readiness.Waiting(paths, time.monotonic() + timeout)
    progress.step("Waiting for the node")
    waiting.until("the node", lambda: is_ready(found, paths), "node")


def uplink(addresses: Sequence[str]) -> str:
    """The name of the interface that bears the node's address. Raises ClusterError."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        for message in netlink.get_addr():
            if message.get_attr("IFA_ADDRESS") in addresses:
                return str(netlink.get_links(message["index"])[0].get_attr("IFLA_IFNAME"))
    raise ClusterError(
        f"no interface of this machine has the address {', '.join(addresses)}",
        "Join again with --node-ip ADDRESS.",
    )
