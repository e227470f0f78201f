"""The configuration file of nginx.

It is the same for all clusters but for numbers, words of closed lists, digests, and addresses and
paths that Navarch itself chose. `quoted` is the only way for a text into it. Users' values are in
the document that Lua interprets (`document.py`); the tests compare the structure of rendered
configurations of hostile Ingresses with the harmless one's.

Variables are set in `location /`, which each request enters once: in the server's own rewrite phase
every subrequest would set them anew, and it shares them with its request.

The order of things that the Lua code relies on: a request enters `location /`, whose rewrite phase
decides and jumps to the location of a policy; there sources, passwords and the authentication
server are checked in the access phase, and a balancer gives the endpoint.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from navarch.network.nginx.model import Listener, Policy, Protocol

LUA = Path(__file__).parent / "lua"
ERROR_CODES = frozenset(range(400, 600)) - {499}
"""Those that `error_page` takes: 499 is nginx' own, for clients that have gone."""
DIGEST_CHARACTERS = frozenset("0123456789abcdef")
_UNQUOTABLE = frozenset("$") | {chr(code) for code in (*range(32), 127)}


class UnsafeTextError(ValueError):
    """A text that no quoting makes safe in a configuration."""


def quoted(text: str) -> str:
    """A text as one argument of a directive. `$` would begin a variable and cannot be escaped;
    control characters have no business in a path or an address."""
    if unsafe := _UNQUOTABLE.intersection(text):
        raise UnsafeTextError(f"{text!r} contains {min(unsafe)!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class Settings:
    """What the node decides about its nginx."""

    directory: Path
    """Private to root: configuration, keys, the control socket, what was served last."""
    shared: Path
    """Here workers, who are not root, read password files and keep large bodies for a while."""
    addresses: tuple[str, ...]
    """Where the listeners listen."""
    health_port: int = 10254
    workers: int = 2
    user: str = "www-data"
    modules: Path = Path("/usr/lib/nginx/modules")
    resolvers: tuple[str, ...] = ()
    """Name servers for authentication servers and mirrors that are given by name."""
    access_log: str = "/dev/stderr"
    connections: int = 8192
    shutdown_seconds: int = 240

    @property
    def control_socket(self) -> Path:
        return self.directory / "control.sock"

    @property
    def idle_socket(self) -> Path:
        """Where nginx listens while there is nothing to listen to: without any place it would be
        port 80 of all addresses."""
        return self.directory / "idle.sock"

    @property
    def pid_file(self) -> Path:
        return self.directory / "nginx.pid"


VARIABLES = (
    *("ctx", "host", "tls_name", "namespace", "object", "service", "port", "prefix", "realm"),
    *("passwords", "auth_url", "auth_method", "auth_redirect", "mirror", "mirror_host", "quiet"),
)

BACKEND_HEADERS = {
    "Host": "$navarch_host",
    "X-Request-ID": "$request_id",
    "X-Real-IP": "$remote_addr",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Host": "$http_host",
    "X-Forwarded-Port": "$navarch_public_port",
    "X-Forwarded-Proto": "$scheme",
    "X-Forwarded-Scheme": "$scheme",
    "X-Scheme": "$scheme",
    "X-Forwarded-Prefix": "$navarch_prefix",
    "X-Original-Forwarded-For": "$http_x_forwarded_for",
    # https://httpoxy.org: scripts take this header for their own proxy setting.
    "Proxy": '""',
}

MAIN = """\
user {user};
daemon off;
worker_processes {workers};
worker_shutdown_timeout {shutdown}s;
pid {pid};
error_log stderr warn;
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
events {{
    worker_connections {connections};
    multi_accept on;
}}
http {{
    lua_package_path {package_path};
    lua_shared_dict navarch_state 64m;
    lua_shared_dict navarch_certificates 32m;
    lua_shared_dict navarch_limits 16m;
    lua_shared_dict navarch_metrics 16m;
    lua_regex_cache_max_entries 8192;
    lua_regex_match_limit 100000;
    init_by_lua_block {{
        navarch_control = require "navarch.control"
        navarch_tls = require "navarch.tls"
        navarch_route = require "navarch.route"
        navarch_balance = require "navarch.balance"
        navarch_respond = require "navarch.respond"
        navarch_control.init({{
            generation = "{{generation}}",
            directory = "{directory}",
            policies = {{ {policies} }},
        }})
    }}
    init_worker_by_lua_block {{ navarch_control.init_worker() }}
    types {{ }}
    default_type text/html;
    server_tokens off;
    tcp_nodelay on;
    aio threads;
    keepalive_timeout 75s;
    keepalive_requests 10000;
    client_header_timeout 60s;
    client_body_timeout 60s;
    client_header_buffer_size 1k;
    large_client_header_buffers 4 8k;
    http2_max_concurrent_streams 128;
    reset_timedout_connection on;
    variables_hash_max_size 2048;
    uninitialized_variable_warn off;
    proxy_headers_hash_max_size 512;
    proxy_headers_hash_bucket_size 128;
    client_body_temp_path {temporary}/body;
    proxy_temp_path {temporary}/proxy;
    fastcgi_temp_path {temporary}/fastcgi;
    uwsgi_temp_path {temporary}/uwsgi;
    scgi_temp_path {temporary}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
    ssl_session_cache {sessions};
    ssl_session_timeout 10m;
    ssl_session_tickets off;
    ssl_buffer_size 4k;
    map $http_upgrade $navarch_upgrade {{
        default upgrade;
        '' '';
    }}
    map $navarch_quiet $navarch_log {{
        default 1;
        quiet 0;
    }}
    map $server_port $navarch_public_port {{
{ports}
    }}
    log_format navarch escape=default '$remote_addr - $remote_user [$time_local] "$request" '
        '$status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length '
        '$request_time [$navarch_namespace-$navarch_service-$navarch_port] [] $upstream_addr '
        '$upstream_response_length $upstream_response_time $upstream_status $request_id';
{upstreams}
    server {{
{listens}
        server_name _;
        ssl_certificate {directory}/default.crt;
        ssl_certificate_key {directory}/default.key;
        ssl_certificate_by_lua_block {{ navarch_tls.choose() }}
        access_log {access_log} navarch if=$navarch_log;
        header_filter_by_lua_block {{ navarch_respond.headers() }}
        log_by_lua_block {{ navarch_respond.log() }}
{resolver}
        proxy_http_version 1.1;
        proxy_ssl_server_name on;
        proxy_ssl_name $navarch_tls_name;
        grpc_ssl_server_name on;
        grpc_ssl_name $navarch_tls_name;
        proxy_redirect off;
        proxy_cookie_domain off;
        proxy_cookie_path off;
        proxy_max_temp_file_size 1024m;
{backend_headers}
        location / {{
            client_max_body_size 0;
            set $navarch_connection $navarch_upgrade;
{variables}
            rewrite_by_lua_block {{ navarch_route.route() }}
            content_by_lua_block {{ ngx.exit(500) }}
        }}
        location = /_navarch/authenticate {{
            internal;
            proxy_pass_request_body off;
            proxy_method $navarch_auth_method;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Sent-From nginx-ingress-controller;
            proxy_set_header X-Auth-Request-Redirect $navarch_auth_redirect;
            proxy_set_header Connection "";
            proxy_ssl_name $proxy_host;
            header_filter_by_lua_block {{ navarch_respond.authentication() }}
            proxy_pass $navarch_auth_url;
        }}
        location @navarch_sign_in {{
            rewrite_by_lua_block {{ navarch_route.sign_in() }}
            content_by_lua_block {{ ngx.exit(500) }}
        }}
        location @navarch_error {{
            rewrite_by_lua_block {{ navarch_route.error() }}
            proxy_pass_request_body off;
            proxy_method GET;
            proxy_intercept_errors off;
            proxy_pass http://navarch_http;
        }}
{locations}
    }}
    server {{
        listen unix:{control};
        access_log off;
        client_max_body_size 0;
        client_body_buffer_size 1m;
        location / {{
            content_by_lua_block {{ navarch_control.handle() }}
        }}
    }}
    server {{
{health_listens}
        access_log off;
        location = /healthz {{
            return 200 "ok";
        }}
        location = /metrics {{
            content_by_lua_block {{ navarch_respond.metrics() }}
        }}
        location / {{
            return 404;
        }}
    }}
}}
"""

UPSTREAM = """\
    upstream navarch_{name} {{
        server 0.0.0.1;
        balancer_by_lua_block {{ navarch_balance.balance() }}
        keepalive 320;
        keepalive_timeout 60s;
        keepalive_requests 10000;
    }}
"""


def render(
    settings: Settings,
    listeners: Iterable[Listener],
    policies: Mapping[str, Policy],
    resumes: bool = True,
) -> tuple[str, str]:
    """The configuration and its generation, by which one finds out that it is in force. Without
    `resumes` every TLS connection begins with a full handshake: one that is resumed brings along
    a client certificate that was checked for whatever host it began with."""
    listeners = sorted(listeners, key=lambda each: each.port)
    generation = "0" * 16
    text = _render(settings, listeners, policies, "shared:navarch:10m" if resumes else "off")
    text = text.replace("{generation}", generation, 1)
    real = hashlib.sha256(text.encode() + _lua_digest()).hexdigest()[:16]
    return text.replace(f'generation = "{generation}"', f'generation = "{real}"', 1), real


def _lua_digest() -> bytes:
    """A new version of the Lua code takes a reload, too."""
    state = hashlib.sha256()
    for file in sorted(LUA.rglob("*.lua")):
        state.update(file.read_bytes())
    return state.digest()


def _render(
    settings: Settings, listeners: list[Listener], policies: Mapping[str, Policy], sessions: str
) -> str:
    directory = settings.directory
    mirrors = max((policy.mirrors for policy in policies.values()), default=0)
    locations = [_policy(name, policy, settings) for name, policy in sorted(policies.items())]
    locations += [_mirror(number) for number in range(1, mirrors + 1)]
    return MAIN.format(
        user=_word(settings.user),
        workers=_number(settings.workers),
        shutdown=_number(settings.shutdown_seconds),
        pid=quoted(str(settings.pid_file)),
        modules=_path(settings.modules),
        connections=_number(settings.connections),
        package_path=quoted(f"{LUA}/?.lua;/usr/share/lua/5.1/?.lua;;"),
        sessions=sessions,
        policies=", ".join(f"{_word(name)} = true" for name in sorted(policies)),
        directory=_path(directory),
        temporary=_path(settings.shared / "temporary"),
        ports="\n".join(
            f"        {_number(each.port)} {_number(each.public_port or each.port)};"
            for each in listeners
        ),
        upstreams="".join(UPSTREAM.format(name=protocol.value) for protocol in Protocol),
        listens="\n".join(_listens(settings, listeners)),
        access_log=quoted(settings.access_log),
        variables="\n".join(f"            set $navarch_{name} '';" for name in VARIABLES),
        resolver=_resolver(settings),
        backend_headers="\n".join(_backend_headers("        ")),
        locations="\n".join(locations),
        control=_path(settings.control_socket),
        health_listens="\n".join(
            f"        listen {_socket(address, settings.health_port)};"
            for address in settings.addresses
        ),
    )


def _listens(settings: Settings, listeners: list[Listener]) -> list[str]:
    if not listeners:
        return [f"        listen unix:{_path(settings.idle_socket)};"]
    return [
        f"        listen {_socket(address, listener.port)}{' ssl http2' if listener.tls else ''};"
        for listener in listeners
        for address in settings.addresses
    ]


def _backend_headers(indent: str, **other: str) -> list[str]:
    headers = {**BACKEND_HEADERS, **other}
    lines = [f"{indent}proxy_set_header {name} {value};" for name, value in headers.items()]
    lines += [
        f"{indent}proxy_set_header Upgrade $http_upgrade;",
        f"{indent}proxy_set_header Connection $navarch_connection;",
    ]
    return lines + [f"{indent}grpc_set_header {name} {value};" for name, value in headers.items()]


def _resolver(settings: Settings) -> str:
    if not settings.resolvers:
        return ""
    addresses = " ".join(_socket(address, 53) for address in settings.resolvers)
    return f"        resolver {addresses} valid=10s ipv6=off;\n        resolver_timeout 5s;"


def _policy(name: str, policy: Policy, settings: Settings) -> str:
    """The location of a policy."""
    grpc = policy.protocol in (Protocol.GRPC, Protocol.GRPCS)
    scheme = policy.protocol.value
    prefix = "grpc" if grpc else "proxy"
    lines = [
        "rewrite_by_lua_block { navarch_route.enter() }",
        *_access(policy, settings),
        f"client_max_body_size {_number(policy.body_limit)};",
        f"{prefix}_next_upstream {' '.join(case.value for case in policy.next_upstream)};",
        f"{prefix}_next_upstream_timeout {_number(policy.next_upstream_seconds)}s;",
        f"{prefix}_next_upstream_tries 0;",
        f"{prefix}_buffer_size {_number(policy.buffer_size)};",
    ]
    if policy.body_buffer:
        lines.append(f"client_body_buffer_size {_number(policy.body_buffer)};")
    if policy.limits_time:
        lines.append("body_filter_by_lua_block { return navarch_respond.in_time() }")
    if policy.limit_rate_after:
        lines.append(f"limit_rate_after {_number(policy.limit_rate_after)};")
    if not grpc:
        # nginx wants the busy buffers to be less than all of them, and at least one.
        busy = max(policy.buffer_size, min(2, policy.buffers - 1) * policy.buffer_size)
        lines += [
            f"proxy_buffering {_switch(policy.buffering)};",
            f"proxy_buffers {_number(max(policy.buffers, 2))} {_number(policy.buffer_size)};",
            f"proxy_busy_buffers_size {_number(busy)};",
            f"proxy_request_buffering {_switch(not policy.streams_requests)};",
        ]
        if policy.http_1_0:
            lines.append("proxy_http_version 1.0;")
    codes = " ".join(_number(code) for code in policy.intercepts if code in ERROR_CODES)
    if codes:
        lines += [f"{prefix}_intercept_errors on;", f"error_page {codes} @navarch_error;"]
    lines += _backend_tls(policy, settings, prefix)
    lines += [f"mirror /_navarch/mirror/{_number(n)};" for n in range(1, policy.mirrors + 1)]
    if policy.mirrors:
        lines.append(f"mirror_request_body {_switch(policy.mirrors_body)};")
    lines.append(f"{prefix}_pass {scheme}://navarch_{scheme};")
    body = "\n".join(f"            {line}" for line in lines)
    return f"        location @{_word(name)} {{\n{body}\n        }}"


def _access(policy: Policy, settings: Settings) -> list[str]:
    lines = []
    if policy.satisfy_any:
        lines.append("satisfy any;")
    if policy.checks_source or (policy.external_auth and not policy.satisfy_any):
        # Under "satisfy any" a check that has nothing to refuse would let everybody in.
        lines.append("access_by_lua_block { navarch_route.access() }")
    if policy.basic_auth:
        files = _path(settings.shared / "files")
        lines += [
            "auth_basic $navarch_realm;",
            f"auth_basic_user_file {files}/$navarch_passwords;",
        ]
    if policy.external_auth:
        lines += [
            "auth_request /_navarch/authenticate;",
            "error_page 401 = @navarch_sign_in;",
        ]
    return lines


def _backend_tls(policy: Policy, settings: Settings, prefix: str) -> list[str]:
    files = settings.directory / "files"
    lines = []
    if policy.trusted:
        lines.append(f"{prefix}_ssl_trusted_certificate {_path(files / _digest(policy.trusted))};")
    if policy.verifies:
        lines += [
            f"{prefix}_ssl_verify on;",
            f"{prefix}_ssl_verify_depth {_number(policy.verify_depth)};",
        ]
    if policy.client_certificate:
        pair = _path(files / _digest(policy.client_certificate))
        lines += [
            f"{prefix}_ssl_certificate {pair};",
            f"{prefix}_ssl_certificate_key {pair};",
        ]
    return lines


def _mirror(number: int) -> str:
    return "\n".join(
        (
            f"        location = /_navarch/mirror/{_number(number)} {{",
            "            internal;",
            "            access_log off;",
            f"            rewrite_by_lua_block {{ navarch_route.mirror({_number(number)}) }}",
            *_backend_headers("            ", Host="$navarch_mirror_host"),
            "            proxy_pass $navarch_mirror;",
            "        }",
        )
    )


def _number(value: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 50:
        raise UnsafeTextError(f"{value!r} is not a number for a configuration")
    return str(value)


def _word(value: str) -> str:
    if not value.replace("_", "").replace("-", "").isalnum() or not value.isascii():
        raise UnsafeTextError(f"{value!r} is not a word for a configuration")
    return value


def _digest(value: str) -> str:
    if not value or not DIGEST_CHARACTERS.issuperset(value):
        raise UnsafeTextError(f"{value!r} is not a digest")
    return value


def _switch(value: bool) -> str:
    return "on" if value else "off"


def _path(path: Path) -> str:
    """A path that needs no quotes, as it stands within larger words."""
    text = str(path)
    if not all(char.isalnum() or char in "/._-+@" for char in text) or not path.is_absolute():
        raise UnsafeTextError(f"{text!r} is not a path for a configuration")
    return text


def _socket(address: str, port: int) -> str:
    parsed = ipaddress.ip_address(address)
    return f"[{parsed}]:{_number(port)}" if parsed.version == 6 else f"{parsed}:{_number(port)}"
