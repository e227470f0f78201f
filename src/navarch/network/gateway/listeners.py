"""Which listeners of a Gateway can be served, and what is wrong with the others.

HTTP and HTTPS (ended here) are served; TCP, UDP and TLS are refused by name, as is anything that is
asked for and not done: options of TLS, certificates of clients. A listener whose certificate cannot
be used is not served at all. Two protocols on one port exclude each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from navarch.network.gateway import GROUP
from navarch.network.gateway.around import Around, Problem, Wanted
from navarch.network.gateway.objects import Gateway, Listener, Reference
from navarch.network.nginx.certificates import Pair, SecretError, pair_of

PROTOCOLS = ("HTTP", "HTTPS")
ROUTE_KIND = "HTTPRoute"


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(slots=True)
class ListenerState:
    """A listener and what has been found out about it."""

    listener: Listener
    kinds: tuple[str, ...] = ()
    """The kinds of routes that may attach: HTTPRoute or none."""
    pairs: tuple[Pair, ...] = ()
    refused: Problem | None = None
    """Why it is not accepted."""
    conflict: Problem | None = None
    unresolved: Problem | None = None
    is_usable: bool = True
    """Whether it can be served in spite of what is unresolved."""
    overlaps: bool = False
    attached: int = 0

    @property
    def is_accepted(self) -> bool:
        return self.refused is None and self.conflict is None

    @property
    def is_served(self) -> bool:
        return self.is_accepted and self.is_usable

    @property
    def is_tls(self) -> bool:
        return self.listener.protocol == "HTTPS"

    def conditions(self) -> list[Condition]:
        refused = self.refused or self.conflict
        found = [
            condition("Accepted", refused),
            Condition(
                "Conflicted",
                self.conflict is not None,
                self.conflict.reason if self.conflict else "NoConflicts",
                self.conflict.message if self.conflict else "",
            ),
            condition("ResolvedRefs", self.unresolved),
        ]
        if self.is_served:
            found.append(Condition("Programmed", True, "Programmed"))
        else:
            why = refused or self.unresolved
            found.append(Condition("Programmed", False, "Invalid", why.message if why else ""))
        if self.overlaps:
            text = "another listener of this port has a hostname that overlaps"
            found.append(Condition("OverlappingTLSConfig", True, "OverlappingHostnames", text))
        return found


def condition(kind: str, problem: Problem | None) -> Condition:
    """True, and its own reason, unless there is a problem."""
    if problem is not None:
        return Condition(kind, False, problem.reason, problem.message)
    return Condition(kind, True, kind)


@dataclass(slots=True)
class GatewayState:
    """A Gateway of ours and its listeners."""

    gateway: Gateway
    listeners: list[ListenerState] = field(default_factory=list)
    refused: Problem | None = None

    @property
    def key(self) -> str:
        return f"{self.gateway.metadata.namespace}/{self.gateway.metadata.name}"

    @property
    def served(self) -> list[ListenerState]:
        return [] if self.refused else [each for each in self.listeners if each.is_served]

    @property
    def ports(self) -> list[int]:
        """What clients connect to."""
        return sorted({each.listener.port for each in self.served})

    def accepted(self) -> Condition:
        if self.refused is not None:
            return condition("Accepted", self.refused)
        good = [each for each in self.listeners if each.is_accepted]
        if len(good) == len(self.listeners):
            return Condition("Accepted", True, "Accepted")
        bad = ", ".join(each.listener.name for each in self.listeners if not each.is_accepted)
        return Condition("Accepted", bool(good), "ListenersNotValid", f"not valid: {bad}")


def examine(gateway: Gateway, around: Around) -> GatewayState:
    """A Gateway by itself, before any route is looked at."""
    states = [_examine_one(gateway, each, around) for each in gateway.spec.listeners]
    _find_conflicts(states)
    _find_overlaps(states)
    return GatewayState(gateway, states, _refused(gateway))


def _refused(gateway: Gateway) -> Problem | None:
    """What no part of a Gateway can be served for."""
    spec = gateway.spec
    if spec.infrastructure.parametersRef is not None:
        return Problem("InvalidParameters", "infrastructure.parametersRef: there are no parameters")
    other = sorted({each.type for each in spec.addresses if each.type != "IPAddress"})
    if other:
        return Problem("UnsupportedAddress", f"addresses of type {', '.join(other)}: not supported")
    if spec.tls.get("backend"):
        return Problem("Invalid", "tls.backend: client certificates are not shown to backends")
    return None


def _examine_one(gateway: Gateway, listener: Listener, around: Around) -> ListenerState:
    state = ListenerState(listener)
    asked = [(each.group, each.kind) for each in listener.allowedRoutes.kinds]
    known = (GROUP, ROUTE_KIND)
    if listener.protocol not in PROTOCOLS:
        text = f"protocol {listener.protocol} is not supported; HTTP and HTTPS are"
        state.refused = Problem("UnsupportedProtocol", text)
    elif not asked or known in asked:
        state.kinds = (ROUTE_KIND,)
    unknown = sorted({kind for group, kind in asked if (group, kind) != known})
    if unknown:
        text = f"routes of kind {', '.join(unknown)} are not supported"
        state.unresolved = Problem("InvalidRouteKinds", text)
        state.is_usable = bool(state.kinds)
    if listener.protocol == "HTTPS" and state.refused is None:
        _examine_tls(gateway, state, around)
    return state


def _examine_tls(gateway: Gateway, state: ListenerState, around: Around) -> None:
    tls = state.listener.tls
    if gateway.spec.tls.get("frontend"):
        text = "tls.frontend: certificates of clients are not checked"
        state.refused = Problem("UnsupportedValue", text)
        return
    if tls is None or tls.mode != "Terminate" or tls.options:
        text = "TLS is ended here, without options, and needs a certificate"
        state.refused = Problem("UnsupportedValue", text)
        return
    pairs = []
    for reference in tls.certificateRefs:
        found = _pair(gateway, reference, around)
        if isinstance(found, Pair):
            pairs.append(found)
        elif state.unresolved is None:
            state.unresolved = found
    state.pairs = tuple(pairs)
    if not pairs:
        state.is_usable = False
        state.unresolved = state.unresolved or Problem("InvalidCertificateRef", "none is named")


def _pair(gateway: Gateway, reference: Reference, around: Around) -> Pair | Problem:
    own = gateway.metadata.namespace
    key = f"{reference.namespace or own}/{reference.name}"
    kind = reference.kind or "Secret"
    if (reference.group, kind) != ("", "Secret"):
        text = f"{kind} of group {reference.group!r} is no Secret"
        return Problem("InvalidCertificateRef", text)
    if not around.is_granted(
        Wanted("Gateway", own, "", reference.name, "Secret", reference.namespace or own)
    ):
        return Problem("RefNotPermitted", f"no ReferenceGrant lets Secret {key} be used here")
    if (secret := around.find_secret(key)) is None:
        return Problem("InvalidCertificateRef", f"Secret {key} does not exist")
    try:
        return pair_of(secret)
    except SecretError as error:
        return Problem("InvalidCertificateRef", str(error))


def _find_conflicts(states: Sequence[ListenerState]) -> None:
    """Listeners of a port must differ in their hostnames and agree in their protocol."""
    able = [each for each in states if each.refused is None]
    for each in able:
        same = [
            other
            for other in able
            if other is not each and other.listener.port == each.listener.port
        ]
        if any(other.listener.protocol != each.listener.protocol for other in same):
            text = f"port {each.listener.port} is wanted for two protocols"
            each.conflict = Problem("ProtocolConflict", text)
        elif any(other.listener.hostname == each.listener.hostname for other in same):
            text = f"port {each.listener.port} is wanted twice for the same hostname"
            each.conflict = Problem("HostnameConflict", text)


def _find_overlaps(states: Sequence[ListenerState]) -> None:
    """Connections for one listener could be used for requests to another (RFC 9110, 7.4): those
    are answered with 421, and users are told."""
    able = [each for each in states if each.is_accepted and each.is_tls]
    for each in able:
        each.overlaps = any(
            common(each.listener.hostname, other.listener.hostname) is not None
            for other in able
            if other is not each and other.listener.port == each.listener.port
        )


def covers(wide: str, name: str) -> bool:
    """Whether all that `name` stands for is in `wide`: "" is everything, and `*.x` any number of
    labels before x (unlike in Ingress)."""
    return wide in ("", name) or (wide.startswith("*.") and name.endswith(wide[1:]))


def common(one: str, other: str) -> str | None:
    """The hostname that stands for what both stand for."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None
