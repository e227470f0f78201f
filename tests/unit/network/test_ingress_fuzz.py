"""Whatever is in Ingresses: the configuration has the template's directives and no text of theirs.

The document that Lua interprets must hold every text as a JSON string, and be one that can be read.
Whether nginx itself takes such configurations is tested where there is an nginx.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.network.ingresses import ingress, secret, translated

from navarch.api.named_secrets import ANNOTATION_PREFIX
from navarch.api.types.networking_v1 import Ingress
from navarch.network.ingress.annotations import PARSERS, REFUSED
from navarch.network.nginx.document import document, policies, policy_name
from navarch.network.nginx.model import NextUpstream, Policy, Protocol
from navarch.network.nginx.render import Settings, render

SETTINGS = Settings(
    Path("/var/lib/x/ingress"), Path("/run/x"), ("192.168.49.2",), resolvers=("192.168.49.2",)
)
SECRETS = {"default/users": secret("users", auth="ada:x\n")}

HOSTILE = st.text(
    st.sampled_from("\n\r\t\0 \"'`$#{};\\/()<>*?^|&=:.,~%@!-_azAZ09é\u2028\x1b\x7f"), max_size=24
)
DIRECTIVES = st.sampled_from(
    [
        'x;}\nlocation /evil { content_by_lua_block { os.execute("id") } }',
        "/\r\nproxy_pass http://evil.example;",
        '" break; } #',
        "$request_uri",
        "/$1?x=$2",
        "${host}",
        "http://x.example/$request_uri",
        "10.0.0.0/8",
        "true",
        "1m",
        "404,503",
        "499",
        "0",
        "2147483648",
        "999999999g",
        "users",
    ]
)
TEXTS = HOSTILE | DIRECTIVES | st.tuples(DIRECTIVES, HOSTILE).map("".join)
NAMES = st.sampled_from(sorted(PARSERS) + sorted(REFUSED)) | HOSTILE


@st.composite
def ingresses(draw: st.DrawFn) -> Ingress:
    values = draw(st.dictionaries(NAMES, TEXTS, max_size=6))
    paths = draw(st.lists(st.just("/") | TEXTS | TEXTS.map("/{}".format), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["Prefix", "Exact", "ImplementationSpecific"]))
    host = draw(st.sampled_from(["web.example", "*.web.example", ""]) | TEXTS)
    found = ingress(paths=dict.fromkeys(paths, "a"), host=host, kind=kind)
    found.metadata.annotations = {ANNOTATION_PREFIX + name: value for name, value in values.items()}
    return found


def directives(text: str) -> Iterator[str]:
    """The names of all directives of a configuration, with their blocks' as `a/b`. Lua blocks are
    one word: what is in them is checked as a whole."""
    place: list[str] = []
    words: list[str] = []
    tokens = "|".join(
        (
            r'"(?:\\.|[^"\\])*"',
            r"'(?:\\.|[^'\\])*'",
            r"[a-z_]+_by_lua_block \{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)?\}[^{}]*)?\}",
            r"[{};]",
            r"[^\s{};]+",
        )
    )
    for token in re.findall(tokens, text):
        if "_by_lua_block" in token:
            yield "/".join([*place, re.sub(r"\s+", " ", token)])
        elif token == "{":
            place.append(words[0])
            words = []
        elif token == "}":
            assert not words
            place.pop()
        elif token == ";":
            yield "/".join([*place, words[0]])
            words = []
        else:
            words.append(token)
    assert not place


def everything() -> list[Policy]:
    """Policies that together use every directive there is."""
    full = Policy(
        http_1_0=True,
        buffering=True,
        intercepts=(404,),
        basic_auth=True,
        external_auth=True,
        checks_source=True,
        mirrors=1,
        limit_rate_after=1,
        verifies=True,
        trusted="a1",
        client_certificate="b2",
        next_upstream=tuple(NextUpstream),
    )
    grpc = Policy(protocol=Protocol.GRPC, intercepts=(404,), trusted="a", client_certificate="b")
    return [full, grpc, Policy(satisfy_any=True)]


def rendered(found: list[Policy], listeners: object) -> str:
    return render(SETTINGS, listeners, {policy_name(each): each for each in found})[0]  # type: ignore[arg-type]


def comparable(text: str) -> set[str]:
    """Without the policies' names and the generation, which are digests."""
    digests = re.sub(r"policy_[0-9a-f]{16} = true,? ?|generation = \"[0-9a-f]+\"", "", text)
    return set(directives(digests))


ALLOWED = comparable(rendered(everything(), translated().plane.listeners)) | {
    f"http/server/location/{prefix}_ssl_{name}"
    for prefix in ("proxy", "grpc")
    for name in ("verify", "verify_depth")
}
ORDINARY = rendered([Policy()], translated().plane.listeners)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ingresses(), min_size=1, max_size=3))
def test_no_ingress_becomes_configuration(found: list[Ingress]) -> None:
    result = translated(*found, secrets=SECRETS)
    plane = result.plane
    text = rendered([*policies(plane).values(), Policy()], plane.listeners)
    assert comparable(text) <= ALLOWED
    for each in found:
        for value in texts(each):
            # What is in every configuration cannot have come from here.
            if len(value) > 3 and value not in ORDINARY and not value.isalnum():
                assert value not in text
    assert set(json.loads(document(plane))) == {"policies", "listeners", "tables"}
    for problem in result.problems:
        assert problem.message.isprintable()


@pytest.mark.parametrize(
    "annotations", [{"server_alias": "alias.example"}, {"from_to_www_redirect": "true"}], ids=str
)
def test_further_names_of_a_refused_host(annotations: dict[str, str]) -> None:
    """They are refused with it, and the Ingress' other hosts are served."""
    result = translated(
        ingress("bad", None, "a b", **annotations),
        ingress("good", None, "web.example", **annotations),
    )
    names = {"alias.example", "web.example", "www.web.example"}
    hosts = {each.name for table in result.plane.tables.values() for each in table}
    assert "web.example" in hosts and hosts <= names and len(hosts) > 1
    assert any("not a host name" in problem.message for problem in result.problems)


def texts(found: Ingress) -> Iterator[str]:
    yield from found.metadata.annotations.values()
    for rule in found.spec.rules:
        yield rule.host
        for path in rule.http.paths if rule.http else ():
            yield path.path


def test_the_reader_of_configurations_sees_what_is_added() -> None:
    """Or the test above would prove nothing."""
    evil = ORDINARY.replace(
        "client_max_body_size 1048576;",
        "client_max_body_size 1048576; } location /x { autoindex on;",
    )
    assert "http/server/location/autoindex" in set(directives(evil)) - ALLOWED
