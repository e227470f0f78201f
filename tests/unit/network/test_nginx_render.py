"""The configuration file: what is in it, and what can never be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from navarch.network.nginx.document import policy_name
from navarch.network.nginx.model import Listener, NextUpstream, Policy, Protocol
from navarch.network.nginx.render import Settings, UnsafeTextError, quoted, render

SETTINGS = Settings(Path("/var/lib/x/ingress"), Path("/run/x"), ("192.168.49.2", "fd00::2"))
LISTENERS = (Listener(port=80, table="t"), Listener(port=443, tls=True, table="t"))


def config(*policies: Policy, settings: Settings = SETTINGS) -> str:
    return render(settings, LISTENERS, {policy_name(each): each for each in policies})[0]


def location(policy: Policy) -> list[str]:
    text = config(policy)
    found = re.search(rf"location @{policy_name(policy)} {{\n(.*?)\n        }}", text, re.DOTALL)
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


def test_the_usual_policy() -> None:
    assert location(Policy()) == [
        "rewrite_by_lua_block { navarch_route.enter() }",
        "client_max_body_size 1048576;",
        "proxy_next_upstream error timeout;",
        "proxy_next_upstream_timeout 0s;",
        "proxy_next_upstream_tries 0;",
        "proxy_buffer_size 4096;",
        "client_body_buffer_size 8192;",
        "proxy_buffering off;",
        "proxy_buffers 4 4096;",
        "proxy_busy_buffers_size 8192;",
        "proxy_request_buffering on;",
        "proxy_pass http://navarch_http;",
    ]


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        (Policy(protocol=Protocol.GRPCS), ["grpc_pass grpcs://navarch_grpcs;"]),
        (
            Policy(next_upstream=(NextUpstream.HTTP_503, NextUpstream.NON_IDEMPOTENT)),
            ["proxy_next_upstream http_503 non_idempotent;"],
        ),
        (
            Policy(basic_auth=True),
            [
                "auth_basic $navarch_realm;",
                "auth_basic_user_file /run/x/files/$navarch_passwords;",
            ],
        ),
        (Policy(external_auth=True), ["access_by_lua_block { navarch_route.access() }"]),
        (Policy(intercepts=(404, 503)), ["error_page 404 503 @navarch_error;"]),
        (Policy(mirrors=2), ["mirror /_navarch/mirror/1;", "mirror /_navarch/mirror/2;"]),
        (
            Policy(trusted="ab12", verifies=True),
            ["proxy_ssl_trusted_certificate /var/lib/x/ingress/files/ab12;"],
        ),
    ],
)
def test_policies(policy: Policy, lines: list[str]) -> None:
    assert set(lines) <= set(location(policy))


def test_satisfy_any_has_no_check_that_lets_everybody_in() -> None:
    lines = location(Policy(satisfy_any=True, external_auth=True, basic_auth=True))
    assert "satisfy any;" in lines
    assert not any("access_by_lua" in line for line in lines)


def test_listeners() -> None:
    text = config(Policy())
    for line in (
        "listen 192.168.49.2:80;",
        "listen [fd00::2]:80;",
        "listen 192.168.49.2:443 ssl http2;",
        "listen 192.168.49.2:10254;",
        "listen unix:/var/lib/x/ingress/control.sock;",
    ):
        assert f"        {line}\n" in text


def test_a_generation_tells_configurations_apart() -> None:
    one = render(SETTINGS, LISTENERS, {})
    assert one == render(SETTINGS, reversed(LISTENERS), {})
    assert one[1] in one[0]
    assert one[1] != render(SETTINGS, LISTENERS[:1], {})[1]
    assert one[1] != render(SETTINGS, LISTENERS, {}, resumes=False)[1]


@pytest.mark.parametrize(
    ("text", "result"),
    [("/a/b", '"/a/b"'), ('a"b', '"a\\"b"'), ("a\\", '"a\\\\"'), ("a; {b} #", '"a; {b} #"')],
)
def test_quoting(text: str, result: str) -> None:
    assert quoted(text) == result


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "$host", "${x}", "\x00", "\x7f", "\t"])
def test_what_cannot_be_quoted(text: str) -> None:
    with pytest.raises(UnsafeTextError):
        quoted(text)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(trusted="../../etc/shadow"),
        Policy(client_certificate='a"; }'),
        Policy(buffer_size=-1),
        Policy(body_limit="1; evil on"),  # type: ignore[arg-type]
        Policy(body_buffer=True),
    ],
)
def test_what_no_policy_can_say(policy: Policy) -> None:
    with pytest.raises(UnsafeTextError):
        config(policy)


@pytest.mark.parametrize("path", ["/a b", "/a;b", '/a"', "/$x", "/a{", "relative", "/a\nb"])
def test_what_no_path_can_say(path: str) -> None:
    with pytest.raises(UnsafeTextError):
        config(settings=replace(SETTINGS, directory=Path(path)))


def test_without_listeners_nothing_is_listened_to() -> None:
    """nginx would otherwise take port 80 of all addresses."""
    text, _ = render(SETTINGS, [], {})
    servers = text.split("    server {")[1:]
    assert all("listen" in server for server in servers)
    assert "listen unix:/var/lib/x/ingress/idle.sock;" in text
    assert "idle.sock" not in config()
