"""Flags of `navarch start` about addresses, the pod network and where the API server listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import typer

from navarch.cluster import profile as profiles
from navarch.cluster.profile import ClusterError, Profile

_flag = partial(typer.Option, rich_help_panel="Network")
OPTIONAL_PLUGINS = frozenset({"DenyServiceExternalIPs"})


@dataclass(frozen=True, slots=True)
class Flags:
    """What was typed; None and empty leave things as they are."""

    ip_family: Annotated[
        str, _flag(help="ipv4, ipv6 or dual, for a new cluster.", show_default="ipv4")
    ] = ""
    service_range: Annotated[
        str,
        _flag(
            "--service-cluster-ip-range",
            help="Addresses of Services of a new cluster; of two families with a comma between.",
        ),
    ] = ""
    pod_range: Annotated[
        str,
        _flag(
            "--pod-cidr",
            help="Addresses of pods of a new cluster; of two families with a comma between.",
        ),
    ] = ""
    pod_network: Annotated[
        str | None,
        _flag(
            help="Wrap packets between nodes in VXLAN where they are on different links (auto), "
            "always (vxlan) or never (routes).",
            show_default="auto",
        ),
    ] = None
    block_metadata: Annotated[
        bool | None,
        _flag(
            "--block-metadata/--allow-metadata",
            help="Keep pods from the metadata service of the cloud that this machine is in.",
            show_default="allow",
        ),
    ] = None
    enable_admission_plugins: Annotated[
        str | None,
        _flag(
            help="Admission plug-ins beside those that are on by default (DenyServiceExternalIPs). "
            "Empty: none.",
            show_default=False,
        ),
    ] = None
    cni: Annotated[
        str | None,
        _flag(
            help="Who makes the pods' network: bridge (this project), false (you will), a file "
            "with a manifest to apply (.yaml) or a CNI configuration (.conflist, .conf).",
            show_default="bridge",
        ),
    ] = None
    network_policy: Annotated[
        str | None,
        _flag(
            help="Enforce NetworkPolicies (on), leave them to somebody else (off), or the latter "
            "only with --cni false or a manifest (auto).",
            show_default="auto",
        ),
    ] = None
    cluster_signing_duration: Annotated[
        str | None,
        _flag(
            help="The longest life of certificates that are asked for by "
            "CertificateSigningRequests, such as those of machines that join.",
            show_default="8760h",
        ),
    ] = None
    listen_address: Annotated[
        list[str] | None,
        _flag(
            help="Where the API server listens as well, for other machines; off ends it. "
            "Repeatable."
        ),
    ] = None
    apiserver_ips: Annotated[
        list[str] | None,
        _flag(help="Further addresses its certificate is good for. Repeatable, or with commas."),
    ] = None
    apiserver_names: Annotated[
        list[str] | None,
        _flag(help="Further names its certificate is good for. Repeatable, or with commas."),
    ] = None

    def creation(self, found: Profile) -> Profile:
        if not (self.ip_family or self.service_range or self.pod_range):
            return found
        return profiles.with_families(found, self.ip_family, self.service_range, self.pod_range)

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
        if self.enable_admission_plugins is not None:
            plugins = _parts([self.enable_admission_plugins])
            if unknown := sorted({*plugins} - OPTIONAL_PLUGINS):
                raise ClusterError(
                    f"--enable-admission-plugins: {', '.join(unknown)} cannot be switched on",
                    f"There is {', '.join(sorted(OPTIONAL_PLUGINS))}; others are on.",
                )
            found = replace(found, admission_plugins=tuple(plugins))
        if self.cluster_signing_duration is not None:
            _check_duration("--cluster-signing-duration", self.cluster_signing_duration)
            found = replace(found, signing_duration=self.cluster_signing_duration)
        if self.listen_address is not None:
            wanted = [] if self.listen_address == ["off"] else _parts(self.listen_address)
            for each in wanted:
                _check_address("--listen-address", each)
            found = replace(found, listen_addresses=tuple(wanted))
        if self.apiserver_ips is not None or self.apiserver_names is not None:
            addresses = _parts(self.apiserver_ips)
            for each in addresses:
                _check_address("--apiserver-ips", each)
            found = replace(found, server_names=tuple(addresses + _parts(self.apiserver_names)))
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
