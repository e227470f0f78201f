"""The name-resolution files of a pod: /etc/hosts and /etc/resolv.conf. Pure.

/etc/hosts is written by the agent and mounted; resolv.conf is made by the runtime from the DNS
settings given with the sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.types.core_v1 import HostAlias, Pod

MAXIMUM_SERVERS = 3
MAXIMUM_SEARCHES = 32
MAXIMUM_SEARCH_LENGTH = 2048

_HEADER = "# Kubernetes-managed hosts file.\n"
_HOST_NETWORK_HEADER = "# Kubernetes-managed hosts file (host network).\n"
_LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """The three kinds of lines in a resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> DnsSettings:
        """Reads a resolv.conf; the last `search` and `options` lines win, as for the resolver."""
        servers: list[str] = []
        searches: tuple[str, ...] = ()
        options: tuple[str, ...] = ()
        for line in text.splitlines():
            words = line.split()
            if not words or words[0][0] in "#;":
                continue
            if words[0] == "nameserver" and len(words) > 1:
                servers.append(words[1])
            elif words[0] == "search":
                searches = tuple(word.rstrip(".") or "." for word in words[1:])
            elif words[0] == "options":
                options = tuple(words[1:])
        return cls(tuple(servers), searches, options)


def hosts_file(
    addresses: Sequence[str], hostname: str, domain: str, aliases: Sequence[HostAlias]
) -> str:
    """/etc/hosts of a pod with its own network."""
    names = f"{hostname}.{domain}\t{hostname}" if domain else hostname
    lines = [f"{address}\t{names}\n" for address in addresses]
    return _HEADER + _LOCALHOST + "".join(lines) + _alias_lines(aliases)


def host_network_hosts_file(node_file: str, aliases: Sequence[HostAlias]) -> str:
    """/etc/hosts of a pod on the node's network: the node's own, marked."""
    return _HOST_NETWORK_HEADER + node_file + _alias_lines(aliases)


def _alias_lines(aliases: Sequence[HostAlias]) -> str:
    if not aliases:
        return ""
    lines = [f"{each.ip}\t" + "\t".join(each.hostnames) + "\n" for each in aliases]
    return "\n# Entries added by HostAliases.\n" + "".join(lines)


def pod_dns(
    pod: Pod, node: DnsSettings, cluster_servers: Sequence[str], cluster_domain: str
) -> DnsSettings:
    """The pod's DNS settings by its dnsPolicy and dnsConfig, cut to what resolvers accept."""
    policy = pod.spec.dnsPolicy or "ClusterFirst"
    use_cluster = policy == "ClusterFirstWithHostNet" or (
        policy == "ClusterFirst" and not pod.spec.hostNetwork
    )
    if policy == "None":
        result = DnsSettings()
    elif use_cluster and cluster_servers:
        suffixes = [f"svc.{cluster_domain}", cluster_domain] if cluster_domain else []
        own = [f"{pod.metadata.namespace}.{suffixes[0]}"] if suffixes else []
        searches = _unique([*own, *suffixes, *node.searches])
        result = DnsSettings(tuple(cluster_servers), searches, ("ndots:5",))
    else:
        result = node
    config = pod.spec.dnsConfig
    if config is not None:
        options = {option.partition(":")[0]: option for option in result.options}
        for option in config.options:
            text = option.name if option.value is None else f"{option.name}:{option.value}"
            options[option.name] = text
        result = DnsSettings(
            _unique([*result.servers, *config.nameservers]),
            _unique([*result.searches, *config.searches]),
            tuple(options.values()),
        )
    return DnsSettings(result.servers[:MAXIMUM_SERVERS], _fitting(result.searches), result.options)


def _unique(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _fitting(searches: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    length = 0
    for search in searches[:MAXIMUM_SEARCHES]:
        length += len(search) + (1 if kept else 0)
        if length > MAXIMUM_SEARCH_LENGTH:
            break
        kept.append(search)
    return tuple(kept)
