"""What cluster DNS knows: the records of Services, EndpointSlices, namespaces and pods. No I/O.

Source: the Kubernetes DNS-based service discovery specification 1.1.0, with upstream's CoreDNS
where it leaves room. A Service with a cluster IP has address records and SRV records of its named
ports; a headless one has the addresses of its ready endpoints, each under its hostname (or its
address with dashes); an ExternalName is a CNAME; a pod's address is also a name,
`10-244-0-5.default.pod.cluster.local`.

Each answer says on what it rests (`Tag`), and each change says which of these it touched, so that
answers can be kept as bytes and still never outlive what they are made of.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.network.dns.wire import (
    AAAA,
    CNAME,
    NS,
    PTR,
    SOA,
    SRV,
    TXT,
    A,
    Record,
    encode_name,
    is_name,
)

SPECIFICATION = "1.1.0"
SPECIFICATION_TTL = 28800
SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS = "None"
DEFAULT_TTL = 5
"""Seconds an answer may be kept; changes are to be seen soon."""

Tag = tuple[str, ...]
Key = tuple[str, str]
"""Namespace and name."""
Port = tuple[str, str, int]
"""Name, protocol (both in lower case) and number."""


class Outcome(Enum):
    FOUND = "found"
    NO_DATA = "the name exists, the type does not"
    NO_NAME = "the name does not exist"
    NOT_OURS = "somebody else's name"
    UNKNOWN = "not yet known"


class PodNames(Enum):
    """Which names of pods' addresses are answered (`pods` of CoreDNS)."""

    DISABLED = "disabled"
    INSECURE = "insecure"
    """Any address in a namespace that exists, as kube-dns did."""
    VERIFIED = "verified"
    """Addresses that a pod of that namespace has."""


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    records: Sequence[Record] = ()
    additional: Sequence[Record] = ()
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """One address of one endpoint of a headless Service."""

    address: str
    label: str
    """Its hostname, or its address with dashes: the first label of its name."""
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class ServiceRecords:
    """What the zone keeps of one Service."""

    cluster_addresses: tuple[str, ...]
    ports: tuple[Port, ...]
    external_name: str
    publish_not_ready: bool

    @property
    def is_headless(self) -> bool:
        return not self.cluster_addresses and not self.external_name


def address_type(address: str) -> int:
    return AAAA if ":" in address else A


@lru_cache(4096)
def packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def address_record(name: bytes, address: str, ttl: int) -> Record:
    return Record(name, address_type(address), ttl, packed(address))


def address_records(name: bytes, addresses: Iterable[str], type_: int, ttl: int) -> list[Record]:
    return [
        Record(name, type_, ttl, packed(address))
        for address in dict.fromkeys(addresses)
        if address_type(address) == type_
    ]


def dashed(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def soa_record(domain: str, ttl: int) -> Record:
    """The start of authority; its last number is how long a denial may be kept."""
    names = encode_name(f"ns.dns.{domain}") + encode_name(f"hostmaster.{domain}")
    return Record(
        encode_name(domain), SOA, ttl, names + struct.pack("!5I", 1, 7200, 1800, 86400, ttl)
    )


def records_of_service(service: Service) -> ServiceRecords:
    """The part of a Service that DNS shows."""
    spec = service.spec
    external = spec.type == "ExternalName"
    addresses = [] if external else (spec.clusterIPs or [spec.clusterIP])
    return ServiceRecords(
        tuple(address for address in addresses if address and address != HEADLESS),
        tuple(
            (port.name.lower(), (port.protocol or "TCP").lower(), port.port) for port in spec.ports
        ),
        spec.externalName if external and is_name(spec.externalName) else "",
        spec.publishNotReadyAddresses,
    )


def endpoints_of_slice(slice_: EndpointSlice, not_ready: bool) -> list[EndpointAddress]:
    """The endpoints of a slice that are to be published (`not_ready`: the unready ones too)."""
    ports = tuple(
        ((port.name or "").lower(), (port.protocol or "TCP").lower(), port.port)
        for port in slice_.ports
        if port.port is not None
    )
    return [
        EndpointAddress(address, (endpoint.hostname or dashed(address)).lower(), ports)
        for endpoint in slice_.endpoints
        if slice_.addressType != "FQDN" and (not_ready or endpoint.conditions.ready is not False)
        for address in endpoint.addresses
    ]


def reverse_address(labels: Sequence[str]) -> str | None:
    """The address whose reverse name this is."""
    try:
        if labels[-2:] == ("in-addr", "arpa") and len(labels) == 6:
            return str(ipaddress.IPv4Address(".".join(reversed(labels[:-2]))))
        digits = labels[:-2]
        if (
            labels[-2:] == ("ip6", "arpa")
            and len(digits) == 32
            and all(len(digit) == 1 and digit in "0123456789abcdef" for digit in digits)
        ):
            return str(ipaddress.IPv6Address(int("".join(reversed(digits)), 16)))
    except ValueError:
        pass
    return None


def in_domain(labels: Sequence[str], domain: Sequence[str]) -> bool:
    return not domain or tuple(labels[-len(domain) :]) == tuple(domain)


def split_zone(zone: str) -> list[str]:
    """A zone's labels; the root has none."""
    return zone.split(".") if zone else []


@dataclass(slots=True)
class Zone:
    """The records of one cluster, kept up with the API's objects as they change."""

    domain: str = "cluster.local"
    ttl: int = DEFAULT_TTL
    pod_names: PodNames = PodNames.INSECURE
    dns_service: Key = ("kube-system", "kube-dns")
    """The Service that stands for this server: `ns.dns`."""
    changed: Callable[[Iterable[Tag]], None] = lambda tags: None
    synced: bool = True
    """Whether all Services and slices are known. Before that nothing may be denied: clients keep
    denials."""
    pods_synced: Callable[[], bool] = lambda: True
    """Whether all pods are known, where their names are verified."""
    namespaces_synced: bool = False
    """Until then a namespace is one that has Services."""
    _labels: tuple[str, ...] = ()
    _services: dict[Key, ServiceRecords] = field(default_factory=dict)
    _slices: dict[Key, dict[str, EndpointSlice]] = field(default_factory=lambda: defaultdict(dict))
    _endpoints: dict[Key, list[EndpointAddress]] = field(default_factory=dict)
    _pointers: dict[str, dict[Key, str]] = field(default_factory=lambda: defaultdict(dict))
    """Of every address with a reverse name: whose it is, and the label of the endpoint, or "" for
    the Service itself."""
    _pointed: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """The addresses whose reverse names point to each Service."""
    _in_namespace: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _namespaces: set[str] = field(default_factory=set)
    _pods: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    """How many pods of a namespace have an address."""

    def __post_init__(self) -> None:
        self._labels = tuple(self.domain.lower().rstrip(".").split("."))

    # Changes -------------------------------------------------------------------------------------

    def put_service(self, service: Service) -> None:
        key = (service.metadata.namespace, service.metadata.name)
        records = records_of_service(service)
        known = self._services.get(key)
        if known == records:
            return
        self._services[key] = records
        tags: list[Tag] = []
        if known is None:
            self._in_namespace[key[0]] += 1
            tags.append(("namespace", key[0]))
        self._rebuild(key, tags)

    def remove_service(self, namespace: str, name: str) -> None:
        key = (namespace, name)
        if self._services.pop(key, None) is not None:
            self._in_namespace[namespace] -= 1
            if not self._in_namespace[namespace]:
                del self._in_namespace[namespace]
            self._rebuild(key, [("namespace", namespace)])

    def put_slice(self, slice_: EndpointSlice) -> None:
        key = (slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_LABEL, ""))
        self._slices[key][slice_.metadata.name] = slice_
        self._slice_changed(key)

    def remove_slice(self, slice_: EndpointSlice) -> None:
        key = (slice_.metadata.namespace, slice_.metadata.labels.get(SERVICE_LABEL, ""))
        self._slices[key].pop(slice_.metadata.name, None)
        if not self._slices[key]:
            del self._slices[key]
        self._slice_changed(key)

    def _slice_changed(self, key: Key) -> None:
        service = self._services.get(key)
        if service is not None and service.is_headless:  # of others no endpoint is shown
            self._rebuild(key, [])

    def set_namespace(self, name: str, *, exists: bool) -> None:
        (self._namespaces.add if exists else self._namespaces.discard)(name)
        self.changed([("namespace", name)])

    def set_pod(self, namespace: str, address: str, *, exists: bool) -> None:
        key = (namespace, address)
        self._pods[key] += 1 if exists else -1
        if self._pods[key] <= 0:
            del self._pods[key]
        self.changed([("pod", namespace, address)])

    def forget_pods(self) -> None:
        self._pods.clear()

    def _rebuild(self, key: Key, tags: list[Tag]) -> None:
        tags.append(("service", *key))
        for address in self._pointed.pop(key, ()):
            owners = self._pointers[address]
            del owners[key]
            if not owners:
                del self._pointers[address]
            tags.append(("address", address))
        self._endpoints.pop(key, None)
        service = self._services.get(key)
        if service is not None:
            names = dict.fromkeys(service.cluster_addresses, "")
            if service.is_headless:
                endpoints = [
                    endpoint
                    for slice_ in self._slices.get(key, {}).values()
                    for endpoint in endpoints_of_slice(slice_, service.publish_not_ready)
                ]
                self._endpoints[key] = endpoints
                names = {endpoint.address: endpoint.label for endpoint in endpoints}
            self._pointed[key] = tuple(names)
            for address, label in names.items():
                self._pointers[address][key] = label
                tags.append(("address", address))
        self.changed(tags)

    # Questions -----------------------------------------------------------------------------------

    def is_ours(self, labels: Sequence[str]) -> bool:
        return in_domain(labels, self._labels)

    def _namespace_exists(self, name: str) -> bool:
        return name in self._namespaces or name in self._in_namespace

    def base(self, key: Key) -> str:
        return f"{key[1]}.{key[0]}.svc.{self.domain}"

    def lookup(self, labels: Sequence[str], type_: int) -> Answer:
        """Answer a question; `labels` are those of the name, in lower case."""
        address = reverse_address(labels)
        if address is not None:
            return self._reverse(labels, address, type_) if self.synced else _UNKNOWN
        if not self.is_ours(labels):
            return _NOT_OURS
        if not self.synced:
            return _UNKNOWN
        rest = tuple(labels[: -len(self._labels)])
        name = encode(labels)
        match rest:
            case ():
                return self._apex(name, type_)
            case ("dns-version",):
                text = bytes([len(SPECIFICATION)]) + SPECIFICATION.encode()
                return _typed([Record(name, TXT, SPECIFICATION_TTL, text)], type_)
            case ("dns",):
                return _no_data()
            case ("ns", "dns"):
                key = self.dns_service
                service = self._services.get(key)
                addresses = service.cluster_addresses if service else ()
                return self._addresses(name, addresses, type_, ("service", *key))
            case (*inner, "pod"):
                return self._pod(name, inner, type_)
            case (*inner, "svc"):
                return self._service(name, inner, type_)
        return _no_name()

    def _apex(self, name: bytes, type_: int) -> Answer:
        server = Record(name, NS, self.ttl, encode_name(f"ns.dns.{self.domain}"))
        return _typed([server, soa_record(self.domain, self.ttl)], type_)

    def _addresses(self, name: bytes, addresses: Iterable[str], type_: int, tag: Tag) -> Answer:
        found = address_records(name, addresses, type_, self.ttl)
        return Answer(Outcome.FOUND, found, tags=(tag,)) if found else _no_data(tag)

    def _in_a_namespace(self, namespace: str) -> Answer:
        """For a name that only leads to others."""
        tag = ("namespace", namespace)
        if self._namespace_exists(namespace):
            return _no_data(tag)
        return _no_name(tag) if self.namespaces_synced else _UNKNOWN

    def _pod(self, name: bytes, labels: Sequence[str], type_: int) -> Answer:
        if self.pod_names is PodNames.DISABLED:
            return _no_name()
        if not labels:
            return _no_data()
        namespace = labels[-1]
        if len(labels) == 1 or not self._namespace_exists(namespace):
            return self._in_a_namespace(namespace) if len(labels) < 3 else _no_name()
        if len(labels) > 2:
            return _no_name()
        address = _undashed(labels[0])
        tag: Tag = ("namespace", namespace)
        if address is not None and self.pod_names is PodNames.VERIFIED:
            tag = ("pod", namespace, address)
            if (namespace, address) not in self._pods:
                if not self.pods_synced():
                    return _UNKNOWN
                address = None
        if address is None:
            return _no_name(tag)
        return self._addresses(name, [address], type_, tag)

    def _service(self, name: bytes, labels: Sequence[str], type_: int) -> Answer:
        if not labels:
            return _no_data()
        if len(labels) == 1:
            return self._in_a_namespace(labels[0])
        key = (labels[-1], labels[-2])
        tag: Tag = ("service", *key)
        service = self._services.get(key)
        rest = labels[:-2]
        if service is None or (rest and service.external_name):
            return _no_name(tag)
        endpoints = self._endpoints.get(key, [])
        if not rest:
            if service.external_name:
                alias = Record(name, CNAME, self.ttl, encode_name(service.external_name))
                return Answer(Outcome.FOUND, [alias], tags=(tag,))
            if service.is_headless and not endpoints:
                return _no_name(tag)
            if type_ == SRV:
                return self._ports(name, key, None)
            addresses = service.cluster_addresses or [each.address for each in endpoints]
            return self._addresses(name, addresses, type_, tag)
        if len(rest) == 1:
            matching = [each.address for each in endpoints if each.label == rest[0]]
            if matching:
                return self._addresses(name, matching, type_, tag)
            wanted = ("", rest[0][1:]) if rest[0].startswith("_") else None
        elif len(rest) == 2 and rest[0].startswith("_") and rest[1].startswith("_"):
            wanted = (rest[0][1:], rest[1][1:])
        else:
            wanted = None
        if wanted is None:
            return _no_name(tag)
        found = self._ports(name, key, wanted)
        return found if type_ == SRV and wanted[0] else _like(found, tag)

    def _ports(self, name: bytes, key: Key, wanted: tuple[str, str] | None) -> Answer:
        """The SRV records of a Service: of all ports, of the one port named, or ("" as its name)
        of all of a protocol. Ports without a name have none (specification 2.3.2)."""
        service = self._services[key]
        own = [("", service.ports, address) for address in service.cluster_addresses]
        of_endpoints = [
            (each.label, each.ports, each.address) for each in self._endpoints.get(key, [])
        ]
        base = self.base(key)
        found: dict[tuple[int, str], str] = {}
        additional: dict[Record, None] = {}
        for label, ports, address in of_endpoints if service.is_headless else own:
            target = f"{label}.{base}" if label else base
            for port_name, protocol, number in ports:
                if wanted is not None and (
                    not port_name or wanted not in ((port_name, protocol), ("", protocol))
                ):
                    continue
                found[(number, target)] = target
                additional[address_record(encode_name(target), address, self.ttl)] = None
        tag: Tag = ("service", *key)
        if not found:
            return _no_name(tag) if wanted is not None else _no_data(tag)
        weight = max(100 // len(found), 1)
        records = [
            Record(name, SRV, self.ttl, struct.pack("!3H", 0, weight, number) + encode_name(target))
            for number, target in found
        ]
        return Answer(Outcome.FOUND, records, tuple(additional), (tag,))

    def _reverse(self, labels: Sequence[str], address: str, type_: int) -> Answer:
        tag: Tag = ("address", address)
        owners = self._pointers.get(address)
        if not owners:
            return Answer(Outcome.NOT_OURS, tags=(tag,))
        if type_ != PTR:
            return _no_data(tag)
        # A cluster IP is looked for first: it belongs to one Service only.
        chosen = {key: label for key, label in owners.items() if not label} or owners
        name = encode(labels)
        records = [
            Record(name, PTR, self.ttl, encode_name(f"{label}.{self.base(key)}".lstrip(".")))
            for key, label in chosen.items()
        ]
        return Answer(Outcome.FOUND, records, tags=(tag,))


_UNKNOWN = Answer(Outcome.UNKNOWN)
_NOT_OURS = Answer(Outcome.NOT_OURS)


def encode(labels: Sequence[str]) -> bytes:
    """A name of a question as bytes; its labels may hold anything, dots too."""
    parts = [label.encode("latin-1") for label in labels]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _no_data(*tags: Tag) -> Answer:
    return Answer(Outcome.NO_DATA, tags=tags)


def _no_name(*tags: Tag) -> Answer:
    return Answer(Outcome.NO_NAME, tags=tags)


def _typed(records: Sequence[Record], type_: int) -> Answer:
    """Those of the records that were asked for."""
    found = [record for record in records if record.type == type_]
    return Answer(Outcome.FOUND, found) if found else _no_data()


def _like(answer: Answer, tag: Tag) -> Answer:
    """What another type gets where these records are."""
    return _no_data(tag) if answer.records else _no_name(tag)


def _undashed(label: str) -> str | None:
    for text in (label.replace("-", "."), label.replace("-", ":")):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return None
