"""Where a node's kubelet listens, and the TLS with which the API server speaks to it."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError, bad_request, not_found
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.options import ServerOptions

Object = dict[str, Any]

ADDRESS_TYPES = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
KUBELET_PORT = 10250
SIMULATED_RUNTIME = "simulated://"


@dataclass(frozen=True, slots=True)
class Backend:
    """Somewhere to connect to. `tls` is None for plain text; `server_name` is what the certificate
    must be made out to when that is not the host."""

    scheme: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Kubelets:
    """Finds kubelets by node name."""

    def __init__(self, options: ServerOptions, lookup: Lookup) -> None:
        self._options = options
        self._lookup = lookup
        self._tls: ssl.SSLContext | None = None

    @property
    def tls(self) -> ssl.SSLContext:
        """Our client certificate; the kubelet's is verified when there is a CA to do it by."""
        if self._tls is None:
            self._tls = self._make_tls()
        return self._tls

    @property
    def unverified_tls(self) -> ssl.SSLContext:
        """The same for who asks not to have the kubelet's certificate verified (for logs alone)."""
        context = self._make_tls()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    def forget_tls(self) -> None:
        """The files were renewed: read them again at the next connection."""
        self._tls = None

    def _make_tls(self) -> ssl.SSLContext:
        options = self._options
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.kubelet_ca is not None:
            context.load_verify_locations(options.kubelet_ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.kubelet_client_cert is not None:
            context.load_cert_chain(options.kubelet_client_cert, options.kubelet_client_key)
        return context

    def is_simulated(self, name: str) -> bool:
        status = (self._lookup.get("nodes", "", name) or {}).get("status") or {}
        runtime: str = (status.get("nodeInfo") or {}).get("containerRuntimeVersion") or ""
        return runtime.startswith(SIMULATED_RUNTIME)

    def backend(self, name: str) -> Backend:
        """The kubelet of a node. Raises 404, 500 for a node without address, 400 for a simulated
        one: its address is nobody's, and whoever the host's routes lead to must not be asked."""
        node = self._lookup.get("nodes", "", name)
        if node is None:
            raise not_found("nodes", "", name)
        status = node.get("status") or {}
        if self.is_simulated(name):
            raise bad_request(f"node {name} is simulated: it has no kubelet, containers or logs")
        found = {each["type"]: each["address"] for each in reversed(status.get("addresses") or ())}
        host = next((found[each] for each in ADDRESS_TYPES if found.get(each)), "")
        if not host:
            raise ApiError(
                500,
                "InternalError",
                f"Internal error occurred: no preferred addresses found for node {name}",
            )
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        return Backend("https", host, endpoint.get("Port") or KUBELET_PORT, self.tls)


def unverified_tls() -> ssl.SSLContext:
    """For `https:` in proxy paths: encrypted, and the peer's name is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_address(host: str) -> None:
    """Refuse what a proxied client must not reach through us: our own loopback and link-local
    services, however they are written. What is no address is not looked up: an answer could change
    between the check and the connection (CVE-2020-8562). Raises 400."""
    try:
        address = ipaddress.ip_address(host)
        # The kernel takes `::ffff:127.0.0.1` for what it wraps (RFC 4291, section 2.5.5.2).
        address = getattr(address, "ipv4_mapped", None) or address
    except ValueError:
        raise bad_request("address not allowed") from None
    if (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == ipaddress.IPv4Address("255.255.255.255")
    ):
        raise bad_request("address not allowed")
