"""Where cluster DNS tells of itself over HTTP: `/health`, `/ready` and `/metrics`, on the ports the
Corefile names (CoreDNS' are 8080, 8181 and 9153). Several may share one."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from navarch.network.dns.corefile import Address, Corefile
from navarch.network.dns.figures import Collector

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger("navarch.network.dns")


class Telling:
    """The listeners of one server. `missing` names what is not ready yet."""

    def __init__(
        self, address: str, collector: Collector, missing: Callable[[], list[str]]
    ) -> None:
        self._address = address
        self._missing = missing
        self._collector = collector
        self._runners: dict[Address, web.ServerRunner] = {}
        self._paths: dict[Address, set[str]] = {}

    async def apply(self, corefile: Corefile) -> None:
        """Listen on exactly the sockets that a Corefile names."""
        self._paths = defaultdict(set)
        for block in corefile.blocks:
            for path, sockets in (
                ("/health", block.health),
                ("/ready", block.ready),
                ("/metrics", block.metrics),
            ):
                for host, port in sockets:
                    self._paths[(host or self._address, port)].add(path)
        for address in self._runners.keys() - self._paths.keys():
            await self._runners.pop(address).cleanup()
        for address in self._paths.keys() - self._runners.keys():
            await self._listen(address)

    async def stop(self) -> None:
        for runner in self._runners.values():
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, address: Address) -> None:
        from aiohttp import web

        async def answer(request: web.BaseRequest) -> web.Response:
            return self._answer(address, request)

        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        try:
            await web.TCPSite(runner, *address).start()
        except OSError as error:
            # A pod on the node's network may have the port: names matter more than figures.
            log.warning("nothing is told on port %d: %s", address[1], error)
            await runner.cleanup()
            return
        self._runners[address] = runner

    def _answer(self, address: Address, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        if request.path not in self._paths.get(address, ()):
            return web.Response(status=404, text="404 page not found\n")
        if request.path == "/health":
            return web.Response(text="OK")
        if request.path == "/ready":
            missing = self._missing()
            return web.Response(status=503 if missing else 200, text=",".join(missing) or "OK")
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry()
        registry.register(self._collector)
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)
