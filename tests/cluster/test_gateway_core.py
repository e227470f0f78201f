"""Gateway API through a real API server and a real nginx: Gateways, listeners and the routes that
belong to them. The ids are the names of the core conformance tests that assert the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.gateway_ground import (
    HTTP_ROUTE,
    REFUSED,
    SERVED,
    Ground,
    Stories,
    conditions,
    ground,
    path_of,
    shared,
)
from tests.cluster.ingress_ground import marks
from tests.unit.network.gateways import (
    APP,
    INFRA,
    OUR_CLASS,
    WEB,
    gateway,
    grant,
    listener,
    route,
    rule,
)

from navarch.network.gateway.status import FEATURES

__all__ = ["ground", "shared"]
pytestmark = marks
story = Stories()


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


@pytest.mark.parametrize("name", story)
async def test_core(ground: Ground, name: str) -> None:
    await story[name](ground)
