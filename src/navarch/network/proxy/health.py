"""The proxy's answers to load balancers, probes and the curious.

`:10256/healthz` says whether rules follow the API and the node may have new connections, `/livez`
only the former; 127.0.0.1:10249 tells metrics, mode and configuration; the `healthCheckNodePort` of
a LoadBalancer Service with the Local policy says how many endpoints are on this node, so that the
balancer sends traffic only where it stays local (KEP-3836, KEP-2086).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from navarch.api.times import format_time
from navarch.api.types.core_v1 import Node
from navarch.client.clock import Clock
from navarch.network.proxy import metrics
from navarch.network.proxy.metrics import FAMILY_NAMES
from navarch.network.proxy.model import ServiceHealth
from navarch.network.proxy.proxier import Proxier, ServiceKey
from navarch.network.proxy.rules import PRIMARY, Network

log = logging.getLogger("navarch.network.proxy")
TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
RETRY_SECONDS = 30.0
CONFIG_NAME = "kubeproxy.config.k8s.io"
WILDCARDS = {"ip": "0.0.0.0", "ip6": "::"}
Answer = Callable[[web.BaseRequest], web.Response]
Refused = Callable[[ServiceHealth, str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where to listen: HOST:PORT each, "" for nowhere. 0.0.0.0 stands for all addresses of the
    families that are served."""

    health: str
    metrics: str


class Listener:
    """One handler on some addresses and one port."""

    def __init__(self, answer: Answer) -> None:
        async def handle(request: web.BaseRequest) -> web.Response:
            return answer(request)

        self._runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=1.0)

    async def start(self, addresses: Sequence[str], port: int) -> None:
        """Raises OSError, and then listens nowhere."""
        await self._runner.setup()
        try:
            for address in addresses:
                await web.TCPSite(self._runner, address, port).start()
        except OSError:
            await self._runner.cleanup()
            raise

    async def stop(self) -> None:
        await self._runner.cleanup()


class ProxyHealth:
    """The proxy's own health, metrics and configuration."""

    def __init__(
        self, proxiers: Sequence[Proxier], clock: Clock, config: Mapping[str, Any]
    ) -> None:
        self._proxiers, self._clock, self._config = proxiers, clock, config
        self._listeners: list[Listener] = []
        self.node: Node | None = None
        """As the API has it; None: it has none."""

    @property
    def is_healthy(self) -> bool:
        return all(proxier.is_healthy for proxier in self._proxiers)

    @property
    def is_eligible(self) -> bool:
        """Whether balancers may send new connections to the node: it stays."""
        node = self.node
        if node is None or node.metadata.deletionTimestamp:
            return False
        return all(taint.key != TO_BE_DELETED for taint in node.spec.taints)

    async def start(self, places: Places) -> None:
        """Serve where it can be served: the rules matter more than what is told of them."""
        for place, answer in ((places.health, self.health), (places.metrics, self.figures)):
            if not place:
                continue
            host, _, port = place.rpartition(":")
            hosts = [host.strip("[]")]
            if hosts[0] in WILDCARDS.values():
                hosts = [WILDCARDS[proxier.family] for proxier in self._proxiers]
            listener = Listener(answer)
            try:
                await listener.start(hosts, int(port))
            except OSError as error:
                log.error("the proxy cannot be asked at %s: %s", place, error)
            else:
                self._listeners.append(listener)

    async def stop(self) -> None:
        for listener in self._listeners:
            await listener.stop()

    def health(self, request: web.BaseRequest) -> web.Response:
        """`/healthz` and `/livez`."""
        if request.path not in ("/healthz", "/livez"):
            return web.Response(status=404, text="404 page not found\n")
        is_healthy = self.is_healthy
        body: dict[str, Any] = {"lastUpdated": None, "currentTime": format_time(self._clock.now())}
        counter = metrics.livez
        if request.path == "/healthz":
            counter = metrics.healthz
            body["nodeEligible"] = self.is_eligible
            is_healthy = is_healthy and self.is_eligible
        updates = [p.last_updated for p in self._proxiers if p.last_updated is not None]
        # Who is healthy is up to date: long silence is no fault.
        last = self._clock.now() if is_healthy else max(updates, default=None)
        body["lastUpdated"] = _time(last)
        body["healthy"] = self.is_healthy
        body["status"] = {
            FAMILY_NAMES[proxier.family]: {
                "lastUpdated": _time(proxier.last_updated),
                "healthy": proxier.is_healthy,
            }
            for proxier in self._proxiers
        }
        counter.labels(str(200 if is_healthy else 503)).inc()
        return _json(body, 200 if is_healthy else 503)

    def figures(self, request: web.BaseRequest) -> web.Response:
        """`/metrics`, `/proxyMode`, `/configz` and `/healthz` of the local port."""
        match request.path:
            case "/metrics":
                from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

                headers = {"Content-Type": CONTENT_TYPE_LATEST}
                return web.Response(body=generate_latest(), headers=headers)
            case "/proxyMode":
                return web.Response(text="nftables")
            case "/configz":
                return _json({CONFIG_NAME: dict(self._config)})
            case "/healthz":
                return web.Response(text="ok")
        return web.Response(status=404, text="404 page not found\n")


class ServiceHealthServers:
    """A listener for each Service with a health-check node port."""

    def __init__(self, network: Network, is_healthy: Callable[[], bool], refused: Refused) -> None:
        self._network, self._is_healthy, self._refused = network, is_healthy, refused
        self._states: dict[ServiceKey, ServiceHealth] = {}
        self._listeners: dict[ServiceKey, tuple[int, Listener]] = {}
        self._told: set[ServiceHealth] = set()
        """What could not be served, and was said to be so."""

    async def run(self, proxiers: Sequence[Proxier], clock: Clock) -> None:
        """Follow the proxiers until cancelled."""
        wake = asyncio.Event()
        for proxier in proxiers:
            proxier.synced = wake
        try:
            while True:
                wake.clear()
                states: dict[ServiceKey, ServiceHealth] = {}
                for proxier in proxiers:
                    _merge(states, proxier.health_states())
                is_whole = await self.update(states)
                # A port that somebody else has may be free later.
                later = None if is_whole else clock.call_later(RETRY_SECONDS, wake.set)
                await wake.wait()
                if later is not None:
                    later.cancel()
        finally:
            await self.update({})

    async def update(self, states: Mapping[ServiceKey, ServiceHealth]) -> bool:
        """Serve exactly these Services; whether all could be."""
        self._states = dict(states)
        wanted = {dataclasses.replace(state, local_endpoints=0) for state in states.values()}
        self._told &= wanted
        for key, (port, listener) in list(self._listeners.items()):
            if key not in states or states[key].port != port:
                del self._listeners[key]
                await listener.stop()
        for key in states.keys() - self._listeners.keys():
            await self._listen(states[key], key)
        return self._listeners.keys() == states.keys()

    async def _listen(self, state: ServiceHealth, key: ServiceKey) -> None:
        listener = Listener(functools.partial(self._answer, key))
        network = self._network
        addresses: Sequence[str] = network.node_ips
        if PRIMARY not in network.node_port_addresses:
            addresses = [WILDCARDS[family] for family in network.families]
        try:
            await listener.start(addresses, state.port)
        except OSError as error:
            failed = dataclasses.replace(state, local_endpoints=0)
            if failed not in self._told:
                self._refused(state, str(error))
            self._told.add(failed)
        else:
            self._listeners[key] = (state.port, listener)

    def _answer(self, key: ServiceKey, request: web.BaseRequest) -> web.Response:
        state = self._states.get(key)
        if state is None or not self._is_node_address(request):
            return web.Response(status=503)
        healthy = self._is_healthy()
        body = {
            "service": {"namespace": state.namespace, "name": state.name},
            "localEndpoints": state.local_endpoints,
            "serviceProxyHealthy": healthy,
        }
        status = 200 if state.local_endpoints and healthy else 503
        response = _json(body, status)
        response.headers["X-Load-Balancing-Endpoint-Weight"] = str(state.local_endpoints)
        return response

    def _is_node_address(self, request: web.BaseRequest) -> bool:
        """Whether this is an address where node ports answer, which may have come since."""
        ranges = self._network.node_port_addresses
        if PRIMARY in ranges or request.transport is None:
            return True
        address = ipaddress.ip_address(request.transport.get_extra_info("sockname")[0])
        return any(address in ipaddress.ip_network(r, strict=False) for r in ranges)


def _merge(
    states: dict[ServiceKey, ServiceHealth], more: Mapping[ServiceKey, ServiceHealth]
) -> None:
    """A Service of both families has its pods in each: the larger number counts."""
    for key, state in more.items():
        known = states.get(key)
        if known is None or known.local_endpoints < state.local_endpoints:
            states[key] = state


def _time(moment: Any) -> str | None:
    return None if moment is None else format_time(moment)


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"X-Content-Type-Options": "nosniff"},
    )
