"""What nginx shall serve, as values.

The model knows neither Ingress nor Gateway API. Both are translated into it: hosts with routes in
order of precedence, and for each route what happens to a request that matches.

Where values end up decides how dangerous they are. Nearly everything here reaches nginx as *data*:
a JSON document that Lua code inside nginx interprets (`document.py`), where a quote or a brace in a
path is a character like any other. Only what nginx takes nowhere but in its configuration file is
in `Policy` and `Listener`, and these hold numbers, booleans and words of closed lists, never text
of a user. So no Ingress can become configuration, whatever is in it.

Text with variables (`auth-url`, `rewrite-target`) is taken apart by whoever translates: a template
is a sequence of literal texts, variables of a closed list and captured groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Compared by content."""


class Variable(Value, frozen=True):
    """The value of an nginx variable, in a template."""

    v: str


class Capture(Value, frozen=True):
    """What a group of the path's regular expression matched, in a template. `c` counts from 1."""

    c: int


Template = tuple[str | Variable | Capture, ...]


class PathKind(StrEnum):
    """EXACT: byte for byte. PREFIX: by elements, `/a` matches `/a/b` and not `/ab`. BEGINS: as a
    string. REGEX: a regular expression (PCRE) at the path's beginning, regardless of case."""

    EXACT = "exact"
    PREFIX = "prefix"
    BEGINS = "begins"
    REGEX = "regex"


class Condition(Value, frozen=True):
    """A header or query parameter that a request must have."""

    name: str
    value: str = ""
    regex: bool = False


class Match(Value, frozen=True):
    """Which requests a route takes. All conditions must hold."""

    path: str = "/"
    kind: PathKind = PathKind.BEGINS
    method: str = ""
    headers: tuple[Condition, ...] = ()
    queries: tuple[Condition, ...] = ()


class HeaderChange(Value, frozen=True):
    """What is done to headers: first removed, then set, then added."""

    remove: tuple[str, ...] = ()
    set: Mapping[str, str] = {}
    add: Mapping[str, str] = {}


class Rewrite(Value, frozen=True):
    """What the backend sees instead of the request's host and path. `target` is a whole path (with
    perhaps a query); `prefix` replaces the part that the route's path matched. `prefixed` tells
    that there is one, as the empty one is a value."""

    host: str = ""
    target: Template = ()
    prefix: str = ""
    prefixed: bool = False


class Redirect(Value, frozen=True):
    """An answer that sends the client elsewhere: to `location`, or to the request's own address
    with the parts that are given here in place of its own."""

    status: int
    location: Template = ()
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    prefix: str = ""
    prefixed: bool = False


class Protocol(StrEnum):
    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    GRPCS = "grpcs"


class NextUpstream(StrEnum):
    """In which cases a request is tried with another endpoint (`proxy_next_upstream`)."""

    ERROR = "error"
    TIMEOUT = "timeout"
    INVALID_HEADER = "invalid_header"
    HTTP_500 = "http_500"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    NON_IDEMPOTENT = "non_idempotent"
    OFF = "off"


class Policy(Value, frozen=True):
    """What nginx wants in its configuration file: each distinct policy becomes a location there,
    and a new one is what takes a reload. Sizes are in bytes, 0 being nginx's default or no limit.

    `trusted`, `client_certificate` name certificates of `DataPlane.files`, by their digests."""

    protocol: Protocol = Protocol.HTTP
    http_1_0: bool = False
    buffering: bool = False
    streams_requests: bool = False
    """A request's body is passed on as it comes (`proxy-request-buffering: off`)."""
    buffer_size: int = 4096
    buffers: int = 4
    body_limit: int = 1 << 20
    body_buffer: int = 8192
    next_upstream: tuple[NextUpstream, ...] = (NextUpstream.ERROR, NextUpstream.TIMEOUT)
    next_upstream_seconds: int = 0
    intercepts: tuple[int, ...] = ()
    """Status codes whose answers are replaced by those of the route's error backend."""
    basic_auth: bool = False
    external_auth: bool = False
    checks_source: bool = False
    satisfy_any: bool = False
    mirrors: int = 0
    mirrors_body: bool = True
    limits_time: bool = False
    """Answers that take longer than the route's timeouts allow are broken off."""
    limit_rate_after: int = 0
    verifies: bool = False
    verify_depth: int = 1
    trusted: str = ""
    client_certificate: str = ""


class Timeouts(Value, frozen=True):
    """In seconds, 0 being none: how long a backend may be silent; and how long a whole attempt and
    all attempts together may take, which want `Policy.limits_time`."""

    connect: float = 5.0
    send: float = 60.0
    read: float = 60.0
    attempt: float = 0.0
    total: float = 0.0


class Backend(Value, frozen=True):
    """One of the places a route sends requests to, with its share of them. Where `status` is given
    the share is answered with it: a backend that does not exist."""

    upstream: str = ""
    weight: int = 1
    status: int = 0
    policy: Policy | None = None
    """In place of the route's own."""
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    tls_name: str = ""
    """What the backend's certificate is asked for, if not the request's host."""
    labels: tuple[str, ...] = ()
    """Namespace, object, service and port, for the log and the metrics."""


class Canary(Value, frozen=True):
    """A backend that takes some of a route's requests: those that say so by a header or a cookie,
    else a share of `weight` in `total`."""

    backend: Backend
    header: str = ""
    value: str = ""
    pattern: str = ""
    cookie: str = ""
    weight: int = 0
    total: int = 100


class Affinity(Value, frozen=True):
    """A cookie that keeps a client with its endpoint."""

    cookie: str
    path: str = "/"
    domain: str = ""
    same_site: str = ""
    max_age: int = 0
    expires: int = 0
    secure: bool = False
    change_on_failure: bool = False


class Limits(Value, frozen=True):
    """How much one client may ask. `rate` is per minute."""

    key: str
    rates: tuple[int, ...] = ()
    burst_multiplier: int = 5
    connections: int = 0
    bytes_per_second: int = 0
    exempt: tuple[str, ...] = ()


class Cors(Value, frozen=True):
    """Answers for scripts from other origins (Fetch standard). An origin may have a wildcard as
    its host's first label."""

    origins: tuple[str, ...] = ("*",)
    methods: str = "GET, PUT, POST, DELETE, PATCH, OPTIONS"
    headers: str = ""
    credentials: bool = False
    expose: str = ""
    max_age: int = 1728000
    of_gateway: bool = False
    """A wildcard is any number of labels, and among methods and headers what was asked for; and
    only who asks for methods or headers is told of them (Gateway API)."""


class BasicAuth(Value, frozen=True):
    """Passwords are in a file of `DataPlane.files`, named by its digest."""

    file: str
    realm: str = "Authentication Required"


class ExternalAuth(Value, frozen=True):
    """Another server is asked about each request: 2xx lets it pass."""

    url: Template
    method: str = ""
    signin: Template = ()
    signin_parameter: str = "rd"
    headers: tuple[str, ...] = ()
    """Headers of its answer that the backend gets."""
    request_redirect: Template = ()
    always_sets_cookie: bool = False


class Mirror(Value, frozen=True):
    """A copy of requests goes there; its answers are thrown away. Numerator over denominator is
    the share of requests."""

    upstream: str = ""
    url: Template = ()
    host: str = ""
    numerator: int = 100
    denominator: int = 100


class Route(Value, frozen=True):
    """What happens to a request. The first thing that is given here and applies is done:
    `https_redirect`, a CORS preflight's answer, `redirect`, `status`; else a backend answers."""

    match: Match = Match()
    backends: tuple[Backend, ...] = ()
    status: int = 0
    https_redirect: int = 0
    """The status code of a redirect to HTTPS for requests that came without."""
    redirect: Redirect | None = None
    app_root: str = ""
    rewrite: Rewrite | None = None
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    mirrors: tuple[Mirror, ...] = ()
    timeouts: Timeouts = Timeouts()
    tries: int = 3
    policy: Policy = Policy()
    canary: Canary | None = None
    affinity: Affinity | None = None
    hash_by: Template = ()
    least_latency: bool = False
    """Endpoints are chosen by their moving average of latency instead of in turn."""
    limits: Limits | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    basic_auth: BasicAuth | None = None
    external_auth: ExternalAuth | None = None
    cors: Cors | None = None
    error_backend: Backend | None = None
    """Asked for what `Policy.intercepts` replaces, and when no endpoint is ready."""
    error_backend_for_no_endpoints: bool = False
    forwarded_prefix: str = ""
    connection_header: str = ""
    unlogged: bool = False


class Host(Value, frozen=True):
    """A name with its routes in order of precedence. "" is for requests to hosts that have no
    entry; `*.example.com` matches one more label, or any number of them if `deep`."""

    name: str = ""
    deep: bool = False
    group: str = ""
    """Hosts of one group may be asked for over connections to each other (`strict_sni`)."""
    certificate: str = ""
    routes: tuple[Route, ...] = ()
    client_ca: str = ""
    client_depth: int = 1
    client_optional: bool = False
    client_name: str = ""
    passes_client_certificate: bool = False


class Listener(Value, frozen=True):
    """A port of the node. `public_port` is what clients see, if another (behind a Service)."""

    port: int
    tls: bool = False
    public_port: int = 0
    table: str = ""
    https_port: int = 443
    """Where a redirect to HTTPS leads."""
    strict_sni: bool = False
    """A request for a host of another group than the handshake was for is answered with 421."""


class Certificate(Value, frozen=True):
    """A certificate chain and its key, PEM."""

    chain: str
    key: str


class DataPlane(Value, frozen=True):
    """Everything one nginx serves."""

    listeners: tuple[Listener, ...] = ()
    tables: Mapping[str, tuple[Host, ...]] = {}
    """The hosts of the listeners that name the table."""
    upstreams: Mapping[str, tuple[str, ...]] = {}
    """Endpoints, as `address:port` with IPv6 addresses in brackets."""
    certificates: Mapping[str, Certificate] = {}
    files: Mapping[str, str] = {}
    """Texts that nginx reads from files (passwords, trusted certificates), by their digests."""
