"""What one Ingress says about its requests, as parts of a route: its annotations become values of
the data plane's model. Everything here is about one Ingress; `translate` puts them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from navarch.api.types.core_v1 import Secret
from navarch.api.types.networking_v1 import Ingress
from navarch.network.ingress.annotations import Annotations, regex
from navarch.network.nginx.backends import Around
from navarch.network.nginx.certificates import authorities, passwords, value
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


S = TypeVar("S")


def _fields(prefix: str, text: str) -> Mapping[str, str]:
    """Annotations by the field that has what they say: `tries=retries`, or just the name."""
    pairs = ((field, name or field) for field, _, name in (w.partition("=") for w in text.split()))
    return {field: prefix + name.replace("_", "-") for field, name in pairs}


AFFINITY = _fields(
    "session-cookie-",
    "cookie=name path domain same_site=samesite max_age expires secure change_on_failure",
)
CORS = _fields(
    "cors-",
    "origins=allow-origin methods=allow-methods headers=allow-headers expose=expose-headers"
    " credentials=allow-credentials max_age",
)
EXTERNAL_AUTH = _fields(
    "auth-",
    "url method signin signin_parameter=signin-redirect-param headers=response-headers"
    " request_redirect always_sets_cookie=always-set-cookie",
)
CANARY = _fields(
    "canary-",
    "header=by-header value=by-header-value pattern=by-header-pattern cookie=by-cookie weight"
    " total=weight-total",
)
ROUTE = _fields(
    "",
    "app_root tries=proxy-next-upstream-tries hash_by=upstream-hash-by deny=denylist-source-range"
    " forwarded_prefix=x-forwarded-prefix connection_header=connection-proxy-header",
)
TIMEOUTS = _fields("proxy-", "connect=connect-timeout send=send-timeout read=read-timeout")
POLICY = _fields(
    "",
    "protocol=backend-protocol buffers=proxy-buffers-number body_limit=proxy-body-size"
    " body_buffer=client-body-buffer-size next_upstream=proxy-next-upstream"
    " next_upstream_seconds=proxy-next-upstream-timeout verify_depth=proxy-ssl-verify-depth",
)


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
    """Raises RefusedError, or SecretError."""
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
    cors, outside, affinity = None, None, None
    if given.get("enable-cors"):
        cors = _filled(Cors, CORS, given, headers=CORS_HEADERS, credentials=True)
        if "*" in cors.origins:
            # Upstream says `*` then, with which browsers send no cookies. Naming the origin would
            # let every page of the world read what only its visitor may see.
            cors = msgspec.structs.replace(cors, credentials=False)
    if "auth-url" in given:
        asked = (Variable(v="request_uri"),)
        outside = _filled(ExternalAuth, EXTERNAL_AUTH, given, request_redirect=asked)
    if "affinity" in given:
        affinity = _filled(Affinity, AFFINITY, given, cookie="INGRESSCOOKIE")
    return _filled(
        Route,
        ROUTE,
        given,
        redirect=_redirect(given),
        rewrite=_rewrite(given),
        mirrors=_mirrors(given),
        timeouts=_filled(Timeouts, TIMEOUTS, given),
        policy=policy(ingress, given, around),
        affinity=affinity,
        least_latency=given.get("load-balance") == "ewma",
        limits=_limits(ingress, given),
        allow=(*given.get("whitelist-source-range", ()), *given.get("allowlist-source-range", ())),
        basic_auth=_basic_auth(ingress, given, around),
        external_auth=outside,
        cors=cors,
        error_backend=_error_backend(ingress, given, around),
        error_backend_for_no_endpoints="default-backend" in given,
        unlogged=not given.get("enable-access-log", True),
    )


def policy(ingress: Ingress, given: Annotations, around: Surroundings) -> Policy:
    """What needs a place in nginx' configuration: numbers, switches and words only."""
    trusted, client = _backend_certificates(ingress, given, around)
    return _filled(
        Policy,
        POLICY,
        given,
        http_1_0=given.get("proxy-http-version") == "1.0",
        buffering=given.get("proxy-buffering") == "on",
        streams_requests=given.get("proxy-request-buffering") == "off",
        buffer_size=given.get("proxy-buffer-size", 0) or Policy().buffer_size,
        intercepts=tuple(sorted(set(given.get("custom-http-errors", ())))),
        basic_auth="auth-type" in given,
        external_auth="auth-url" in given,
        checks_source="whitelist-source-range" in given or "allowlist-source-range" in given,
        satisfy_any=given.get("satisfy") == "any",
        mirrors=1 if "mirror-target" in given else 0,
        mirrors_body=given.get("mirror-request-body", "on") == "on",
        limit_rate_after=given.get("limit-rate-after", 0) << 10,
        verifies=given.get("proxy-ssl-verify") == "on",
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
    trusted = client = ""
    if "ca.crt" in secret.data:
        trusted = around.keep(authorities(secret))
    if "tls.crt" in secret.data:
        parts = (value(secret, "tls.crt"), value(secret, "tls.key"))
        client = around.keep("\n".join(part.decode("ascii", "replace") for part in parts))
    if given.get("proxy-ssl-verify") == "on" and not trusted:
        raise RefusedError(f"Secret {secret.metadata.name} has no ca.crt to verify backends with")
    return trusted, client


def _redirect(given: Annotations) -> Redirect | None:
    for name, status in (("temporal-redirect", 302), ("permanent-redirect", 301)):
        if name in given:
            return Redirect(status=given.get(f"{name}-code", status), location=given.get(name))
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


def _filled(kind: Callable[..., S], names: Mapping[str, str], given: Annotations, **more: Any) -> S:
    """A value whose fields are what annotations say. What is not said is `more`, or as usual."""
    said = {field: given.get(name) for field, name in names.items() if name in given}
    return kind(**{**more, **said})


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
    text = passwords(secret, given.get("auth-secret-type", "auth-file"))
    realm = given.get("auth-realm") or "Authentication Required"
    return BasicAuth(file=around.keep(text), realm=realm)


def _error_backend(ingress: Ingress, given: Annotations, around: Surroundings) -> Backend | None:
    if "default-backend" not in given:
        return None
    found = around.find_target(ingress.metadata.namespace, given.get("default-backend"), "")
    if found.problem:
        raise RefusedError(f"default-backend: {found.problem}")
    return Backend(upstream=found.upstream)


def canary(given: Annotations, backend: Backend) -> Canary:
    return _filled(Canary, CANARY, given, backend=backend)


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
    chain = authorities(secret)
    name = given.get("auth-tls-match-cn", "")
    pattern = regex(name.removeprefix("CN=")) if name else ""
    fields: dict[str, object] = {
        "client_ca": digest(chain),
        "client_depth": given.get("auth-tls-verify-depth", 1),
        "client_optional": mode == "optional",
        "client_name": rf"(?:^|,)CN=(?:{pattern})(?:,|$)" if pattern else "",
        "passes_client_certificate": given.get("auth-tls-pass-certificate-to-upstream", False),
    }
    return chain, fields
