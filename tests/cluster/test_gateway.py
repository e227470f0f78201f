"""Gateway API through a real API server and a real nginx: what is beyond the core."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

import aiohttp
import pytest
from tests.cluster.gateway_ground import (
    ADDRESS,
    BACKENDS,
    COLLECTIONS,
    HEALTH,
    SERVED,
    STANDING,
    Ground,
    conditions,
    filtered,
    ground,
    pairs,
    path_of,
    shared,
)
from tests.cluster.ingress_ground import marks
from tests.unit.network.gateways import (
    INFRA,
    backend,
    gateway,
    listener,
    manifest,
    route,
    rule,
)

from navarch.network.gateway import translate
from navarch.network.nginx import serving
from navarch.network.nginx.model import DataPlane
from navarch.network.nginx.process import PROGRAM
from navarch.network.nginx.publish import MANAGED_BY

__all__ = ["ground", "shared"]
pytestmark = marks

FEW_PORTS = (23990, 23991)
SLICES = f"{COLLECTIONS['EndpointSlice'] % INFRA}?labelSelector={MANAGED_BY}=gateway.navarch.dev"


async def test_response_headers_and_rewrites_and_redirects(ground: Ground) -> None:
    """ResponseHeaderModification, HostRewrite, PathRewrite, SchemeRedirect, PortRedirect and
    PathRedirect of the extended features."""
    prefix = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
    full = {"type": "ReplaceFullPath", "replaceFullPath": "/full"}
    change = {"set": pairs(X_Other="set"), "add": pairs(X_More="1"), "remove": ["X-Backend"]}
    redirects: dict[str, dict[str, Any]] = {
        "/scheme": {"scheme": "https"},
        "/port": {"port": 8083},
        "/same": {"scheme": "https", "port": 443},
        "/prefix": {"path": prefix, "statusCode": 307},
        "/full": {"path": full, "statusCode": 308},
    }
    await ground.make(
        gateway("gateway", listener(port=8080)),
        route(
            "r",
            rule("a", path="/headers", filters=[filtered("ResponseHeaderModifier", **change)]),
            rule(
                "a",
                path="/old",
                filters=[filtered("URLRewrite", path=prefix, hostname="other.example")],
            ),
            rule("a", path="/whole", filters=[filtered("URLRewrite", path=full)]),
            *(
                rule(
                    path=path,
                    filters=[
                        filtered("RequestRedirect", **fields),
                        filtered("ResponseHeaderModifier", set=pairs(X_Moved=path)),
                    ],
                )
                for path, fields in redirects.items()
            ),
        ),
    )
    await ground.answers([({"path": "/headers", "port": 8080}, "a")])
    headers = (await ground.ask("/headers", port=8080)).headers
    assert (headers["X-Other"], headers["X-More"]) == ("set", "1")
    assert "X-Backend" not in headers
    table = {"/old/rest?q=1": "/new/rest?q=1", "/old": "/new", "/whole/x?q=1": "/full?q=1"}
    for path, wanted in table.items():
        assert (await ground.ask(path, port=8080)).seen["path"] == wanted
    seen = (await ground.ask("/old", port=8080)).seen["headers"]
    assert (seen["host"], seen["x-forwarded-host"]) == ("other.example", "example.com")
    places = {
        "/scheme": (302, "https://example.com/scheme"),
        "/port": (302, "http://example.com:8083/port"),
        "/same": (302, "https://example.com/same"),
        "/prefix/x": (307, "http://example.com:8080/new/x"),
        "/full/x": (308, "http://example.com:8080/full"),
    }
    for path, expected in places.items():
        answer = await ground.ask(path, port=8080)
        assert (answer.status, answer.headers["Location"]) == expected
        assert path.startswith(answer.headers["X-Moved"])


async def test_methods_queries_and_patterns(ground: Ground) -> None:
    def where(*backends: str, **match: Any) -> dict[str, Any]:
        return rule(*backends, matches=[match])

    pattern = {"type": "RegularExpression", "value": "/item/[0-9]+"}
    query = {"name": "animal", "value": "whale"}
    regex = {"name": "animal", "value": "dol.*", "type": "RegularExpression"}
    await ground.make(
        gateway(),
        route(
            "r",
            where("a", method="POST"),
            where("b", queryParams=[query]),
            where("c", queryParams=[regex]),
            where("b", path=pattern),
        ),
    )
    table: list[tuple[dict[str, Any], object]] = [
        ({"method": "POST"}, "a"),
        ({"path": "/?animal=whale"}, "b"),
        ({"path": "/?animal=dolphin&animal=whale"}, "c"),
        ({"path": "/?animal=whales"}, 404),
        ({"path": "/?Animal=whale"}, 404),
        ({"path": "/item/12"}, "b"),
        ({"path": "/item/12/more"}, 404),
        ({"path": "/ITEM/12"}, 404),
    ]
    await ground.answers(table)


async def test_mirrors_and_filters_of_backends(ground: Ground) -> None:
    def mirror(name: str, **more: Any) -> dict[str, Any]:
        return filtered("RequestMirror", backendRef={"name": name, "port": 80}, **more)

    marked = filtered("RequestHeaderModifier", set=pairs(X_Which="b's own"))
    await ground.make(
        gateway(),
        route(
            "r",
            rule("a", path="/mirror", filters=[mirror("b"), mirror("c"), mirror("b", percent=0)]),
            rule("a", path="/patient", timeouts={"request": "0s"}),
            rule(backend("b", filters=[marked]), path="/own"),
        ),
    )
    await ground.answers([({"path": "/mirror/first"}, "a")])
    await ground.ask("/mirror/x?y=1")

    def received() -> list[str]:
        return sorted(each for each in ground.received if each.endswith("/mirror/x?y=1"))

    async def mirrored() -> bool:
        return len(received()) >= 3

    await ground.until(mirrored, "the mirrors")
    assert received() == [f"{name} /mirror/x?y=1" for name in "abc"]
    await ground.answers([({"path": "/patient?delay=0.4"}, "a")])
    assert (await ground.ask("/own")).seen["headers"]["x-which"] == "b's own"


@pytest.mark.parametrize("limits", [{"request": "1s"}, {"request": "5s", "backendRequest": "1s"}])
async def test_timeouts(ground: Ground, limits: dict[str, str]) -> None:
    """They are for the whole of an exchange: a backend that is never silent for long is late, too.
    What has begun to answer cannot be answered with 504 any more and is broken off."""
    await ground.make(gateway(), route("r", rule("a", path="/slow", timeouts=limits)))
    await ground.answers([({"path": "/slow"}, "a")])
    late = await asyncio.gather(*(ground.ask("/slow?delay=5") for _ in range(8)))
    assert [each.status for each in late] == [504] * 8
    assert (await ground.ask("/slow?pause=0.01")).text == "." * 10
    with pytest.raises(aiohttp.ClientPayloadError):
        await ground.ask("/slow?pause=0.3")
    await ground.answers([({"path": "/slow?delay=0.2"}, "a")])


H2C = """
daemon off;
master_process off;
pid %(directory)s/h2c.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path %(directory)s;
    server {
        listen %(address)s:20281 http2;
        location / {
            return 200 '{"name": "h2c", "protocol": "$server_protocol", "host": "$host"}';
        }
    }
}
"""


async def test_backends_that_speak_http_2_only(ground: Ground) -> None:
    config = ground.directory / "h2c.conf"
    config.write_text(H2C % {"directory": ground.directory, "address": BACKENDS["a"]})
    backend = await asyncio.create_subprocess_exec(
        PROGRAM, "-e", "stderr", "-c", str(config), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        port = {"name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c"}
        await ground.make_service(INFRA, "h2c", port, backend_port=20281)
        await ground.make(gateway(), route("r", rule("h2c")))
        await ground.answers([({"path": "/some/where?q=1"}, "h2c")])
        seen = (await ground.ask(method="POST", data=b"body")).seen
        assert (seen["protocol"], seen["host"]) == ("HTTP/2.0", "example.com")
    finally:
        backend.terminate()
        await backend.wait()


async def test_scripts_from_other_origins(ground: Ground) -> None:
    cors = filtered(
        "CORS",
        allowOrigins=["https://www.foo.com:443", "https://*.bar.com"],
        allowMethods=["GET", "OPTIONS"],
        allowHeaders=["x-header-1", "x-header-2"],
        exposeHeaders=["x-header-3"],
        allowCredentials=True,
        maxAge=3600,
    )
    kinds = ("allowOrigins", "allowMethods", "allowHeaders", "exposeHeaders")
    stars = filtered("CORS", **{kind: ["*"] for kind in kinds}, allowCredentials=True)
    every = rule("a", path="/any", filters=[stars])
    await ground.make(gateway(), route("r", rule("a", filters=[cors]), every))
    await ground.answers([({}, "a"), ({"path": "/any"}, "a")])
    asking = {"Access-Control-Request-Method": "GET"}
    headers = {"Access-Control-Request-Headers": "x-header-2"}

    async def preflight(path: str, origin: str, headers: dict[str, str]) -> dict[str, str]:
        given = {"Origin": origin, **headers}
        answer = await ground.ask(path=path, method="OPTIONS", headers=given)
        assert answer.status in (200, 204)
        return {
            key.removeprefix("Access-Control-").lower(): value
            for key, value in answer.headers.items()
            if key.startswith("Access-Control-")
        }

    assert await preflight("/", "https://www.foo.com", asking | headers) == {
        "allow-origin": "https://www.foo.com",
        "allow-methods": "GET, OPTIONS",
        "allow-headers": "x-header-1, x-header-2",
        "allow-credentials": "true",
        "expose-headers": "x-header-3",
        "max-age": "3600",
    }
    assert "allow-headers" not in await preflight("/", "https://www.foo.com", asking)
    # A wildcard is what was asked for, as browsers take none along with credentials.
    shared = {"allow-origin": "https://x.y", "allow-credentials": "true", "max-age": "5"}
    asked = {"allow-methods": "GET", "allow-headers": "x-header-2"}
    assert await preflight("/any", "https://x.y", asking | headers) == shared | asked
    for origin, expected in (
        ("https://a.bar.com", True),
        ("https://a.b.bar.com", True),
        ("https://www.foo.com", True),
        ("https://bar.com", False),
        ("https://evil.com", False),
        ("https://evil.com/a.bar.com", False),
    ):
        answer = await ground.ask(headers={"Origin": origin})
        assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is expected


async def test_endpoints_come_and_go(ground: Ground) -> None:
    await ground.make_service(INFRA, "moving", {"name": "http", "port": 80})
    await ground.make(gateway(), route("r", rule("moving")))
    await ground.answers([({}, "a")])
    slice_ = ground.made[1]
    assert slice_["kind"] == "EndpointSlice"
    for address, who in ((BACKENDS["b"], "b"), ("", 503), (BACKENDS["c"], "c")):
        endpoints = [{"addresses": [address]}] if address else []
        reloads = ground.nginx.reloads
        await ground.admin(
            "PATCH",
            path_of(slice_),
            {"endpoints": endpoints},
            content_type="application/merge-patch+json",
        )
        await ground.answers([({}, who)])
        assert ground.nginx.reloads == reloads


async def test_a_port_is_waited_for(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """While other programs have all ports of the node a Gateway says so."""
    await ground.programmed(STANDING)
    monkeypatch.setattr(translate, "FIRST_PORT", FEW_PORTS[0])
    monkeypatch.setattr(translate, "PORTS", len(FEW_PORTS))
    late = gateway("late")
    with contextlib.ExitStack() as stack:
        takers = [stack.enter_context(socket.create_server((ADDRESS, each))) for each in FEW_PORTS]
        await ground.make(late, route("late", rule("a"), parents=["late"]))
        status = await ground.expect(late, {"Programmed": "False NoResources"})
        (told,) = [each for each in status["conditions"] if each["type"] == "Programmed"]
        assert told["message"] == "node n1 has no port to serve 80 on"
        # What has a port keeps it.
        await ground.programmed(STANDING)
        takers[1].close()
        await ground.programmed(late)
        await ground.answers([({"gateway": "late"}, "a")])
        assert await ground.port("late") == FEW_PORTS[1]


async def test_nobody_is_led_where_nginx_does_not_listen_yet(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is still being told of a new Gateway, which has its Service already."""
    await ground.programmed(STANDING)
    apply, asked, may = ground.nginx.apply, asyncio.Event(), asyncio.Event()

    async def later(plane: DataPlane) -> list[dict[str, Any]]:
        asked.set()
        await may.wait()
        return await apply(plane)

    monkeypatch.setattr(ground.nginx, "apply", later)
    late = gateway("new")
    await ground.make(late, route("new", rule("a"), parents=["new"]))
    async with asyncio.timeout(60):
        await asked.wait()
    poked = {"kind": "Service", "metadata": {"name": "gateway-navarch", "namespace": INFRA}}
    body = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "navarch", "poked": "yes"}}}
    kind = "application/merge-patch+json"
    (await ground.admin("PATCH", path_of(poked), body, content_type=kind)).ok()
    await ground.expect(late, {"Programmed": "True Programmed"})
    served = {
        each["metadata"]["labels"]["kubernetes.io/service-name"]
        for each in (await ground.admin("GET", SLICES)).json["items"]
    }
    assert served == {"gateway-navarch"}
    may.set()
    await ground.answers([({"gateway": "new"}, "a")])


async def test_what_keeps_nginx_away_is_told(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it does not start, and when it cannot come back."""
    monkeypatch.setattr(serving, "START_SECONDS", 0.2)
    await ground.programmed(STANDING)
    down, up = {"Programmed": "False NoResources"}, {"Programmed": "True Programmed"}
    await ground.end()
    await ground.nginx.stop()
    with socket.create_server((ADDRESS, HEALTH)):
        ground.begin()
        await ground.expect(STANDING, down)
    await ground.expect(STANDING, up)
    await ground.answers([({}, 404)])

    async def take() -> socket.socket:
        try:
            return socket.create_server((ADDRESS, HEALTH))
        except OSError as error:
            with contextlib.suppress(ValueError, ProcessLookupError):
                os.kill(int(ground.nginx.settings.pid_file.read_text()), signal.SIGTERM)
            raise AssertionError from error

    with await ground.until(take, "the port of a nginx that is ended again and again"):
        status = await ground.expect(STANDING, down)
        (told,) = [each for each in status["conditions"] if each["type"] == "Programmed"]
        assert told["message"] == f"{ADDRESS} port {HEALTH}: Address already in use"
        assert not (await ground.admin("GET", SLICES)).json["items"]
    await ground.expect(STANDING, up)
    await ground.answers([({}, 404)])


async def test_web_sockets_pass(ground: Ground) -> None:
    await ground.make(gateway(), route("r", rule("a")))
    await ground.answers([({}, "a")])
    url = f"http://{ADDRESS}:{await ground.port()}/"
    async with ground.session.ws_connect(url, headers={"Host": "example.com"}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "a: hello"


async def test_the_service_of_a_gateway(ground: Ground) -> None:
    """Its address, what is propagated to it, and that it goes with what is no longer served."""
    wanted = {"labels": {"team": "red"}, "annotations": {"note": "kept"}}
    value = gateway("own", infrastructure=wanted, addresses=[{"value": "203.0.113.9"}])
    await ground.make(value)
    await ground.programmed(value)
    status = (await ground.read(value))["status"]
    assert status["addresses"] == [{"type": "IPAddress", "value": "203.0.113.9"}]
    path = f"/api/v1/namespaces/{INFRA}/services/own-navarch"
    service = (await ground.admin("GET", path)).ok()
    metadata, spec = service["metadata"], service["spec"]
    assert metadata["labels"]["team"] == "red"
    assert metadata["labels"]["gateway.networking.k8s.io/gateway-name"] == "own"
    assert metadata["annotations"]["note"] == "kept"
    assert metadata["ownerReferences"][0]["uid"] == (await ground.read(value))["metadata"]["uid"]
    assert [each["port"] for each in spec["ports"]] == [80]
    assert "selector" not in spec
    # For the cluster's name server.
    hosts = ["a.example", "*.b.example"]
    await ground.make(route("named", rule("a"), parents=["own"], hosts=hosts))

    async def named() -> bool:
        annotations = (await ground.admin("GET", path)).ok()["metadata"]["annotations"]
        return bool(annotations.get("navarch.io/gateway-hostnames") == "*.b.example,a.example")

    await ground.until(named, "the hostnames")
    # A change by somebody is undone.
    await ground.admin(
        "PATCH",
        path,
        {"spec": {"selector": {"a": "b"}}},
        content_type="application/merge-patch+json",
    )

    async def mended() -> bool:
        labels = (await ground.admin("GET", path)).ok()["metadata"]["labels"]
        return bool(labels["team"] == "red")

    await ground.until(mended, "the label")
    await ground.change(value, {"addresses": [{"value": "192.0.2.1"}]})
    await ground.expect(value, {"Programmed": "False AddressNotUsable"})
    await ground.change(value, {"listeners": [listener(protocol="UDP")]})

    async def gone() -> bool:
        return bool((await ground.admin("GET", path)).status == 404)

    await ground.until(gone, "the Service")


async def test_what_belongs_to_others_is_left_alone(ground: Ground) -> None:
    """Another controller's class and status, and a Service that has a Gateway's name."""
    other = manifest("GatewayClass", "foreign", "", {"controllerName": "example.com/other"})
    foreign = gateway("foreign", gatewayClassName="foreign")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mine-navarch", "namespace": INFRA},
        "spec": {"ports": [{"port": 1}]},
    }
    mine = gateway("mine")
    value = route("r", rule("a"), parents=["foreign"])
    await ground.make(other, foreign, service, mine, value)
    await ground.expect(mine, {"Programmed": "False NoResources"})
    assert (await ground.read(service))["spec"]["ports"][0]["port"] == 1
    assert conditions((await ground.read(foreign))["status"])["Accepted"] == "Unknown Pending"
    assert conditions((await ground.read(other))["status"])["Accepted"] == "Unknown Pending"
    parent = {
        "parentRef": {"name": "foreign"},
        "controllerName": "example.com/other",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    answer = await ground.admin(
        "PATCH",
        f"{path_of(value)}/status",
        {"status": {"parents": [parent]}},
        content_type="application/merge-patch+json",
    )
    answer.ok()
    parents = [{"name": "foreign"}, {"name": "mine"}]
    await ground.change(value, {"parentRefs": parents})
    await ground.expect(value, SERVED, parent=1)
    await ground.change(value, {"parentRefs": parents[:1]})

    async def only_theirs() -> bool:
        parents = (await ground.read(value))["status"]["parents"]
        return [each["controllerName"] for each in parents] == ["example.com/other"]

    await ground.until(only_theirs, "the route's status")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(gateway("x", listener(), listener()), id="two listeners of one name"),
        pytest.param(gateway("x", listener(tls={"mode": "Terminate"})), id="TLS with HTTP"),
        pytest.param(gateway("x", listener(hostname="1.2.3.4/x")), id="no hostname"),
        pytest.param(route("x", rule("a", path="/a//b")), id="path with two slashes"),
        pytest.param(route("x", rule("a", path="/a;\n")), id="path with a line break"),
        pytest.param(
            route("x", rule("a", filters=[{"type": "URLRewrite"}])), id="filter without its field"
        ),
        pytest.param(route("x", rule({"name": "a"})), id="Service without a port"),
        pytest.param(
            route("x", rule("a", timeouts={"request": "1s", "backendRequest": "2s"})),
            id="request shorter than backendRequest",
        ),
    ],
)
async def test_the_schemas_refuse(ground: Ground, value: dict[str, Any]) -> None:
    answer = await ground.admin("POST", path_of(value, named=False), value)
    assert (answer.status, answer.json["reason"]) == (422, "Invalid"), answer.body
