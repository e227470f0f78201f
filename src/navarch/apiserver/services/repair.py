"""Compares the records of cluster addresses and node ports with the Services, and mends what
differs: records that a killed server left behind, records that somebody deleted, two Services with
one address. What only people can mend is told by events.

The rules are pure (`judge_address`, `judge_ports`). Only what has changed is looked at, and
everything once at the start and whenever a ServiceCIDR changes.
Source: KEP-1880; upstream's `ipallocator/controller/repairip.go` and `portallocator/controller`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.times import format_micro_time, parse_time
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.security import system_context
from navarch.apiserver.services.addresses import (
    FAMILY_LABEL,
    MANAGED_LABEL,
    MANAGER,
    AddressAllocator,
    family_of,
)
from navarch.apiserver.services.holdings import Holdings, Key
from navarch.apiserver.services.ports import PortAllocator, time_of
from navarch.store.contract import KeyValue, StoreError

Object = dict[str, Any]

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=60)
"""As long as a request may take: the write that made a record may still be under way."""
PORTS_INTERVAL = timedelta(seconds=180)
RETELL_INTERVAL = timedelta(minutes=30)
AT_ONCE = 100
"""Addresses that are looked at before others have their turn."""


class Action(Enum):
    RECORD = "record"
    RENEW = "renew"
    RELEASE = "release"
    WAIT = "wait"
    TELL = "tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be done about an address or port. `reason` and `note` make an event about the
    Service `key`, or about the record itself where there is none."""

    action: Action
    key: Key | None = None
    reason: str = ""
    note: str = ""


def judge_address(
    name: str,
    record: Object | None,
    holders: Collection[Key],
    known: tuple[bool, bool],
    now: datetime,
) -> list[Finding]:
    """What is wrong with an address. `known`: whether a ServiceCIDR covers it, and whether there is
    the Service that the record names."""
    is_covered, has_parent = known
    if not holders:
        return _judge_unheld(name, record, has_parent, now)
    kind = f"[{family_of(name)}]"
    first = sorted(holders)[0]
    if not is_covered:
        note = (
            f"Cluster IP {kind}: {name} is not within any configured Service CIDR; please recreate "
            "service"
        )
        return [Finding(Action.TELL, key, "ClusterIPOutOfRange", note) for key in sorted(holders)]
    owner = first
    findings: list[Finding] = []
    parent = parent_of(record)
    if record is None:
        note = f"Cluster IP {kind}: {name} is not allocated; repairing"
        findings.append(Finding(Action.RECORD, first, "ClusterIPNotAllocated", note))
    elif parent is None or parent not in holders:
        namespace, service = first
        note = (
            f"the ClusterIP {kind}: {name} for Service {namespace}/{service} has a wrong "
            "reference; repairing"
        )
        findings.append(Finding(Action.RENEW, first, "ClusterIPNotAllocated", note))
    else:
        owner = parent
        labels = record["metadata"].get("labels") or {}
        if labels.get(FAMILY_LABEL) != family_of(name) or labels.get(MANAGED_LABEL) != MANAGER:
            findings.append(Finding(Action.RENEW, owner))
    note = f"Cluster IP {kind}:{name} was assigned to multiple services; please recreate service"
    findings += [
        Finding(Action.TELL, key, "ClusterIPAlreadyAllocated", note)
        for key in sorted(holders)
        if key != owner
    ]
    return findings


def _judge_unheld(
    name: str, record: Object | None, has_parent: bool, now: datetime
) -> list[Finding]:
    """An address that no Service holds needs no record, unless somebody else keeps it."""
    if record is None:
        return []
    metadata = record["metadata"]
    if (metadata.get("labels") or {}).get(MANAGED_LABEL) != MANAGER:
        return []
    parent = parent_of(record)
    if parent is None:
        note = (
            f"IPAddress {name} appears to have been modified, not referencing a Service: "
            "cleaning up"
        )
        return [Finding(Action.RELEASE, None, "IPAddressNotAllocated", note)]
    if now - parse_time(metadata["creationTimestamp"]) <= GRACE:
        return [Finding(Action.WAIT)]
    where = f"IPAddress: {name} for Service {'/'.join(parent)}"
    if has_parent:
        note = f"{where} has a wrong reference; cleaning up"
        return [Finding(Action.RELEASE, None, "IPAddressWrongReference", note)]
    note = f"{where} appears to have leaked: cleaning up"
    return [Finding(Action.RELEASE, None, "IPAddressNotAllocated", note)]


def parent_of(record: Object | None) -> Key | None:
    """The Service that a record names."""
    parent = ((record or {}).get("spec") or {}).get("parentRef") or {}
    if parent.get("group") or parent.get("resource") != "services":
        return None
    return parent.get("namespace", ""), parent.get("name", "")


def judge_ports(
    records: Mapping[int, KeyValue],
    holders: Mapping[int, Collection[Key]],
    limits: tuple[int, int],
    now: datetime,
) -> dict[int, list[Finding]]:
    """What is wrong with node ports."""
    first, last = limits
    found: dict[int, list[Finding]] = {}
    for number, keys in holders.items():
        findings = found.setdefault(number, [])
        owner, *others = sorted(keys)
        if not first <= number <= last:
            note = (
                f"Port {number} is not within the port range {first}-{last}; please recreate "
                "service"
            )
            findings += [Finding(Action.TELL, key, "PortOutOfRange", note) for key in sorted(keys)]
            continue
        if number not in records:
            note = f"Port {number} is not allocated; repairing"
            findings.append(Finding(Action.RECORD, owner, "PortNotAllocated", note))
        note = f"Port {number} was assigned to multiple services; please recreate service"
        findings += [Finding(Action.TELL, key, "PortAlreadyAllocated", note) for key in others]
    for number, record in records.items():
        if number not in holders and now - parse_time(time_of(record)) > GRACE:
            found[number] = [Finding(Action.RELEASE)]
    return found


class Repair:
    """Does what the rules say."""

    def __init__(
        self,
        registry: Registry,
        lookup: Lookup,
        addresses: AddressAllocator,
        ports: PortAllocator,
        holdings: Holdings,
    ) -> None:
        self._registry = registry
        self._lookup = lookup
        self._addresses = addresses
        self._ports = ports
        self._holdings = holdings
        self._events = Events(registry)
        self.tally: Counter[str] = Counter()
        """What was found, by reason; leaked ports have none."""
        self._range_changes = -1
        self._ports_seen: datetime | None = None
        cache = addresses.resource.cache
        holdings.changed.update(entry.name for entry in cache.scan())
        holdings.is_recorded = lambda address: cache.get("", address) is not None
        cache.add_listener(self._record_changed)

    def _record_changed(self, old: Entry | None, new: Entry | None) -> None:
        entry = new or old
        assert entry is not None
        if new is None or new.name not in self._addresses.making:
            self._holdings.changed.add(entry.name)

    async def turn(self) -> None:
        """One look at what has changed since the last."""
        ranges = self._addresses.ranges
        if ranges.changes != self._range_changes:
            self._range_changes = ranges.changes
            self._holdings.changed.update(self._holdings.addresses)
        todo = sorted(self._holdings.changed)
        self._holdings.changed.clear()
        try:
            for start in range(0, len(todo), AT_ONCE):
                for name in todo[start : start + AT_ONCE]:
                    await self._look_at(name)
                await asyncio.sleep(0)
            now = self._registry.now()
            if self._ports_seen is None or now - self._ports_seen >= PORTS_INTERVAL:
                await self._look_at_ports(now)
                self._ports_seen = now
        except (ApiError, StoreError) as error:
            # A full store, say. The server serves all the same, and the next turn looks again.
            self._holdings.changed.update(todo)
            log.warning("addresses and node ports could not be repaired: %s", error)

    # ---- addresses

    async def _look_at(self, name: str) -> None:
        resource = self._addresses.resource
        entry = resource.cache.get("", name)
        record = entry.decode(resource.stored_kind) if entry is not None else None
        holders = self._holdings.addresses.get(name, ())
        if record is None and not holders:
            return
        parent = parent_of(record)
        has_parent = parent is not None and self._lookup.get("services", *parent) is not None
        known = self._is_covered(name), has_parent
        for finding in judge_address(name, record, holders, known, self._registry.now()):
            await self._apply(name, entry, record, finding)

    def _is_covered(self, name: str) -> bool:
        try:
            return self._addresses.ranges.cover(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def _apply(
        self, name: str, entry: Entry | None, record: Object | None, finding: Finding
    ) -> None:
        if finding.action is Action.WAIT:
            self._holdings.changed.add(name)
            return
        if finding.reason:
            self.tally[finding.reason] += 1
        service = self._service(finding.key)
        about = service if finding.key is not None else record
        if about is not None and finding.reason:
            await self._events.tell(about, "address", finding)
        if entry is not None and finding.action in (Action.RELEASE, Action.RENEW):
            await self._addresses.release(name, None, entry.create_revision + 1)
        if service is not None and finding.action in (Action.RECORD, Action.RENEW):
            await self._addresses.record(name, service)

    def _service(self, key: Key | None) -> Object | None:
        return self._lookup.get("services", *key) if key is not None else None

    # ---- node ports

    async def _look_at_ports(self, now: datetime) -> None:
        limits = self._ports.first, self._ports.last
        records = await self._ports.records()
        found = judge_ports(records, self._holdings.ports, limits, now)
        for number, findings in found.items():
            for finding in findings:
                await self._apply_port(number, records.get(number), finding)

    async def _apply_port(self, number: int, record: KeyValue | None, finding: Finding) -> None:
        if finding.action is Action.RELEASE and record is not None:
            self.tally[finding.reason] += 1
            log.warning("the node port %d appears to have leaked: cleaning up", number)
            await self._ports.release(number, record.create_revision + 1)
            return
        if finding.action is Action.RECORD:
            # The Service may have come after the records were read, or be gone meanwhile.
            if await self._ports.is_recorded(number) or number not in self._holdings.ports:
                return
            assert finding.key is not None
            await self._ports.record(number, finding.key)
        self.tally[finding.reason] += 1
        service = self._service(finding.key)
        if service is not None:
            await self._events.tell(service, "port", finding)


class Events:
    """Warnings about what was found, each told again only after a while."""

    KINDS = {
        "address": ("ipallocator-repair-controller", "ClusterIPAllocation"),
        "port": ("portallocator-repair-controller", "PortAllocation"),
    }

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._resource = registry.catalog.get("events.k8s.io", "v1", "events")
        self._told: dict[tuple[str, str, str], datetime] = {}
        self._count = 0

    async def tell(self, about: Object, kind: str, finding: Finding) -> None:
        now, metadata = self._registry.now(), about["metadata"]
        what = metadata.get("uid", ""), finding.reason, finding.note
        self._told = {key: at for key, at in self._told.items() if now - at < RETELL_INTERVAL}
        if what in self._told:
            return
        self._told[what] = now
        log.warning("%s: %s", finding.reason, finding.note)
        self._count += 1
        controller, action = self.KINDS[kind]
        regarding = {"apiVersion": about["apiVersion"], "kind": about["kind"]}
        for key in ("namespace", "name", "uid", "resourceVersion"):
            if metadata.get(key):
                regarding[key] = metadata[key]
        event: Object = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{int(now.timestamp() * 1e9) + self._count:x}",
                "namespace": metadata.get("namespace") or "default",
            },
            "eventTime": format_micro_time(now),
            "reportingController": controller,
            "reportingInstance": f"{controller}-navarch",
            "action": action if finding.key is not None else "IPAddressAllocation",
            "reason": finding.reason,
            "regarding": regarding,
            "note": finding.note,
            "type": "Warning",
        }
        context = system_context(self._resource, event, "create")
        try:
            await self._registry.create(self._resource, event, context)
        except ApiError as error:
            log.warning("an event could not be written: %s", error.message)
