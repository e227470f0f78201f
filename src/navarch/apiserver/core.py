"""What every handler of the API server works with: the store, the hub, the registry, security."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from aiohttp.web import BaseRequest

from navarch.apiserver.contracts import Authenticator, Authorizer
from navarch.apiserver.http.connection import Connection
from navarch.apiserver.hub.hub import Hub
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Catalog
from navarch.store.contract import Store


@dataclass(eq=False)
class Core:
    """The server's parts, wired once at start."""

    options: ServerOptions
    store: Store
    hub: Hub
    catalog: Catalog
    registry: Registry
    authenticator: Authenticator
    authorizer: Authorizer
    gauges: Counter[str] = field(default_factory=Counter)

    def gauge(self, name: str, change: int) -> None:
        """Move a gauge that `/metrics` shows."""
        self.gauges[name] += change

    @staticmethod
    def connection_of(request: BaseRequest) -> Connection:
        """The connection a request came in on."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        return connection
