"""Gateway API through a real API server and a real nginx: what HTTPRoutes refer to, match and
change. The ids are the names of the core conformance tests that assert the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.gateway_ground import (
    REFUSED,
    SERVED,
    Ground,
    Stories,
    filtered,
    ground,
    pairs,
    path_of,
    shared,
)
from tests.cluster.ingress_ground import marks
from tests.unit.network.gateways import (
    APP,
    INFRA,
    WEB,
    backend,
    gateway,
    grant,
    route,
    rule,
)

__all__ = ["ground", "shared"]
pytestmark = marks
story = Stories()


# -- routes: backends -----------------------------------------------------------------------------


@story("HTTPRouteInvalidBackendRefUnknownKind")
async def unknown_kind(ground: Ground) -> None:
    other = backend("a", kind="NonExistent", group="unknownkind.example.com")
    await ground.make(gateway(), value := route("r", rule(other)))
    await ground.expect(value, {"Accepted": "True Accepted", "ResolvedRefs": "False InvalidKind"})
    await ground.answers([({}, 500)])


@story("HTTPRouteInvalidNonExistentBackendRef")
async def missing_backend(ground: Ground) -> None:
    await ground.make(gateway(), value := route("r", rule("nonexistent")))
    wanted = {"Accepted": "True Accepted", "ResolvedRefs": "False BackendNotFound"}
    await ground.expect(value, wanted)
    await ground.answers([({}, 500)])


@story("HTTPRouteInvalidCrossNamespaceBackendRef")
async def refused_backend(ground: Ground) -> None:
    await ground.make(gateway(), value := route("r", rule(backend("a", namespace=WEB))))
    await ground.expect(value, {"Accepted": "True Accepted"} | REFUSED)
    await ground.answers([({}, 500)])


@story("HTTPRouteInvalidReferenceGrant")
async def wrong_grants(ground: Ground) -> None:
    await ground.make(
        gateway(),
        grant("kind", WEB, kind="Gateway", of=INFRA, to="Service"),
        grant("of", WEB, kind="HTTPRoute", of=APP, to="Service"),
        grant("to", WEB, kind="HTTPRoute", of=INFRA, to="Secret"),
        grant("name", WEB, kind="HTTPRoute", of=INFRA, to="Service", to_name="b"),
        grant("place", APP, kind="HTTPRoute", of=INFRA, to="Service"),
        value := route("r", rule(backend("a", namespace=WEB))),
    )
    await ground.expect(value, REFUSED)
    await ground.answers([({}, 500)])


@story("HTTPRouteReferenceGrant")
async def granted(ground: Ground) -> None:
    permit = grant("one", WEB, kind="HTTPRoute", of=INFRA, to="Service", to_name="a")
    value = route("r", rule(backend("a", namespace=WEB)))
    await ground.make(gateway(), permit, value)
    await ground.expect(value, SERVED)
    await ground.answers([({}, "a")])
    await ground.admin("DELETE", path_of(permit))
    await ground.expect(value, REFUSED)
    await ground.answers([({}, 500)])


@story("HTTPRoutePartiallyInvalidViaInvalidReferenceGrant")
async def partly_granted(ground: Ground) -> None:
    permit = grant("one", WEB, kind="HTTPRoute", of=INFRA, to="Service", to_name="a")
    bad = rule(backend("b", namespace=WEB), path="/v2")
    value = route("r", bad, rule(backend("a", namespace=WEB)))
    await ground.make(gateway(), permit, value)
    await ground.expect(value, {"Accepted": "True Accepted"} | REFUSED)
    await ground.answers([({"path": "/v2"}, 500), ({}, "a")])


@story("HTTPRouteNoBackendRefs")
async def no_backends(ground: Ground) -> None:
    value = route("r", rule(exact="/omitted"), rule(exact="/empty", backendRefs=[]), rule("a"))
    await ground.make(gateway(), value)
    await ground.expect(value, SERVED)
    await ground.answers([({"path": "/omitted"}, 500), ({"path": "/empty"}, 500), ({}, "a")])


@story("HTTPRouteServiceTypes")
async def service_types(ground: Ground) -> None:
    # None of them has a selector: slices are written by hand.
    rules = [rule(name, exact=f"/{name}") for name in ("a", "headless", "empty")]
    await ground.make(gateway(), value := route("r", *rules))
    await ground.expect(value, SERVED)
    await ground.answers(
        [({"path": "/a"}, "a"), ({"path": "/headless"}, "a"), ({"path": "/empty"}, 503)]
    )


@story("HTTPRouteWeight")
async def weights(ground: Ground) -> None:
    value = route("r", rule(backend("a", 70), backend("b", 30), backend("c", 0)))
    none = route("none", rule(backend("a", 0), backend("b", 0), path="/none"))
    await ground.make(gateway(), value, none)
    await ground.answers([({"path": "/none"}, 500)])
    answers = [(await ground.ask()).backend for _ in range(200)]
    assert 0.55 < answers.count("a") / 200 < 0.85
    assert set(answers) == {"a", "b"}


# -- routes: which requests -----------------------------------------------------------------------


@story("HTTPRouteExactPathMatching")
async def exact_paths(ground: Ground) -> None:
    value = route("r", rule("a", exact="/one"), rule("b", exact="/two"), rule("c", exact="/thr/"))
    await ground.make(gateway(), value)
    table = {
        "/one": "a",
        "/two": "b",
        "/thr/": "c",
        "/thr": 404,
        "/": 404,
        "/one/example": 404,
        "/two/": 404,
        "/Two": 404,
    }
    await ground.answers([({"path": path}, who) for path, who in table.items()])


def on_headers(*backends: str, **headers: str) -> dict[str, Any]:
    wanted = [{"name": name, "value": value} for name, value in headers.items()]
    return rule(*backends, matches=[{"headers": wanted}])


@story("HTTPRouteHeaderMatching")
async def header_matching(ground: Ground) -> None:
    value = route(
        "r",
        on_headers("a", version="one"),
        on_headers("b", version="two"),
        on_headers("a", version="two", color="orange"),
        rule("a", matches=[{"headers": [{"name": "color", "value": name}]} for name in "xy"]),
        rule("b", matches=[{"headers": [{"name": "color", "value": "red"}]}]),
    )
    await ground.make(gateway(), value)
    table = [
        ({"version": "one"}, "a"),
        ({"VERSION": "two"}, "b"),
        ({"version": "two", "color": "orange"}, "a"),
        ({"color": "x"}, "a"),
        ({"color": "y"}, "a"),
        ({"Color": "red"}, "b"),
        ({"version": "two", "color": "red"}, "b"),
        ({"color": "purple"}, 404),
        ({}, 404),
    ]
    await ground.answers([({"headers": headers}, who) for headers, who in table])


@story("HTTPRouteMatching")
async def matching(ground: Ground) -> None:
    v2 = rule(
        "b",
        matches=[
            {"path": {"type": "PathPrefix", "value": "/v2"}},
            {"headers": [{"name": "version", "value": "two"}]},
        ],
    )
    await ground.make(gateway(), route("r", rule("a", path="/"), v2))
    table = [
        ("/", {}, "a"),
        ("/example", {}, "a"),
        ("/", {"version": "one"}, "a"),
        ("/v2", {}, "b"),
        ("/v2/example", {}, "b"),
        ("/v2example", {}, "a"),
        ("/", {"version": "two"}, "b"),
    ]
    await ground.answers(
        [({"path": path, "headers": headers}, who) for path, headers, who in table]
    )


@story("HTTPRouteMatchingAcrossRoutes")
async def across_routes(ground: Ground) -> None:
    await ground.make(
        gateway(),
        route("one", rule("a", path="/"), hosts=["example.com", "example.net"]),
        route(
            "two",
            rule("b", path="/v2"),
            rule("b", matches=[{"headers": [{"name": "version", "value": "two"}]}]),
            hosts=["example.com"],
        ),
    )
    table = [
        ("example.com", "/", {}, "a"),
        ("example.com", "/", {"version": "one"}, "a"),
        ("example.net", "/", {"version": "two"}, "a"),
        ("example.com", "/", {"version": "two"}, "b"),
        ("example.com", "/v2", {}, "b"),
        ("example.com", "/v2/example", {}, "b"),
        ("example.net", "/v2", {}, "a"),
        ("example.org", "/", {}, 404),
    ]
    await ground.answers(
        [
            ({"host": host, "path": path, "headers": headers}, who)
            for host, path, headers, who in table
        ]
    )


@story("HTTPRoutePathMatchOrder")
async def path_order(ground: Ground) -> None:
    await ground.make(
        gateway(),
        route(
            "r",
            rule("a", path="/match"),
            rule("b", path="/match/prefix"),
            rule("c", path="/match/prefix/one"),
            rule("a", exact="/match/exact/one"),
            rule("b", exact="/match/exact"),
            rule("c", path="/match/exact"),
        ),
    )
    table = {
        "/match": "a",
        "/match/prefix/one/any": "c",
        "/match/prefix/any": "b",
        "/match/exact/one": "a",
        "/match/exact": "b",
        "/match/exact/any": "c",
    }
    await ground.answers([({"path": path}, who) for path, who in table.items()])


# -- routes: filters ------------------------------------------------------------------------------


@story("HTTPRouteRedirectHostAndStatus")
async def redirects(ground: Ground) -> None:
    value = route(
        "r",
        rule(path="/host", filters=[filtered("RequestRedirect", hostname="example.org")]),
        rule(
            path="/both",
            filters=[filtered("RequestRedirect", hostname="example.org", statusCode=301)],
        ),
    )
    await ground.make(gateway(), value)
    await ground.expect(value, SERVED)
    await ground.answers([({"path": "/host"}, 302), ({"path": "/both"}, 301)])
    for path in ("/host", "/both"):
        assert (await ground.ask(path)).headers["Location"] == f"http://example.org{path}"


@story("HTTPRouteRequestHeaderModifier")
async def request_headers(ground: Ground) -> None:
    value = route(
        "r",
        rule(
            "a",
            filters=[
                filtered(
                    "RequestHeaderModifier",
                    set=pairs(X_Set="overwritten"),
                    add=pairs(X_Add="appended"),
                    remove=["X-Remove"],
                )
            ],
        ),
    )
    await ground.make(gateway(), value)
    await ground.answers([({}, "a")])
    sent = {"x-set": "old", "X-ADD": "first", "x-remove": "gone", "X-Keep": "kept"}
    for headers, added in (({}, "appended"), (sent, "first,appended")):
        seen = (await ground.ask(headers=headers)).seen["headers"]
        assert (seen["x-set"], seen["x-add"]) == ("overwritten", added)
        assert "x-remove" not in seen
        assert seen.get("x-keep") == headers.get("X-Keep")


@pytest.mark.parametrize("name", story)
async def test_core(ground: Ground, name: str) -> None:
    await story[name](ground)
