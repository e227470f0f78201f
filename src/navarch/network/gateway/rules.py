"""An HTTPRoute's rules as routes of the data plane.

What a user writes becomes data that is compared and copied, never configuration (see
`network/nginx/model`). Still every value is looked at, since objects may be older than the schema:
a header's value with a line break, or a filter on a header that belongs to the connection, is
refused. A rule with such a value is dropped, or, where only its filters are bad, answered with 500:
requests that it was meant for must not get to a backend unfiltered.

A backend that does not exist or may not be used answers 500 for its share of the requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from navarch.api.times import parse_duration
from navarch.network.gateway.around import Around, Problem, Wanted
from navarch.network.gateway.objects import (
    BackendRef,
    CorsFilter,
    Filter,
    Fraction,
    HeaderMatch,
    HeaderModifier,
    HTTPRoute,
    PathModifier,
    Reference,
    RequestMirror,
    RequestRedirect,
    RouteMatch,
    RouteRule,
    URLRewrite,
)
from navarch.network.nginx.backends import find_port
from navarch.network.nginx.model import (
    Backend,
    Condition,
    Cors,
    HeaderChange,
    Match,
    Mirror,
    NextUpstream,
    PathKind,
    Policy,
    Protocol,
    Redirect,
    Rewrite,
    Route,
    Timeouts,
)

FOREVER = 86400.0
POLICY = Policy(body_limit=0, next_upstream=(NextUpstream.ERROR,))
"""Bodies of any size; another endpoint is tried where one cannot be reached."""
PROTOCOLS = {"kubernetes.io/h2c": Protocol.GRPC}
"""nginx speaks HTTP/2 to backends in its gRPC module, which takes any request."""
UNSUPPORTED_PROTOCOLS = ("kubernetes.io/wss",)
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
CONNECTION_HEADERS = frozenset(
    (
        *("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
OWN_HEADERS = frozenset(
    (
        *("x-request-id", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port"),
        *("x-forwarded-proto", "x-forwarded-scheme", "x-scheme", "x-forwarded-prefix"),
        *("x-original-forwarded-for", "proxy"),
    )
)
"""What the data plane itself tells backends about a request."""
_DEFAULT_PORT = re.compile(r"^(http://.*):80$|^(https://.*):443$")
"""Browsers leave it out of origins."""

Precedence = tuple[int, int, bool, int, int]


class RefusedError(ValueError):
    """A value cannot be used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route and its place among others for the same hostname: the smallest is asked first."""

    order: tuple[Precedence, str, str, int, int]
    route: Route


@dataclass(slots=True)
class Converted:
    """An HTTPRoute as the data plane has it, and what is wrong with it."""

    candidates: list[Candidate] = field(default_factory=list)
    unresolved: Problem | None = None
    bad_rules: list[Problem] = field(default_factory=list)
    rules: int = 0

    def note(self, problem: Problem) -> None:
        self.unresolved = self.unresolved or problem


def convert(route: HTTPRoute, around: Around) -> Converted:
    found = Converted(rules=len(route.spec.rules))
    metadata = route.metadata
    name = f"{metadata.namespace}/{metadata.name}"
    for number, rule in enumerate(route.spec.rules):
        what = rule.name or f"number {number + 1}"
        try:
            matches = [_match(each) for each in rule.matches or [RouteMatch()]]
        except RefusedError as error:
            found.bad_rules.append(Problem("UnsupportedValue", f"Dropped Rule {what}: {error}"))
            continue
        try:
            common = _Rule(route, rule, around, found).route()
        except RefusedError as error:
            text = f"Dropped Rule {what}, answered with 500: {error}"
            reason = "IncompatibleFilters" if isinstance(error, _FiltersError) else ""
            found.bad_rules.append(Problem(reason or "UnsupportedValue", text))
            common = Route(status=500, policy=POLICY)
        for place, match in enumerate(matches):
            order = (
                precedence(match),
                metadata.creationTimestamp or "",
                name,
                number,
                place,
            )
            found.candidates.append(Candidate(order, msgspec.structs.replace(common, match=match)))
    return found


class _FiltersError(RefusedError):
    """Filters that exclude each other."""


# -- matches ----------------------------------------------------------------------------------


def precedence(match: Match) -> Precedence:
    """Which of several matches counts: an exact path, a pattern, the longest prefix; then one for a
    method, then most headers, then most query parameters."""
    kind = {PathKind.EXACT: 0, PathKind.REGEX: 1}.get(match.kind, 2)
    length = len(match.path.rstrip("/")) if match.kind is PathKind.PREFIX else len(match.path)
    return (kind, -length, not match.method, -len(match.headers), -len(match.queries))


def _match(match: RouteMatch) -> Match:
    path, kind = match.path.value or "/", match.path.type
    _check(path)
    if kind == "RegularExpression":
        # nginx's patterns begin at the path's beginning; these end at its end, and mind the case.
        path, how = f"(?-i:{_pattern(path)})$", PathKind.REGEX
    else:
        how = PathKind.EXACT if kind == "Exact" else PathKind.PREFIX
        if not path.startswith("/"):
            raise RefusedError(f"path {path!r} does not begin with a slash")
        path = _decoded(path)
    return Match(
        path=path,
        kind=how,
        method=match.method,
        headers=_conditions(match.headers, ignores_case=True),
        queries=_conditions(match.queryParams, ignores_case=False),
    )


def _decoded(path: str) -> str:
    """Paths are compared without percent-encoding."""
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError as error:
        raise RefusedError(f"path {path!r} is no text") from error


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise RefusedError(f"{text!r} is no regular expression: {error}") from error
    return text


def _conditions(matches: Sequence[HeaderMatch], *, ignores_case: bool) -> tuple[Condition, ...]:
    """Of several for one name the first counts."""
    found: dict[str, Condition] = {}
    for each in matches:
        is_pattern = each.type == "RegularExpression"
        value = _pattern(each.value) if is_pattern else each.value
        condition = Condition(name=each.name, value=value, regex=is_pattern)
        found.setdefault(each.name.lower() if ignores_case else each.name, condition)
    return tuple(found.values())


# -- filters and backends ---------------------------------------------------------------------


@dataclass(slots=True)
class _Rule:
    route_object: HTTPRoute
    rule: RouteRule
    around: Around
    found: Converted

    def route(self) -> Route:
        """What happens to requests that the rule matches. Raises RefusedError."""
        filters = self._filters(self.rule.filters)
        timeouts = self._timeouts()
        policy = msgspec.structs.replace(
            POLICY,
            mirrors=len(filters.get("mirrors", ())),
            limits_time=bool(timeouts.attempt or timeouts.total),
        )
        backends = tuple(self._backend(each, policy) for each in self.rule.backendRefs)
        return Route(backends=backends, timeouts=timeouts, policy=policy, **filters)

    def _filters(self, given: Sequence[Filter]) -> dict[str, Any]:
        """The filters of a rule or of a backend, as fields of a route or backend."""
        found: dict[str, Any] = {}
        for each in given:
            if each.requestHeaderModifier is not None:
                found["request_headers"] = _headers(each.requestHeaderModifier, OWN_HEADERS)
            elif each.responseHeaderModifier is not None:
                found["response_headers"] = _headers(each.responseHeaderModifier, {"host"})
            elif each.requestRedirect is not None:
                found["redirect"] = _redirect(each.requestRedirect)
            elif each.urlRewrite is not None:
                found["rewrite"] = _rewrite(each.urlRewrite)
            elif each.requestMirror is not None:
                if (mirror := self._mirror(each.requestMirror)) is not None:
                    found["mirrors"] = (*found.get("mirrors", ()), mirror)
            elif each.cors is not None:
                found["cors"] = _cors(each.cors)
            else:
                if each.type == "ExtensionRef":
                    self.found.note(Problem("InvalidKind", "there are no filters of other kinds"))
                raise RefusedError(f"a filter of type {each.type} is not supported")
        if "redirect" in found and "rewrite" in found:
            raise _FiltersError("a request is either redirected or rewritten")
        return found

    def _timeouts(self) -> Timeouts:
        """Both are for a whole exchange; within it silence has no limit of its own."""
        given = self.rule.timeouts
        total, attempt = (
            (_seconds(given.request), _seconds(given.backendRequest)) if given else (None, None)
        )
        if total is None and attempt is None:
            return Timeouts()
        return Timeouts(send=FOREVER, read=FOREVER, attempt=attempt or 0.0, total=total or 0.0)

    def _backend(self, reference: BackendRef, policy: Policy) -> Backend:
        weight = reference.weight
        upstream, protocol = self._resolve(reference)
        if not upstream:
            return Backend(status=500, weight=weight)
        try:
            filters = self._filters(reference.filters)
            if filters.keys() & {"mirrors", "cors"}:
                raise RefusedError("mirrors and CORS are for whole rules, not backends")
        except RefusedError as error:
            text = f"Dropped Rule's backend {reference.name}: {error}"
            self.found.bad_rules.append(Problem("UnsupportedValue", text))
            return Backend(status=500, weight=weight)
        own = msgspec.structs.replace(policy, protocol=protocol)
        metadata = self.route_object.metadata
        return Backend(
            upstream=upstream,
            weight=weight,
            policy=own if own != policy else None,
            labels=(metadata.namespace, metadata.name, reference.name, str(reference.port)),
            **filters,
        )

    def _mirror(self, given: RequestMirror) -> Mirror | None:
        upstream, _ = self._resolve(given.backendRef)
        if not upstream:
            return None
        share = given.fraction or Fraction(
            numerator=100 if given.percent is None else given.percent
        )
        return Mirror(
            upstream=upstream,
            numerator=share.numerator,
            denominator=max(1, share.denominator),
        )

    def _resolve(self, reference: Reference) -> tuple[str, Protocol]:
        """The upstream a reference stands for, empty if it cannot be used."""
        own = self.route_object.metadata.namespace
        namespace = reference.namespace or own
        key = f"{namespace}/{reference.name}"
        problem: Problem | None = None
        upstream, protocol = "", Protocol.HTTP
        if (reference.group, reference.kind or "Service") != ("", "Service"):
            text = f"{reference.kind} of group {reference.group!r} is no Service"
            problem = Problem("InvalidKind", text)
        elif not self.around.is_granted(
            Wanted("HTTPRoute", own, "", reference.name, "Service", namespace)
        ):
            text = f"no ReferenceGrant lets Service {key} be used from {own}"
            problem = Problem("RefNotPermitted", text)
        else:
            target = self.around.find_target(namespace, reference.name, reference.port)
            service = self.around.services.service(key)
            port = find_port(service, reference.port) if service is not None else None
            application = (port.appProtocol or "") if port is not None else ""
            if service is not None and service.spec.type == "ExternalName":
                # It would lead anywhere, past all grants (CVE-2021-25740).
                problem = Problem("InvalidKind", f"Service {key} is of type ExternalName")
            elif target.problem:
                problem = Problem("BackendNotFound", target.problem)
            elif application in UNSUPPORTED_PROTOCOLS:
                text = f"Service {key}: {application} is not supported"
                problem = Problem("UnsupportedProtocol", text)
            else:
                upstream, protocol = target.upstream, PROTOCOLS.get(application, Protocol.HTTP)
        if problem is not None:
            self.found.note(problem)
        return upstream, protocol


def _check(text: str) -> str:
    if _CONTROL.search(text):
        raise RefusedError(f"{text!r} contains a control character")
    return text


def _headers(given: HeaderModifier, forbidden: AbstractSet[str]) -> HeaderChange:
    names = [each.name for each in (*given.set, *given.add)] + given.remove
    for name in names:
        if TOKEN.fullmatch(name) is None:
            raise RefusedError(f"{name!r} is not a header's name")
        if name.lower() in CONNECTION_HEADERS | forbidden:
            raise RefusedError(f"header {name} is not for filters: the gateway itself sets it")
    if "host" in (name.lower() for name in given.remove):
        raise RefusedError("a request needs its Host")
    return HeaderChange(
        remove=tuple(given.remove),
        set={each.name: _check(each.value) for each in given.set},
        add={each.name: _check(each.value) for each in given.add},
    )


def _full_path(modifier: PathModifier) -> str:
    path = _check(modifier.replaceFullPath)
    if "?" in path or "#" in path:
        raise RefusedError(f"replaceFullPath {path!r} is more than a path")
    return path if path.startswith("/") else f"/{path}"


def _host(name: str) -> str:
    if re.fullmatch(r"[a-z0-9.-]{0,253}", name) is None:
        raise RefusedError(f"{name!r} is not a hostname")
    return name


def _redirect(given: RequestRedirect) -> Redirect:
    path, prefix = _new_path(given.path)
    return Redirect(
        status=given.statusCode or 302,
        scheme=given.scheme,
        host=_host(given.hostname),
        port=given.port,
        path=quote(path, safe="/%:@!$&'()*+,;=~"),
        prefix=prefix or "",
        prefixed=prefix is not None,
    )


def _rewrite(given: URLRewrite) -> Rewrite:
    path, prefix = _new_path(given.path)
    return Rewrite(
        host=_host(given.hostname),
        target=(path,) if path else (),
        prefix=prefix or "",
        prefixed=prefix is not None,
    )


def _new_path(given: PathModifier | None) -> tuple[str, str | None]:
    """A whole path, or what stands in place of a prefix, which may be empty."""
    if given is None:
        return "", None
    if given.type == "ReplaceFullPath":
        return _full_path(given), None
    return "", _check(given.replacePrefixMatch)


def _cors(given: CorsFilter) -> Cors:
    for text in (
        *given.allowOrigins,
        *given.allowMethods,
        *given.allowHeaders,
        *given.exposeHeaders,
    ):
        _check(text)
    # Browsers take no wildcard along with credentials.
    hidden = given.allowCredentials and "*" in given.exposeHeaders
    return Cors(
        origins=tuple(_DEFAULT_PORT.sub(r"\1\2", each) for each in given.allowOrigins),
        methods=", ".join(given.allowMethods),
        headers=", ".join(given.allowHeaders),
        credentials=given.allowCredentials,
        expose="" if hidden else ", ".join(given.exposeHeaders),
        max_age=given.maxAge,
        of_gateway=True,
    )


def _seconds(text: str) -> float | None:
    """0 is no limit."""
    try:
        return min(parse_duration(text), FOREVER) if text else None
    except ValueError as error:
        raise RefusedError(f"{text!r} is not a duration") from error
