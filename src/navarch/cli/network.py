"""Flags of `navarch start` about addresses, the pod network and where the API server listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from navarch.cluster import profile as profiles
from navarch.cluster.profile import ClusterError, Profile

PANEL = "Network"
OPTIONAL_PLUGINS = frozenset({"DenyServiceExternalIPs"})

IpFamily = Annotated[
    str,
    typer.Option(
        help="ipv4, ipv6 or dual, for a new cluster.", rich_help_panel=PANEL, show_default="ipv4"
    ),
]
ServiceRange = Annotated[
    str,
    typer.Option(
        "--service-cluster-ip-range",
        help="Addresses of Services of a new cluster; of two families with a comma between.",
        rich_help_panel=PANEL,
    ),
]
PodRange = Annotated[
    str,
    typer.Option(
        "--pod-cidr",
        help="Addresses of pods of a new cluster; of two families with a comma between.",
        rich_help_panel=PANEL,
    ),
]
PodNetwork = Annotated[
    str | None,
    typer.Option(
        help="Wrap packets between nodes in VXLAN where they are on different links (auto), always "
        "(vxlan) or never (routes).",
        rich_help_panel=PANEL,
        show_default="auto",
    ),
]
BlockMetadata = Annotated[
    bool | None,
    typer.Option(
        "--block-metadata/--allow-metadata",
        help="Keep pods from the metadata service of the cloud that this machine is in.",
        rich_help_panel=PANEL,
        show_default="allow",
    ),
]
AdmissionPlugins = Annotated[
    str | None,
    typer.Option(
        "--enable-admission-plugins",
        help="Admission plug-ins beside those that are on by default (DenyServiceExternalIPs). "
        "Empty: none.",
        show_default=False,
    ),
]
Cni = Annotated[
    str | None,
    typer.Option(
        help="Who makes the pods' network: bridge (this project), false (you will), a file with a "
        "manifest to apply (.yaml) or a CNI configuration (.conflist, .conf).",
        rich_help_panel=PANEL,
        show_default="bridge",
    ),
]
NetworkPolicies = Annotated[
    str | None,
    typer.Option(
        "--network-policy",
        help="Enforce NetworkPolicies (on), leave them to somebody else (off), or the latter only "
        "with --cni false or a manifest (auto).",
        rich_help_panel=PANEL,
        show_default="auto",
    ),
]
SigningDuration = Annotated[
    str | None,
    typer.Option(
        "--cluster-signing-duration",
        help="The longest life of certificates that are asked for by CertificateSigningRequests, "
        "such as those of machines that join.",
        show_default="8760h",
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        "--listen-address",
        help="Where the API server listens as well, for other machines; off ends it. Repeatable.",
        rich_help_panel=PANEL,
    ),
]
ServerAddresses = Annotated[
    list[str] | None,
    typer.Option(
        "--apiserver-ips",
        help="Further addresses its certificate is good for. Repeatable, or with commas.",
        rich_help_panel=PANEL,
    ),
]
ServerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--apiserver-names",
        help="Further names its certificate is good for. Repeatable, or with commas.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class Flags:
    """What was typed; None and empty leave things as they are."""

    family: str = ""
    service_range: str = ""
    pod_range: str = ""
    pod_network: str | None = None
    listen: list[str] | None = None
    addresses: list[str] | None = None
    names: list[str] | None = None
    block_metadata: bool | None = None
    admission_plugins: str | None = None
    network_policy: str | None = None
    signing_duration: str | None = None

    def creation(self, found: Profile) -> Profile:
        if not (self.family or self.service_range or self.pod_range):
            return found
        return profiles.with_families(found, self.family, self.service_range, self.pod_range)

    def settings(self, found: Profile) -> Profile:
        if self.pod_network is not None:
            if self.pod_network not in ("auto", "vxlan", "routes"):
                raise ClusterError("--pod-network is one of auto, vxlan, routes")
            found = replace(found, pod_network=self.pod_network)
        if self.network_policy is not None:
            if self.network_policy not in ("auto", "on", "off"):
                raise ClusterError("--network-policy is one of auto, on, off")
            found = replace(found, network_policy=self.network_policy)
        if self.block_metadata is not None:
            found = replace(found, metadata_blocked=self.block_metadata)
        if self.admission_plugins is not None:
            plugins = _parts([self.admission_plugins])
            if unknown := sorted({*plugins} - OPTIONAL_PLUGINS):
                raise ClusterError(
                    f"--enable-admission-plugins: {', '.join(unknown)} cannot be switched on",
                    f"There is {', '.join(sorted(OPTIONAL_PLUGINS))}; others are on.",
                )
            found = replace(found, admission_plugins=tuple(plugins))
        if self.signing_duration is not None:
            _check_duration("--cluster-signing-duration", self.signing_duration)
            found = replace(found, signing_duration=self.signing_duration)
        if self.listen is not None:
            wanted = [] if self.listen == ["off"] else _parts(self.listen)
            for each in wanted:
                _check_address("--listen-address", each)
            found = replace(found, listen_addresses=tuple(wanted))
        if self.addresses is not None or self.names is not None:
            addresses = _parts(self.addresses)
            for each in addresses:
                _check_address("--apiserver-ips", each)
            found = replace(found, server_names=tuple(addresses + _parts(self.names)))
        return found


def _parts(given: list[str] | None) -> list[str]:
    return [part.strip() for each in given or () for part in each.split(",") if part.strip()]


def _check_duration(flag: str, text: str) -> None:
    from navarch.api.times import parse_duration

    try:
        if parse_duration(text) > 0:
            return
    except ValueError:
        pass
    raise ClusterError(f"{flag}: {text!r} is not a duration", "Such as 720h or 90m.")


def _check_address(flag: str, text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ClusterError(f"{flag}: {text!r} is not an address") from None
