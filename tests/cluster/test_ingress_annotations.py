"""Ingresses with a real nginx: what annotations make of requests, and who is let in."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.cluster.ingress_ground import Ground, marks
from tests.cluster.ingress_ground import ingress_ground as ground
from tests.unit.network.ingresses import ingress, secret

__all__ = ["ground"]
pytestmark = marks


def basic(user: str, password: str) -> dict[str, str]:
    """The header for a user."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {value}"}


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


async def test_every_origin_is_no_origin_with_cookies(ground: Ground) -> None:
    said = ingress(enable_cors="true", cors_allow_credentials="true", cors_allow_origin="*")
    for each in (ingress(enable_cors="true"), said):
        await ground.serve(each)
        answer = await ground.ask(headers={"Origin": "https://evil.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


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
