"""The ServiceAccount controller: every namespace has a ServiceAccount named `default`.

Pods that name no account run as it. It is made anew when it is deleted, unless the namespace is on
its way out. Source: upstream's `pkg/controller/serviceaccount`.
"""

from __future__ import annotations

from navarch.api.errors import ignoring
from navarch.api.types.core_v1 import Namespace, ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext
from navarch.controllers.pods import is_settled

DEFAULT = "default"


class ServiceAccountController(Controller):
    """Watches: namespaces, and ServiceAccounts by their namespace."""

    name = "serviceaccount"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.namespaces = context.informers.informer(Namespace)
        self.accounts = context.informers.informer(ServiceAccount)
        self.watch(self.namespaces)
        self.watch(self.accounts, lambda account: account.metadata.namespace)

    async def reconcile(self, key: str) -> None:
        namespace = self.namespaces.cache.get(key)
        if namespace is None or namespace.status.phase == "Terminating":
            return
        if self.accounts.cache.get(f"{key}/{DEFAULT}") is not None:
            return
        account = ServiceAccount(metadata=ObjectMeta(name=DEFAULT, namespace=key))
        with ignoring(is_settled):
            await self.client.resource(ServiceAccount).create(account)
