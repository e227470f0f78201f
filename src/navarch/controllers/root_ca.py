"""The root CA publisher: every namespace has the ConfigMap `kube-root-ca.crt`.

Pods verify the API server with it; it is projected into each of them beside their token. It is
repaired when it is changed and made anew when it is deleted.
Source: upstream's `pkg/controller/certificates/rootcacertpublisher`.
"""

from __future__ import annotations

from collections.abc import Callable

from navarch.api.errors import ignoring
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import ConfigMap, Namespace
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext
from navarch.controllers.pods import is_settled

NAME = "kube-root-ca.crt"
DATA_KEY = "ca.crt"
DESCRIPTION = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the "
    "kube-apiserver when using internal endpoints such as the internal service IP or "
    "kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
}


class RootCaPublisher(Controller):
    """Watches: namespaces, and the ConfigMaps of that name by their namespace."""

    name = "root-ca-certificate-publisher"

    def __init__(self, context: ControllerContext, read_ca: Callable[[], str]) -> None:
        super().__init__(context)
        self.read_ca = read_ca
        self.namespaces = context.informers.informer(Namespace)
        selector = f"metadata.name={NAME}"
        self.maps = context.informers.informer(ConfigMap, field_selector=selector)
        self.watch(self.namespaces)
        self.watch(self.maps, lambda config: config.metadata.namespace)

    async def reconcile(self, key: str) -> None:
        namespace = self.namespaces.cache.get(key)
        if namespace is None or namespace.status.phase == "Terminating":
            return
        data = {DATA_KEY: self.read_ca()}
        present = self.maps.cache.get(f"{key}/{NAME}")
        resource = self.client.resource(ConfigMap)
        with ignoring(is_settled):
            if present is None:
                meta = ObjectMeta(name=NAME, namespace=key, annotations=DESCRIPTION)
                await resource.create(ConfigMap(metadata=meta, data=data))
            elif present.data != data or not (
                DESCRIPTION.items() <= present.metadata.annotations.items()
            ):
                repaired = copy_object(present)
                repaired.data = data
                repaired.metadata.annotations |= DESCRIPTION
                await resource.update(repaired)
