"""What cluster DNS knows: the records of Services and EndpointSlices. No I/O.

Source: the Kubernetes DNS-based service discovery specification 1.1.0. A Service with a cluster IP
has an A record and SRV records of its named ports; a headless one has the addresses of its ready
endpoints, each under its hostname (or its address with dashes); an ExternalName is a CNAME; a pod's
address is also a name, `10-244-0-5.default.pod.cluster.local`.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice

SPECIFICATION = "1.1.0"
SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS = "None"


class Outcome(Enum):
    FOUND = "found"
    NO_DATA = "the name exists, the type does not"
    NO_NAME = "the name does not exist"
    NOT_OURS = "outside the cluster's zones"


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record; `data` is an address, a name, or `priority weight port target`."""

    name: str
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    records: Sequence[Record] = ()
    additional: Sequence[Record] = ()


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """One endpoint of a headless Service."""

    address: str
    label: str
    """Its hostname, or its address with dashes: the first label of its name."""
    ports: tuple[tuple[str, str, int], ...]
    """(name, protocol in lower case, number) of each port."""


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """What the zone keeps of one Service."""

    cluster_addresses: tuple[str, ...]
    ports: tuple[tuple[str, str, int], ...]
    external_name: str
    publish_not_ready: bool

    @property
    def is_headless(self) -> bool:
        return not self.cluster_addresses and not self.external_name


NODATA = Answer(Outcome.NO_DATA)
NXDOMAIN = Answer(Outcome.NO_NAME)
NOT_OURS = Answer(Outcome.NOT_OURS)
Key = tuple[str, str]


def address_type(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def dashed(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def records_of_service(service: Service) -> ServiceRecords:
    """The part of a Service that DNS shows."""
    spec = service.spec
    external = spec.type == "ExternalName"
    addresses = [] if external else (spec.clusterIPs or [spec.clusterIP])
    return ServiceRecords(
        tuple(address for address in addresses if address and address != HEADLESS),
        tuple((port.name, (port.protocol or "TCP").lower(), port.port) for port in spec.ports),
        spec.externalName if external else "",
        spec.publishNotReadyAddresses,
    )


def endpoints_of_slice(slice_: EndpointSlice, not_ready: bool) -> list[EndpointAddress]:
    """The endpoints of a slice that are to be published (`not_ready`: the unready ones too)."""
    ports = tuple(
        (port.name or "", (port.protocol or "TCP").lower(), port.port)
        for port in slice_.ports
        if port.port is not None
    )
    return [
        EndpointAddress(address, endpoint.hostname or dashed(address), ports)
        for endpoint in slice_.endpoints
        if not_ready or endpoint.conditions.ready is not False
        for address in endpoint.addresses
    ]


@dataclass(slots=True)
class Zone:
    """The records of one cluster, kept up with Services and slices as they change."""

    domain: str = "cluster.local"
    _services: dict[Key, ServiceRecords] = field(default_factory=dict)
    _slices: dict[Key, dict[str, EndpointSlice]] = field(default_factory=lambda: defaultdict(dict))
    _endpoints: dict[Key, list[EndpointAddress]] = field(default_factory=dict)
    _pointers: dict[str, dict[Key, str]] = field(default_factory=lambda: defaultdict(dict))
    _pointed: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """The addresses whose reverse names point to each Service."""
    _namespaces: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def put_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        self.remove_service(*key)
        self._services[key] = records_of_service(service)
        self._namespaces[key[0]] += 1
        self._rebuild(key)

    def remove_service(self, namespace: str, name: str) -> None:
        key = (namespace, name)
        if self._services.pop(key, None) is not None:
            self._namespaces[namespace] -= 1
            self._rebuild(key)

    def put_slice(self, slice_: EndpointSlice) -> None:
        service = slice_.metadata.labels.get(SERVICE_LABEL, "")
        key = (slice_.metadata.namespace, service)
        self._slices[key][slice_.metadata.name] = slice_
        self._rebuild(key)

    def remove_slice(self, slice_: EndpointSlice) -> None:
        key = (slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_LABEL, ""))
        self._slices[key].pop(slice_.metadata.name, None)
        if not self._slices[key]:
            del self._slices[key]
        self._rebuild(key)

    def _rebuild(self, key: Key) -> None:
        for address in self._pointed.pop(key, ()):
            owners = self._pointers[address]
            del owners[key]
            if not owners:
                del self._pointers[address]
        self._endpoints.pop(key, None)
        service = self._services.get(key)
        if service is None:
            return
        base = f"{key[1]}.{key[0]}.svc.{self.domain}"
        names = dict.fromkeys(service.cluster_addresses, base)
        if service.is_headless:
            endpoints = [
                endpoint
                for slice_ in self._slices.get(key, {}).values()
                for endpoint in endpoints_of_slice(slice_, service.publish_not_ready)
            ]
            self._endpoints[key] = endpoints
            names = {endpoint.address: f"{endpoint.label}.{base}" for endpoint in endpoints}
        self._pointed[key] = tuple(names)
        for address, name in names.items():
            self._pointers[address][key] = name

    def lookup(self, name: str, type_: str) -> Answer:
        """Answer a question; `name` without its last dot, in any case."""
        lowered = name.lower()
        if lowered.endswith((".in-addr.arpa", ".ip6.arpa")):
            return self._reverse(name, lowered, type_)
        if lowered != self.domain and not lowered.endswith(f".{self.domain}"):
            return NOT_OURS
        labels = lowered[: -len(self.domain)].rstrip(".").split(".")
        if labels == [""]:
            return self._apex(name, type_)
        if labels == ["dns-version"]:
            found = [Record(name, "TXT", SPECIFICATION)]
            return Answer(Outcome.FOUND, found) if type_ in ("TXT", "ANY") else NODATA
        if labels[-1] == "pod":
            return self._pod(name, labels[:-1], type_)
        if labels[-1] == "svc":
            return self._service(name, labels[:-1], type_)
        return NXDOMAIN

    def _apex(self, name: str, type_: str) -> Answer:
        if type_ == "NS":
            return Answer(Outcome.FOUND, [Record(name, "NS", f"ns.dns.{self.domain}")])
        if type_ == "SOA":
            return Answer(Outcome.FOUND, [Record(name, "SOA", self.domain)])
        return NODATA

    def _pod(self, name: str, labels: Sequence[str], type_: str) -> Answer:
        if not labels:
            return NODATA
        if len(labels) != 2:
            known = len(labels) == 1 and self._namespaces.get(labels[0])
            return NODATA if known else NXDOMAIN
        for text in (labels[0].replace("-", "."), labels[0].replace("-", ":")):
            try:
                address = str(ipaddress.ip_address(text))
            except ValueError:
                continue
            if type_ == address_type(address):
                return Answer(Outcome.FOUND, [Record(name, type_, address)])
            return NODATA
        return NXDOMAIN

    def _service(self, name: str, labels: Sequence[str], type_: str) -> Answer:
        if not labels:
            return NODATA
        if len(labels) == 1:
            return NODATA if self._namespaces.get(labels[0]) else NXDOMAIN
        key = (labels[-1], labels[-2])
        service = self._services.get(key)
        if service is None:
            return NXDOMAIN
        rest = labels[:-2]
        endpoints = self._endpoints.get(key, [])
        if not rest:
            return self._whole_service(name, service, endpoints, type_)
        if len(rest) == 1:
            matching = [e.address for e in endpoints if e.label.lower() == rest[0]]
            return _addresses(name, matching, type_) if matching else NXDOMAIN
        if len(rest) == 2 and rest[0].startswith("_") and rest[1].startswith("_"):
            wanted = (rest[0][1:], rest[1][1:])
            return self._ports(name, key, service, endpoints, (wanted, type_))
        return NXDOMAIN

    def _whole_service(
        self,
        name: str,
        service: ServiceRecords,
        endpoints: Sequence[EndpointAddress],
        type_: str,
    ) -> Answer:
        if service.external_name:
            return Answer(Outcome.FOUND, [Record(name, "CNAME", service.external_name)])
        if type_ == "SRV":
            key = tuple(reversed(name.lower().split(".")[:2]))
            return self._ports(name, (key[0], key[1]), service, endpoints, (None, type_))
        if service.is_headless:
            if not endpoints:
                return NXDOMAIN
            return _addresses(name, [endpoint.address for endpoint in endpoints], type_)
        return _addresses(name, service.cluster_addresses, type_)

    def _ports(
        self,
        name: str,
        key: Key,
        service: ServiceRecords,
        endpoints: Sequence[EndpointAddress],
        question: tuple[tuple[str, str] | None, str],
    ) -> Answer:
        wanted, type_ = question
        base = f"{key[1]}.{key[0]}.svc.{self.domain}"
        records: list[Record] = []
        additional: list[Record] = []

        def add(targets: Iterable[tuple[str, str]], ports: Sequence[tuple[str, str, int]]) -> None:
            for port_name, protocol, number in ports:
                if wanted is not None and wanted != (port_name.lower(), protocol):
                    continue
                for target, address in targets:
                    record = Record(name, "SRV", f"0 100 {number} {target}")
                    if record not in records:
                        records.append(record)
                    extra = Record(target, address_type(address), address)
                    if extra not in additional:
                        additional.append(extra)

        if service.is_headless:
            for endpoint in endpoints:
                add([(f"{endpoint.label}.{base}", endpoint.address)], endpoint.ports)
        else:
            add([(base, address) for address in service.cluster_addresses], service.ports)
        if not records:
            return NXDOMAIN if wanted is not None else NODATA
        return Answer(Outcome.FOUND, records, additional) if type_ == "SRV" else NODATA

    def _reverse(self, name: str, lowered: str, type_: str) -> Answer:
        try:
            if lowered.endswith(".in-addr.arpa"):
                parts = lowered.removesuffix(".in-addr.arpa").split(".")
                address = str(ipaddress.IPv4Address(".".join(reversed(parts))))
            else:
                digits = "".join(reversed(lowered.removesuffix(".ip6.arpa").split(".")))
                groups = [digits[start : start + 4] for start in range(0, 32, 4)]
                address = str(ipaddress.IPv6Address(":".join(groups)))
        except ValueError:
            return NOT_OURS
        names = self._pointers.get(address)
        if not names:
            return NOT_OURS
        if type_ != "PTR":
            return NODATA
        return Answer(Outcome.FOUND, [Record(name, "PTR", target) for target in names.values()])


def _addresses(name: str, addresses: Iterable[str], type_: str) -> Answer:
    found = [
        Record(name, type_, address)
        for address in dict.fromkeys(addresses)
        if address_type(address) == type_
    ]
    return Answer(Outcome.FOUND, found) if found else NODATA
