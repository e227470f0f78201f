"""The annotations of an Ingress, each with a grammar of its own.

ingress-nginx made options of nginx from annotations by pasting their text into its configuration,
and most of its vulnerabilities were a text that said more than it should (CVE-2021-25742 and a
dozen after it). Here every value is parsed: into a number, a word of a list, an address range, a
template of literal texts and known variables. What the grammar does not know is refused by name,
and an Ingress with a refused value answers 503 and has a Warning event; no part of it is served.

Annotations with a meaning in upstream that this data plane does not have are refused as well: who
asks for a client certificate to be checked must not get a server that does not check. Names that
upstream does not know either are reported and otherwise ignored, as upstream ignores them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from navarch.api.named_secrets import ANNOTATION_PREFIX, SECRET_ANNOTATIONS
from navarch.network.nginx.model import Capture, NextUpstream, Protocol, Template, Variable

Parser = Callable[[str], Any]

VARIABLES = frozenset(
    (
        *("args", "binary_remote_addr", "escaped_request_uri", "host", "http_host"),
        *("hostname", "query_string", "remote_addr", "remote_port", "remote_user"),
        *("request_id", "request_method", "request_uri", "scheme", "server_name"),
        *("server_port", "uri", "is_args", "ssl_client_s_dn", "ssl_client_verify"),
    )
)
VARIABLE_PREFIXES = ("http_", "arg_", "cookie_")
_VARIABLE = re.compile(r"\$(?:(\d)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")

TOKEN = r"[A-Za-z0-9!#$%&'*+.^_|~-]+"  # without the back quote, RFC 9110, 5.6.2
HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
URL_CHARACTERS = r"[A-Za-z0-9\-._~:/?@!&*+,=%|()\[\]$\{\}]"
REGEX_CHARACTERS = r"[A-Za-z0-9\-._~:/?@!&*+,=%|()\[\]\\^$<> ]"


def boolean(text: str) -> bool:
    """As Go's strconv.ParseBool, which upstream uses."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("is not true or false")


def integer(low: int = 0, high: int = 1 << 31) -> Parser:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return int(text)

    return parse


UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(high: int) -> Parser:
    """nginx refuses a configuration with a size that no memory has, and takes what it is given for
    each connection."""

    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,9})([bkmg]?)", text, re.IGNORECASE)
        if match is None:
            raise ValueError("is not a size, such as 8m")
        value = int(match[1]) * UNITS[match[2].lower()]
        if value > high:
            raise ValueError(f"is more than {high} bytes")
        return value

    return parse


def word(*words: str, ignore_case: bool = False) -> Parser:
    def parse(text: str) -> str:
        value = text.lower() if ignore_case else text
        if value not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return value

    return parse


def matching(pattern: str, what: str, longest: int = 1024) -> Parser:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if len(text) > longest or compiled.fullmatch(text) is None:
            raise ValueError(f"is not {what}")
        return text

    return parse


def list_of(parse: Parser, separator: str = ",") -> Parser:
    def parse_all(text: str) -> tuple[Any, ...]:
        values = tuple(parse(each.strip()) for each in text.split(separator) if each.strip())
        if not values:
            raise ValueError("is empty")
        return values

    return parse_all


def address_range(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address range") from error


def template(text: str, captures: bool = False) -> Template:
    """A text with variables. Only those of the list, or what a request itself says."""
    parts: list[str | Variable | Capture] = []
    end = 0
    for match in _VARIABLE.finditer(text):
        if match.start() > end:
            parts.append(text[end : match.start()])
        end = match.end()
        if match[1]:
            if not captures or match[1] == "0":
                raise ValueError(f"${match[1]} has no meaning here")
            parts.append(Capture(c=int(match[1])))
            continue
        name = (match[2] or match[3]).lower()
        if name not in VARIABLES and not name.startswith(VARIABLE_PREFIXES):
            raise ValueError(f"${name} is not a variable that may be used")
        parts.append(Variable(v=name))
    if end < len(text):
        parts.append(text[end:])
    literal = "".join(part for part in parts if isinstance(part, str))
    if any(character in literal for character in "${}"):
        raise ValueError("has a $ or brace that begins no variable")
    return tuple(parts)


def templated(pattern: str, what: str, *, captures: bool = False) -> Parser:
    """A text of this form, with variables."""
    check = matching(pattern, what, 1 << 13)
    return lambda text: template(check(text), captures)


url = templated(
    rf"https?://{HOST}(:[0-9]{{1,5}})?([/?]{URL_CHARACTERS}*)?",
    "an http or https URL without unusual characters",
)
location = templated(
    rf"(https?://|\$scheme://|/(?!/)){URL_CHARACTERS}*",
    "a URL or path without unusual characters",
)
hash_key = templated(r"[A-Za-z0-9_\-.:$\{\}]+", "made of variables")
app_root = matching(r"/(?!/)[A-Za-z0-9\-._~:/?@!&*+,=%|]*", "an absolute path")


def rewrite_target(text: str) -> Template:
    what = "a path without unusual characters"
    parts: Template = templated(rf"{URL_CHARACTERS}+", what, captures=True)(text)
    if any(isinstance(part, Variable) for part in parts):
        raise ValueError("has a variable; only captured groups ($1 to $9) may be used")
    return parts


def regex(text: str) -> str:
    if len(text) > 512 or re.fullmatch(rf"{REGEX_CHARACTERS}+", text) is None:
        raise ValueError("is not a regular expression without unusual characters")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return text


def next_upstream(text: str) -> tuple[NextUpstream, ...]:
    try:
        cases = tuple(dict.fromkeys(NextUpstream(each) for each in text.replace(",", " ").split()))
    except ValueError as error:
        raise ValueError("is not a list of cases for proxy_next_upstream") from error
    if not cases or (NextUpstream.OFF in cases and len(cases) > 1):
        raise ValueError("is empty, or off and something else")
    return cases


def error_code(text: str) -> int:
    code: int = integer(400, 599)(text)
    if code == 499:
        raise ValueError("is a status that no client can be answered with")
    return code


def origins(text: str) -> tuple[str, ...]:
    pattern = rf"\*|https?://(\*\.)?{HOST}(:[0-9]{{1,5}})?"
    return tuple(list_of(matching(pattern, "an origin such as https://*.example.com"))(text))


PROTOCOLS = {
    "HTTP": Protocol.HTTP,
    "AUTO_HTTP": Protocol.HTTP,
    "HTTPS": Protocol.HTTPS,
    "GRPC": Protocol.GRPC,
    "GRPCS": Protocol.GRPCS,
}


def protocol(text: str) -> Protocol:
    if text.upper() not in PROTOCOLS:
        raise ValueError(f"is not one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[text.upper()]


_seconds = integer(0, 86400 * 365)
_ranges = list_of(address_range)
_token = matching(TOKEN, "a token", 256)
_cookie_name = matching(r"[A-Za-z0-9_-]+", "a name of a cookie", 128)
_host = matching(HOST, "a host name", 253)
_name = matching(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a name of an object", 253)
_secret = matching(
    r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a name of a Secret", 320
)
_header_list = matching(rf"\*|{TOKEN}(\s*,\s*{TOKEN})*", "a list of headers")
_redirect_code = integer(300, 308)
_text = matching(r"[A-Za-z0-9 _.,:;=@/()\[\]!?*+'-]*", "a text without unusual characters")

_ALIKE: Mapping[Parser, str] = {
    boolean: """
        auth-always-set-cookie auth-tls-pass-certificate-to-upstream canary
        cors-allow-credentials enable-access-log enable-cors force-ssl-redirect
        from-to-www-redirect preserve-trailing-slash service-upstream
        session-cookie-change-on-failure session-cookie-secure ssl-redirect use-regex
    """,
    location: "auth-request-redirect auth-signin permanent-redirect temporal-redirect",
    _secret: " ".join(SECRET_ANNOTATIONS),
    integer(0): """
        canary-weight cors-max-age limit-connections limit-rate limit-rate-after limit-rpm
        limit-rps session-cookie-expires session-cookie-max-age
    """,
    _ranges: """
        allowlist-source-range denylist-source-range limit-allowlist limit-whitelist
        whitelist-source-range
    """,
    _host: "mirror-host proxy-ssl-name session-cookie-domain",
    word("on", "off"): """
        mirror-request-body proxy-buffering proxy-request-buffering proxy-ssl-verify
    """,
}
PARSERS: Mapping[str, Parser] = {
    **{name: parse for parse, names in _ALIKE.items() for name in names.split()},
    "affinity": word("cookie"),
    "affinity-mode": word("balanced", "persistent"),
    "app-root": app_root,
    "auth-method": word("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    "auth-realm": _text,
    "auth-response-headers": list_of(_token),
    "auth-secret-type": word("auth-file", "auth-map"),
    "auth-signin-redirect-param": matching(r"[A-Za-z0-9_-]+", "a name of a parameter", 64),
    "auth-type": word("basic"),
    "auth-url": url,
    "backend-protocol": protocol,
    "canary-by-cookie": _cookie_name,
    "canary-by-header": matching(r"[A-Za-z0-9_-]+", "a name of a header", 256),
    "canary-by-header-pattern": regex,
    "canary-by-header-value": matching(r"[A-Za-z0-9\-._~:/?@!&*+,=%|() ]+", "a header's value"),
    "canary-weight-total": integer(1),
    "client-body-buffer-size": size(64 << 20),
    "connection-proxy-header": word("keep-alive", "close", "upgrade", ignore_case=True),
    "cors-allow-headers": _header_list,
    "cors-allow-methods": matching(r"\*|[A-Za-z]+(\s*,\s*[A-Za-z]+)*", "a list of methods"),
    "cors-allow-origin": origins,
    "cors-expose-headers": _header_list,
    "custom-http-errors": list_of(error_code),
    "default-backend": _name,
    "limit-burst-multiplier": integer(1, 1000),
    "load-balance": word("round_robin", "ewma"),
    "mirror-target": url,
    "permanent-redirect-code": _redirect_code,
    "proxy-body-size": size(1 << 45),
    "proxy-buffer-size": size(1 << 20),
    "proxy-buffers-number": integer(1, 1024),
    "proxy-connect-timeout": integer(1, 75),
    "proxy-http-version": word("1.0", "1.1"),
    "proxy-next-upstream": next_upstream,
    "proxy-next-upstream-timeout": _seconds,
    "proxy-next-upstream-tries": integer(0, 100),
    "proxy-read-timeout": integer(1, 86400 * 365),
    "proxy-send-timeout": integer(1, 86400 * 365),
    "proxy-ssl-server-name": word("on"),
    "proxy-ssl-verify-depth": integer(1, 16),
    "rewrite-target": rewrite_target,
    "satisfy": word("any", "all"),
    "server-alias": list_of(matching(rf"(\*\.)?{HOST}", "a host name", 253)),
    "session-cookie-name": _cookie_name,
    "session-cookie-path": app_root,
    "session-cookie-samesite": word("None", "Lax", "Strict"),
    "temporal-redirect-code": _redirect_code,
    "upstream-hash-by": hash_key,
    "upstream-vhost": matching(rf"{HOST}(:[0-9]{{1,5}})?", "a host name", 260),
    "auth-tls-match-cn": matching(r"CN=.+", "CN= and a regular expression"),
    "auth-tls-verify-client": word("on", "off", "optional", "optional_no_ca"),
    "auth-tls-verify-depth": integer(1, 16),
    "x-forwarded-prefix": matching(r"[A-Za-z0-9/_.~-]+", "a path prefix", 256),
}

SNIPPETS = """
    auth-snippet configuration-snippet modsecurity-snippet server-snippet stream-snippet
"""
NOT_HERE = """
    affinity-canary-behavior auth-cache-duration auth-cache-key auth-keepalive
    auth-keepalive-requests auth-keepalive-share-vars auth-keepalive-timeout
    auth-proxy-set-headers auth-tls-error-page custom-headers default-ssl-certificate
    disable-proxy-intercept-errors enable-global-auth enable-modsecurity
    enable-opentelemetry enable-owasp-core-rules enable-rewrite-log fastcgi-index
    fastcgi-params-configmap global-rate-limit global-rate-limit-ignored-cidrs
    global-rate-limit-key global-rate-limit-window modsecurity-transaction-id
    opentelemetry-operation-name opentelemetry-trust-incoming-span
    proxy-busy-buffers-size proxy-cookie-domain proxy-cookie-path
    proxy-max-temp-file-size proxy-redirect-from proxy-redirect-to proxy-ssl-ciphers
    proxy-ssl-protocols relative-redirects session-cookie-conditional-samesite-none
    ssl-ciphers ssl-prefer-server-ciphers upstream-hash-by-subset
    upstream-hash-by-subset-size
"""
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(NOT_HERE.split(), "this data plane does not have it"),
    **dict.fromkeys(
        SNIPPETS.split(), "snippets are nginx configuration written by users, which is never taken"
    ),
}
REFUSED_WHEN_TRUE: Mapping[str, str] = {
    "ssl-passthrough": "TLS is ended here; connections cannot be passed through",
}


@dataclass(frozen=True, slots=True)
class Annotations:
    """What an Ingress' annotations say, and what is wrong with them."""

    values: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


def parse(annotations: Mapping[str, str]) -> Annotations:
    """Parse all annotations with ingress-nginx's prefix."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    unknown: list[str] = []
    for full_name, text in sorted(annotations.items()):
        if not full_name.startswith(ANNOTATION_PREFIX):
            continue
        name = full_name.removeprefix(ANNOTATION_PREFIX)
        try:
            if name in REFUSED:
                raise ValueError(f"is refused: {REFUSED[name]}")
            if name in REFUSED_WHEN_TRUE:
                if boolean(text):
                    raise ValueError(f"is refused: {REFUSED_WHEN_TRUE[name]}")
            elif (parser := PARSERS.get(name)) is not None:
                values[name] = parser(text.strip(" \t\n"))
            else:
                unknown.append(_shown(name))
        except ValueError as error:
            problems.append(f"{name}: {_shown(text)} {error}")
    problems += _contradictions(values)
    return Annotations(values, tuple(problems), tuple(unknown))


def _shown(text: str) -> str:
    """A value in a message: short, on one line."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if values.get("canary-weight", 0) > values.get("canary-weight-total", 100):
        problems.append("canary-weight: is more than canary-weight-total")
    if values.get("auth-type") and "auth-secret" not in values:
        problems.append("auth-type: there is no auth-secret")
    if values.get("satisfy") == "any" and "auth-response-headers" in values:
        problems.append("satisfy: any cannot be combined with auth-response-headers")
    if values.get("proxy-ssl-verify") == "on" and "proxy-ssl-secret" not in values:
        problems.append("proxy-ssl-verify: there is no proxy-ssl-secret with a ca.crt")
    if "mirror-host" in values and "mirror-target" not in values:
        problems.append("mirror-host: there is no mirror-target")
    return problems
