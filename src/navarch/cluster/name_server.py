"""What the API holds of cluster DNS: the Service kube-dns, its rights and its configuration."""

from __future__ import annotations

from typing import Any

from navarch.cluster.profile import Profile
from navarch.network.dns.default import default_corefile

NAME, NAMESPACE = "kube-dns", "kube-system"
CONFIG_MAP = "coredns"
USER = "system:kube-proxy"
"""As whom a node's network components speak to the API."""
PORTS = (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP"))
RBAC = "/apis/rbac.authorization.k8s.io/v1"
Put = tuple[str, dict[str, Any]]
"""A collection and what belongs into it."""


def dns_objects(profile: Profile) -> list[Put]:
    """The Service under which every node's own name server is known. Its endpoints are the nodes
    themselves, and a pod always asks its own node."""
    labels = {
        "k8s-app": NAME,
        "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS",
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": labels,
            "annotations": {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": profile.dns_address,
            "clusterIPs": list(profile.dns_addresses),
            "ipFamilyPolicy": "RequireDualStack"
            if len(profile.dns_addresses) > 1
            else "SingleStack",
            "internalTrafficPolicy": "Local",
            "ports": [
                {"name": name, "port": port, "protocol": protocol, "targetPort": port}
                for name, port, protocol in PORTS
            ],
        },
    }
    slices = [_slice(profile, index) for index in range(len(profile.dns_addresses))]
    collection = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    return [
        (f"/api/v1/namespaces/{NAMESPACE}/services", service),
        *((collection, each) for each in slices),
        *_rights(),
    ]


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


def _rights() -> list[Put]:
    """What the name servers read: what upstream's may, the hosts of Ingresses, and their own
    configuration."""
    group = "rbac.authorization.k8s.io"
    subjects = [{"apiGroup": group, "kind": "User", "name": USER}]
    watch = ["list", "watch"]
    cluster_role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": watch,
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": watch,
            },
            {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": watch},
        ],
    }
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "Role",
        "metadata": {"name": "navarch:coredns", "namespace": NAMESPACE},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [CONFIG_MAP, NAME],
                "verbs": ["get", *watch],
            }
        ],
    }

    def binding(role: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": f"{group}/v1",
            "kind": f"{role['kind']}Binding",
            "metadata": role["metadata"],
            "roleRef": {
                "apiGroup": group,
                "kind": role["kind"],
                "name": role["metadata"]["name"],
            },
            "subjects": subjects,
        }

    return [
        (f"{RBAC}/clusterroles", cluster_role),
        (f"{RBAC}/clusterrolebindings", binding(cluster_role)),
        (f"{RBAC}/namespaces/{NAMESPACE}/roles", role),
        (f"{RBAC}/namespaces/{NAMESPACE}/rolebindings", binding(role)),
    ]


def configuration(profile: Profile) -> Put:
    """The Corefile that users edit. Made once; afterwards it is theirs."""
    return (
        f"/api/v1/namespaces/{NAMESPACE}/configmaps",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
            "data": {"Corefile": default_corefile(profile.cluster_domain)},
        },
    )
