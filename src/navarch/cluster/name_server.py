"""What the API holds of cluster DNS: the Service kube-dns, its rights and its configuration."""

from __future__ import annotations

from typing import Any

from navarch.cluster.manifests import Placed, collection_of, manifests
from navarch.cluster.profile import Profile
from navarch.network.dns.default import default_corefile

NAME, NAMESPACE = "kube-dns", "kube-system"
CONFIG_MAP = "coredns"
PORTS = (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"))


def dns_objects(profile: Profile) -> list[Placed]:
    """The Service under which every node's own name server is known, and what these may read."""
    count = len(profile.dns_addresses)
    service, *rights = manifests(
        "dns",
        address=profile.dns_address,
        addresses=list(profile.dns_addresses),
        family_policy="RequireDualStack" if count > 1 else "SingleStack",
    )
    slices = [_slice(profile, index) for index in range(count)]
    return [service, *((collection_of(each), each) for each in slices), *rights]


def _slice(profile: Profile, family: int) -> dict[str, Any]:
    addresses = {node: profile.node_addresses(node)[family] for node in profile.node_names()}
    six = ":" in profile.dns_addresses[family]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{NAME}-nodes-ipv6" if six and family else f"{NAME}-nodes",
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "navarch",
            },
        },
        "addressType": "IPv6" if six else "IPv4",
        "ports": [
            {"name": name, "port": port, "protocol": protocol} for name, port, protocol in PORTS
        ],
        "endpoints": [
            {
                "addresses": [address],
                "nodeName": node,
                "conditions": {"ready": True, "serving": True, "terminating": False},
            }
            for node, address in addresses.items()
        ],
    }


def configuration(profile: Profile) -> Placed:
    """The Corefile that users edit. Made once; afterwards it is theirs."""
    value = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
        "data": {"Corefile": default_corefile(profile.cluster_domain)},
    }
    return collection_of(value), value
