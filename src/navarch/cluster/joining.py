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
import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.cluster import boot, discovery, kubeconfig, profile, tokens
from navarch.cluster.api import Api, parse_server
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.progress import Progress

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
    boot: bool = True
    """Whether the node is to start when the machine boots."""


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
        raise ClusterError(
            f"{request.node_name!r} cannot be a node's name",
            "It is made of lower-case letters, digits, '-' and '.'.",
        )
    for text in request.node_addresses:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise ClusterError(f"--node-ip: {text!r} is not an address") from None
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            raise ClusterError(f"--node-ip: nobody else reaches this machine at {text}")


def own_address(host: str, port: int) -> str:
    """The address this machine reaches the server from: found by the kernel, nothing is sent."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def preflight(found: Profile, use: profile.HostUse) -> None:
    """Refuse what this machine cannot be, before the cluster hears of it. Raises ClusterError."""
    from navarch.cluster import composition, joined_network, readiness

    host, port = parse_server(found.joined)
    server = joined_network.server_address(found)
    if own_address(host, port) == server:
        raise ClusterError(
            f"the API server at {found.joined} is on this machine",
            "Here a cluster gets more nodes by: navarch node add",
        )
    uplink(found.joined_addresses)
    for address in found.joined_addresses:
        if readiness.listens(address, composition.KUBELET_PORT):
            raise ClusterError(
                f"a kubelet listens at {address}, port {composition.KUBELET_PORT}, already",
                "This machine is a node of another cluster: leave that one first.",
            )
    wanted = [each.destination for each in joined_network.routes(found, server)]
    if taken := overlaps([*wanted, *found.service_cidrs], use.networks):
        raise ClusterError(
            f"the cluster uses {taken[0]}, and this machine has a route to {taken[1]}",
            "Ranges are chosen when a cluster is made: navarch start --pod-cidr, "
            "--service-cluster-ip-range, and another profile has its nodes elsewhere.",
        )


def overlaps(wanted: Iterable[str], there: Iterable[str]) -> tuple[str, str] | None:
    """The first of the ranges in which this machine has a route already, and that route. A route
    that is wider is none of these: it yields to the cluster's."""
    others = [ipaddress.ip_network(each) for each in there]
    for text in wanted:
        network = ipaddress.ip_network(text)
        for other in others:
            if network.version == other.version and other.subnet_of(network):  # type: ignore[arg-type]
                return text, str(other)
    return None


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
    if cluster.get("foreignNetwork"):
        raise ClusterError(
            "the cluster's pods have a network plug-in of the user's, which does not come along",
            "Machines join clusters that were started without --cni.",
        )
    addresses = request.node_addresses or (own_address(host, port),)
    versions = [f"ipv{ipaddress.ip_address(each).version}" for each in addresses]
    if families[0] not in versions or not set(versions) <= set(families):
        raise ClusterError(
            f"{', '.join(addresses)}: nodes of the cluster are of {', '.join(families)}",
            "Name this machine's: --node-ip ADDRESS[,ADDRESS]",
        )
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
        network_policy="off" if cluster.get("networkPolicy") == "off" else "auto",
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
    from navarch.cluster import start

    check(request)
    if os.geteuid() != 0:
        raise ClusterError("a node needs root", "Run: sudo navarch join")
    paths = profile.paths_of(profile.check_name(request.name))
    _check_profiles(request.name)
    start.check_tools()
    progress.step("Finding the cluster")
    cluster = discovery.discover(parse_server(request.server), request.token, request.hashes)
    found = joined_profile(request, cluster.description)
    preflight(found, profile.host_use())
    discovery.check_cluster(cluster, found.joined_node)
    with start.exclusive(request.name):
        progress.step(f"Asking for certificates as node {found.joined_node}")
        _ask_for_certificates(found, paths, cluster.authority, request.token)
    at_boot = request.boot and not boot.why_not()
    wanted = start.StartRequest(request.name, timeout=request.timeout, boot=at_boot or None)
    try:
        start.start(wanted, progress)
    except ClusterError as error:
        advice = "To try again: navarch start. To give up: navarch leave"
        raise ClusterError(str(error), f"{error.advice}\n{advice}".lstrip()) from error
    if request.boot and not at_boot:
        progress.note(f"After a boot run navarch start: {boot.why_not()}")
    return found


def _check_profiles(name: str) -> None:
    """A machine has one network: it is a node of one cluster at most."""
    if profile.load(name) is not None:
        raise ClusterError(
            f"the profile {name} exists already on this machine",
            "Leave that cluster first: navarch leave; or choose another name: -p NAME",
        )
    for other in profile.all_profiles():
        if other.joined:
            raise ClusterError(
                f"this machine is the node {other.joined_node} of the cluster at {other.joined}",
                f"Leave that one first: navarch leave -p {other.name}",
            )


def _ask_for_certificates(found: Profile, paths: Paths, authority: bytes, token: str) -> None:
    """Make the profile with all its node needs. Nothing stays if it does not get it."""
    from navarch.api.errors import ApiError
    from navarch.node.certificates import NotIssuedError

    try:
        profile.save(found)
        directory = paths.node(found.joined_node)
        (directory / "pki").mkdir(mode=0o700, parents=True, exist_ok=True)
        profile.write_file(directory / "pki" / "ca.crt", authority, 0o644)
        asyncio.run(_certificates(found, paths, authority, token))
    except (ApiError, NotIssuedError) as error:
        profile.forget(found.name)
        raise ClusterError(
            f"the cluster gives no certificate: {error}",
            "There, see: kubectl get csr. The token may have expired: navarch token create",
        ) from error
    except BaseException:
        profile.forget(found.name)
        raise


def bring_up(found: Profile, progress: Progress, timeout: float, *, wait: bool) -> None:
    """Start this machine's node, or mend it."""
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
    api = Api(found, paths)
    node = f"/api/v1/nodes/{found.joined_node}"
    waiting.until("the node", lambda: readiness.is_ready(api.get(node)), "node")
    api.close()


def uplink(addresses: Sequence[str]) -> str:
    """The name of the interface that bears the node's address. Raises ClusterError."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        there = {each.get_attr("IFA_ADDRESS"): each["index"] for each in netlink.get_addr()}
        if missing := [each for each in addresses if each not in there]:
            raise ClusterError(
                f"no interface of this machine has the address {', '.join(missing)}",
                "Join with one that it has: --node-ip ADDRESS",
            )
        return str(netlink.get_links(there[addresses[0]])[0].get_attr("IFLA_IFNAME"))
