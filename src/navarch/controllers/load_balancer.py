"""The controller of LoadBalancer addresses: Services of that type get an address of a pool.

In a cloud the cloud's own controller does this; on bare metal MetalLB does, and this controller
goes by its rules and annotations (`load_balancer_plan`). The pools are in the ConfigMap
`kube-system/metallb`. The address is written into the Service's status, where the proxies of all
nodes find it; `network/announce` answers for it on the link.

A Service of another class, or whose status somebody else has set, is not touched. Where there is no
pool (any more), only what was given from here is taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from navarch.api.load_balancers import POOL_ANNOTATION, PREFIXES, is_ours
from navarch.api.types.core_v1 import ConfigMap, Namespace, Service
from navarch.client import Controller, ControllerContext, object_key
from navarch.controllers.load_balancer_plan import (
    FINALIZER,
    Books,
    Decision,
    Holding,
    Pool,
    adopt,
    decide,
    is_wanted,
    parse_pools,
)

CONFIG_NAMESPACE, CONFIG_NAME = "kube-system", "metallb"
CONFIG_KEY = "config"


class LoadBalancerController(Controller):
    """Watches: Services; namespaces, since pools may be for some; the ConfigMap of the pools.

    Decisions and books are synchronous, so workers cannot give one address twice; what a decision
    writes is guarded by the version of the Service that it was made for."""

    name = "load-balancer"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("metallb-controller")
        self.services = context.informers.informer(Service)
        self.namespaces = context.informers.informer(Namespace)
        self.config = context.informers.informer(
            ConfigMap, CONFIG_NAMESPACE, field_selector=f"metadata.name={CONFIG_NAME}"
        )
        self.books = Books()
        self._adopted = False
        self._is_readable = True
        """Whether the pools are known: what cannot be read takes nothing from anybody."""
        self._pending: set[str] = set()
        self._failures: dict[str, str] = {}
        """What was said last of a Service that cannot have an address: it is said once."""
        self.watch(self.services)
        self.services.add_handler(on_delete=self._gone)
        self.depends_on(self.namespaces)
        self.namespaces.add_handler(on_update=self._relabelled)
        self.depends_on(self.config)
        self.config.add_handler(
            self._configured, lambda _, new: self._configured(new), lambda _: self._use_pools(())
        )

    def _configured(self, config: ConfigMap) -> None:
        try:
            pools = parse_pools(config.data.get(CONFIG_KEY, ""))
        except ValueError as error:
            text = f"the configuration is not used: {error}"
            self.recorder.event(config, "Warning", "InvalidConfiguration", text)
            self.log.warning("%s/%s: %s", CONFIG_NAMESPACE, CONFIG_NAME, text)
            self._is_readable = bool(self.books.pools)
            return
        self._use_pools(pools)

    def _use_pools(self, pools: tuple[Pool, ...]) -> None:
        if pools == self.books.pools and self._is_readable:
            return
        self._is_readable = True
        self.books.set_pools(pools)
        if self._adopted:
            self._adopt()
        self.enqueue([key for key in [*self.services.cache.keys()] if self._concerns(key)])

    def _adopt(self) -> None:
        """Everybody keeps what they have, before anything is given."""
        labels = {each.metadata.name: each.metadata.labels for each in self.namespaces.cache.list()}
        adopt(self.books, self.services.cache.list(), labels)
        self._adopted = True

    def _relabelled(self, old: Namespace, new: Namespace) -> None:
        if old.metadata.labels != new.metadata.labels:
            self.enqueue([*map(object_key, self.services.cache.list(new.metadata.name))])

    def _gone(self, service: Service) -> None:
        key = object_key(service)
        self._pending.discard(key)
        self._failures.pop(key, None)
        self._release(key)

    def _release(self, key: str) -> None:
        if self.books.release(key):
            self.enqueue([*self._pending])

    def _concerns(self, key: str) -> bool:
        service = self.services.cache.get(key)
        return service is not None and (
            is_wanted(service) or is_ours(service) or FINALIZER in service.metadata.finalizers
        )

    def _labels(self, namespace: str) -> Mapping[str, str]:
        found = self.namespaces.cache.get(namespace)
        return found.metadata.labels if found is not None else {}

    async def reconcile(self, key: str) -> None:
        service = self.services.cache.get(key)
        if service is None:
            return
        if not self._concerns(key):
            self._pending.discard(key)
            self._release(key)
            return
        if not self._is_readable:
            return
        if not self._adopted:
            self._adopt()
        decision = decide(self.books, service, self._labels(service.metadata.namespace))
        (self._pending.add if decision.is_pending else self._pending.discard)(key)
        body = patch_of(service, decision)
        if body is not None:
            await self.client.resource(Service).patch(
                service.metadata.name, service.metadata.namespace, body, subresource="status"
            )
        if decision.clears:
            self._release(key)
        self._tell(key, service, decision)

    def _tell(self, key: str, service: Service, decision: Decision) -> None:
        """Events, after what they tell has happened. A failure that lasts is told once."""
        for event in decision.events:
            if event.type == "Warning" and self._failures.get(key) == event.message:
                continue
            self.recorder.event(service, event.type, event.reason, event.message)
        failed = [event.message for event in decision.events if event.type == "Warning"]
        if failed:
            self._failures[key] = failed[0]
        else:
            self._failures.pop(key, None)


def patch_of(service: Service, decision: Decision) -> dict[str, Any] | None:
    """What to change of the Service, None for nothing. Address, annotation and finalizer are
    written in one go: there is no state in between that a crash could leave."""
    meta = service.metadata
    if decision.frees or decision.clears:
        has_status = decision.clears_status and (
            is_ours(service) or service.status.loadBalancer.ingress
        )
        if not has_status and FINALIZER not in meta.finalizers:
            return None
        body = _metadata(service, [each for each in meta.finalizers if each != FINALIZER])
        if has_status:
            names = [prefix + "ip-allocated-from-pool" for prefix in PREFIXES]
            annotations = {name: None for name in names if name in meta.annotations}
            body["metadata"]["annotations"] = annotations
            body["status"] = {"loadBalancer": None}
        return body
    if decision.given is None or _shows(service, decision.given):
        return None
    finalizers = [*meta.finalizers]
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    body = _metadata(service, finalizers)
    body["metadata"]["annotations"] = {POOL_ANNOTATION: decision.given.pool}
    ingress = [{"ip": str(each), "ipMode": "VIP"} for each in decision.given.addresses]
    body["status"] = {"loadBalancer": {"ingress": ingress}}
    return body


def _metadata(service: Service, finalizers: list[str]) -> dict[str, Any]:
    meta = service.metadata
    return {
        "metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resourceVersion,
            "finalizers": finalizers,
        }
    }


def _shows(service: Service, holding: Holding) -> bool:
    ingress = service.status.loadBalancer.ingress
    return (
        [(each.ip, each.ipMode) for each in ingress]
        == [(str(address), "VIP") for address in holding.addresses]
        and service.metadata.annotations.get(POOL_ANNOTATION) == holding.pool
        and FINALIZER in service.metadata.finalizers
    )
