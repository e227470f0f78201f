"""The Corefile: what is understood, and that everything else is refused by name."""

from __future__ import annotations

import dns.message
import pytest
from tests.unit.network.dns_builders import (
    BASE,
    UDP,
    ask,
    data,
    ingress,
    query,
    responder,
    service,
    shop,
)

from navarch.api.types.core_v1 import LoadBalancerIngress
from navarch.network.dns import wire
from navarch.network.dns.cache import Question
from navarch.network.dns.corefile import (
    CacheRules,
    CorefileError,
    Forward,
    parse_corefile,
    with_kube_dns,
)
from navarch.network.dns.default import DEFAULT_COREFILE, default_corefile
from navarch.network.dns.main import checked, read_upstreams, service_kept, upstreams_of
from navarch.network.dns.names import hosts_of
from navarch.network.dns.responder import Waiting
from navarch.network.dns.zone import PodNames
from navarch.network.gateway import HOSTNAMES

UPSTREAM = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""
"""What kubeadm installs."""


def test_the_file_kubeadm_installs() -> None:
    (block,) = parse_corefile(UPSTREAM).blocks
    assert block.kubernetes is not None
    assert (block.kubernetes.ttl, block.kubernetes.pods) == (30, PodNames.INSECURE)
    assert (block.health, block.ready, block.metrics) == (
        (("", 8080),),
        (("", 8181),),
        (("", 9153),),
    )
    disabled = (("success", "cluster.local"), ("denial", "cluster.local"))
    assert block.cache == CacheRules(success_ttl=30, denial_ttl=30, disabled=disabled)
    assert block.forward == Forward(resolv_conf="/etc/resolv.conf")
    assert block.ingress is None


def test_a_stub_domain_with_everything() -> None:
    text = """
# ours
example.local:53 10.0.0.0/8 {
    log
    cache 30 {
        success 1000 60 2
        denial 500 10
        servfail 0
    }
    hosts {
        192.0.2.1 a.example.local A2.example.local
        2001:db8::1 a.example.local
        ttl 60
        fallthrough
    }
    rewrite stop name suffix .old.example.local .example.local answer auto
    forward . 192.0.2.53 192.0.2.54:5353 [2001:db8::53]:54 dns://192.0.2.55 {
        except internal.example.local
        policy sequential
        max_fails 3
        health_check 1500ms
        force_tcp
    }
}
"""
    (block,) = parse_corefile(text).blocks
    assert block.zones == ("example.local", "10.in-addr.arpa")
    assert block.cache == CacheRules(1000, 60, 500, 10, 2, servfail_ttl=0)
    assert block.forward == Forward(
        upstreams=(
            ("192.0.2.53", 53),
            ("192.0.2.54", 5353),
            ("2001:db8::53", 54),
            ("192.0.2.55", 53),
        ),
        excluded=("internal.example.local",),
        policy="sequential",
        max_fails=3,
        health_check=1.5,
        force_tcp=True,
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "there is no server block"),
        (". {\n bogus\n}", "line 2: bogus: is not supported"),
        (". {\n import x\n}", "line 2: import: is not supported"),
        ("import x\n", "line 1: import: is not supported"),
        (". {\n", "a brace is not closed"),
        (". {\n}\n}", "line 3: a brace is closed that was not opened"),
        (". {\n cache { success 1 }\n}", "line 2: a brace opens at the end of a line, and closes"),
        ("{\n}", "line 1: a brace belongs behind a name"),
        (".:5300 {\n}", "port 5300 is not served"),
        ("tls://. {\n}", "only plain DNS is served"),
        (". {\n}\n. {\n}", "the zone . has a block already"),
        (". {\n cache 1\n cache 2\n}", "line 3: cache: can be given once in a block"),
        (". {\n cache {\n prefetch 10\n}\n}", "line 3: prefetch: is not supported in cache"),
        (
            ". {\n forward . tls://192.0.2.1\n}",
            "'tls://192.0.2.1' is neither an address nor a file",
        ),
        (". {\n forward .\n}", "needs a zone and at least one resolver"),
        (". {\n forward . 192.0.2.1 {\n tls\n}\n}", "line 3: tls: is not supported in forward"),
        (". {\n kubernetes cluster.local {\n pods sometimes\n}\n}", "pods: is not supported"),
        (". {\n kubernetes cluster.local {\n ttl 5000\n}\n}", "5000 is not between 0 and 3600"),
        (
            ". {\n kubernetes cluster.local {\n endpoint http://x\n}\n}",
            "endpoint: is not supported",
        ),
        (". {\n rewrite type A AAAA\n}", "only one-line `rewrite name` is supported"),
        (". {\n rewrite name regex ( x\n}", "error parsing regexp: missing closing )"),
        (". {\n hosts /etc/hosts\n}", "files are not read"),
        (". {\n loadbalance weighted x\n}", "only round_robin is supported"),
        ('. {\n log "\n}', "line 2:"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(text: str, error: str) -> None:
    with pytest.raises(CorefileError) as caught:
        parse_corefile(text)
    assert error in str(caught.value)


def test_the_cluster_has_one_domain() -> None:
    checked(parse_corefile(default_corefile("k8s.example")), "k8s.example")
    with pytest.raises(CorefileError, match="the cluster's domain is"):
        checked(parse_corefile(DEFAULT_COREFILE), "k8s.example")


def test_the_longest_zone_wins() -> None:
    corefile = parse_corefile("a.b {\n}\nb {\n}\n")
    assert corefile.block_for(("x", "a", "b")) is corefile.blocks[0]
    assert corefile.block_for(("xa", "b")) is corefile.blocks[1]
    assert corefile.block_for(("c",)) is None


def test_the_older_map_of_kube_dns() -> None:
    corefile = with_kube_dns(
        parse_corefile(DEFAULT_COREFILE),
        {
            "stubDomains": '{"acme.local": ["192.0.2.1:5300"]}',
            "upstreamNameservers": '["192.0.2.2"]',
        },
    )
    general, stub = corefile.blocks
    assert general.forward and general.forward.upstreams == (("192.0.2.2", 53),)
    assert not general.forward.resolv_conf
    assert stub.zones == ("acme.local",)
    assert stub.forward and stub.forward.upstreams == (("192.0.2.1", 5300),)
    for wrong in ({"stubDomains": "["}, {"stubDomains": "[1]"}, {"upstreamNameservers": '["x"]'}):
        with pytest.raises(CorefileError):
            with_kube_dns(corefile, wrong)


HOSTS = """. {
    hosts {
        192.0.2.1 a.test
        2001:db8::1 a.test
        %s
    }
    kubernetes cluster.local in-addr.arpa
    forward . 192.0.2.53
}
"""


def test_hosts_are_answered() -> None:
    strict = responder(corefile=HOSTS % "ttl 60")
    assert data(ask(strict, "A.test")) == ["192.0.2.1"]
    assert data(ask(strict, "a.test", "AAAA")) == ["2001:db8::1"]
    assert data(ask(strict, "1.2.0.192.in-addr.arpa", "PTR")) == ["a.test."]
    assert ask(strict, "a.test").answer[0].ttl == 60
    nothing = ask(strict, "a.test", "MX")
    assert (nothing.rcode(), nothing.answer) == (0, [])
    assert ask(strict, "b.test").rcode() == 3
    loose = responder(corefile=HOSTS % "fallthrough")
    assert isinstance(ask(loose, "b.test"), Waiting)
    assert data(ask(loose, f"web.shop.{BASE}")) == ["10.96.0.20"]


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("exact shop.test web.shop.svc.cluster.local", "shop.test"),
        ("prefix my- web.", "my-shop.svc.cluster.local"),
        ("suffix .shop.test .shop.svc.cluster.local", "web.shop.test"),
        ("substring .example. .svc.", "web.shop.example.cluster.local"),
        (r"regex (.*)\.in\.(.*)\.test {1}.{2}.svc.cluster.local", "web.in.shop.test"),
    ],
)
def test_rewritten_names_are_answered_under_their_own(rule: str, name: str) -> None:
    text = DEFAULT_COREFILE.replace("    ingress\n", f"    rewrite name {rule}\n")
    answer = ask(responder(corefile=text), name)
    assert data(answer) == ["10.96.0.20"]
    assert str(answer.answer[0].name) == f"{name}."


async def test_what_an_alias_leads_to_bears_the_name_that_the_alias_says() -> None:
    """Whatever it is rewritten to on the way there, and in whatever case others are asked."""
    rule = "    rewrite name foo.example.com real.example.com\n"
    target = responder(
        corefile=DEFAULT_COREFILE.replace("    ingress\n", rule), upstreams=(("192.0.2.53", 53),)
    )
    waiting = target.begin(query(f"out.shop.{BASE}").to_wire(), UDP)
    assert isinstance(waiting, Waiting) and waiting.path.forwarder is not None

    async def ask_others(question: Question) -> wire.Reply:
        assert question[0] == b"\x04real\x07example\x03com\x00"
        said = wire.Record(b"\x04reAL\x07ExampLe\x03cOm\x00", wire.A, 30, b"\x01\x02\x03\x04")
        return wire.Reply(0, [said])

    waiting.path.forwarder.ask = ask_others  # type: ignore[method-assign, assignment]
    answer = dns.message.from_wire(await target.finish(waiting))
    assert [str(each.name) for each in answer.answer] == [f"out.shop.{BASE}.", "foo.example.com."]
    assert data(answer) == ["foo.example.com.", "1.2.3.4"]


def test_hosts_of_ingresses() -> None:
    target = responder(upstreams=(("192.0.2.53", 53),))
    assert isinstance(ask(target, "shop.test", id=1), Waiting)
    target.ingresses.put(ingress("a", "Shop.test", "*.wild.test", "web.shop.svc.cluster.local"))
    target.ingresses.put(ingress("pending", "soon.test", addresses=()))
    for _ in range(2):
        assert data(ask(target, "shop.test", id=1)) == ["192.0.2.7"]
    assert data(ask(target, "x.wild.test")) == ["192.0.2.7"]
    none = ask(target, "shop.test", "AAAA")
    assert (none.rcode(), none.answer, len(none.authority)) == (0, [], 1)
    for name in ("wild.test", "y.x.wild.test", "soon.test"):
        assert isinstance(ask(target, name), Waiting), name
    # The cluster's own names are nobody's to take.
    assert data(ask(target, f"web.shop.{BASE}")) == ["10.96.0.20"]
    target.ingresses.put(ingress("b", "shop.test", addresses=("192.0.2.8", "2001:db8::8")))
    assert sorted(data(ask(target, "shop.test", id=1))) == ["192.0.2.7", "192.0.2.8"]
    assert data(ask(target, "shop.test", "AAAA")) == ["2001:db8::8"]
    target.ingresses.remove(ingress("a"))
    assert data(ask(target, "shop.test", id=1)) == ["192.0.2.8"]
    target.ingresses.remove(ingress("b"))
    assert isinstance(ask(target, "shop.test", id=1), Waiting)


def test_hosts_of_gateways() -> None:
    target = responder(upstreams=(("192.0.2.53", 53),))
    gateway = service("gateway", "10.96.0.30")
    target.ingresses.put(gateway)
    gateway.metadata.annotations[HOSTNAMES] = "shop.test,*.wild.test"
    target.ingresses.put(gateway)
    assert isinstance(ask(target, "shop.test", id=1), Waiting), "it has no address yet"
    gateway.status.loadBalancer.ingress = [LoadBalancerIngress(ip="192.0.2.9")]
    target.ingresses.put(gateway)
    target.ingresses.put(ingress("gateway", "shop.test"))
    assert data(ask(target, "x.wild.test")) == ["192.0.2.9"]
    assert sorted(data(ask(target, "shop.test"))) == ["192.0.2.7", "192.0.2.9"]
    kept = service_kept(gateway)
    assert hosts_of(kept) == hosts_of(gateway)
    assert not service_kept(service("web", "10.96.0.20")).metadata.annotations
    target.ingresses.remove(kept)
    assert data(ask(target, "shop.test")) == ["192.0.2.7"]


def test_hosts_of_ingresses_can_be_restricted_or_switched_off() -> None:
    for line, answered in (("    ingress my.test\n", ["a.my.test"]), ("", [])):
        target = responder(
            shop(), DEFAULT_COREFILE.replace("    ingress\n", line), upstreams=(("192.0.2.53", 53),)
        )
        target.ingresses.put(ingress("a", "a.my.test", "shop.test"))
        for name in ("a.my.test", "shop.test"):
            assert isinstance(ask(target, name), Waiting) == (name not in answered)


def test_upstreams_leave_out_ourselves() -> None:
    text = "search a\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver 192.168.49.2\n"
    assert upstreams_of(text, ("192.168.49.2",)) == [("10.0.0.2", 53)]
    assert read_upstreams(["/nonexistent"], ()) == []
