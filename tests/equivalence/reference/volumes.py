"""The filters that look at a pod's volumes."""

from __future__ import annotations

from functools import cmp_to_key

from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod, Volume
from navarch.api.types.storage_v1 import StorageClass

from .plugin import Facts, FilterPlugin, NodeState, PreFiltered, Rejection
from .selectors import matches, parsed, selects

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
ZERO = parse_quantity("0")


def find_claim(facts: Facts, namespace: str, name: str) -> PersistentVolumeClaim | None:
    for claim in facts.world.claims:
        if (claim.metadata.namespace, claim.metadata.name) == (namespace, name):
            return claim
    return None


def find_volume(facts: Facts, name: str) -> PersistentVolume | None:
    for volume in facts.world.volumes:
        if volume.metadata.name == name:
            return volume
    return None


def find_class(facts: Facts, claim: PersistentVolumeClaim) -> StorageClass | None:
    for each in facts.world.classes:
        if each.metadata.name == (claim.spec.storageClassName or ""):
            return each
    return None


def claim_names(pod: Pod) -> list[tuple[str, bool]]:
    """And whether it was made for the pod."""
    result = []
    for volume in pod.spec.volumes:
        if volume.persistentVolumeClaim is not None:
            result.append((volume.persistentVolumeClaim.claimName, False))
        elif volume.ephemeral is not None:
            result.append((f"{pod.metadata.name}-{volume.name}", True))
    return result


def is_owned(pod: Pod, claim: PersistentVolumeClaim) -> bool:
    owners = claim.metadata.ownerReferences
    return any(owner.controller and owner.uid == pod.metadata.uid for owner in owners)


def storage(amounts: dict[str, str]) -> Quantity:
    return parse_quantity(amounts["storage"]) if "storage" in amounts else ZERO


def asked(claim: PersistentVolumeClaim) -> Quantity:
    return storage(claim.spec.resources.requests)


def same_disk(one: Volume, other: Volume) -> bool:
    if one.gcePersistentDisk is not None and other.gcePersistentDisk is not None:
        a, b = one.gcePersistentDisk, other.gcePersistentDisk
        if a.pdName == b.pdName and not (a.readOnly and b.readOnly):
            return True
    if one.awsElasticBlockStore is not None and other.awsElasticBlockStore is not None:
        c, d = one.awsElasticBlockStore, other.awsElasticBlockStore
        if c.volumeID == d.volumeID:
            return True
    if one.iscsi is not None and other.iscsi is not None:
        e, f = one.iscsi, other.iscsi
        if e.iqn == f.iqn and not (e.readOnly and f.readOnly):
            return True
    if one.rbd is not None and other.rbd is not None:
        x, y = one.rbd, other.rbd
        near = set(x.monitors) & set(y.monitors) and (x.pool, x.image) == (y.pool, y.image)
        if near and not (x.readOnly and y.readOnly):
            return True
    return False


class VolumeRestrictions(FilterPlugin):
    """`state` counts the claims for one pod only that other pods use."""

    name = "VolumeRestrictions"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.exclusive: set[str] = set()
        self.disks = [
            v
            for v in self.pod.spec.volumes
            if v.gcePersistentDisk or v.awsElasticBlockStore or v.iscsi or v.rbd
        ]

    def pre_filter(self) -> PreFiltered:
        namespace = self.pod.metadata.namespace
        for name, is_ephemeral in claim_names(self.pod):
            if is_ephemeral:
                continue
            claim = find_claim(self.facts, namespace, name)
            if claim is None:
                return self.unresolvable(f'persistentvolumeclaim "{name}" not found')
            if "ReadWriteOncePod" in claim.spec.accessModes:
                self.exclusive.add(name)
        self.state["in use"] = 0
        for name in self.exclusive:
            for state in self.facts.nodes.values():
                if any((name, False) in claim_names(p) for p in self._neighbours(state.pods)):
                    self.state["in use"] += 1
                    break
        return None if self.disks or self.state["in use"] else "skip"

    def _neighbours(self, pods: list[Pod]) -> list[Pod]:
        return [p for p in pods if p.metadata.namespace == self.pod.metadata.namespace]

    def add_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, 1)

    def remove_pod(self, pod: Pod, state: NodeState) -> None:
        self._update(pod, -1)

    def _update(self, pod: Pod, sign: int) -> None:
        for other in self._neighbours([pod]):
            for name, is_ephemeral in claim_names(other):
                if not is_ephemeral and name in self.exclusive:
                    self.state["in use"] += sign

    def filter(self, state: NodeState) -> Rejection | None:
        for mine in self.disks:
            for pod in state.pods:
                if any(same_disk(mine, other) for other in pod.spec.volumes):
                    return self.unschedulable("node(s) had no available disk")
        if self.state["in use"] > 0:
            return self.unschedulable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access "
                "mode already in-use by another pod"
            )
        return None


class NodeVolumeLimits(FilterPlugin):
    name = "NodeVolumeLimits"

    def pre_filter(self) -> PreFiltered:
        return None if claim_names(self.pod) else "skip"

    def _volumes(self, pod: Pod) -> dict[str, str]:
        """Drivers by the names of volumes."""
        result = {}
        for name, _ in claim_names(pod):
            claim = find_claim(self.facts, pod.metadata.namespace, name)
            if claim is None:
                continue
            volume = find_volume(self.facts, claim.spec.volumeName)
            if volume is not None:
                if volume.spec.csi is not None:
                    csi = volume.spec.csi
                    result[f"{csi.driver}/{csi.volumeHandle}"] = csi.driver
                continue
            found = find_class(self.facts, claim)
            if found is not None:
                result[f"of {pod.metadata.namespace}/{name}"] = found.provisioner
        return result

    def filter(self, state: NodeState) -> Rejection | None:
        new = self._volumes(self.pod)
        limits = {}
        for csi_node in self.facts.world.csi_nodes:
            if csi_node.metadata.name == state.name:
                for each in csi_node.spec.drivers:
                    if each.allocatable is not None and each.allocatable.count is not None:
                        limits[each.name] = each.allocatable.count
        there: dict[str, str] = {}
        for pod in state.pods:
            there.update(self._volumes(pod))
        new = {name: driver for name, driver in new.items() if name not in there}
        for attachment in self.facts.world.attachments:
            source = attachment.spec.source.persistentVolumeName
            volume = find_volume(self.facts, source) if source else None
            if attachment.spec.nodeName != state.name or volume is None:
                continue
            if volume.spec.csi is not None:
                handle = volume.spec.csi.volumeHandle
                there[f"{attachment.spec.attacher}/{handle}"] = attachment.spec.attacher
        for driver in set(new.values()):
            more = [*new.values()].count(driver)
            if driver in limits and [*there.values()].count(driver) + more > limits[driver]:
                return self.unschedulable("node(s) exceed max volume count")
        return None


class VolumeBinding(FilterPlugin):
    name = "VolumeBinding"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.bound: list[PersistentVolumeClaim] = []
        self.delayed: list[PersistentVolumeClaim] = []

    def pre_filter(self) -> PreFiltered:
        namespace = self.pod.metadata.namespace
        names = claim_names(self.pod)
        if not names:
            return "skip"
        claims = []
        for name, is_ephemeral in names:
            claim = find_claim(self.facts, namespace, name)
            what = f'persistentvolumeclaim "{name}"'
            if claim is None:
                if is_ephemeral:
                    return self.unresolvable(
                        f"waiting for ephemeral volume controller to create the {what}"
                    )
                return self.unresolvable(f"{what} not found")
            if claim.status.phase == "Lost":
                volume = claim.spec.volumeName
                return self.unresolvable(
                    f'{what} bound to non-existent persistentvolume "{volume}"'
                )
            if claim.metadata.deletionTimestamp:
                return self.unresolvable(f"{what} is being deleted")
            if is_ephemeral and not is_owned(self.pod, claim):
                key = f"{namespace}/{self.pod.metadata.name}"
                return self.unresolvable(
                    f"PVC {namespace}/{name} was not created for pod {key} (pod is not owner)"
                )
            claims.append(claim)
        immediate = False
        for claim in claims:
            found = find_class(self.facts, claim)
            if claim.spec.volumeName and BIND_COMPLETED in claim.metadata.annotations:
                self.bound.append(claim)
            elif (
                found is not None
                and found.volumeBindingMode == "WaitForFirstConsumer"
                and not claim.spec.volumeName
            ):
                self.delayed.append(claim)
            else:
                immediate = True
        if immediate:
            return self.unresolvable("pod has unbound immediate PersistentVolumeClaims")
        return None

    def filter(self, state: NodeState) -> Rejection | None:
        bound_fit, bound_exist = self._check_bound(state)
        matched, enough = self._check_delayed(state)
        reasons = []
        if not bound_fit:
            reasons.append("node(s) didn't match PersistentVolume's node affinity")
        if not matched:
            reasons.append("node(s) didn't find available persistent volumes to bind")
        if not enough:
            reasons.append("node(s) did not have enough free storage")
        if not bound_exist:
            reasons.append(
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            )
        return self.unresolvable(*reasons) if reasons else None

    def _check_bound(self, state: NodeState) -> tuple[bool, bool]:
        for claim in self.bound:
            volume = find_volume(self.facts, claim.spec.volumeName)
            if volume is None:
                return True, False
            if not _is_reachable(volume, state):
                return False, True
        return True, True

    def _check_delayed(self, state: NodeState) -> tuple[bool, bool]:
        provision, find = [], []
        for claim in self.delayed:
            node = claim.metadata.annotations.get(SELECTED_NODE)
            if node is None:
                find.append(claim)
            elif node != state.name:
                return False, True
            else:
                provision.append(claim)

        def compare(one: PersistentVolumeClaim, other: PersistentVolumeClaim) -> int:
            return -1 if asked(one) < asked(other) else int(asked(other) < asked(one))

        chosen: set[str] = set()
        for claim in sorted(find, key=cmp_to_key(compare)):
            volume = self._match(claim, state, chosen)
            if volume is None:
                provision.append(claim)
            else:
                chosen.add(volume.metadata.name)
        for claim in provision:
            found = find_class(self.facts, claim)
            if found is None or found.provisioner in ("", "kubernetes.io/no-provisioner"):
                return False, True
            if not _in_topology(found, state):
                return False, True
            if not self._has_room(claim, found, state):
                return True, False
        return True, True

    def _match(
        self, claim: PersistentVolumeClaim, state: NodeState, chosen: set[str]
    ) -> PersistentVolume | None:
        smallest = None
        for volume in self.facts.world.volumes:
            spec, ref = volume.spec, volume.spec.claimRef
            is_reserved = ref is not None and (ref.namespace, ref.name) == (
                claim.metadata.namespace,
                claim.metadata.name,
            )
            is_reserved = is_reserved and ref is not None and ref.uid in ("", claim.metadata.uid)
            if spec.storageClassName != (claim.spec.storageClassName or ""):
                continue
            if volume.metadata.name in chosen or (ref is not None and not is_reserved):
                continue
            if storage(spec.capacity) < asked(claim) or volume.metadata.deletionTimestamp:
                continue
            if (spec.volumeMode or "Filesystem") != (claim.spec.volumeMode or "Filesystem"):
                continue
            if is_reserved:
                return volume if _is_reachable(volume, state) else None
            if volume.status.phase != "Available" or not _is_reachable(volume, state):
                continue
            wanted = claim.spec.selector
            if wanted is not None and not matches(parsed(wanted), volume.metadata.labels):
                continue
            if any(mode not in spec.accessModes for mode in claim.spec.accessModes):
                continue
            if smallest is None or storage(spec.capacity) < storage(smallest.spec.capacity):
                smallest = volume
        return smallest

    def _has_room(
        self, claim: PersistentVolumeClaim, found: StorageClass, state: NodeState
    ) -> bool:
        if "storage" not in claim.spec.resources.requests:
            return True
        names = {
            driver.metadata.name
            for driver in self.facts.world.csi_drivers
            if driver.spec.storageCapacity
        }
        if found.provisioner not in names:
            return True
        for each in self.facts.world.capacities:
            limit = each.capacity if each.maximumVolumeSize is None else each.maximumVolumeSize
            if each.storageClassName != found.metadata.name or limit is None:
                continue
            if parse_quantity(limit).value() < asked(claim).value():
                continue
            if matches(parsed(each.nodeTopology), state.labels):
                return True
        return False


def _is_reachable(volume: PersistentVolume, state: NodeState) -> bool:
    affinity = volume.spec.nodeAffinity
    if affinity is None or affinity.required is None:
        return True
    return selects(affinity.required, "", state.labels)


def _in_topology(storage_class: StorageClass, state: NodeState) -> bool:
    if not storage_class.allowedTopologies:
        return True
    for term in storage_class.allowedTopologies:
        wanted = term.matchLabelExpressions
        if wanted and all(state.labels.get(each.key) in each.values for each in wanted):
            return True
    return False


BETA_ZONE = "failure-domain.beta.kubernetes.io/zone"
BETA_REGION = "failure-domain.beta.kubernetes.io/region"
TOPOLOGY = {
    BETA_ZONE: "topology.kubernetes.io/zone",
    BETA_REGION: "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
}


class VolumeZone(FilterPlugin):
    name = "VolumeZone"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.wanted: list[tuple[str, set[str]]] = []

    def pre_filter(self) -> PreFiltered:
        for name, is_ephemeral in claim_names(self.pod):
            claim = find_claim(self.facts, self.pod.metadata.namespace, name)
            if is_ephemeral:
                continue
            if claim is None:
                return self.unresolvable(f'persistentvolumeclaim "{name}" not found')
            if not claim.spec.volumeName:
                continue
            volume = find_volume(self.facts, claim.spec.volumeName)
            if volume is None:
                text = f'persistentvolume "{claim.spec.volumeName}" not found'
                return self.unresolvable(text)
            for key in TOPOLOGY:
                if key in volume.metadata.labels:
                    values = set(volume.metadata.labels[key].split("__"))
                    self.wanted.append((key, values))
        return None if self.wanted else "skip"

    def filter(self, state: NodeState) -> Rejection | None:
        if not any(key in state.labels for key in TOPOLOGY):
            return None
        for key, values in self.wanted:
            if state.labels.get(key, state.labels.get(TOPOLOGY[key])) not in values:
                return self.unresolvable("node(s) had no available volume zone")
        return None
