"""Ingresses through a real nginx: what a client gets, and what the backend sees."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.cluster.ingress_ground import ADDRESS, HEALTH, HTTP, HTTPS, Ground, new_directory
from tests.unit.network.ingresses import ingress, secret, service, slice_of

from navarch.api.types.core_v1 import ServicePort
from navarch.network.nginx.process import PROGRAM

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="nginx changes its user"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="nginx is not installed"),
]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def basic(user: str, password: str) -> dict[str, str]:
    """The header for a user."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {value}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground() -> AsyncIterator[Ground]:
    directory = new_directory()
    ground = Ground(directory)
    try:
        await ground.start()
        yield ground
    finally:
        await ground.stop()
        shutil.rmtree(directory)


PATHS = [
    # The table of the Ingress API: kind, paths, request, who answers ("" for 404).
    ("Prefix", {"/": "a"}, "/any/path", "a"),
    ("Exact", {"/foo": "a"}, "/foo", "a"),
    ("Exact", {"/foo": "a"}, "/bar", ""),
    ("Exact", {"/foo": "a"}, "/foo/", ""),
    ("Exact", {"/foo/": "a"}, "/foo", ""),
    ("Prefix", {"/foo": "a"}, "/foo", "a"),
    ("Prefix", {"/foo": "a"}, "/foo/", "a"),
    ("Prefix", {"/foo/": "a"}, "/foo", "a"),
    ("Prefix", {"/foo/": "a"}, "/foo/", "a"),
    ("Prefix", {"/aaa/bb": "a"}, "/aaa/bbb", ""),
    ("Prefix", {"/aaa/bbb": "a"}, "/aaa/bbb", "a"),
    ("Prefix", {"/aaa/bbb/": "a"}, "/aaa/bbb", "a"),
    ("Prefix", {"/aaa/bbb": "a"}, "/aaa/bbb/", "a"),
    ("Prefix", {"/aaa/bbb": "a"}, "/aaa/bbb/ccc", "a"),
    ("Prefix", {"/aaa/bbb": "a"}, "/aaa/bbbxyz", ""),
    ("Prefix", {"/": "b", "/aaa": "a"}, "/aaa/ccc", "a"),
    ("Prefix", {"/": "both", "/aaa": "a", "/aaa/bbb": "b"}, "/aaa/bbb", "b"),
    ("Prefix", {"/aaa": "b", "/": "a"}, "/ccc", "a"),
    ("Prefix", {"/aaa": "a"}, "/ccc", ""),
    ("Prefix", {"/Foo": "a"}, "/foo", ""),
    ("ImplementationSpecific", {"/foo": "a"}, "/foobar", "a"),
    ("ImplementationSpecific", {"/a b": "a"}, "/a%20b", ""),
]


@pytest.mark.parametrize(("kind", "paths", "path", "name"), PATHS)
async def test_paths(
    ground: Ground, kind: str, paths: dict[str, str], path: str, name: str
) -> None:
    await ground.serve(ingress(paths=paths, kind=kind))
    answer = await ground.ask(path)
    assert (answer.status, answer.seen["name"] if name else "") == (200 if name else 404, name)


async def test_an_exact_path_goes_before_a_prefix(ground: Ground) -> None:
    await ground.serve(
        ingress(paths={"/foo": "a"}), ingress("other", paths={"/foo": "b"}, kind="Exact")
    )
    assert await ground.names(1, "/foo") == ["b"]
    assert await ground.names(1, "/foo/x") == ["a"]


HOSTS = [
    ("exact.example", "a"),
    ("EXACT.example", "a"),
    ("exact.example:8080", "a"),
    ("one.wild.example", "b"),
    ("two.one.wild.example", "any"),
    ("wild.example", "any"),
    ("own.wild.example", "a"),
]


@pytest.mark.parametrize(("host", "name"), HOSTS)
async def test_hosts(ground: Ground, host: str, name: str) -> None:
    await ground.serve(
        ingress("exact", {"/": "a"}, "exact.example"),
        ingress("wild", {"/": "b"}, "*.wild.example"),
        ingress("own", {"/": "a"}, "own.wild.example"),
        ingress("none", {"/": "empty"}, ""),
    )
    answer = await ground.ask(host=host)
    assert answer.status == (503 if name == "any" else 200)
    if name != "any":
        assert answer.seen["name"] == name


async def test_default_backend_and_nobody(ground: Ground) -> None:
    assert await ground.serve() == []
    assert (await ground.ask()).status == 404
    bare = ingress("bare")
    bare.spec.rules = []
    bare.spec.defaultBackend = ingress(paths={"/": "b"}).spec.rules[0].http.paths[0].backend  # type: ignore[union-attr]
    ruled = ingress("ruled", {"/only": "a"}, "ruled.example")
    ruled.spec.defaultBackend = bare.spec.defaultBackend
    await ground.serve(bare, ruled)
    assert await ground.names(1, "/x", host="unknown.example") == ["b"]
    assert await ground.names(1, "/only", host="ruled.example") == ["a"]
    assert await ground.names(1, "/else", host="ruled.example") == ["b"]


async def test_the_older_ingress_keeps_its_path(ground: Ground) -> None:
    told = await ground.serve(
        ingress("young", {"/": "b"}, created="2026-02-01T00:00:00Z"),
        ingress("old", {"/": "a"}, created="2026-01-01T00:00:00Z"),
    )
    assert told == ["Rejected: web.example/ belongs to Ingress default/old"]
    assert set(await ground.names(4)) == {"a"}


async def test_endpoints_change_without_a_reload(ground: Ground) -> None:
    await ground.serve(ingress(paths={"/": "moving"}))
    assert (await ground.ask()).status == 503
    ground.services["moving"] = ground.services["a"]
    ground.slices["moving"] = []
    await ground.serve(ingress(paths={"/": "moving"}))
    assert (await ground.ask()).status == 503
    before = ground.nginx.reloads
    for name in ("a", "b", "a"):
        ground.slices["moving"] = ground.slices[name]
        await ground.serve(ingress(paths={"/": "moving"}))
        assert set(await ground.names(4)) == {name}
    ground.slices["moving"] = [slice_of(f"127.0.7.11:{ground.ports['a']}", ready=False)]
    await ground.serve(ingress(paths={"/": "moving"}))
    assert (await ground.ask()).status == 503
    assert ground.nginx.reloads == before


async def test_another_endpoint_is_tried(ground: Ground) -> None:
    """Nobody listens at 127.0.7.99: a client does not notice, and a POST that was not sent is
    safe to repeat as well."""
    port = ground.ports["a"]
    ground.services["half"] = ground.services["a"]
    ground.slices["half"] = [slice_of(f"127.0.7.99:{port}", f"127.0.7.11:{port}")]
    await ground.serve(ingress(paths={"/": "half"}))
    assert await ground.names(6) == ["a"] * 6
    assert await ground.names(4, method="POST", data=b"x") == ["a"] * 4


REWRITES = [
    ("/something(/|$)(.*)", "/$2", "/something/new/x?q=1", "/new/x?q=1"),
    ("/something(/|$)(.*)", "/$2", "/something", "/"),
    ("/SOME/(.*)", "/$1", "/some/thing", "/thing"),
    ("/(?:a|b)/([0-9]+)", "/item/$1/end", "/b/17", "/item/17/end"),
    ("/x", "/y", "/x/deep", "/y"),
    ("/q/(.*)", "/find?name=$1", "/q/a%26b=c?z=1", "/find?name=a%26b%3Dc&z=1"),
    ("/n/(.*)", "/$1", "/n/line%0d%0abreak%20x", "/line%0D%0Abreak%20x"),
]


@pytest.mark.parametrize(("path", "target", "asked", "seen"), REWRITES)
async def test_rewrite_target(
    ground: Ground, path: str, target: str, asked: str, seen: str
) -> None:
    kind = "ImplementationSpecific"
    await ground.serve(ingress(paths={path: "a"}, kind=kind, rewrite_target=target))
    assert (await ground.ask(asked)).seen["path"] == seen


async def test_one_pattern_makes_the_whole_host_patterns(ground: Ground) -> None:
    kind = "ImplementationSpecific"
    await ground.serve(
        ingress("one", {"/api/v[0-9]+": "a"}, kind=kind, use_regex="true"),
        ingress("two", {"/files/.*[.]txt": "b"}, kind=kind),
        ingress("three", {"/api/v[0-9]+": "b"}, "other.example", kind=kind),
    )
    assert await ground.names(1, "/api/v12/x") == ["a"]
    assert (await ground.ask("/api/vx")).status == 404
    assert await ground.names(1, "/FILES/a.txt") == ["b"]
    assert (await ground.ask("/api/v1", "other.example")).status == 404


REDIRECTS: list[tuple[dict[str, str], str, int, str]] = [
    ({"app_root": "/app"}, "/", 302, "http://web.example/app"),
    ({"permanent_redirect": "https://new.example/x"}, "/a", 301, "https://new.example/x"),
    (
        {"permanent_redirect": "https://new.example$request_uri", "permanent_redirect_code": "308"},
        "/a?b=c",
        308,
        "https://new.example/a?b=c",
    ),
    ({"temporal_redirect": "/other"}, "/a", 302, "/other"),
    ({"force_ssl_redirect": "true"}, "/a?b", 308, "https://web.example/a?b"),
    ({"tls": "absent"}, "/a", 308, "https://web.example/a"),
]


@pytest.mark.parametrize(("values", "path", "status", "location"), REDIRECTS)
async def test_redirects(
    ground: Ground, values: dict[str, Any], path: str, status: int, location: str
) -> None:
    await ground.serve(ingress(**values))
    answer = await ground.ask(path)
    assert (answer.status, answer.headers["Location"]) == (status, location)


async def test_ssl_redirect_can_be_off(ground: Ground) -> None:
    await ground.serve(ingress(tls="absent", ssl_redirect="false"))
    assert (await ground.ask()).status == 200


@pytest.mark.parametrize(("host", "other"), [("web.example", "www."), ("www.web.example", "")])
async def test_from_to_www(ground: Ground, host: str, other: str) -> None:
    await ground.serve(ingress(host=host, from_to_www_redirect="true"))
    answer = await ground.ask("/a?b", other + "web.example")
    assert (answer.status, answer.headers["Location"]) == (308, f"http://{host}/a?b")


async def test_server_alias(ground: Ground) -> None:
    told = await ground.serve(
        ingress(server_alias="also.example, taken.example"),
        ingress("other", {"/": "b"}, "taken.example"),
    )
    assert told == ["Rejected: server-alias: taken.example is a host of another Ingress"]
    assert await ground.names(1, host="also.example") == ["a"]
    assert await ground.names(1, host="taken.example") == ["b"]


async def test_what_a_backend_sees(ground: Ground) -> None:
    await ground.serve(ingress(x_forwarded_prefix="/base"))
    spoofed = {
        "X-Forwarded-For": "1.2.3.4",
        "X-Real-IP": "1.2.3.4",
        "Proxy": "http://evil.example",
        "ssl-client-verify": "SUCCESS",
    }
    seen = (await ground.ask("/p?q", headers=spoofed, source="127.0.7.50")).seen["headers"]
    assert seen["host"] == seen["x-forwarded-host"] == "web.example"
    assert seen["x-forwarded-for"] == seen["x-real-ip"] == "127.0.7.50"
    assert seen["x-original-forwarded-for"] == "1.2.3.4"
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("http", "80")
    assert seen["x-forwarded-prefix"] == "/base"
    assert len(seen["x-request-id"]) == 32
    assert "proxy" not in seen
    assert "ssl-client-verify" not in seen


async def test_upstream_vhost(ground: Ground) -> None:
    await ground.serve(ingress(upstream_vhost="inner.example:8080"))
    assert (await ground.ask()).seen["headers"]["host"] == "inner.example:8080"


async def test_body_size(ground: Ground) -> None:
    await ground.serve(ingress(proxy_body_size="10k"))
    assert (await ground.ask(method="POST", data=b"x" * 10240)).seen["length"] == 10240
    assert (await ground.ask(method="POST", data=b"x" * 10241)).status == 413
    await ground.serve(ingress(proxy_body_size="0"))
    assert (await ground.ask(method="POST", data=b"x" * 1_000_000)).seen["length"] == 1_000_000

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 8192

    await ground.serve(ingress(proxy_body_size="10k"))
    assert (await ground.ask(method="POST", data=chunks())).status == 413


async def test_read_timeout(ground: Ground) -> None:
    await ground.serve(ingress(proxy_read_timeout="1", proxy_next_upstream="off"))
    assert (await ground.ask("/?sleep=0.1")).status == 200
    assert (await ground.ask("/?sleep=3")).status == 504


async def test_sources(ground: Ground) -> None:
    await ground.serve(
        ingress("allow", whitelist_source_range="127.0.7.48/29, 10.0.0.0/8"),
        ingress("deny", host="deny.example", denylist_source_range="127.0.7.50"),
    )
    for source, status in (("127.0.7.50", 200), ("127.0.7.57", 403)):
        assert (await ground.ask(source=source)).status == status
    for source, status in (("127.0.7.50", 403), ("127.0.7.51", 200)):
        assert (await ground.ask(host="deny.example", source=source)).status == status


async def test_basic_authentication(ground: Ground) -> None:
    # Of "secret", as htpasswd -1 and -5 write it.
    ground.secrets["users"] = secret("users", auth="ada:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n")
    values: dict[str, Any] = {
        "auth_type": "basic",
        "auth_secret": "users",
        "auth_realm": "Private (ours)",
    }
    await ground.serve(ingress(**values))
    answer = await ground.ask()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Private (ours)"'
    good = basic("ada", "secret")
    for user, status in ((good, 200), (basic("ada", "guess"), 401)):
        assert (await ground.ask(headers=user)).status == status
    ground.secrets["map"] = secret("map", bob="$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/")
    await ground.serve(ingress(auth_type="basic", auth_secret="map", auth_secret_type="auth-map"))
    assert (await ground.ask(headers=basic("bob", "secret"))).status == 200
    assert (await ground.ask(headers=good)).status == 401
    told = await ground.serve(ingress(auth_type="basic", auth_secret="absent"))
    assert told == ["Rejected: answered with 503: Secret default/absent does not exist"]
    assert (await ground.ask(headers=good)).status == 503


async def test_satisfy_any(ground: Ground) -> None:
    ground.secrets["users"] = secret("users", auth="ada:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n")
    await ground.serve(
        ingress(
            auth_type="basic",
            auth_secret="users",
            whitelist_source_range="127.0.7.50",
            satisfy="any",
        )
    )
    good = basic("ada", "secret")
    assert (await ground.ask(source="127.0.7.50")).status == 200
    assert (await ground.ask(source="127.0.7.51")).status in (401, 403)
    assert (await ground.ask(source="127.0.7.51", headers=good)).status == 200


async def test_external_authentication(ground: Ground) -> None:
    where = f"http://127.0.7.13:{ground.ports['a']}/authenticate"
    values: dict[str, Any] = {"auth_url": where, "auth_response_headers": "X-Auth-User,X-Absent"}
    await ground.serve(ingress(**values))
    spoofed = {"X-Auth-User": "root", "X-Absent": "root"}
    assert (await ground.ask(headers=spoofed)).status == 401
    answer = await ground.ask(headers={**spoofed, "Authorization": "Bearer good"})
    assert answer.status == 200
    assert answer.seen["headers"]["x-auth-user"] == "ada"
    assert "x-absent" not in answer.seen["headers"]
    assert "x-other" not in answer.seen["headers"]
    await ground.serve(ingress(auth_url=where, auth_signin="https://login.example/start"))
    answer = await ground.ask("/page?a=b")
    back = "http%3A%2F%2Fweb.example%2Fpage%3Fa%3Db"
    assert (answer.status, answer.headers["Location"]) == (
        302,
        f"https://login.example/start?rd={back}",
    )
    dead = "http://127.0.7.98:9/authenticate"
    await ground.serve(ingress(auth_url=dead))
    assert (await ground.ask()).status == 500


async def test_refused_stays_refused_whatever_the_error_backend_says(ground: Ground) -> None:
    """CVE-2026-24513: an error backend that ignores X-Code answered 200 in place of 401."""
    where = f"http://127.0.7.13:{ground.ports['a']}/authenticate"
    await ground.serve(
        ingress(auth_url=where, custom_http_errors="401,403,404", default_backend="a")
    )
    answer = await ground.ask("/secret")
    assert answer.status == 401
    assert not any(each.endswith("/secret") for each in ground.received)


async def test_affinity(ground: Ground) -> None:
    await ground.serve(
        ingress(
            paths={"/": "both"},
            affinity="cookie",
            session_cookie_name="route",
            session_cookie_max_age="3600",
            session_cookie_samesite="Lax",
        )
    )
    answer = await ground.ask()
    cookie = answer.cookies["route"]
    assert {"Max-Age=3600", "SameSite=Lax", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    value = {"Cookie": cookie.partition(";")[0]}
    first = answer.seen["name"]
    assert await ground.names(6, headers=value) == [first] * 6
    assert (await ground.ask(headers=value)).cookies == {}
    other = "b" if first == "a" else "a"
    both, ground.slices["both"] = ground.slices["both"], ground.slices[other]
    try:
        await ground.serve(
            ingress(paths={"/": "both"}, affinity="cookie", session_cookie_name="route")
        )
        moved = await ground.ask(headers=value)
        assert moved.seen["name"] == other
        assert moved.cookies["route"] != cookie
    finally:
        ground.slices["both"] = both
    await ground.serve(ingress(paths={"/": "both"}))
    assert set(await ground.names(4)) == {"a", "b"}


async def test_hashing(ground: Ground) -> None:
    await ground.serve(ingress(paths={"/": "both"}, upstream_hash_by="$arg_user"))
    chosen = {user: set(await ground.names(3, f"/?user={user}")) for user in range(12)}
    assert all(len(names) == 1 for names in chosen.values())
    assert len({name for names in chosen.values() for name in names}) == 2


async def test_cors(ground: Ground) -> None:
    await ground.serve(
        ingress(
            enable_cors="true", cors_allow_origin="https://*.ok.example, http://one.example:8080"
        )
    )
    preflight = {"Origin": "https://x.ok.example", "Access-Control-Request-Method": "PUT"}
    answer = await ground.ask(method="OPTIONS", headers=preflight)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://x.ok.example"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Max-Age"] == "1728000"
    for origin, allowed in (
        ("http://one.example:8080", True),
        ("https://x.y.ok.example", False),
        ("https://ok.example", False),
        ("https://evil.example/.ok.example", False),
    ):
        answer = await ground.ask(headers={"Origin": origin})
        assert answer.status == 200
        assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == allowed


async def test_rate_limits(ground: Ground) -> None:
    await ground.serve(ingress("rps", limit_rpm="1", limit_burst_multiplier="3"))
    statuses = [(await ground.ask(source="127.0.7.60")).status for _ in range(6)]
    assert statuses == [200] * 4 + [503] * 2
    assert (await ground.ask(source="127.0.7.61")).status == 200
    await ground.serve(
        ingress("exempt", limit_rpm="1", limit_burst_multiplier="1", limit_whitelist="127.0.7.60")
    )
    assert [(await ground.ask(source="127.0.7.60")).status for _ in range(6)] == [200] * 6


async def test_limit_of_connections(ground: Ground) -> None:
    await ground.serve(ingress(limit_connections="2"))
    answers = await asyncio.gather(*(ground.ask("/?sleep=0.3") for _ in range(5)))
    assert sorted(each.status for each in answers) == [200, 200, 503, 503, 503]
    assert (await ground.ask()).status == 200


CANARIES: list[tuple[dict[str, str], dict[str, str], set[str]]] = [
    ({"canary_weight": "0"}, {}, {"a"}),
    ({"canary_weight": "100"}, {}, {"b"}),
    ({"canary_weight": "10", "canary_weight_total": "10"}, {}, {"b"}),
    ({"canary_by_header": "X-New"}, {"X-New": "always"}, {"b"}),
    ({"canary_by_header": "X-New", "canary_weight": "100"}, {"X-New": "never"}, {"a"}),
    ({"canary_by_header": "X-New"}, {"X-New": "maybe"}, {"a"}),
    ({"canary_by_header": "X-New", "canary_by_header_value": "yes"}, {"X-New": "yes"}, {"b"}),
    ({"canary_by_header": "X-New", "canary_by_header_value": "yes"}, {"X-New": "always"}, {"a"}),
    (
        {"canary_by_header": "X-New", "canary_by_header_pattern": "^(x|y)+$"},
        {"X-New": "xyx"},
        {"b"},
    ),
    ({"canary_by_cookie": "new"}, {"Cookie": "new=always"}, {"b"}),
    ({"canary_by_cookie": "new", "canary_weight": "100"}, {"Cookie": "new=never"}, {"a"}),
]


@pytest.mark.parametrize(("values", "headers", "names"), CANARIES)
async def test_canary(
    ground: Ground, values: dict[str, str], headers: dict[str, str], names: set[str]
) -> None:
    await ground.serve(ingress(), ingress("new", {"/": "b"}, canary="true", **values))
    assert set(await ground.names(4, headers=headers)) == names


async def test_share_of_a_canary(ground: Ground) -> None:
    await ground.serve(ingress(), ingress("new", {"/": "b"}, canary="true", canary_weight="30"))
    share = (await ground.names(300)).count("b")
    assert 50 < share < 135
    told = await ground.serve(ingress("new", {"/": "b"}, canary="true", canary_weight="30"))
    assert told == ["Rejected: is a canary of no path that is served"]
    assert (await ground.ask()).status == 404


async def test_custom_errors(ground: Ground) -> None:
    await ground.serve(ingress(custom_http_errors="404,503", default_backend="b"))
    answer = await ground.ask("/x?status=404", headers={"Accept": "application/json"})
    assert (answer.status, answer.text) == (404, "the error page")
    assert (await ground.ask("/x?status=500")).status == 500
    await ground.serve(ingress(paths={"/": "empty"}, default_backend="a"))
    assert (await ground.ask()).seen["name"] == "a"


async def test_mirror(ground: Ground) -> None:
    target = f"http://127.0.7.13:{ground.ports['a']}/copy$request_uri"
    await ground.serve(ingress(mirror_target=target))
    ground.received.clear()
    assert (await ground.ask("/x?y=1", method="POST", data=b"12345")).seen["name"] == "a"
    await ground.until_received(2)
    assert set(ground.received) == {"a POST /x?y=1", "auth POST /copy/x?y=1"}


async def test_service_upstream_and_external_names(ground: Ground) -> None:
    port = ground.ports["a"]
    ports = [ServicePort(name="http", port=port, protocol="TCP")]
    ground.services["vip"] = service("vip", clusterIP="127.0.7.12", ports=ports)
    ground.services["outside"] = service(
        "outside", type="ExternalName", externalName="b.example", ports=ports
    )
    ground.addresses["b.example"] = ("127.0.7.12",)
    one, two = ingress(service_upstream="true"), ingress("two", {"/": "outside"}, "two.example")
    for each, name in ((one, "vip"), (two, "outside")):
        backend = each.spec.rules[0].http.paths[0].backend.service  # type: ignore[union-attr]
        assert backend is not None
        backend.name, backend.port.number = name, port
    assert await ground.serve(one, two) == []
    assert await ground.names(1) == ["b"]
    assert await ground.names(1, host="two.example") == ["b"]


async def test_websockets(ground: Ground) -> None:
    from aiohttp import web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"echo {message.data}")
        return socket

    app = web.Application()
    app.router.add_get("/ws", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.7.14", ground.ports["a"])
    await site.start()
    try:
        ground.services["sockets"] = ground.services["a"]
        ground.slices["sockets"] = [slice_of(f"127.0.7.14:{ground.ports['a']}")]
        await ground.serve(ingress(paths={"/ws": "sockets"}))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"http://{ADDRESS}:{HTTP}/ws", headers={"Host": "web.example"}
            ) as socket,
        ):
            await socket.send_str("hello")
            assert await socket.receive_str() == "echo hello"
    finally:
        await runner.cleanup()


async def test_certificates(ground: Ground) -> None:
    ground.secrets["one"] = ground.authority.secret("one", "one.example")
    ground.secrets["two"] = ground.authority.secret("two", "two.example")
    wanted = [ingress(name, {"/": "a"}, f"{name}.example", tls=name) for name in ("one", "two")]
    assert await ground.serve(*wanted) == []
    trusting = ground.trusting()
    before = ground.nginx.reloads
    for name in ("one", "two"):
        answer = await ground.ask(host=f"{name}.example", tls=trusting)
        assert answer.status == 200
        assert answer.seen["headers"]["x-forwarded-proto"] == "https"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await ground.ask(host="three.example", tls=trusting)
    ground.secrets["two"] = ground.authority.secret("two", "else.example")
    told = await ground.serve(*wanted)
    assert told == [
        "DefaultCertificate: default certificate used: two.example is not in the certificate"
    ]
    ground.secrets["two"] = ground.authority.secret("two", "*.example")
    assert await ground.serve(*wanted) == []
    assert (await ground.ask(host="two.example", tls=trusting)).status == 200
    assert ground.nginx.reloads == before


async def test_http2_is_offered(ground: Ground) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(ADDRESS, HTTPS, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.transport.abort()
    assert reader is not None


async def test_client_certificates(ground: Ground) -> None:
    ground.secrets["site"] = ground.authority.secret("site", "web.example")
    ground.secrets["open"] = ground.authority.secret("open", "open.example")
    await ground.serve(
        ingress(tls="site", auth_tls_secret="site", auth_tls_match_cn="CN=ada.example"),
        ingress("open", {"/": "a"}, "open.example", tls="open"),
    )

    def context(name: str) -> ssl.SSLContext:
        trusting = ground.trusting()
        if name:
            chain, key = ground.authority.issue(name)
            file = ground.directory / f"{name}.pem"
            file.write_text(chain + key)
            trusting.load_cert_chain(file)
        return trusting

    assert (await ground.ask(tls=ground.trusting())).status == 400
    assert (await ground.ask(tls=context("bob.example"))).status == 403
    answer = await ground.ask(tls=context("ada.example"))
    assert answer.status == 200
    assert answer.seen["headers"]["ssl-client-subject-dn"] == "CN=ada.example"
    # A handshake for a host that asks for nothing is none for this one.
    tls = ground.trusting()
    answer = await ground.ask(host="open.example", tls=tls)
    assert answer.status == 200
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"https://{ADDRESS}:20443/",
            ssl=tls,
            server_hostname="open.example",
            headers={"Host": "web.example"},
        ) as other,
    ):
        assert other.status == 421


async def test_no_request_is_lost_in_reloads(ground: Ground) -> None:
    """Several clients with connections of their own ask all the time, while ten new policies take
    a reload each."""
    await ground.serve(ingress())
    ended = asyncio.Event()
    failures: list[str] = []
    counts: list[int] = []

    async def client() -> None:
        count = 0
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not ended.is_set():
                try:
                    # A POST: clients do not repeat it by themselves when a connection is cut.
                    async with session.post(
                        f"http://{ADDRESS}:{HTTP}/", headers={"Host": "web.example"}, data=b"x"
                    ) as answer:
                        await answer.read()
                        if answer.status != 200:
                            failures.append(str(answer.status))
                except aiohttp.ClientError as error:
                    failures.append(repr(error))
                count += 1
        counts.append(count)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    before = ground.nginx.reloads
    for number in range(5):
        await ground.serve(ingress(proxy_body_size=f"{100 + number}k"))
    ended.set()
    await asyncio.gather(*clients)
    assert ground.nginx.reloads == before + 5
    assert failures == []
    assert min(counts) > 50


async def test_a_configuration_that_is_refused_changes_nothing(ground: Ground) -> None:
    """As if a port were taken: what was served is served on."""
    import msgspec

    from navarch.network.nginx.model import Listener
    from navarch.network.nginx.process import NginxError

    await ground.serve(ingress())
    plane = ground.translated(ingress(paths={"/": "b"})).plane
    blocker = await asyncio.start_server(lambda reader, writer: None, ADDRESS, 20999)
    try:
        more = (*plane.listeners, Listener(port=20999, table="ingress"))
        with pytest.raises(NginxError):
            await ground.nginx.apply(msgspec.structs.replace(plane, listeners=more))
        assert await ground.names(2) == ["a", "a"]
    finally:
        blocker.close()
    await ground.serve(ingress(paths={"/": "b"}))
    assert await ground.names(2) == ["b", "b"]


async def test_nginx_outlives_its_controller(ground: Ground) -> None:
    """Another controller finds the nginx that runs, and goes on with it."""
    from navarch.client.clock import RealClock
    from navarch.network.nginx.process import Nginx

    await ground.serve(ingress())
    await ground.nginx.leave()
    assert await ground.names(1) == ["a"]
    successor = Nginx(ground.nginx.settings, RealClock())
    await successor.start(ground.translated(ingress(paths={"/": "b"})).plane)
    assert successor.reloads == 0
    ground.nginx = successor
    assert await ground.names(1) == ["b"]


@pytest.mark.parametrize("victim", ["master", "workers", "all"])
async def test_a_killed_nginx_is_back_with_everything(ground: Ground, victim: str) -> None:
    """Workers whose master is gone go on for the moment, and do not keep the next one's ports."""
    import signal

    ground.secrets["site"] = ground.authority.secret("site", "web.example")
    await ground.serve(ingress(tls="site", ssl_redirect="false"))
    keeper = asyncio.create_task(ground.nginx.run())
    try:
        master = int(ground.nginx.settings.pid_file.read_text())
        workers = children(master)
        killed = {"master": [master], "workers": workers, "all": [master, *workers]}[victim]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            file = ground.nginx.settings.pid_file
            old = ("", str(master))
            while victim != "workers" and file.read_text().strip() in old:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while True:
                try:
                    answer = await ground.ask(tls=ground.trusting())
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.02)
        assert answer.seen["name"] == "a"
        # What is changed after this is served as well: nobody of before answers any more.
        await ground.serve(ingress(paths={"/": "b"}))
        assert await ground.names(8) == ["b"] * 8
    finally:
        keeper.cancel()


async def test_who_may_read_what(ground: Ground) -> None:
    """Workers are nobody in particular; keys, state and the control socket are root's."""
    await ground.serve(ingress())
    settings = ground.nginx.settings
    master = int(settings.pid_file.read_text())
    workers = children(master)
    assert workers
    for pid in workers:
        status = status_of(pid)
        assert "\nUid:\t33\t33\t33\t33" in status
        assert "\nCapEff:\t0000000000000000" in status
    assert settings.directory.stat().st_mode & 0o777 == 0o700
    for file in settings.directory.glob("*.key"):
        assert file.stat().st_mode & 0o777 == 0o600


async def test_figures_and_log(ground: Ground) -> None:
    await ground.serve(ingress(), ingress("quiet", host="quiet.example", enable_access_log="false"))
    await ground.ask("/logged", headers={"User-Agent": 'x" 200\n'.strip() + " \\x1b"})
    await ground.ask("/unlogged", "quiet.example")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{ADDRESS}:{HEALTH}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(f"http://{ADDRESS}:{HEALTH}/metrics") as answer:
            text = await answer.text()
    labels = 'namespace="default",ingress="web",service="a",method="GET",status="200"'
    assert f"nginx_ingress_controller_requests{{{labels}}} " in text
    log = (ground.directory / "access.log").read_text()
    assert '"GET /logged HTTP/1.1" 200' in log
    assert '"x\\x22 200 \\x5Cx1b"' in log
    assert "/unlogged" not in log
