"""The proxy's answers to load balancers and probes.

`:10256/healthz` says whether rules follow the API; the `healthCheckNodePort` of a LoadBalancer
Service with the Local policy says how many endpoints are on this node, so that the balancer sends
traffic only where it stays local.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiohttp import web

log = logging.getLogger("navarch.network.proxy")
HEALTH_PORT = 10256


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How many ready endpoints of a Service are on this node."""

    namespace: str
    name: str
    local_endpoints: int


class HealthServers:
    """One listener for the proxy itself and one for each health-check node port."""

    def __init__(self, address: str, is_healthy: Callable[[], bool]) -> None:
        self._address = address
        self._is_healthy = is_healthy
        self._states: dict[int, ServiceHealth] = {}
        self._runners: dict[int, web.ServerRunner] = {}

    async def start(self) -> None:
        await self._listen(HEALTH_PORT, self._own_health)

    async def stop(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()

    async def update(self, states: Mapping[int, ServiceHealth]) -> None:
        """Serve exactly these Services, by their health-check node port."""
        self._states = dict(states)
        for port in self._runners.keys() - states.keys() - {HEALTH_PORT}:
            await self._runners.pop(port).cleanup()
        for port in states.keys() - self._runners.keys():
            await self._listen(port, functools.partial(self._service_health, port))

    async def _listen(self, port: int, handler: Callable[[web.BaseRequest], web.Response]) -> None:
        async def answer(request: web.BaseRequest) -> web.Response:
            return handler(request)

        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        try:
            await web.TCPSite(runner, self._address, port).start()
        except OSError as error:
            log.warning("health checks on port %d cannot be answered: %s", port, error)
            await runner.cleanup()
            return
        self._runners[port] = runner

    def _own_health(self, request: web.BaseRequest) -> web.Response:
        healthy = self._is_healthy()
        now = datetime.now(UTC).isoformat()
        body = msgspec.json.encode({"currentTime": now, "healthy": healthy})
        return web.Response(
            status=200 if healthy else 503, body=body, content_type="application/json"
        )

    def _service_health(self, port: int, request: web.BaseRequest) -> web.Response:
        state = self._states.get(port)
        if state is None:
            return web.Response(status=503)
        healthy = self._is_healthy()
        body = {
            "service": {"namespace": state.namespace, "name": state.name},
            "localEndpoints": state.local_endpoints,
            "serviceProxyHealthy": healthy,
        }
        return web.Response(
            status=200 if state.local_endpoints and healthy else 503,
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(state.local_endpoints),
            },
        )
