"""The API server as a whole: wires the parts, opens the sockets, serves until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.aggregator import Aggregator
from navarch.apiserver.audit.auditor import build_auditor
from navarch.apiserver.authentication.legacy_tokens import keep_tracking_since
from navarch.apiserver.authentication.trust import TrustKeeper
from navarch.apiserver.bootstrap import bootstrap
from navarch.apiserver.connect.forward import Forwarder
from navarch.apiserver.connect.nodes import Kubelets
from navarch.apiserver.connect.pods import PodStreams
from navarch.apiserver.connect.proxy import Proxy
from navarch.apiserver.core import Core
from navarch.apiserver.crd.controller import CustomResources
from navarch.apiserver.discovery.documents import Documents, Registrations
from navarch.apiserver.discovery.handlers import add_discovery
from navarch.apiserver.encryption.config import ConfiguredSealer
from navarch.apiserver.flowcontrol import dump
from navarch.apiserver.flowcontrol.control import FlowControl
from navarch.apiserver.flowcontrol.upkeep import FlowUpkeep
from navarch.apiserver.http.app import App
from navarch.apiserver.http.connection import FrontServer
from navarch.apiserver.http.health import Health, index_handler, metrics_handler, version
from navarch.apiserver.http.plain_text import HANDSHAKE_SECONDS
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.openapi.documents import OpenApi
from navarch.apiserver.openapi.handlers import add_openapi
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.registry.chain import Chain
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Catalog
from navarch.apiserver.security import Security, build_security, label_last_use
from navarch.apiserver.services.addresses import AddressAllocator
from navarch.apiserver.services.holdings import Holdings
from navarch.apiserver.services.kubernetes import KubernetesService
from navarch.apiserver.services.metrics import allocation_metrics
from navarch.apiserver.services.ports import PortAllocator
from navarch.apiserver.services.repair import Repair
from navarch.apiserver.services.reservation import ServiceAllocator
from navarch.apiserver.start import bootstrap_access
from navarch.apiserver.subresources.binding import add_binding
from navarch.apiserver.subresources.eviction import add_eviction
from navarch.apiserver.subresources.plain import add_plain
from navarch.apiserver.subresources.reviews import add_reviews
from navarch.apiserver.subresources.scale import add_scale
from navarch.apiserver.tls import ServingTls
from navarch.apiserver.upkeep import (
    BOOKMARK_SECONDS,
    COMPACT_SECONDS,
    EVENT_SECONDS,
    RENEWAL_SECONDS,
    REPAIR_SECONDS,
    Compaction,
    EventExpiry,
    FileWatch,
    ended,
    forever,
    told,
)
from navarch.apiserver.usage.scraper import UsageScraper
from navarch.apiserver.usage.serving import UsageApi
from navarch.apiserver.verbs import delete, patch, read, watch, write
from navarch.store import open_store
from navarch.store.contract import Store, StoreError

log = logging.getLogger(__name__)

STOP_SECONDS = 8.0
"""For requests under way; less than who stops us waits before he kills us."""
QUIET_SECONDS = 0.05
SWEEP_SECONDS = 1.0


class Server:
    """One API server in this process."""

    def __init__(
        self,
        options: ServerOptions,
        store: Store,
        security: Security | None = None,
        sealer: ConfiguredSealer | None = None,
    ) -> None:
        """`security` replaces the default authentication, authorization and admission; `sealer` is
        what the store encrypts by."""
        self.options = options
        self.store = store
        self._sealer = sealer
        hub = Hub(store)
        catalog = Catalog(hub)
        catalog.add_built_in()
        self.core = Core(options, store, hub, catalog, Registry(store, hub, catalog))
        self._security = security
        self.app = App(self.core)
        self.health = Health(self.core, lambda: self.is_started)
        self._forwarder = Forwarder()
        self._kubelets = Kubelets(options, self.core.lookup)
        self._tls = ServingTls(options) if options.tls_cert is not None else None
        self._add_handlers()
        self._front: FrontServer | None = None
        self._listeners: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._own: KubernetesService | None = None
        self.is_started = self.is_stopping = False
        self.health.ready_checks["shutdown"] = lambda: not self.is_stopping
        self.port = options.port

    def _add_handlers(self) -> None:
        app = self.app
        app.verbs = {
            "get": read.get,
            "list": read.list_objects,
            "watch": watch.watch,
            "create": write.create,
            "update": write.update,
            "patch": patch.patch,
            "delete": delete.delete,
            "deletecollection": delete.delete_collection,
        }
        add_plain(app)
        add_scale(app)
        add_binding(app)
        add_eviction(app)
        add_reviews(app)
        PodStreams(self._kubelets, self._forwarder).add_to(app)
        Proxy(self._kubelets, self._forwarder).add_to(app)
        self.health.add_to(app)
        app.paths["/version"] = app.paths["/version/"] = version
        app.paths["/metrics"] = metrics_handler(app)
        dump.add_dumps(app)
        registered, openapi = Registrations(), OpenApi(self.core.catalog)
        add_discovery(app, Documents(self.core.catalog, registered))
        add_openapi(app, openapi)
        self._aggregator = Aggregator(app, self._forwarder, registered, openapi)
        self._scraper = UsageScraper(self._kubelets, self._forwarder)
        UsageApi(app, self._scraper, registered, openapi).follow(self._aggregator.records)
        app.paths["/"] = index_handler(app)

    async def start(self) -> None:
        """Load the caches, make what every cluster has, then open the doors. Cleans up after itself
        when it fails."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        core = self.core
        await core.hub.start()
        security = self._security or build_security(
            self.options, core.registry, core.lookup, core.webhooks
        )
        core.security = security
        core.registry.chain = Chain(security.plugins)
        core.flow_control = self._flow_control()
        core.auditor = build_auditor(self.options)
        if core.auditor is not None:
            await core.auditor.backend.start()
            self.app.metric_sources.append(core.auditor.metrics)
        await self._listen()
        await self._prepare()
        for listener in self._listeners:
            await listener.start_serving()
        self.is_started = True

    def _flow_control(self) -> FlowControl | None:
        options = self.options
        if not options.enable_priority_and_fairness:
            return None
        seats = options.max_requests_inflight + options.max_mutating_requests_inflight
        return FlowControl(self.core.lookup, seats, options.request_timeout_seconds / 4)

    async def _listen(self) -> None:
        """Bind the sockets: the port must be known to those who are told where we are."""
        self._front = FrontServer(self.app, self.options.max_connections)
        tls = self._tls.context if self._tls is not None else None
        loop = asyncio.get_running_loop()
        for address in self.options.bind_addresses:
            listener = await loop.create_server(
                self._front,
                address,
                self.port,
                ssl=tls,
                backlog=1024,
                start_serving=False,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls is not None else None,
            )
            self._listeners.append(listener)
            if not self.port:
                self.port = listener.sockets[0].getsockname()[1]
            self.core.port = self.port

    @property
    def url(self) -> str:
        scheme = "https" if self.options.tls_cert else "http"
        return f"{scheme}://{self.options.bind_addresses[0]}:{self.port}"

    async def _prepare(self) -> None:
        """Make what every cluster has, and start the server's own steady work."""
        core, options = self.core, self.options
        await bootstrap(bootstrap_access(core.registry, core.lookup))
        flows = FlowUpkeep(
            core.registry, bootstrap_access(core.registry, core.lookup), core.flow_control
        )
        await flows.start()
        self._begin("flow control", flows.run())
        access = bootstrap_access(core.registry, core.lookup)
        trust = TrustKeeper(access, options)
        await trust.turn()
        await keep_tracking_since(access, core.registry.now())
        addresses, repair = self._allocation()
        custom = CustomResources(core)
        await custom.start()
        self._begin("custom resources", custom.run())
        await self._aggregator.start()
        self._begin("aggregation", self._aggregator.run())
        where = options.advertised, self.port
        own = self._own = KubernetesService(core.registry, core.lookup, addresses, where)
        await own.repair()
        await repair.turn()
        events = EventExpiry(core)
        events.start()
        for name, seconds, turn in (
            ("bookmarks", BOOKMARK_SECONDS, self._tick),
            ("request timeouts", SWEEP_SECONDS, self._sweep),
            ("compaction", COMPACT_SECONDS, Compaction(core).turn),
            ("event expiry", EVENT_SECONDS, events.turn),
            ("the kubernetes service", REPAIR_SECONDS, own.repair),
            ("addresses and node ports", REPAIR_SECONDS, repair.turn),
            ("renewal of certificates", RENEWAL_SECONDS, self._renewal().turn),
            ("trust of extension servers", REPAIR_SECONDS, trust.turn),
        ):
            self._begin(name, forever(name, seconds, turn))
        self._start_security_turns()
        if self._sealer is not None:
            watch = FileWatch([self._sealer.path], self._sealer.reload, "encryption keys were read")
            turns = forever("reading the encryption keys", RENEWAL_SECONDS, watch.turn)
            self._begin("encryption keys", turns)

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Steady work, whose end by itself is told."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(told)
        self._tasks.append(task)

    def _allocation(self) -> tuple[AddressAllocator, Repair]:
        """Let Services have addresses and node ports."""
        core, options = self.core, self.options
        registry, holdings = core.registry, Holdings()
        addresses = AddressAllocator(
            registry, core.lookup, options.service_cidr.split(","), holdings
        )
        ports = PortAllocator(
            core.store, options.node_port_range, holdings, registry.chooser, registry.timestamp
        )
        allocator = ServiceAllocator(registry, addresses, ports)
        core.lookup.subscribe("services", holdings.follow)
        registry.hooks["services"] = allocator.reserve
        registry.removed["services"] = allocator.removed
        repair = Repair(registry, core.lookup, addresses, ports, holdings)
        metrics = partial(allocation_metrics, addresses, ports, holdings, repair)
        self.app.metric_sources.append(metrics)
        return addresses, repair

    def _start_security_turns(self) -> None:
        """What authentication has to do from time to time."""
        security, registry = self.core.secured, self.core.registry
        turns: list[tuple[str, float, Callable[[], Awaitable[None]]]] = []
        last_uses = security.last_uses
        if last_uses is not None:
            write = partial(label_last_use, registry)
            turns.append(("last uses of tokens", REPAIR_SECONDS, partial(last_uses.turn, write)))
        authentication = security.authentication
        if authentication is not None and (issuers := authentication.issuers) is not None:
            watch = FileWatch([issuers.path], issuers.reload, "authentication was configured anew")
            turns.append(("reading the authentication file", RENEWAL_SECONDS, watch.turn))
        for name, seconds, turn in turns:
            self._begin(name, forever(name, seconds, turn))

    def _renewal(self) -> FileWatch:
        options = self.options
        files = (
            options.kubelet_client_cert,
            options.kubelet_client_key,
            options.proxy_client_cert_file,
            options.proxy_client_key_file,
        )
        served = self._tls.files() if self._tls is not None else []
        return FileWatch([*served, *(path for path in files if path is not None)], self._renew)

    def _renew(self) -> None:
        """Renewed certificates: ours for clients, for kubelets and for extension servers."""
        if self._tls is not None:
            self._tls.reload()
        authentication = self.core.secured.authentication
        if authentication is not None:
            authentication.reload_authorities()
        self._kubelets.forget_tls()
        self._aggregator.extensions.forget_tls()

    async def _tick(self) -> None:
        self.core.hub.tick()

    async def _sweep(self) -> None:
        self.app.expire()
        self.core.hub.forget_lent()
        if self._front is not None:
            self._front.check_progress()

    def cut_connections(self) -> None:
        """Break every connection without a word, as a failing network does."""
        assert self._front is not None
        for connection in self._front.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        """Stop without losing anything that was begun: say that we are not ready, serve on until
        others had the time to hear it, take no more connections, finish what is in flight, end the
        watches, and only then what all of that rests on."""
        self.is_stopping = True
        if self._own is not None:
            try:
                await self._own.leave()
            except (ApiError, StoreError) as error:
                log.warning("our endpoint was not taken back: %s", error)
        if self.is_started and self.options.shutdown_delay_seconds:
            await asyncio.sleep(self.options.shutdown_delay_seconds)
        for listener in self._listeners:
            listener.close()
        await self._drain()
        await ended(self._tasks)
        self._scraper.stop()
        await self._forwarder.close()
        await self.core.webhooks.close()
        if self.core.auditor is not None:
            await self.core.auditor.backend.close()
        await self.core.hub.stop()
        await self.store.close()

    async def _drain(self) -> None:
        """Let requests end, and with each its connection; then close the connections that rest."""
        if self._front is None:
            return
        self.app.is_draining = True
        for cache in self.core.hub.caches():
            for watcher in cache.watchers():
                watcher.finish()
        loop = asyncio.get_running_loop()
        end = loop.time() + STOP_SECONDS
        # Clients that send one request after the other learn from an answer that it was the last.
        quiet_since = loop.time()
        while (now := loop.time()) < end and now - quiet_since < QUIET_SECONDS:
            await asyncio.sleep(QUIET_SECONDS / 10)
            if self.app.is_busy:
                quiet_since = loop.time()
        self._front.pre_shutdown()
        await self._front.shutdown(1.0)


async def run(options: ServerOptions) -> None:
    """Serve until cancelled."""
    sealer = None
    if options.encryption_provider_config is not None:
        sealer = ConfiguredSealer(options.encryption_provider_config)
    store = await _open_store(options, sealer)
    server = Server(options, store, sealer=sealer)
    try:
        await server.start()
        log.info("serving on %s", server.url)
        # A store that no longer does what it says must not be asked again: exit and start anew.
        raise await store.wait_failed()
    finally:
        await server.stop()


async def _open_store(options: ServerOptions, sealer: ConfiguredSealer | None = None) -> Store:
    if options.store == "memory":
        return await open_store("memory:")
    if options.data_dir is None:
        raise ValueError("the API server needs a directory for its database")
    from navarch.store.database import SqliteOptions

    options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = options.data_dir.absolute() / "store.db"
    return await open_store(SqliteOptions(path, sealer=sealer))
