"""What `navarch tunnel` does: it looks whether LoadBalancer addresses can be reached.

Addresses of the nodes' own subnet need nothing, since the host is on that link. A pool may hold
others; while a tunnel is open they get a route to the bridge, where the nodes answer for them. The
routes are noted in a file, so that those of a killed tunnel can be removed by the next.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from navarch.cluster import processes
from navarch.cluster.api import Api
from navarch.cluster.exposure import Exposed, addresses_of, exposed
from navarch.cluster.profile import ClusterError, Paths, Profile, write_json

INTERVAL = 1.0
PROBE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One address of a Service."""

    exposed: Exposed
    address: str
    ports: str
    state: str
    """yes, no and why, or that nobody can tell (UDP)."""


class Tunnel(AbstractContextManager["Tunnel"]):
    """Open while somebody looks."""

    def __init__(self, profile: Profile, paths: Paths) -> None:
        self._profile = profile
        self._paths = paths
        self._api = Api(profile, paths)
        self._routes: set[str] = set()

    def __enter__(self) -> Tunnel:
        holder = processes.read_pid_file(_pid_file(self._paths))
        if holder is not None:
            raise ClusterError(
                f"another tunnel is open (process {holder.pid})", "End it with Ctrl-C there."
            )
        clean(self._paths)
        processes.write_pid_file(_pid_file(self._paths), processes.myself())
        return self

    def __exit__(self, *exc: object) -> None:
        self._api.close()
        clean(self._paths)
        _pid_file(self._paths).unlink(missing_ok=True)

    def wait(self) -> None:
        time.sleep(INTERVAL)

    def look(self) -> list[Row]:
        """Every address of every LoadBalancer Service, now. Raises ApiUnavailableError."""
        listed = self._api.get("/api/v1/services?fieldSelector=spec.type%3DLoadBalancer")["items"]
        self._lead(address for service in listed for address in addresses_of(service))
        rows = []
        for service in listed:
            found = exposed(service, "")
            if found.is_pending:
                rows.append(Row(found, "", "", "no: it has no address (kubectl describe service)"))
            for address in addresses_of(service):
                ports = [place for place in found.outside if place.address == address]
                tcp = [place.port for place in ports if place.protocol == "TCP"]
                shown = ",".join(f"{place.port}/{place.protocol}" for place in ports)
                rows.append(Row(found, address, shown, _state(address, tcp)))
        return rows

    def _lead(self, addresses: Iterable[str]) -> None:
        """Routes to what is on none of the nodes' subnets."""
        subnets = [ipaddress.ip_network(subnet) for subnet in self._profile.subnets]
        wanted = {
            address
            for address in addresses
            if not any(ipaddress.ip_address(address) in subnet for subnet in subnets)
        }
        if wanted == self._routes:
            return
        if os.geteuid() != 0:
            raise ClusterError(
                f"{', '.join(sorted(wanted))}: a route to the nodes needs root",
                "Run: sudo navarch tunnel",
            )
        from navarch.cluster import netns

        # Noted before they are there: what is half done can be cleaned.
        noted = {"bridge": self._profile.bridge, "addresses": sorted(wanted | self._routes)}
        write_json(_routes_file(self._paths), noted)
        netns.lead_to_bridge(self._profile.bridge, wanted, self._routes - wanted)
        self._routes = wanted


def clean(paths: Paths) -> list[str]:
    """Remove the routes that a tunnel has left; returns where they led."""
    holder = processes.read_pid_file(_pid_file(paths))
    if holder is not None and holder.pid != os.getpid():
        raise ClusterError(
            f"the tunnel is open (process {holder.pid})", "End it with Ctrl-C there."
        )
    try:
        noted = json.loads(_routes_file(paths).read_bytes())
    except FileNotFoundError:
        return []
    from navarch.cluster import netns

    netns.lead_to_bridge(noted["bridge"], (), noted["addresses"])
    _routes_file(paths).unlink()
    found: list[str] = noted["addresses"]
    return found


def _state(address: str, ports: Iterable[int]) -> str:
    states = [(port, _probe(address, port)) for port in ports]
    if not states:
        return "unknown: not TCP"
    problems = [f"{port}: {problem}" for port, problem in states if problem]
    return f"no: {', '.join(problems)}" if problems else "yes"


def _probe(address: str, port: int) -> str:
    """Why no connection can be made; empty when one can."""
    try:
        socket.create_connection((address, port), PROBE_SECONDS).close()
    except OSError as error:
        return error.strerror or "timed out"
    return ""


def _pid_file(paths: Paths) -> Path:
    return paths.run / "tunnel.pid"


def _routes_file(paths: Paths) -> Path:
    return paths.run / "tunnel.json"
