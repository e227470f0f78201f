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
MAXIMUM_DOMAIN = 253

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
        """Reads a resolv.conf: servers add up, the last `search` wins, options by their name."""
        servers: list[str] = []
        searches: tuple[str, ...] = ()
        options: dict[str, str] = {}
        for line in text.splitlines():
            words = line.split()
            if not words or words[0][0] in "#;":
                continue
            if words[0] == "nameserver" and len(words) > 1:
                servers.append(words[1])
            elif words[0] == "search":
                searches = tuple(word.removesuffix(".") for word in words[1:] if word != ".")
            elif words[0] == "options":
                options |= {word.partition(":")[0]: word for word in words[1:]}
        return cls(tuple(servers), searches, tuple(options.values()))


@dataclass(frozen=True, slots=True)
class DnsWarning:
    """What a pod's DNS settings could not be given in full, as an event tells it."""

    reason: str
    message: str
    of_node: bool = False
    """Whether it is the node's fault, and is told of the node as well."""


@dataclass(frozen=True, slots=True)
class FormedDns:
    settings: DnsSettings
    warnings: tuple[DnsWarning, ...] = ()


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


def without_resolv_conf(addresses: Sequence[str]) -> DnsSettings:
    """The settings of a node that was configured to have no resolv.conf: the machine itself, by
    which upstream switches look-ups off."""
    loopback = [("::1" if ":" in address else "127.0.0.1") for address in addresses]
    return DnsSettings(tuple(loopback) or ("127.0.0.1",), (".",))


def pod_dns(
    pod: Pod, node: DnsSettings, cluster_servers: Sequence[str], cluster_domain: str
) -> FormedDns:
    """The pod's DNS settings by its dnsPolicy and dnsConfig, cut to what resolvers accept."""
    policy = pod.spec.dnsPolicy or "ClusterFirst"
    use_cluster = policy == "ClusterFirstWithHostNet" or (
        policy == "ClusterFirst" and not pod.spec.hostNetwork
    )
    warnings: list[DnsWarning] = []
    if policy == "None":
        result = DnsSettings()
    elif use_cluster and cluster_servers:
        suffixes = [f"svc.{cluster_domain}", cluster_domain] if cluster_domain else []
        own = [f"{pod.metadata.namespace}.{suffixes[0]}"] if suffixes else []
        # "." switches off the node's own searches, which a pod of the cluster has others of.
        searches = _unique([*own, *suffixes, *(each for each in node.searches if each != ".")])
        result = DnsSettings(tuple(cluster_servers), searches, ("ndots:5",))
    else:
        result = node
        if use_cluster:
            warnings.append(_missing_cluster_dns(policy))
    config = pod.spec.dnsConfig
    if config is not None:
        options = {option.partition(":")[0]: option for option in result.options}
        for option in config.options:
            options[option.name] = f"{option.name}:{option.value}" if option.value else option.name
        result = DnsSettings(
            _unique([*result.servers, *config.nameservers]),
            _unique([*result.searches, *config.searches]),
            tuple(options.values()),
        )
    return _cut(result, warnings)


def _missing_cluster_dns(policy: str) -> DnsWarning:
    return DnsWarning(
        "MissingClusterDNS",
        "kubelet does not have ClusterDNS IP configured and cannot create Pod using "
        f'"{policy}" policy. Falling back to "Default" policy.',
        of_node=True,
    )


def _cut(settings: DnsSettings, warnings: list[DnsWarning]) -> FormedDns:
    """What resolvers accept of the settings; the rest is told."""
    servers, searches = settings.servers[:MAXIMUM_SERVERS], _fitting(settings.searches)
    for kept, all_, what, name in (
        (servers, settings.servers, "Nameserver limits", "nameservers"),
        (searches, settings.searches, "Search Line limits", "search paths"),
    ):
        if kept != all_:
            line = "nameserver line" if kept is servers else "search line"
            message = (
                f"{what} were exceeded, some {name} have been omitted, the applied {line} is: "
            )
            warnings.append(DnsWarning("DNSConfigForming", message + " ".join(kept)))
    return FormedDns(DnsSettings(servers, searches, settings.options), tuple(warnings))


def resolv_conf_problem(settings: DnsSettings, path: str, domain: str) -> str:
    """What of the node's own searches has no room beside the cluster's, or "" (upstream's
    CheckLimitsForResolvConf)."""
    most = MAXIMUM_SEARCHES - (3 if domain else 0)
    if len(settings.searches) > most:
        what = f"contains search line consisting of more than {most} domains!"
        return f"Resolv.conf file '{path}' {what}"
    if any(len(search) > MAXIMUM_DOMAIN for search in settings.searches):
        return (
            f'Resolv.conf file "{path}" contains a search path which length is more than allowed '
            f"{MAXIMUM_DOMAIN} chars!"
        )
    if len(" ".join(settings.searches)) > MAXIMUM_SEARCH_LENGTH:
        return (
            f"Resolv.conf file '{path}' contains search line which length is more than allowed "
            f"{MAXIMUM_SEARCH_LENGTH} chars!"
        )
    return ""


def _unique(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _fitting(searches: Sequence[str]) -> tuple[str, ...]:
    """The searches that fit. Longer ones than a name can be crash old resolvers."""
    kept: list[str] = []
    length = 0
    for search in searches[:MAXIMUM_SEARCHES]:
        if len(search) > MAXIMUM_DOMAIN:
            continue
        length += len(search) + (1 if kept else 0)
        if length > MAXIMUM_SEARCH_LENGTH:
            break
        kept.append(search)
    return tuple(kept)
