"""Which routes attach where: sections, ports, namespaces, hostnames; listeners that cannot be
served; grants."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.ingress_ground import Authority
from tests.unit.network.gateways import (
    APP,
    INFRA,
    OUR_CLASS,
    WEB,
    backend,
    gateway,
    grant,
    listener,
    route,
    rule,
    translated,
)

from navarch.network.gateway.listeners import common, covers
from navarch.network.gateway.translate import FIRST_PORT, PORTS, Translation, allocate, widening

Object = dict[str, Any]


def said(found: Translation, number: int = 0, parent: int = 0) -> dict[str, str]:
    """The conditions of a route at a parent: `{"Accepted": "True Accepted"}`."""
    state = found.routes[number]
    return shown(state.conditions(state.attached[parent]))


def shown(conditions: Any) -> dict[str, str]:
    return {each.type: f"{each.status} {each.reason}" for each in conditions}


def listeners_of(found: Translation, name: str = "gateway") -> dict[str, dict[str, str]]:
    states = found.gateways[f"{INFRA}/{name}"].listeners
    return {each.listener.name: shown(each.conditions()) for each in states}


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("", "", ""),
        ("", "a.b", "a.b"),
        ("", "*.b", "*.b"),
        ("a.b", "a.b", "a.b"),
        ("*.b", "a.b", "a.b"),
        ("*.b", "c.a.b", "c.a.b"),
        ("*.b", "*.a.b", "*.a.b"),
        ("*.b", "b", None),
        ("*.b", "ab", None),
        ("*.a.b", "*.c.b", None),
        ("a.b", "c.b", None),
    ],
)
def test_common_hostnames(wide: str, narrow: str, expected: str | None) -> None:
    assert common(wide, narrow) == common(narrow, wide) == expected
    assert covers(wide, narrow) is (expected is not None)
    assert (wide in widening(narrow)) is (expected is not None)


SELECTED = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": WEB}}}}
BROKEN = {"matchExpressions": [{"key": "a", "operator": "Like", "values": []}]}


@pytest.mark.parametrize(
    ("at", "parent", "namespace", "hosts", "expected"),
    [
        ({}, {}, INFRA, [], "True Accepted"),
        ({}, {}, WEB, [], "False NotAllowedByListeners"),
        ({"takes": "All"}, {}, WEB, [], "True Accepted"),
        ({"allowedRoutes": SELECTED}, {}, WEB, [], "True Accepted"),
        ({"allowedRoutes": SELECTED}, {}, APP, [], "False NotAllowedByListeners"),
        ({"allowedRoutes": SELECTED}, {}, "unheard", [], "False NotAllowedByListeners"),
        (
            {"allowedRoutes": {"namespaces": {"from": "Selector", "selector": BROKEN}}},
            {},
            WEB,
            [],
            "False NotAllowedByListeners",
        ),
        (
            {"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}},
            {},
            INFRA,
            [],
            "False NotAllowedByListeners",
        ),
        ({}, {"sectionName": "http"}, INFRA, [], "True Accepted"),
        ({}, {"sectionName": "other"}, INFRA, [], "False NoMatchingParent"),
        ({}, {"port": 80}, INFRA, [], "True Accepted"),
        ({}, {"port": 81}, INFRA, [], "False NoMatchingParent"),
        ({}, {"port": 81, "sectionName": "http"}, INFRA, [], "False NoMatchingParent"),
        ({"hostname": "a.b"}, {}, INFRA, ["x.y", "a.b"], "True Accepted"),
        ({"hostname": "a.b"}, {}, INFRA, ["x.y"], "False NoMatchingListenerHostname"),
        ({"hostname": "a.b"}, {}, WEB, ["x.y"], "False NotAllowedByListeners"),
    ],
)
def test_attachment(
    at: Object, parent: Object, namespace: str, hosts: list[str], expected: str
) -> None:
    reference = {"name": "gateway", "namespace": INFRA, **parent}
    value = route("r", rule("a"), parents=[reference], hosts=hosts, namespace=namespace)
    found = translated(gateway("gateway", listener(**at)), value)
    assert said(found)["Accepted"] == expected
    count = found.gateways[f"{INFRA}/gateway"].listeners[0].attached
    assert count == (1 if expected.startswith("True") else 0)


def test_a_route_counts_once_at_a_listener_and_has_a_word_with_each_parent() -> None:
    parents: list[Any] = ["gateway", {"name": "gateway", "sectionName": "http"}, "missing"]
    found = translated(gateway(), route("r", rule("a"), parents=parents))
    assert found.gateways[f"{INFRA}/gateway"].listeners[0].attached == 1
    assert len(found.routes[0].attached) == 2


def test_parents_of_other_kinds_and_gateways_of_other_classes_are_not_ours() -> None:
    other = gateway("other", gatewayClassName="foreign")
    service = {"name": "a", "group": "", "kind": "Service"}
    odd = {"name": "gateway", "group": ""}
    found = translated(other, route("r", rule("a"), parents=["other", service, odd]))
    assert not found.gateways
    assert [each.parent.name for state in found.routes for each in state.attached] == []


def test_a_class_with_parameters_serves_nobody() -> None:
    parameters = OUR_CLASS["spec"] | {"parametersRef": {"group": "g", "kind": "k", "name": "n"}}
    strange = OUR_CLASS | {"metadata": {"name": "strange"}, "spec": parameters}
    found = translated(strange, gateway("gateway", gatewayClassName="strange"))
    assert not found.gateways


# -- listeners ------------------------------------------------------------------------------------

AUTHORITY = Authority.create()
TLS: Object = {"protocol": "HTTPS", "certificates": ["pair"]}
SECRETS = {f"{INFRA}/pair": AUTHORITY.secret("pair", "a.b")}
GOOD = {
    "Accepted": "True Accepted",
    "Conflicted": "False NoConflicts",
    "ResolvedRefs": "True ResolvedRefs",
    "Programmed": "True Programmed",
}
BAD = GOOD | {"Programmed": "False Invalid"}


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        pytest.param([listener()], {"http": GOOD}, id="HTTP"),
        pytest.param([listener("s", 443, **TLS)], {"s": GOOD}, id="HTTPS"),
        pytest.param(
            [listener("one", 80), listener("two", 80, **TLS), listener("three", 81)],
            {
                name: BAD
                | {
                    "Accepted": "False ProtocolConflict",
                    "Conflicted": "True ProtocolConflict",
                }
                for name in ("one", "two")
            }
            | {"three": GOOD},
            id="two protocols on a port",
        ),
        pytest.param(
            [listener("one", 80, "a.b"), listener("two", 80, "a.b"), listener("three", 80)],
            {
                name: BAD
                | {
                    "Accepted": "False HostnameConflict",
                    "Conflicted": "True HostnameConflict",
                }
                for name in ("one", "two")
            }
            | {"three": GOOD},
            id="a hostname twice on a port",
        ),
        pytest.param(
            [listener("tcp", 80, protocol="TCP"), listener()],
            {"tcp": BAD | {"Accepted": "False UnsupportedProtocol"}, "http": GOOD},
            id="what is refused is in nobody's way",
        ),
        pytest.param(
            [listener("s", 443, "*.b", **TLS), listener("t", 443, "a.b", **TLS)],
            dict.fromkeys("st", GOOD | {"OverlappingTLSConfig": "True OverlappingHostnames"}),
            id="hostnames that overlap",
        ),
        pytest.param(
            [listener("s", 443, "a.b", **TLS), listener("t", 443, "c.b", **TLS)],
            dict.fromkeys("st", GOOD),
            id="hostnames that do not",
        ),
        pytest.param(
            [listener("s", 443, protocol="HTTPS", certificates=["missing", "pair"])],
            {"s": GOOD | {"ResolvedRefs": "False InvalidCertificateRef"}},
            id="one of two certificates is enough",
        ),
        pytest.param(
            [listener("s", 443, protocol="HTTPS", tls={"mode": "Passthrough"})],
            {"s": BAD | {"Accepted": "False UnsupportedValue"}},
            id="passing TLS on",
        ),
        pytest.param(
            [
                listener(
                    "s",
                    443,
                    protocol="HTTPS",
                    tls={"certificateRefs": [{"name": "pair"}], "options": {"a": "b"}},
                )
            ],
            {"s": BAD | {"Accepted": "False UnsupportedValue"}},
            id="options of TLS",
        ),
    ],
)
def test_listeners(listeners: list[Object], expected: Object) -> None:
    found = translated(gateway("gateway", *listeners), secrets=SECRETS)
    assert listeners_of(found) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"addresses": [{"type": "Hostname", "value": "a"}]}, "False UnsupportedAddress"),
        ({"addresses": [{"type": "IPAddress", "value": "10.0.0.1"}]}, "True Accepted"),
        ({"infrastructure": {"parametersRef": {"name": "x"}}}, "False InvalidParameters"),
        ({"tls": {"backend": {"clientCertificateRef": {"name": "x"}}}}, "False Invalid"),
    ],
)
def test_gateways_that_are_refused_serve_nothing(spec: Object, expected: str) -> None:
    found = translated(gateway("gateway", **spec), route("r", rule("a")))
    accepted = found.gateways[f"{INFRA}/gateway"].accepted()
    assert f"{accepted.status} {accepted.reason}" == expected
    assert bool(found.plane.listeners) is accepted.status


def test_clients_whose_certificates_are_to_be_checked_are_not_served_unchecked() -> None:
    frontend = {"default": {"validation": {"caCertificateRefs": [{"name": "ca"}]}}}
    value = gateway("gateway", listener(), listener("s", 443, **TLS), tls={"frontend": frontend})
    found = translated(value, secrets=SECRETS)
    assert listeners_of(found)["s"]["Accepted"] == "False UnsupportedValue"
    assert [each.public_port for each in found.plane.listeners] == [80]


# -- grants ---------------------------------------------------------------------------------------


def permit(**changes: str) -> Object:
    given = {"namespace": WEB, "kind": "HTTPRoute", "of": INFRA, "to": "Service", **changes}
    return grant("grant", given.pop("namespace"), **given)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ([], False),
        ([permit()], True),
        ([permit(to_name="a")], True),
        ([permit(to_name="b")], False),
        ([permit(kind="Gateway")], False),
        ([permit(of=APP)], False),
        ([permit(to="Secret")], False),
        ([permit(namespace=APP)], False),
        ([permit(of=APP), permit()], True),
    ],
)
def test_grants(given: list[Object], allowed: bool) -> None:
    found = translated(gateway(), route("r", rule(backend("a", namespace=WEB))), *given)
    expected = "True ResolvedRefs" if allowed else "False RefNotPermitted"
    assert said(found) == {"Accepted": "True Accepted", "ResolvedRefs": expected}
    table = found.plane.tables[f"{INFRA}/gateway 80"]
    answer = table[0].routes[0].backends[0]
    assert (answer.upstream, answer.status) == ((f"{WEB}/a/80", 0) if allowed else ("", 500))
    assert bool(found.plane.upstreams) is allowed


# -- ports ----------------------------------------------------------------------------------------


NONE_TAKEN = frozenset[int]().__contains__


def test_ports_stay_and_avoid_what_is_taken() -> None:
    wanted = [(f"{INFRA}/g{number}", 80) for number in range(500)]
    found = allocate(wanted, {}, NONE_TAKEN)
    assert len(set(found.values())) == 500
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in found.values())
    assert allocate([*wanted, (f"{INFRA}/new", 80)], {}, NONE_TAKEN).items() > found.items()
    first = wanted[0]
    moved = allocate(wanted, found, {found[first]}.__contains__)
    assert moved[first] not in found.values()
    assert {**moved, first: 0} == {**found, first: 0}
    # When the port is free again nobody moves back, as that would take a reload.
    assert allocate(wanted, moved, NONE_TAKEN) == moved
    assert [*moved] == wanted


def test_without_a_free_port_nothing_is_given() -> None:
    held = {("a", 80): FIRST_PORT}
    wanted = [*held, ("b", 80)]
    taken = {*range(FIRST_PORT + 1, FIRST_PORT + PORTS)}
    assert allocate(wanted, held, taken.__contains__) == held
    taken.remove(FIRST_PORT + 7)
    assert allocate(wanted, held, taken.__contains__)["b", 80] == FIRST_PORT + 7
