"""Ingresses and what they refer to, as a model of the data plane. Pure.

The rules (Ingress API and upstream's controller):

* Ingresses are taken by age, then by name; of two that claim the same path of a host the older has
  it, and the younger has an event.
* Longest path first; of equal paths Exact before Prefix before ImplementationSpecific. An exact
  host goes before a wildcard (one label), and that before no host. Hosts do not fall through.
* An Ingress that asks for something impossible is still there: its paths answer 503. Otherwise its
  requests, and the cookies in them, would go to whoever else claims the host.
* A canary Ingress adds a second backend to the same path of another Ingress and is nothing alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from navarch.api.types.networking_v1 import (
    HTTPIngressPath,
    Ingress,
    IngressBackend,
    IngressClass,
)
from navarch.network.ingress import annotations as grammar
from navarch.network.ingress.annotations import HOST
from navarch.network.ingress.routes import (
    RefusedError,
    Site,
    Surroundings,
    canary,
    client_certificates,
    site,
)
from navarch.network.nginx.certificates import Pair, SecretError, pair_of
from navarch.network.nginx.model import (
    Backend,
    Certificate,
    DataPlane,
    Host,
    Listener,
    Match,
    PathKind,
    Redirect,
    Route,
)

TABLE = "ingress"
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
KIND_ORDER = {"Exact": 0, "Prefix": 1, "ImplementationSpecific": 2}
_HOST = re.compile(rf"(\*\.)?{HOST}")
_PATTERN_CHARACTERS = frozenset("()[]|*+?^$\\{}")
_FORBIDDEN = frozenset("\"'`;#<> \x7f") | {chr(code) for code in range(32)}


@dataclass(frozen=True, slots=True)
class Problem:
    """A Warning event at an Ingress."""

    ingress: Ingress
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Translation:
    """What to serve, and what is wrong."""

    plane: DataPlane
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen, and what clients see instead (0: the same)."""

    http: int = 80
    https: int = 443
    public_http: int = 0
    public_https: int = 0


def is_ours(
    ingress: Ingress, classes: Iterable[IngressClass], controller: str, takes_classless: bool
) -> bool:
    """Whether an Ingress is of one of our classes. The annotation is older than the field, and
    names a class that need not exist as an object."""
    ours = {each.metadata.name for each in classes if each.spec.controller == controller}
    named = ingress.metadata.annotations.get(CLASS_ANNOTATION, "") or ingress.spec.ingressClassName
    if named:
        return named in ours or (
            named == "nginx" and CLASS_ANNOTATION in ingress.metadata.annotations
        )
    return takes_classless


def precedence(ingress: Ingress) -> tuple[str, str, str]:
    metadata = ingress.metadata
    return metadata.creationTimestamp or "", metadata.namespace, metadata.name


def translate(ingresses: Sequence[Ingress], around: Surroundings, ports: Ports) -> Translation:
    """`ingresses` are those that are ours."""
    work = _Translator(around)
    ordered = sorted(ingresses, key=precedence)
    sites = [found for each in ordered if (found := work.take(each)) is not None]
    for each in sites:
        if not each.is_canary:
            work.add(each)
    for each in sites:
        if each.is_canary:
            work.add_canary(each)
    https_port = ports.public_https or ports.https
    listeners = tuple(
        Listener(port=port, public_port=public, tls=tls, table=TABLE, https_port=https_port)
        for port, public, tls in (
            (ports.http, ports.public_http, False),
            (ports.https, ports.public_https, True),
        )
    )
    plane = DataPlane(
        listeners=listeners,
        tables={TABLE: work.finish()},
        upstreams=around.upstreams,
        certificates=work.certificates,
        files=around.files,
    )
    return Translation(plane, tuple(work.problems))


@dataclass(slots=True)
class _Path:
    """One path of a host, on its way to a route."""

    key: tuple[str, str]
    site: Site
    route: Route


@dataclass(slots=True)
class _HostWork:
    """What has been gathered about one host."""

    paths: dict[tuple[str, str], _Path] = field(default_factory=dict)
    fallback: Route | None = None
    certificate: str = ""
    has_tls: bool = False
    regex: bool = False
    client: dict[str, Any] = field(default_factory=dict)


class _Translator:
    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.hosts: dict[str, _HostWork] = {}
        self.certificates: dict[str, Certificate] = {}
        self.problems: list[Problem] = []
        self.aliases: list[tuple[str, str, Site]] = []
        self.www: list[str] = []

    def warn(self, ingress: Ingress, reason: str, message: str) -> None:
        self.problems.append(Problem(ingress, reason, message))

    def take(self, ingress: Ingress) -> Site | None:
        """An Ingress as a site; one that cannot be served becomes one that answers 503."""
        given = grammar.parse(ingress.metadata.annotations)
        if given.unknown:
            names = ", ".join(given.unknown)
            self.warn(ingress, "UnknownAnnotation", f"not known, and ignored: {names}")
        try:
            return site(ingress, given, self.around)
        except (RefusedError, SecretError) as error:
            self.warn(ingress, "Rejected", f"answered with 503: {error}")
        if given.get("canary"):
            return None
        return Site(ingress, grammar.Annotations({}), Route(status=503), False, False)

    def add(self, each: Site) -> None:
        spec = each.ingress.spec
        asked = {rule.host: self._host(each, rule.host) for rule in spec.rules}
        served = {name: host for name, host in asked.items() if host is not None}
        for rule in spec.rules:
            if (host := served.get(rule.host)) is None:
                continue
            host.regex = host.regex or each.uses_regex
            for path in rule.http.paths if rule.http else ():
                self._add_path(each, rule.host, host, path)
        if spec.defaultBackend is not None:
            route = self._answer(each, spec.defaultBackend)
            if not spec.rules:
                served = {"": self.hosts.setdefault("", _HostWork())}
            for host in served.values():
                if host.fallback is None:
                    host.fallback = route
        self._add_tls(each, [*served])
        given = each.annotations
        self.aliases += [
            (alias.lower(), name, each)
            for alias in given.get("server-alias", ())
            for name in served
            if name
        ]
        if given.get("from-to-www-redirect"):
            self.www += [name for name in served if name and not name.startswith("*.")]

    def _host(self, each: Site, name: str) -> _HostWork | None:
        """The API checks hosts as well; what is in the store may be older than its checks."""
        if name and (len(name) > 253 or _HOST.fullmatch(name) is None or name != name.lower()):
            self.warn(each.ingress, "Rejected", f"{name!r} is not a host name")
            return None
        host = self.hosts.setdefault(name, _HostWork())
        if not host.client:
            self._add_client_certificates(each, host)
        return host

    def _add_client_certificates(self, each: Site, host: _HostWork) -> None:
        try:
            wanted = client_certificates(each.ingress, each.annotations, self.around)
        except ValueError as error:
            self.warn(each.ingress, "Rejected", f"answered with 503: {error}")
            # A host whose clients cannot be checked answers nobody.
            host.client = {"broken": True}
            return
        if wanted is not None:
            chain, fields = wanted
            host.client = dict(fields)
            self.certificates[str(fields["client_ca"])] = Certificate(chain=chain, key="")

    def _add_path(self, each: Site, name: str, host: _HostWork, path: HTTPIngressPath) -> None:
        text, kind = path.path or "/", path.pathType or "ImplementationSpecific"
        if problem := path_problem(text, kind):
            self.warn(each.ingress, "Rejected", f"path {text!r} is not served: {problem}")
            return
        key = text, kind
        if key in host.paths:
            other = host.paths[key].site.key
            if other != each.key:
                where = f"{name or '*'}{text}"
                self.warn(each.ingress, "Rejected", f"{where} belongs to Ingress {other}")
            return
        host.paths[key] = _Path(key, each, self._answer(each, path.backend))

    def _answer(self, each: Site, reference: IngressBackend) -> Route:
        """The Ingress' route with its backend. What does not exist answers 503."""
        if each.route.status:
            return each.route
        found = self._backend(each, reference)
        if found is None:
            if each.route.redirect is not None:
                return each.route
            return msgspec.structs.replace(each.route, status=503)
        return msgspec.structs.replace(each.route, backends=(found,))

    def _backend(self, each: Site, reference: IngressBackend) -> Backend | None:
        ingress = each.ingress
        if reference.service is None:
            self.warn(ingress, "Rejected", "backend.resource is not supported: answered with 503")
            return None
        port = reference.service.port.name or reference.service.port.number
        namespace = ingress.metadata.namespace
        found = self.around.find_target(
            namespace,
            reference.service.name,
            port,
            bool(each.annotations.get("service-upstream")),
        )
        if found.problem:
            self.warn(ingress, "ServiceNotFound", f"answered with 503: {found.problem}")
            return None
        return Backend(
            upstream=found.upstream,
            tls_name=each.annotations.get("proxy-ssl-name", ""),
            labels=(namespace, ingress.metadata.name, found.service, found.port),
        )

    def add_canary(self, each: Site) -> None:
        taken = False
        for rule in each.ingress.spec.rules:
            host = self.hosts.get(rule.host)
            for path in rule.http.paths if rule.http else ():
                kind = path.pathType or "ImplementationSpecific"
                main = host.paths.get((path.path or "/", kind)) if host else None
                if main is None or main.route.status or main.route.canary is not None:
                    continue
                if (backend := self._backend(each, path.backend)) is None:
                    continue
                taken = True
                # How the path is protected and rewritten is the main Ingress' affair.
                main.route = msgspec.structs.replace(
                    main.route, canary=canary(each.annotations, backend)
                )
        if not taken:
            self.warn(each.ingress, "Rejected", "is a canary of no path that is served")

    def _add_tls(self, each: Site, names: Sequence[str]) -> None:
        for entry in each.ingress.spec.tls:
            wanted = [name for name in names if name in entry.hosts] if entry.hosts else [*names]
            for name in wanted:
                self.hosts[name].has_tls = True
            if not entry.secretName:
                continue
            try:
                pair = pair_of(self.around.secret_of(each.ingress, entry.secretName))
            except (RefusedError, SecretError) as error:
                self.warn(each.ingress, "DefaultCertificate", f"default certificate used: {error}")
                continue
            for name in wanted:
                self._use(each, name, pair)

    def _use(self, each: Site, name: str, pair: Pair) -> None:
        if name and not pair.covers(name):
            message = f"default certificate used: {name} is not in the certificate"
            self.warn(each.ingress, "DefaultCertificate", message)
        elif not self.hosts[name].certificate:
            self.hosts[name].certificate = pair.name
            self.certificates[pair.name] = pair.certificate

    def finish(self) -> tuple[Host, ...]:
        result = {name: self._finished(name, host) for name, host in self.hosts.items()}
        for name in self.www:
            other = name.removeprefix("www.") if name.startswith("www.") else f"www.{name}"
            if other not in result and other:
                redirect = Redirect(status=308, host=name)
                certificate = result[name].certificate
                route = Route(redirect=redirect, limits=None)
                result[other] = Host(name=other, certificate=certificate, routes=(route,))
        for alias, name, each in self.aliases:
            if alias in result:
                message = f"server-alias: {alias} is a host of another Ingress"
                self.warn(each.ingress, "Rejected", message)
            else:
                result[alias] = msgspec.structs.replace(result[name], name=alias)
        return tuple(result[name] for name in sorted(result))

    def _finished(self, name: str, host: _HostWork) -> Host:
        ordered = sorted(
            host.paths.values(),
            key=lambda each: (
                -len(_bare(each.key)),
                KIND_ORDER.get(each.key[1], 2),
                each.key,
            ),
        )
        routes = [_matched(each, host) for each in ordered]
        if host.fallback is not None:
            routes.append(_secured(host.fallback, None, host))
        if host.client.get("broken"):
            return Host(name=name, certificate=host.certificate, routes=(Route(status=503),))
        return Host(name=name, certificate=host.certificate, routes=tuple(routes), **host.client)


def _bare(key: tuple[str, str]) -> str:
    return key[0].rstrip("/") if key[1] == "Prefix" else key[0]


def _matched(each: _Path, host: _HostWork) -> Route:
    text, kind = each.key
    if kind == "Exact":
        how = PathKind.EXACT
    elif is_pattern(text, kind, each.site, host.regex):
        how = PathKind.REGEX
    else:
        how = PathKind.PREFIX if kind == "Prefix" else PathKind.BEGINS
    route = msgspec.structs.replace(each.route, match=Match(path=text, kind=how))
    return _secured(route, each.site, host)


def is_pattern(text: str, kind: str, each: Site, host_uses_regex: bool) -> bool:
    """Whether a path is a regular expression. One Ingress with patterns makes the
    ImplementationSpecific paths of the whole host patterns (as upstream); a Prefix is one only if
    it looks like one and its own Ingress asks for patterns."""
    if kind == "Prefix":
        return each.uses_regex and not _PATTERN_CHARACTERS.isdisjoint(text)
    return host_uses_regex


def _secured(route: Route, each: Site | None, host: _HostWork) -> Route:
    if route.status:
        return route
    given = each.annotations if each is not None else grammar.Annotations({})
    wanted = given.get("force-ssl-redirect") or (host.has_tls and given.get("ssl-redirect", True))
    return msgspec.structs.replace(route, https_redirect=308) if wanted else route


def path_problem(text: str, kind: str) -> str:
    """What is wrong with a path. The API checks Exact and Prefix; ImplementationSpecific paths
    are anything there, and nothing here that is not a path or a pattern for one."""
    if len(text) > 1024:
        return "it is longer than 1024 characters"
    if not text.startswith("/"):
        return "it does not begin with a slash"
    if bad := _FORBIDDEN.intersection(text):
        return f"it contains {min(bad)!r}"
    if not text.isprintable():
        return "it contains a character that cannot be printed"
    if kind == "ImplementationSpecific" and not _PATTERN_CHARACTERS.isdisjoint(text):
        try:
            re.compile(text)
        except re.error as error:
            return f"it is not a regular expression: {error}"
    return ""
