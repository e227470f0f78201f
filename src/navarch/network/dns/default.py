"""The Corefile of a new cluster. Alone, because whoever starts a cluster needs nothing else."""

DEFAULT_COREFILE = """.:53 {
    errors
    health :9153
    ready :9153
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }
    ingress
    prometheus :9153
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""
"""Health and readiness share the metrics' port: this server listens in the node's network, where
CoreDNS' own 8080 and 8181 belong to the user's pods."""


def default_corefile(domain: str) -> str:
    return DEFAULT_COREFILE.replace("cluster.local", domain)
