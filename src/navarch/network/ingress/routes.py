"""What one Ingress says about its requests, as parts of a route: its annotations become values of
the data plane's model. Everything here is about one Ingress; `translate` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Secret
from navarch.api.types.networking_v1 import Ingress
from navarch.network.ingress.annotations import Annotations, regex
from navarch.network.nginx.backends import Around
from navarch.network.nginx.certificates import SecretError, authorities, passwords, value
from navarch.network.nginx.document import digest
from navarch.network.nginx.model import (
    Affinity,
    Backend,
    BasicAuth,
    Canary,
    Cors,
    ExternalAuth,
    Limits,
    Mirror,
    Policy,
    Redirect,
    Rewrite,
    Route,
    Timeouts,
    Variable,
)

CORS_HEADERS = (
    "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,"
    "Range,Authorization"
)
CORS_METHODS = "GET, PUT, POST, DELETE, PATCH, OPTIONS"


class RefusedError(ValueError):
    """An Ingress asks for what cannot be: it is answered with 503 and has an event."""


@dataclass(slots=True)
class Surroundings(Around):
    """What Ingresses refer to, and texts that nginx reads from files."""

    files: dict[str, str] = field(default_factory=dict, kw_only=True)

    def secret_of(self, ingress: Ingress, name: str) -> Secret:
        """A Secret that an Ingress names: in its own namespace, or it could read others'."""
        namespace, _, bare = name.rpartition("/")
        if namespace not in ("", ingress.metadata.namespace):
            raise RefusedError(f"Secret {name} is in another namespace")
        key = f"{ingress.metadata.namespace}/{bare}"
        if (found := self.find_secret(key)) is None:
            raise RefusedError(f"Secret {key} does not exist")
        return found

    def keep(self, text: str) -> str:
        name = digest(text)
        self.files[name] = text
        return name


@dataclass(frozen=True, slots=True)
class Site:
    """One Ingress with its annotations, and what the routes of all its paths have in common."""

    ingress: Ingress
    annotations: Annotations
    route: Route
    is_canary: bool
    uses_regex: bool

    @property
    def key(self) -> str:
        return f"{self.ingress.metadata.namespace}/{self.ingress.metadata.name}"


def site(ingress: Ingress, annotations: Annotations, around: Surroundings) -> Site:
    """Raises RefusedError."""
    if annotations.problems:
        raise RefusedError("; ".join(annotations.problems))
    return Site(
        ingress,
        annotations,
        _route(ingress, annotations, around),
        bool(annotations.get("canary")),
        "rewrite-target" in annotations or bool(annotations.get("use-regex")),
    )


def _route(ingress: Ingress, given: Annotations, around: Surroundings) -> Route:
    errors = _error_backend(ingress, given, around)
    connect, send, read = (
        float(given.get(f"proxy-{name}-timeout", default))
        for name, default in (("connect", 5), ("send", 60), ("read", 60))
    )
    return Route(
        redirect=_redirect(given),
        app_root=given.get("app-root", ""),
        rewrite=_rewrite(given),
        mirrors=_mirrors(given),
        timeouts=Timeouts(connect=connect, send=send, read=read),
        tries=given.get("proxy-next-upstream-tries", 3),
        policy=policy(ingress, given, around),
        affinity=_affinity(given),
        hash_by=given.get("upstream-hash-by", ()),
        least_latency=given.get("load-balance") == "ewma",
        limits=_limits(ingress, given),
        allow=(*given.get("whitelist-source-range", ()), *given.get("allowlist-source-range", ())),
        deny=given.get("denylist-source-range", ()),
        basic_auth=_basic_auth(ingress, given, around),
        external_auth=_external_auth(given),
        cors=_cors(given),
        error_backend=errors,
        error_backend_for_no_endpoints="default-backend" in given,
        forwarded_prefix=given.get("x-forwarded-prefix", ""),
        connection_header=given.get("connection-proxy-header", ""),
        unlogged=not given.get("enable-access-log", True),
    )


def policy(ingress: Ingress, given: Annotations, around: Surroundings) -> Policy:
    """What needs a place in nginx' configuration: numbers, switches and words only."""
    default = Policy()
    sources = "whitelist-source-range" in given or "allowlist-source-range" in given
    trusted, client = _backend_certificates(ingress, given, around)
    return Policy(
        protocol=given.get("backend-protocol", default.protocol),
        http_1_0=given.get("proxy-http-version") == "1.0",
        buffering=given.get("proxy-buffering") == "on",
        streams_requests=given.get("proxy-request-buffering") == "off",
        buffer_size=given.get("proxy-buffer-size", 0) or default.buffer_size,
        buffers=given.get("proxy-buffers-number", default.buffers),
        body_limit=given.get("proxy-body-size", default.body_limit),
        body_buffer=given.get("client-body-buffer-size", default.body_buffer),
        next_upstream=given.get("proxy-next-upstream", default.next_upstream),
        next_upstream_seconds=given.get("proxy-next-upstream-timeout", 0),
        intercepts=tuple(sorted(set(given.get("custom-http-errors", ())))),
        basic_auth="auth-type" in given,
        external_auth="auth-url" in given,
        checks_source=sources,
        satisfy_any=given.get("satisfy") == "any",
        mirrors=1 if "mirror-target" in given else 0,
        mirrors_body=given.get("mirror-request-body", "on") == "on",
        limit_rate_after=given.get("limit-rate-after", 0) << 10,
        verifies=given.get("proxy-ssl-verify") == "on",
        verify_depth=given.get("proxy-ssl-verify-depth", 1),
        trusted=trusted,
        client_certificate=client,
    )


def _backend_certificates(
    ingress: Ingress, given: Annotations, around: Surroundings
) -> tuple[str, str]:
    """Names of files: whom backends' certificates are checked against, and our own for them."""
    if "proxy-ssl-secret" not in given:
        return "", ""
    secret = around.secret_of(ingress, given.get("proxy-ssl-secret"))
    try:
        trusted = client = ""
        if "ca.crt" in secret.data:
            trusted = around.keep(authorities(secret))
        if "tls.crt" in secret.data:
            parts = (value(secret, "tls.crt"), value(secret, "tls.key"))
            client = around.keep("\n".join(part.decode("ascii", "replace") for part in parts))
    except SecretError as error:
        raise RefusedError(str(error)) from error
    if given.get("proxy-ssl-verify") == "on" and not trusted:
        raise RefusedError(f"Secret {secret.metadata.name} has no ca.crt to verify backends with")
    return trusted, client


def _redirect(given: Annotations) -> Redirect | None:
    if "temporal-redirect" in given:
        return Redirect(
            status=given.get("temporal-redirect-code", 302), location=given.get("temporal-redirect")
        )
    if "permanent-redirect" in given:
        return Redirect(
            status=given.get("permanent-redirect-code", 301),
            location=given.get("permanent-redirect"),
        )
    return None


def _rewrite(given: Annotations) -> Rewrite | None:
    target, host = given.get("rewrite-target", ()), given.get("upstream-vhost", "")
    return Rewrite(target=target, host=host) if target or host else None


def _mirrors(given: Annotations) -> tuple[Mirror, ...]:
    if "mirror-target" not in given:
        return ()
    url = given.get("mirror-target")
    default = str(url[0]).partition("://")[2].partition("/")[0].partition("?")[0]
    return (Mirror(url=url, host=given.get("mirror-host", default)),)


def _affinity(given: Annotations) -> Affinity | None:
    if "affinity" not in given:
        return None
    return Affinity(
        cookie=given.get("session-cookie-name", "INGRESSCOOKIE"),
        path=given.get("session-cookie-path", "/"),
        domain=given.get("session-cookie-domain", ""),
        same_site=given.get("session-cookie-samesite", ""),
        max_age=given.get("session-cookie-max-age", 0),
        expires=given.get("session-cookie-expires", 0),
        secure=given.get("session-cookie-secure", False),
        change_on_failure=given.get("session-cookie-change-on-failure", False),
    )


def _limits(ingress: Ingress, given: Annotations) -> Limits | None:
    rates = (given.get("limit-rpm", 0), given.get("limit-rps", 0) * 60)
    connections, rate = given.get("limit-connections", 0), given.get("limit-rate", 0)
    if not any((*rates, connections, rate)):
        return None
    return Limits(
        key=ingress.metadata.uid or f"{ingress.metadata.namespace}/{ingress.metadata.name}",
        rates=tuple(each for each in rates if each),
        burst_multiplier=given.get("limit-burst-multiplier", 5),
        connections=connections,
        bytes_per_second=rate << 10,
        exempt=(*given.get("limit-whitelist", ()), *given.get("limit-allowlist", ())),
    )


def _basic_auth(ingress: Ingress, given: Annotations, around: Surroundings) -> BasicAuth | None:
    if "auth-type" not in given:
        return None
    secret = around.secret_of(ingress, given.get("auth-secret"))
    try:
        text = passwords(secret, given.get("auth-secret-type", "auth-file"))
    except SecretError as error:
        raise RefusedError(str(error)) from error
    realm = given.get("auth-realm") or "Authentication Required"
    return BasicAuth(file=around.keep(text), realm=realm)


def _external_auth(given: Annotations) -> ExternalAuth | None:
    if "auth-url" not in given:
        return None
    return ExternalAuth(
        url=given.get("auth-url"),
        method=given.get("auth-method", ""),
        signin=given.get("auth-signin", ()),
        signin_parameter=given.get("auth-signin-redirect-param", "rd"),
        headers=given.get("auth-response-headers", ()),
        request_redirect=given.get("auth-request-redirect", (Variable(v="request_uri"),)),
        always_sets_cookie=given.get("auth-always-set-cookie", False),
    )


def _cors(given: Annotations) -> Cors | None:
    if not given.get("enable-cors"):
        return None
    return Cors(
        origins=given.get("cors-allow-origin", ("*",)),
        methods=given.get("cors-allow-methods", CORS_METHODS),
        headers=given.get("cors-allow-headers", CORS_HEADERS),
        credentials=given.get("cors-allow-credentials", True),
        expose=given.get("cors-expose-headers", ""),
        max_age=given.get("cors-max-age", 1728000),
    )


def _error_backend(ingress: Ingress, given: Annotations, around: Surroundings) -> Backend | None:
    if "default-backend" not in given:
        return None
    found = around.find_target(ingress.metadata.namespace, given.get("default-backend"), "")
    if found.problem:
        raise RefusedError(f"default-backend: {found.problem}")
    return Backend(upstream=found.upstream)


def canary(given: Annotations, backend: Backend) -> Canary:
    return Canary(
        backend=backend,
        header=given.get("canary-by-header", ""),
        value=given.get("canary-by-header-value", ""),
        pattern=given.get("canary-by-header-pattern", ""),
        cookie=given.get("canary-by-cookie", ""),
        weight=given.get("canary-weight", 0),
        total=given.get("canary-weight-total", 100),
    )


def client_certificates(
    ingress: Ingress, given: Annotations, around: Surroundings
) -> tuple[str, Mapping[str, object]] | None:
    """Which certificates clients must show: the authorities, and the fields of `Host` for it."""
    mode = given.get("auth-tls-verify-client", "on")
    if "auth-tls-secret" not in given or mode == "off":
        return None
    if mode == "optional_no_ca":
        raise RefusedError("auth-tls-verify-client: optional_no_ca would check nothing")
    secret = around.secret_of(ingress, given.get("auth-tls-secret"))
    try:
        chain = authorities(secret)
        name = given.get("auth-tls-match-cn", "")
        pattern = regex(name.removeprefix("CN=")) if name else ""
    except ValueError as error:
        raise RefusedError(str(error)) from error
    fields: dict[str, object] = {
        "client_ca": digest(chain),
        "client_depth": given.get("auth-tls-verify-depth", 1),
        "client_optional": mode == "optional",
        "client_name": rf"(?:^|,)CN=(?:{pattern})(?:,|$)" if pattern else "",
        "passes_client_certificate": given.get("auth-tls-pass-certificate-to-upstream", False),
    }
    return chain, fields
