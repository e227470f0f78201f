"""What every handler of the API server works with: the store, the hub, the registry, security."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from aiohttp.web import BaseRequest

from navarch.apiserver.audit.auditor import Auditor
from navarch.apiserver.flowcontrol.control import FlowControl
from navarch.apiserver.http.connection import Connection
from navarch.apiserver.hub.cache import Cache
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.hub.lookup import HubLookup
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Catalog
from navarch.apiserver.security import Security
from navarch.apiserver.webhooks.client import WebhookClient
from navarch.store.contract import Store


@dataclass(eq=False)
class Core:
    """The server's parts, wired once at start."""

    options: ServerOptions
    store: Store
    hub: Hub
    catalog: Catalog
    registry: Registry
    port: int = 0
    """Where the server listens, once it does."""
    gauges: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.lookup = HubLookup(self.hub, self._cache_of)
        self.catalog.on_change(self.lookup.forget)
        self.webhooks = WebhookClient(self.lookup)
        self.security: Security | None = None
        self.flow_control: FlowControl | None = None
        self.auditor: Auditor | None = None

    def _cache_of(self, name: str) -> Cache | None:
        resource = self.catalog.by_name(name)
        return resource.cache if resource is not None else None

    @property
    def secured(self) -> Security:
        """The security, which is there before the first request."""
        assert self.security is not None
        return self.security

    def gauge(self, name: str, change: int) -> None:
        """Move a gauge that `/metrics` shows."""
        self.gauges[name] += change

    @staticmethod
    def connection_of(request: BaseRequest) -> Connection:
        """The connection a request came in on."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        return connection
