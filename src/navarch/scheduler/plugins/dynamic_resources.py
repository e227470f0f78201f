"""Devices for claims: the pod's claims must exist, and their devices be had on the node.

A claim that has its devices ties the pod to the nodes where these are. For the others, devices are
looked for on one node after the other, in the order in which nodes are come upon, until there are
as many nodes as will be scored. What was found on the chosen node counts from then on; it is
written into the claims before the pod is bound.

When no node will do because a claim that nobody uses has its devices in the wrong place, it gives
them back, and the pod is tried again.
Source: KEP-4381; upstream's `plugins/dynamicresources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product
from typing import ClassVar
from uuid import uuid4

import numpy as np
from msgspec import structs

from navarch.api.node_selection import selects
from navarch.api.resource_claims import (
    EXTENDED_CLAIM,
    ClaimProblem,
    check_owner,
    claim_name,
    device_id,
    is_generated,
    known_claim_names,
    results,
)
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Node, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import DeviceClaim, ResourceClaim, ResourceClaimSpec
from navarch.client import owner_reference
from navarch.scheduler.changes import ADD, UPDATE, Change, Subject
from navarch.scheduler.cluster import Mask, Numbers
from navarch.scheduler.configuration.arguments import DynamicResourcesArgs
from navarch.scheduler.dra import results as made
from navarch.scheduler.dra.allocator import (
    AllocationProblem,
    Allocator,
    NoPool,
    OutOfSteps,
    Steps,
    Taken,
)
from navarch.scheduler.dra.devices import Devices, is_extended
from navarch.scheduler.dra.extended import Extended, requests_for
from navarch.scheduler.dra.plans import ClaimPlan, PlannedClaim
from navarch.scheduler.dra.pools import Pool
from navarch.scheduler.explain import NO_CLAIMS
from navarch.scheduler.framework import (
    Cycle,
    Plugin,
    PluginFailed,
    PodRejected,
    Verdict,
    normalised,
)
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.rotation import nodes_wanted

STEPS_A_SECOND = 20_000
"""Time is counted in steps, so that what is decided does not depend on how fast the machine is. A
step takes a few microseconds: nobody waits anywhere near the whole time, during which the scheduler
does nothing else."""
ALTERNATIVES = 8
NOT_HERE = "resourceclaim not available on the node"
NOT_ALL = "cannot allocate all claims"
NO_FIT = "cannot fit resource"
STALE = "cannot schedule extended resource claim"
NOTHING = Extended()
NOT_ASKED = "not looked at, as enough nodes were found"


@dataclass(frozen=True, slots=True)
class _Solution:
    """What was found on a node."""

    taken: tuple[Taken, ...]
    extended: Extended = NOTHING


@dataclass(slots=True)
class _State:
    claims: list[ResourceClaim]
    """The pod's own, and the one for extended resources."""
    extended: ResourceClaim | None = None
    resources: tuple[str, ...] = ()
    """Extended resources that the pod asks for."""
    solutions: dict[int, _Solution] = field(default_factory=dict)
    unavailable: list[ResourceClaim] = field(default_factory=list)

    @property
    def to_allocate(self) -> list[ResourceClaim]:
        return [claim for claim in self.claims if claim.status.allocation is None]


DEFAULTS = DynamicResourcesArgs()


class DynamicResources(Plugin):
    """Rejects pods whose claims are not there, and nodes without the devices for them."""

    name: ClassVar[str] = "DynamicResources"
    weight: ClassVar[int] = 2
    interests = frozenset(
        {
            (Subject.OWN_POD, UPDATE),
            *product(
                (
                    Subject.NODE,
                    Subject.RESOURCE_CLAIM,
                    Subject.DEVICE_CLASS,
                    Subject.RESOURCE_SLICE,
                ),
                (ADD, UPDATE),
            ),
        }
    )

    def __init__(self, arguments: DynamicResourcesArgs = DEFAULTS) -> None:
        self._steps = int((arguments.filterTimeout or 1e9) * STEPS_A_SECOND)
        self._binding_seconds = float(arguments.bindingTimeout)

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        devices = cycle.objects.devices
        info = cycle.pod
        resources = tuple(name for name, _ in info.requests.amounts if is_backed(devices, name))
        if not info.pod.spec.resourceClaims and not resources:
            return None
        try:
            claims = [*pod_claims(devices, info.pod)]
        except ClaimProblem as problem:
            raise PodRejected(self.name, str(problem)) from None
        state = _State(claims)
        for claim in state.to_allocate:
            self._check(devices, claim)
        if resources:
            every = tuple(name for name, _ in info.requests.amounts if is_extended(name))
            state.resources = every
            state.extended = devices.extended_claim(info.uid) or _extended_claim(info.pod)
            claims.append(state.extended)
        cycle.state[self.name] = state
        return None

    def _check(self, devices: Devices, claim: ResourceClaim) -> None:
        meta = claim.metadata
        if meta.uid in devices.in_flight:
            key = f"{meta.namespace}/{meta.name}"
            text = f"resource claim {key} is in the process of being allocated"
            raise PodRejected(self.name, text)
        for request in claim.spec.devices.requests:
            for name, each in (
                [(request.name, request.exactly)]
                if request.exactly
                else [(f"{request.name}/{sub.name}", sub) for sub in request.firstAvailable]
            ):
                if each.deviceClassName not in devices.classes:
                    text = f"device class {each.deviceClassName} does not exist"
                    raise PodRejected(self.name, f"request {name}: {text}")

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return bool(cycle.pod.pod.spec.resourceClaims)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        state: _State | None = cycle.state.get(self.name)
        if state is None:
            return None
        rejected: dict[str, list[int]] = {}
        search = _Search(cycle, state, self._steps, self._binding_seconds)
        order = cycle.cluster.rotation.order(cycle.among)
        wanted = nodes_wanted(len(order), cycle.percentage) + 1
        found, slots = 0, order[cycle.feasible[order]].tolist()
        for place, slot in enumerate(slots):
            if found >= wanted:
                rejected[NOT_ASKED] = slots[place:]
                break
            if reason := search.judge(slot):
                rejected.setdefault(reason, []).append(slot)
            else:
                found += 1
        return [Verdict(cycle.cluster.mask(some), reason) for reason, some in rejected.items()]

    def score(self, cycle: Cycle) -> Numbers | None:
        state: _State | None = cycle.state.get(self.name)
        if state is None or not any(
            request.firstAvailable
            for claim in state.claims
            for request in claim.spec.devices.requests
        ):
            return None
        raw = np.array([_score(state, int(slot)) for slot in cycle.nodes], np.int64)
        return normalised(raw)

    def reserve(self, cycle: Cycle, slot: int) -> ClaimPlan | None:
        state: _State | None = cycle.state.get(self.name)
        if state is None:
            return None
        node = cycle.cluster.names[slot]
        solution = state.solutions.get(slot)
        devices = cycle.objects.devices
        planned: list[PlannedClaim] = []
        number = 0
        for claim in state.claims:
            if claim.status.allocation is not None:
                planned.append(PlannedClaim(claim))
                continue
            taken = [t for t in solution.taken if t.wanted.claim == number] if solution else []
            number += 1
            is_extra = claim is state.extended
            if is_extra and (solution is None or not solution.extended.requests):
                continue  # a device plugin of the node provides it
            if is_extra and solution is not None:
                claim = _with_requests(claim, solution.extended)
            found = made.allocation(claim, taken, node, devices.classes.get, _share_id)
            planned.append(PlannedClaim(claim, found))
        if not planned:
            return None
        mappings = solution.extended.mappings if solution else ()
        return ClaimPlan(tuple(planned), mappings, self._binding_seconds)

    def holds_back(self, pod: PodInfo, objects: Objects) -> bool:
        if not pod.pod.spec.resourceClaims:
            return False
        try:
            [*pod_claims(objects.devices, pod.pod)]
        except ClaimProblem:
            return True
        return False

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        old, new = change.old, change.new
        match change.subject:
            case Subject.OWN_POD:
                before, after = old.pod.status, new.pod.status
                return bool(before.resourceClaimStatuses != after.resourceClaimStatuses)
            case Subject.NODE if old is not None:
                is_other = old.metadata.labels != new.metadata.labels
                return is_other or bool(old.status.allocatable != new.status.allocatable)
            case Subject.RESOURCE_CLAIM:
                if old is not None and old.status.allocation and not new.status.allocation:
                    return True
                if new.metadata.namespace != pod.namespace:
                    return False
                if new.metadata.name not in known_claim_names(pod.pod):
                    return False
                return old is None or bool(old.status != new.status)
        return True


def to_release(cycle: Cycle) -> tuple[ResourceClaim | None, str]:
    """A claim that stands in the way of the pod and that nobody else uses, and what is said."""
    state: _State | None = cycle.state.get(DynamicResources.name)
    if state is None:
        return None, NO_CLAIMS
    for claim in state.unavailable:
        if all(each.uid == cycle.pod.uid for each in claim.status.reservedFor):
            return claim, "deallocation of ResourceClaim completed"
    if state.extended is not None and state.extended.metadata.uid:
        return state.extended, "deletion of ResourceClaim completed"
    return None, "still not schedulable"


def is_backed(devices: Devices, resource: str) -> bool:
    """Whether an extended resource may be had as devices of a class."""
    return devices.class_of(resource) is not None and is_extended(resource)


def pod_claims(devices: Devices, pod: Pod) -> Iterator[ResourceClaim]:
    """The claims of a pod as they are. Raises ClaimProblem for one that cannot be used."""
    for each in pod.spec.resourceClaims:
        name = claim_name(pod, each)
        if name is None:
            continue
        claim = devices.claims.get(f"{pod.metadata.namespace}/{name}")
        if claim is None:
            raise ClaimProblem(f'resourceclaim.resource.k8s.io "{name}" not found')
        if claim.metadata.deletionTimestamp:
            raise ClaimProblem(f'resourceclaim "{name}" is being deleted')
        if is_generated(each):
            check_owner(pod, claim)
        yield claim


class _Search:
    """Judges nodes one by one. Those that reach the same devices share the verdict."""

    def __init__(self, cycle: Cycle, state: _State, steps: int, binding_seconds: float) -> None:
        self._cycle = cycle
        self._state = state
        self._devices = cycle.objects.devices
        self._steps = steps
        self._to_allocate = state.to_allocate
        self._allocated = [claim for claim in state.claims if claim.status.allocation is not None]
        now = self._devices.now() if self._devices.now is not None else None
        self._broken = [
            claim for claim in self._allocated if is_hopeless(claim, now, binding_seconds)
        ]
        self._known: dict[object, _Solution | str] = {}
        self._answers = (
            self._devices.answers(self._to_allocate)
            if self._to_allocate and state.extended is None
            else None
        )
        """What earlier searches have found for the same claims."""

    def judge(self, slot: int) -> str:
        """Why the node cannot take the pod; empty if it can. Raises PluginFailed."""
        state, node = self._state, self._cycle.cluster.nodes[slot]
        assert node is not None
        extended = NOTHING
        if state.extended is not None:
            if state.extended.spec.devices.requests:
                # Left from an attempt that failed: it is made anew, for another node.
                return STALE
            found = self._extended(slot)
            if found is None:
                return NO_FIT
            extended = found
            if not extended.requests and len(state.claims) == 1:
                return ""
        missing = [claim for claim in self._allocated if not self._is_available(claim, node)]
        solution = self._solve(node, extended) if self._to_allocate else _Solution(())
        if isinstance(solution, str):
            return solution
        for claim in missing:
            if claim not in state.unavailable:
                state.unavailable.append(claim)
        if missing:
            return NOT_HERE
        state.solutions[slot] = solution
        return ""

    def _is_available(self, claim: ResourceClaim, node: Node) -> bool:
        if claim in self._broken:
            return False
        selector = claim.status.allocation.nodeSelector if claim.status.allocation else None
        meta = node.metadata
        return selector is None or selects(selector, meta.name, meta.labels)

    def _extended(self, slot: int) -> Extended | None:
        """What the node has to provide as devices; None if it has a resource in no way."""
        cluster, wanted = self._cycle.cluster, []
        for resource in self._state.resources:
            row = cluster.resource(resource)
            allocatable = int(cluster.allocatable[row, slot])
            if self._devices.class_of(resource) is not None and not allocatable:
                wanted.append(resource)
            elif not allocatable:
                return None
        return requests_for(self._cycle.pod.pod, wanted, self._devices.class_of)

    def _solve(self, node: Node, extended: Extended) -> _Solution | str:
        name = node.metadata.name
        is_alone = self._devices.is_alone(name)
        if self._answers is not None and name in self._answers:
            taken = self._answers[name]
            return NOT_ALL if taken is None else _Solution(taken)
        pools = self._devices.pools(node) if self._devices.has_any(name) else []
        key: object = name
        if not is_alone:
            seen = tuple(id(device) for pool in pools for device in pool.devices)
            states = tuple((pool.id, pool.is_incomplete, pool.is_invalid) for pool in pools)
            key = (seen, states, tuple((r.name, r.exactly) and r.name for r in extended.requests))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._search(node, pools, extended)
            if (
                self._answers is not None
                and is_alone
                and (known == NOT_ALL or isinstance(known, _Solution))
            ):
                self._answers[name] = known.taken if isinstance(known, _Solution) else None
        return known

    def _search(self, node: Node, pools: Sequence[Pool], extended: Extended) -> _Solution | str:
        claims = [
            _with_requests(claim, extended) if claim is self._state.extended else claim
            for claim in self._to_allocate
        ]
        devices = self._devices
        steps = Steps(self._steps)
        allocator = Allocator(claims, pools, devices.classes.get, devices.in_use, steps)
        try:
            taken = allocator.solve()
        except NoPool as problem:
            return str(problem)
        except OutOfSteps:
            text = f"node {node.metadata.name}: timed out trying to allocate devices"
            raise PluginFailed(DynamicResources.name, "filter", text) from None
        except AllocationProblem as problem:
            raise PluginFailed(DynamicResources.name, "filter", str(problem)) from None
        return NOT_ALL if taken is None else _Solution(taken, extended)


def is_hopeless(claim: ResourceClaim, now: datetime | None, binding_seconds: float) -> bool:
    """Whether devices that have to be prepared for their node have failed, or take too long."""
    allocation = claim.status.allocation
    try:
        if is_ready(claim) or allocation is None or not allocation.allocationTimestamp:
            return False
    except ClaimProblem:
        return True
    if now is None or not any(each.bindingConditions for each in results(claim)):
        return False
    since = parse_time(allocation.allocationTimestamp)
    return since + timedelta(seconds=binding_seconds) < now


def is_ready(claim: ResourceClaim) -> bool:
    """Whether all conditions hold that the devices of a claim wait for. Raises ClaimProblem when
    that is not to be expected any more."""
    reported = {device_id(each): each.conditions for each in claim.status.devices}
    for result in results(claim):
        if not result.bindingConditions:
            continue
        true = {c.type: c for c in reported.get(device_id(result), ()) if c.status == "True"}
        failed = next((true[n] for n in result.bindingFailureConditions if n in true), None)
        if failed is not None:
            raise ClaimProblem(
                f"device binding failed: claim={claim.metadata.name}, reason={failed.reason}, "
                f'message="{failed.message}"'
            )
        if not all(name in true for name in result.bindingConditions):
            return False
    return claim.status.allocation is not None


def _score(state: _State, slot: int) -> int:
    """The earlier an alternative is in its list, the better."""
    solution = state.solutions.get(slot)
    names: set[tuple[int, str]] = set()
    numbers: dict[int, int] = {}
    for place, claim in enumerate(state.claims):
        if claim.status.allocation is None:
            numbers[len(numbers)] = place
        else:
            names |= {(place, each.request) for each in results(claim)}
    for taken in solution.taken if solution is not None else ():
        names.add((numbers[taken.wanted.claim], taken.wanted.name))
    return sum(
        ALTERNATIVES - position
        for place, claim in enumerate(state.claims)
        for request in claim.spec.devices.requests
        for position, sub in enumerate(request.firstAvailable)
        if (place, f"{request.name}/{sub.name}") in names
    )


def _share_id() -> str:
    return str(uuid4())


def _extended_claim(pod: Pod) -> ResourceClaim:
    """A claim that has no name yet: it is made when the node is chosen."""
    owner = structs.replace(owner_reference(pod), blockOwnerDeletion=None)
    return ResourceClaim(
        metadata=ObjectMeta(
            generateName=f"{pod.metadata.name}-extended-resources-",
            namespace=pod.metadata.namespace,
            annotations={EXTENDED_CLAIM: "true"},
            ownerReferences=[owner],
        )
    )


def _with_requests(claim: ResourceClaim, extended: Extended) -> ResourceClaim:
    spec = ResourceClaimSpec(devices=DeviceClaim(requests=[*extended.requests]))
    return structs.replace(claim, spec=spec)
