"""Gateway API through a real API server and a real nginx. The ids of the first test are the names
of the core conformance tests that assert the same."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.cluster.gateway_ground import ADDRESS, BACKENDS, Ground, conditions, path_of
from tests.cluster.ingress_ground import new_directory
from tests.unit.network.gateways import (
    APP,
    INFRA,
    OUR_CLASS,
    WEB,
    backend,
    gateway,
    grant,
    listener,
    manifest,
    route,
    rule,
)

from navarch.network.gateway.status import FEATURES
from navarch.network.nginx.process import PROGRAM

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="nginx changes its user"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="nginx is not installed"),
]

Story = Callable[[Ground], Awaitable[None]]
STORIES: dict[str, Story] = {}
HTTP_ROUTE = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
SERVED = {"Accepted": "True Accepted", "ResolvedRefs": "True ResolvedRefs"}


def story(name: str) -> Callable[[Story], Story]:
    def note(function: Story) -> Story:
        STORIES[name] = function
        return function

    return note


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Ground]:
    directory = new_directory()
    (directory / "api").mkdir()
    ground = Ground(directory)
    try:
        await ground.start()
        yield ground
    finally:
        await ground.stop()
        shutil.rmtree(directory)


@pytest_asyncio.fixture(loop_scope="module")
async def ground(shared: Ground) -> AsyncIterator[Ground]:
    try:
        yield shared
    finally:
        await shared.clear()


# -- Gateways and classes -------------------------------------------------------------------------


@story("GatewayClassObservedGenerationBump")
async def class_generation(ground: Ground) -> None:
    value = OUR_CLASS | {"metadata": {"name": "other"}}
    await ground.make(value)
    status = (await ground.settled(value))["status"]
    assert conditions(status) == {
        "Accepted": "True Accepted",
        "SupportedVersion": "True SupportedVersion",
    }
    assert [each["name"] for each in status["supportedFeatures"]] == sorted(FEATURES)
    changed = await ground.change(value, {"description": "changed"})
    assert changed["metadata"]["generation"] == 2
    await ground.expect(value, {"Accepted": "True Accepted"})
    assert (await ground.read(value))["status"]["conditions"][0]["observedGeneration"] == 2


@story("GatewayObservedGenerationBump")
async def gateway_generation(ground: Ground) -> None:
    value = gateway("own")
    await ground.make(value)
    await ground.programmed(value)
    await ground.change(value, {"listeners": [listener(), listener("more", 8080)]})
    await ground.programmed(value)
    status = (await ground.read(value))["status"]
    assert {each["observedGeneration"] for each in status["conditions"]} == {2}
    assert [each["name"] for each in status["listeners"]] == ["http", "more"]


@story("GatewayInvalidRouteKind")
async def route_kinds(ground: Ground) -> None:
    def kinds(*names: str) -> dict[str, Any]:
        return {"allowedRoutes": {"kinds": [{"kind": name} for name in names]}}

    none = gateway("none", listener(**kinds("InvalidRoute")))
    some = gateway("some", listener(**kinds("InvalidRoute", "HTTPRoute")))
    await ground.make(none, some)
    wanted = {"ResolvedRefs": "False InvalidRouteKinds"}
    for value, supported in ((none, []), (some, HTTP_ROUTE)):
        status = await ground.expect(value, wanted, listener="http")
        assert status["supportedKinds"] == supported
        assert status["attachedRoutes"] == 0


@story("GatewayInvalidTLSConfiguration")
async def tls_configuration(ground: Ground) -> None:
    await ground.make(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "malformed", "namespace": INFRA},
            "stringData": {"tls.crt": "Hello world\n", "tls.key": "Hello world\n"},
        }
    )
    references = {
        "missing": {"name": "missing"},
        "group": {"group": "wrong.group.company.io", "name": "malformed"},
        "kind": {"kind": "WrongKind", "name": "malformed"},
        "malformed": {"name": "malformed"},
    }
    for name, reference in references.items():
        value = gateway(name, listener("https", 443, protocol="HTTPS", certificates=[reference]))
        await ground.make(value)
        wanted = {"ResolvedRefs": "False InvalidCertificateRef", "Programmed": "False Invalid"}
        status = await ground.expect(value, wanted, listener="https")
        assert status["supportedKinds"] == HTTP_ROUTE
        await ground.expect(value, {"Programmed": "False Invalid"})


@story("GatewayInvalidParametersRef")
async def parameters(ground: Ground) -> None:
    reference = {"group": "invalid.io", "kind": "InvalidParameters", "name": "invalid"}
    value = gateway(infrastructure={"parametersRef": reference})
    await ground.make(value)
    await ground.expect(value, {"Accepted": "False InvalidParameters"})


@story("GatewayListenerUnsupportedProtocol")
async def protocols(ground: Ground) -> None:
    bad = listener("invalid", 1111, protocol="INVALID")
    only, both = gateway("only", bad), gateway("both", listener(), bad)
    await ground.make(only, both)
    await ground.expect(only, {"Accepted": "False ListenersNotValid"})
    await ground.expect(both, {"Accepted": "True ListenersNotValid"})
    for value in (only, both):
        wanted = {"Accepted": "False UnsupportedProtocol"}
        status = await ground.expect(value, wanted, listener="invalid")
        assert status["supportedKinds"] == []
    status = await ground.expect(both, {"Accepted": "True Accepted"}, listener="http")
    assert status["supportedKinds"] == HTTP_ROUTE


@story("GatewayModifyListeners")
async def modified_listeners(ground: Ground) -> None:
    await ground.secret("pair", "*.example.com")
    https = listener("https", 443, "secure.example.com", protocol="HTTPS", certificates=["pair"])
    value = gateway("gateway", https)
    await ground.make(value, route("r", rule("a")))
    await ground.programmed(value)
    await ground.change(value, {"listeners": [https, listener()]})
    await ground.programmed(value)
    for name in ("https", "http"):
        status = await ground.expect(value, {"Accepted": "True Accepted"}, listener=name)
        assert status["attachedRoutes"] == 1
    await ground.answers([({"path": "/"}, "a")])
    await ground.change(value, {"listeners": [listener()]})
    found = await ground.settled(value)
    assert [each["name"] for each in found["status"]["listeners"]] == ["http"]
    await ground.answers([({"path": "/"}, "a")])


@story("GatewayNameMaximumLength")
async def long_name(ground: Ground) -> None:
    value = gateway("g" * 63)
    await ground.make(value)
    await ground.programmed(value)


@story("GatewayWithAttachedRoutes")
async def attached_routes(ground: Ground) -> None:
    selector = {
        "from": "Selector",
        "selector": {"matchLabels": {"kubernetes.io/metadata.name": INFRA}},
    }
    allowed = {"kinds": [{"kind": "HTTPRoute"}], "namespaces": selector}
    value = gateway("gateway", listener(hostname="foo.example.com", allowedRoutes=allowed))
    wrong = route("wrong", rule("a"), hosts=["not-accepted.test.com"])
    await ground.make(value, route("one", rule("a")), route("two", rule("a")), wrong)
    unresolved = gateway(
        "unresolved", listener("tls", 443, protocol="HTTPS", certificates=["missing"])
    )
    lost = route("lost", rule("missing"), parents=["unresolved"])
    await ground.make(unresolved, lost)
    await ground.expect(wrong, {"Accepted": "False NoMatchingListenerHostname"})
    await ground.expect(lost, {"ResolvedRefs": "False BackendNotFound"})
    for each, name, count in ((value, "http", 2), (unresolved, "tls", 1)):

        async def counted(each: Any = each, name: str = name, count: int = count) -> bool:
            status = await ground.expect(each, {"Accepted": "True Accepted"}, listener=name)
            return bool(status["attachedRoutes"] == count)

        await ground.until(counted, "attached routes")


def secured(namespace: str) -> dict[str, Any]:
    reference = {"name": "pair", "namespace": namespace}
    return gateway("gateway", listener("https", 443, protocol="HTTPS", certificates=[reference]))


REFUSED = {"ResolvedRefs": "False RefNotPermitted"}


@story("GatewaySecretMissingReferenceGrant")
async def secret_without_grant(ground: Ground) -> None:
    await ground.secret("pair", "example.com", WEB)
    await ground.make(value := secured(WEB))
    await ground.expect(value, REFUSED | {"Programmed": "False Invalid"}, listener="https")


@story("GatewaySecretInvalidReferenceGrant")
async def secret_with_wrong_grants(ground: Ground) -> None:
    await ground.secret("pair", "example.com", WEB)
    await ground.make(
        grant("kind", WEB, kind="HTTPRoute", of=INFRA, to="Secret"),
        grant("of", WEB, kind="Gateway", of=APP, to="Secret"),
        grant("to", WEB, kind="Gateway", of=INFRA, to="Service"),
        grant("name", WEB, kind="Gateway", of=INFRA, to="Secret", to_name="other"),
        grant("place", APP, kind="Gateway", of=INFRA, to="Secret"),
        value := secured(WEB),
    )
    await ground.expect(value, REFUSED, listener="https")


@story("GatewaySecretReferenceGrantAllInNamespace")
async def secret_with_wide_grant(ground: Ground) -> None:
    await ground.secret("pair", "example.com", WEB)
    permit = grant("all", WEB, kind="Gateway", of=INFRA, to="Secret")
    await ground.make(permit, value := secured(WEB), route("r", rule("a")))
    await ground.programmed(value)
    await ground.answers([({"port": 443, "tls": "example.com"}, "a")])
    await ground.admin("DELETE", path_of(permit))
    await ground.expect(value, REFUSED, listener="https")


@story("GatewaySecretReferenceGrantSpecific")
async def secret_with_narrow_grant(ground: Ground) -> None:
    await ground.secret("pair", "example.com", WEB)
    permit = grant("one", WEB, kind="Gateway", of=INFRA, to="Secret", to_name="pair")
    await ground.make(permit, value := secured(WEB))
    await ground.programmed(value)


# -- routes: where they attach --------------------------------------------------------------------


@story("HTTPRouteSimpleSameNamespace")
async def simple(ground: Ground) -> None:
    await ground.make(gateway(), value := route("r", rule("a")))
    await ground.expect(value, SERVED)
    await ground.answers([({}, "a")])


@story("HTTPRouteCrossNamespace")
async def cross_namespace(ground: Ground) -> None:
    parent = {"name": "gateway", "namespace": INFRA}
    value = route("r", rule("b"), parents=[parent], namespace=WEB)
    await ground.make(gateway("gateway", listener(takes="All")), value)
    await ground.expect(value, SERVED)
    await ground.answers([({}, "b")])


@story("HTTPRouteDisallowedKind")
async def disallowed_kind(ground: Ground) -> None:
    allowed = {"namespaces": {"from": "Same"}, "kinds": [{"kind": "TLSRoute"}]}
    only_tls = listener("tls", 443, protocol="TLS", tls={"mode": "Passthrough"})
    parent = gateway("gateway", only_tls | {"allowedRoutes": allowed})
    await ground.make(parent, value := route("r", rule("a")))
    await ground.expect(
        value, {"Accepted": "False NotAllowedByListeners", "ResolvedRefs": "True ResolvedRefs"}
    )
    status = await ground.expect(parent, {}, listener="tls")
    assert status["attachedRoutes"] == 0


@story("HTTPRouteInvalidCrossNamespaceParentRef")
async def invalid_parent(ground: Ground) -> None:
    parent = {"name": "gateway", "namespace": INFRA}
    value = route("r", rule("a"), parents=[parent], namespace=WEB)
    await ground.make(gateway(), value)
    await ground.expect(value, {"Accepted": "False NotAllowedByListeners"})
    await ground.answers([({}, 404)])


@story("HTTPRouteInvalidParentRefNotMatchingSectionName")
async def section_name(ground: Ground) -> None:
    value = route("r", rule("a"), parents=[{"name": "gateway", "sectionName": "none"}])
    await ground.make(gateway(), value)
    await ground.expect(value, {"Accepted": "False NoMatchingParent"})
    await ground.answers([({}, 404)])


@story("HTTPRouteMultipleGateways")
async def several_gateways(ground: Ground) -> None:
    both = route("both", rule("a", path="/both"), parents=["one", "two"])
    first = route("first", rule("b", path="/first"), parents=["one"])
    await ground.make(gateway("one"), gateway("two"), both, first)
    for number in (0, 1):
        await ground.expect(both, SERVED, parent=number)
    await ground.answers(
        [
            ({"path": "/both", "gateway": "one"}, "a"),
            ({"path": "/both", "gateway": "two"}, "a"),
            ({"path": "/first", "gateway": "one"}, "b"),
            ({"path": "/first", "gateway": "two"}, 404),
        ]
    )


@story("HTTPRouteObservedGenerationBump")
async def route_generation(ground: Ground) -> None:
    await ground.make(gateway(), value := route("r", rule("a")))
    await ground.expect(value, SERVED)
    await ground.change(value, {"rules": [rule("b")]})
    status = await ground.expect(value, SERVED)
    assert {each["observedGeneration"] for each in status["conditions"]} == {2}
    await ground.answers([({}, "b")])


@story("HTTPRouteHostnameIntersection")
async def hostname_intersection(ground: Ground) -> None:
    parent = gateway(
        "gateway",
        listener("one", hostname="very.specific.com"),
        listener("two", hostname="*.wildcard.io"),
        listener("three", hostname="*.anotherwildcard.io"),
    )
    lost = route("lost", rule("a", path="/s5"), hosts=["specific.but.wrong.com", "wildcard.io"])
    await ground.make(
        parent,
        route("s1", rule("a", path="/s1"), hosts=["non.matching.com", "very.specific.com"]),
        route("s2", rule("b", path="/s2"), hosts=["foo.wildcard.io", "foo.bar.wildcard.io"]),
        route("s3", rule("c", path="/s3"), hosts=["*.specific.com"]),
        route("s4", rule("a", path="/s4"), hosts=["*.anotherwildcard.io"]),
        lost,
    )
    await ground.expect(lost, {"Accepted": "False NoMatchingListenerHostname"})
    table = [
        ("very.specific.com", "/s1", "a"),
        ("very.specific.com:1234", "/s1", "a"),
        ("non.matching.com", "/s1", 404),
        ("foo.wildcard.io", "/s1", 404),
        ("foo.wildcard.io", "/s2", "b"),
        ("foo.bar.wildcard.io", "/s2", "b"),
        ("wildcard.io", "/s2", 404),
        ("very.specific.com", "/s3", "c"),
        ("foo.specific.com", "/s3", 404),
        ("foo.bar.anotherwildcard.io", "/s4", "a"),
        ("anotherwildcard.io", "/s4", 404),
        ("wildcard.io", "/s5", 404),
    ]
    await ground.answers([({"host": host, "path": path}, who) for host, path, who in table])


@story("HTTPRouteListenerHostnameMatching")
async def listener_hostnames(ground: Ground) -> None:
    names = {"l1": "bar.com", "l2": "foo.bar.com", "l3": "*.bar.com", "l4": "*.foo.com"}
    parent = gateway("gateway", *(listener(key, hostname=name) for key, name in names.items()))
    at = [{"name": "gateway", "sectionName": name} for name in names]
    await ground.make(
        parent,
        route("one", rule("a"), parents=at[0:1]),
        route("two", rule("b"), parents=at[1:2]),
        route("three", rule("c"), parents=at[2:4]),
    )
    table = {
        "bar.com": "a",
        "foo.bar.com": "b",
        "baz.bar.com": "c",
        "boo.bar.com": "c",
        "multiple.prefixes.bar.com": "c",
        "multiple.prefixes.foo.com": "c",
        "foo.com": 404,
        "no.matching.host": 404,
    }
    await ground.answers([({"host": host}, who) for host, who in table.items()])


@story("HTTPRouteHTTPSListener")
async def https(ground: Ground) -> None:
    await ground.secret("pair", "*.example.org")
    common: dict[str, Any] = {"protocol": "HTTPS", "certificates": ["pair"]}
    parent = gateway(
        "gateway",
        listener("all", 443, **common),
        listener("second", 443, "second.example.org", **common),
        listener("wild", 443, "*.wildcard.org", **common),
    )
    await ground.make(
        parent,
        route("one", rule("a"), hosts=["first.example.org"]),
        route("two", rule("b"), parents=[{"name": "gateway", "sectionName": "second"}]),
        route("three", rule("c"), parents=[{"name": "gateway", "sectionName": "wild"}]),
    )
    await ground.programmed(parent)
    await ground.expect(
        parent, {"OverlappingTLSConfig": "True OverlappingHostnames"}, listener="second"
    )
    first, second, unknown = "first.example.org", "second.example.org", "unknown.example.org"
    table = [
        # The handshake's name, the request's host, the answer.
        (first, first, "a"),
        (second, second, "b"),
        (unknown, unknown, 404),
        (first, second, 421),
        (first, unknown, 404),
        (second, first, 421),
        (second, unknown, 421),
        (unknown, first, "a"),
        ("x.wildcard.org", "y.wildcard.org", "c"),
        ("x.wildcard.org", second, 421),
    ]
    await ground.answers(
        [({"tls": name, "host": host, "port": 443}, who) for name, host, who in table]
    )


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


def filtered(kind: str, **fields: Any) -> dict[str, Any]:
    name = {"URLRewrite": "urlRewrite", "CORS": "cors"}.get(kind, kind[0].lower() + kind[1:])
    return {"type": kind, name: fields}


def pairs(**headers: str) -> list[dict[str, str]]:
    return [{"name": name.replace("_", "-"), "value": text} for name, text in headers.items()]


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


@pytest.mark.parametrize("name", STORIES)
async def test_core(ground: Ground, name: str) -> None:
    await STORIES[name](ground)


# -- beyond the core ------------------------------------------------------------------------------


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
    ground.received.clear()
    await ground.ask("/mirror/x?y=1")

    async def mirrored() -> bool:
        return len(ground.received) >= 3

    await ground.until(mirrored, "the mirrors")
    assert sorted(ground.received) == [f"{name} /mirror/x?y=1" for name in "abc"]
    await ground.answers([({"path": "/patient?delay=0.4"}, "a")])
    assert (await ground.ask("/own")).seen["headers"]["x-which"] == "b's own"


@pytest.mark.parametrize("limits", [{"request": "1s"}, {"request": "5s", "backendRequest": "1s"}])
async def test_timeouts(ground: Ground, limits: dict[str, str]) -> None:
    """They are for the whole of an exchange: a backend that is never silent for long is late, too.
    What has begun to answer cannot be answered with 504 any more and is broken off."""
    await ground.make(gateway(), route("r", rule("a", path="/slow", timeouts=limits)))
    await ground.answers([({"path": "/slow?delay=3"}, 504), ({"path": "/slow"}, "a")])
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
        allowOrigins=["https://www.foo.com", "https://*.bar.com"],
        allowMethods=["GET", "OPTIONS"],
        allowHeaders=["x-header-1", "x-header-2"],
        exposeHeaders=["x-header-3"],
        allowCredentials=True,
        maxAge=3600,
    )
    await ground.make(gateway(), route("r", rule("a", filters=[cors])))
    await ground.answers([({}, "a")])
    asking = {"Access-Control-Request-Method": "GET"}
    answer = await ground.ask(method="OPTIONS", headers=asking | {"Origin": "https://www.foo.com"})
    allowed = {
        key.removeprefix("Access-Control-").lower(): value
        for key, value in answer.headers.items()
        if key.startswith("Access-Control-")
    }
    assert answer.status in (200, 204)
    assert allowed == {
        "allow-origin": "https://www.foo.com",
        "allow-methods": "GET, OPTIONS",
        "allow-headers": "x-header-1, x-header-2",
        "allow-credentials": "true",
        "expose-headers": "x-header-3",
        "max-age": "3600",
    }
    for origin, expected in (("https://a.bar.com", True), ("https://evil.com", False)):
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
