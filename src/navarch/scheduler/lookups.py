"""`Objects` over informers, which keep of each object only what is looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from navarch.api.persistent_volumes import volume_class
from navarch.api.selectors import LabelSelector, Operator, Requirement
from navarch.api.types.apps_v1 import ReplicaSet, StatefulSet
from navarch.api.types.core_v1 import (
    Namespace,
    PersistentVolume,
    PersistentVolumeClaim,
    ReplicationController,
    Service,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.resource_v1 import DeviceClass, ResourceClaim, ResourceSlice
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)
from navarch.client import (
    Informer,
    InformerFactory,
    KubernetesObject,
    controller_of,
    drop_managed_fields,
)
from navarch.scheduler.assumed import Assumed
from navarch.scheduler.dra.devices import Devices
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.terms import parse_selector

T = TypeVar("T", bound=KubernetesObject)
S = TypeVar("S", Service, ReplicaSet, StatefulSet, ReplicationController)

SELECTORS_KEPT = 4096
BY_CLASS, BY_NODE = "class", "node"


def _identity(meta: ObjectMeta) -> ObjectMeta:
    return ObjectMeta(
        name=meta.name, namespace=meta.namespace, uid=meta.uid, resourceVersion=meta.resourceVersion
    )


def _slim(found: S) -> S:
    """Who it is, and whom it selects."""
    spec = type(found.spec)(selector=found.spec.selector)
    return type(found)(metadata=_identity(found.metadata), spec=spec)


def _on_any_change(informer: Informer[Any], forget: Callable[[], None]) -> None:
    informer.add_handler(lambda _: forget(), lambda *_: forget(), lambda _: forget())


class InformerObjects:
    """Make it before the informers start."""

    def __init__(self, informers: InformerFactory) -> None:
        self._namespace_informer = informers.informer(Namespace)
        self._namespace_informer.add_handler(
            self._namespace_set, lambda _, new: self._namespace_set(new), self._namespace_gone
        )
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.claims = informers.informer(PersistentVolumeClaim, transform=drop_managed_fields)
        self.volumes = informers.informer(PersistentVolume, transform=drop_managed_fields)
        self.classes = informers.informer(StorageClass, transform=drop_managed_fields)
        self.csi_nodes = informers.informer(CSINode)
        self.csi_drivers = informers.informer(CSIDriver)
        self.storage_capacities = informers.informer(CSIStorageCapacity)
        self.volume_attachments = informers.informer(VolumeAttachment)
        self.volumes.add_index(BY_CLASS, lambda volume: [volume_class(volume)])
        self.storage_capacities.add_index(BY_CLASS, lambda each: [each.storageClassName])
        self.volume_attachments.add_index(BY_NODE, lambda each: [each.spec.nodeName])
        self._limits: dict[str, Mapping[str, int]] = {}
        self._attached: Mapping[str, int] | None = None
        _on_any_change(self.csi_nodes, self._limits.clear)
        _on_any_change(self.volume_attachments, self._attachments_changed)
        self.assumed_claims = Assumed(self.claims)
        self.assumed_volumes = Assumed(self.volumes)
        self.resource_claims = informers.informer(ResourceClaim, transform=drop_managed_fields)
        self.resource_slices = informers.informer(ResourceSlice, transform=drop_managed_fields)
        self.device_classes = informers.informer(DeviceClass, transform=drop_managed_fields)
        self.devices = devices = Devices()
        self._feed(self.resource_claims, devices.set_claim, devices.remove_claim)
        self._feed(self.resource_slices, devices.set_slice, devices.remove_slice)
        self._feed(self.device_classes, devices.set_class, devices.remove_class)
        self._budgets = informers.informer(PodDisruptionBudget, transform=drop_managed_fields)
        self._services = informers.informer(Service, transform=_slim)
        self._owners: dict[tuple[str, str], Informer[Any]] = {
            ("apps/v1", "ReplicaSet"): informers.informer(ReplicaSet, transform=_slim),
            ("apps/v1", "StatefulSet"): informers.informer(StatefulSet, transform=_slim),
            ("v1", "ReplicationController"): informers.informer(
                ReplicationController, transform=_slim
            ),
        }
        self._selectors: dict[object, LabelSelector] = {}
        forget = self._selectors.clear
        _on_any_change(self._services, forget)
        for each in self._owners.values():
            each.add_handler(lambda _: forget(), self._set_changed, lambda _: forget())

    @staticmethod
    def _feed(informer: Informer[T], put: Callable[[T], None], remove: Callable[[T], None]) -> None:
        informer.add_handler(put, lambda _, new: put(new), remove)

    def default_selector(self, pod: PodInfo) -> LabelSelector:
        owner = controller_of(pod.pod)
        which = owner and (owner.apiVersion, owner.kind, owner.name)
        key = (pod.namespace, pod.labels_key, which)
        known = self._selectors.get(key)
        if known is None:
            if len(self._selectors) >= SELECTORS_KEPT:
                self._selectors.clear()
            known = self._selectors[key] = self._default_selector(pod)
        return known

    def budgets(self, namespace: str) -> Sequence[PodDisruptionBudget]:
        return self._budgets.cache.list(namespace)

    def claim(self, namespace: str, name: str) -> PersistentVolumeClaim | None:
        return self.assumed_claims.get(f"{namespace}/{name}")

    def volume(self, name: str) -> PersistentVolume | None:
        return self.assumed_volumes.get(name)

    def storage_class(self, name: str) -> StorageClass | None:
        return self.classes.cache.get(name)

    def volumes_of_class(self, name: str) -> Sequence[PersistentVolume]:
        found = self.volumes.cache.by_index(BY_CLASS, name)
        return [self.assumed_volumes.get(each.metadata.name) or each for each in found]

    def csi_driver(self, name: str) -> CSIDriver | None:
        return self.csi_drivers.cache.get(name)

    def capacities(self, storage_class: str) -> Sequence[CSIStorageCapacity]:
        return self.storage_capacities.cache.by_index(BY_CLASS, storage_class)

    def volume_limits(self, driver: str) -> Mapping[str, int]:
        if driver not in self._limits:
            self._limits[driver] = {
                node.metadata.name: each.allocatable.count
                for node in self.csi_nodes.cache.list()
                for each in node.spec.drivers
                if each.name == driver and each.allocatable is not None
                if each.allocatable.count is not None
            }
        return self._limits[driver]

    def attachments(self, node: str) -> Sequence[VolumeAttachment]:
        return self.volume_attachments.cache.by_index(BY_NODE, node)

    def attachment_counts(self) -> Mapping[str, int]:
        if self._attached is None:
            found = self.volume_attachments.cache.list()
            self._attached = Counter(each.spec.nodeName for each in found)
        return self._attached

    def _attachments_changed(self) -> None:
        self._attached = None

    def _default_selector(self, pod: PodInfo) -> LabelSelector:
        """All Services that select the pod, and its owner."""
        labels: dict[str, str] = {}
        for service in self._services.cache.list(pod.namespace):
            selector = service.spec.selector
            if selector and selector.items() <= pod.labels.items():
                labels.update(selector)
        further: tuple[Requirement, ...] = ()
        owner = controller_of(pod.pod)
        informer = self._owners.get((owner.apiVersion, owner.kind)) if owner is not None else None
        if owner is not None and informer is not None:
            found = informer.cache.get(f"{pod.namespace}/{owner.name}")
            if isinstance(found, ReplicationController):
                labels.update(found.spec.selector)
            elif found is not None:
                further = parse_selector(found.spec.selector).requirements
        own = [Requirement(name, Operator.EQUALS, (value,)) for name, value in labels.items()]
        return LabelSelector(tuple(dict.fromkeys((*own, *further))))

    def _set_changed(
        self,
        old: ReplicaSet | StatefulSet | ReplicationController,
        new: ReplicaSet | StatefulSet | ReplicationController,
    ) -> None:
        """Most updates only tell of progress."""
        if old.spec.selector != new.spec.selector:
            self._selectors.clear()

    def _namespace_set(self, namespace: Namespace) -> None:
        self.namespaces[namespace.metadata.name] = namespace.metadata.labels

    def _namespace_gone(self, namespace: Namespace) -> None:
        self.namespaces.pop(namespace.metadata.name, None)
