"""Ingresses with a real nginx: which request goes where."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.ingress_ground import Ground, marks
from tests.cluster.ingress_ground import ingress_ground as ground
from tests.unit.network.ingresses import ingress, service, slice_of

from navarch.api.types.core_v1 import ServicePort

__all__ = ["ground"]
pytestmark = marks


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
