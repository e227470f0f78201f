"""NetworkPolicies as rules and transactions: their text, addresses that change hands, and what
kubelets announce."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Namespace,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.clock import FakeClock, RealClock
from navarch.network.policy.claims import Book, Claim, serve
from navarch.network.policy.enforcer import Enforcer, may_deny
from navarch.network.policy.kernel import NftError
from navarch.network.policy.model import Block, PodFacts, facts_of, identity, merged, policy_of
from navarch.network.policy.planner import Planner
from navarch.network.policy.table import Table
from navarch.network.policy.verdicts import Connection, Verdicts
from navarch.node.announcing import Announcer, NotAnnounced
from navarch.node.cri.values import SandboxRecord


def policy(spec: dict[str, Any], name: str = "p") -> NetworkPolicy:
    document = {"metadata": {"name": name, "namespace": "x"}, "spec": {"podSelector": {}} | spec}
    return msgspec.convert(document, NetworkPolicy)


def pod(name: str, address: str = "", uid: str = "", **changes: Any) -> Pod:
    ports = [ContainerPort(name="web", containerPort=8080)]
    return Pod(
        metadata=ObjectMeta(name=name, namespace="x", uid=uid or name, labels={"app": name}),
        spec=PodSpec(nodeName="here", containers=[Container(name="main", ports=ports)]),
        status=PodStatus(podIPs=[PodIP(ip=address)] if address else [], **changes),
    )


def facts(name: str, address: str, since: str = "", *, is_local: bool = True) -> PodFacts:
    return PodFacts(("x", name), identity("x", {"app": name}), (address,), is_local,
                    since=(0, since))  # fmt: skip


class FakeKernel:
    """Keeps what it is told; refuses as often as it shall."""

    def __init__(self) -> None:
        self.transactions: list[Sequence[str]] = []
        self.refusals = 0
        self.cuts = 0

    async def apply(self, commands: Sequence[str]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise NftError("no")
        self.transactions.append(commands)

    async def cut(self, is_denied: Callable[[Connection], bool]) -> int:
        self.cuts += 1
        return 0


RULES = [
    pytest.param({"ingress": [{}]}, ["accept"], id="everything"),
    pytest.param({"ingress": []}, [], id="nothing"),
    pytest.param(
        {"ingress": [{"ports": [{"port": 80}, {"port": 81}, {"port": 90, "endPort": 99}]}]},
        ["tcp dport { 80-81, 90-99 } accept"],
        id="touching ports are a range",
    ),
    pytest.param(
        {"ingress": [{"ports": [{"protocol": "SCTP"}, {"protocol": "UDP", "port": 53}]}]},
        ["meta l4proto sctp accept", "udp dport { 53 } accept"],
        id="a protocol as a whole",
    ),
    pytest.param(
        {"ingress": [{"ports": [{"port": "web"}]}]},
        [
            "ip daddr . meta l4proto . th dport @named-tcp-web-4 accept",
            "ip6 daddr . meta l4proto . th dport @named-tcp-web-6 accept",
        ],
        id="a named port",
    ),
    pytest.param(
        {
            "ingress": [
                {
                    "from": [
                        {"ipBlock": {"cidr": "10.0.0.0/30", "except": ["10.0.0.1/32"]}},
                        {"ipBlock": {"cidr": "10.0.0.1/32"}},
                        {"ipBlock": {"cidr": "2001:db8::/127"}},
                    ]
                }
            ]
        },
        [
            "ip saddr { 10.0.0.0-10.0.0.3 } accept",
            "ip6 saddr { 2001:db8::-2001:db8::1 } accept",
        ],
        id="an exception that another block allows",
    ),
]


@pytest.mark.parametrize(("spec", "rules"), RULES)
def test_rules_of_a_policy(spec: dict[str, Any], rules: list[str]) -> None:
    planner, table = Planner(), Table()
    planner.put_policy(policy_of(policy(spec)))
    planner.put_pod(facts("a", "10.1.0.1"))
    table.change(planner.flush())
    assert [str(rule) for rule in table.chains["policy-in-x/p"]] == rules


def test_blocks_that_touch_or_overlap_are_one() -> None:
    blocks = [Block(4, 5, 9), Block(4, 1, 4), Block(4, 7, 12), Block(4, 14, 14), Block(6, 13, 13)]
    assert merged(blocks) == (Block(4, 1, 12), Block(4, 14, 14), Block(6, 13, 13))


def test_policies_without_pods_of_this_node_are_not_in_its_table() -> None:
    planner, table = Planner(), Table()
    peers = [{"podSelector": {"matchLabels": {"app": "b"}}}]
    planner.put_policy(policy_of(policy({"ingress": [{"from": peers}]})))
    planner.put_pod(facts("b", "10.1.0.2", is_local=False))
    assert not table.change(planner.flush())
    planner.put_pod(facts("a", "10.1.0.1"))
    lines = table.change(planner.flush())
    assert any(line.startswith("add chain inet navarch-policy policy-in-x/p") for line in lines)
    assert any("peers-" in line and "10.1.0.2" in line for line in lines)
    planner.remove_pod(("x", "a"))
    table.change(planner.flush())
    assert table.parts == {}
    assert sorted(line.split()[-1].split("-")[0] for line in table.sweep()) == ["in", "policy"]


def test_an_address_is_the_later_pods() -> None:
    planner, table = Planner(), Table()
    peers = [{"podSelector": {"matchLabels": {"app": "old"}}}]
    planner.put_policy(policy_of(policy({"ingress": [{"from": peers}]})))
    planner.put_pod(facts("a", "10.1.0.1"))
    planner.put_pod(facts("old", "10.1.0.9", "2026-01-01T00:00:00Z"))
    table.change(planner.flush())
    packet = Connection("10.1.0.9", "10.1.0.1", "tcp", 80)
    assert Verdicts(table).allows(packet)
    planner.put_pod(facts("new", "10.1.0.9", "2026-01-02T00:00:00Z"))
    table.change(planner.flush())
    assert not Verdicts(table).allows(packet)
    planner.remove_pod(("x", "new"))
    table.change(planner.flush())
    assert Verdicts(table).allows(packet)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"phase": "Succeeded"}, id="ended"),
        pytest.param({"podIP": "10.0.0.1; drop"}, id="nonsense"),
        pytest.param({}, id="no address"),
    ],
)
def test_pods_that_policies_do_not_know(status: dict[str, Any]) -> None:
    assert facts_of(pod("a", "10.1.0.1" if "phase" in status else "", **status), "there") is None


def claim_of(name: str = "a", uid: str = "a", address: str = "10.1.0.1") -> Claim:
    return Claim(namespace="x", name=name, uid=uid, addresses=(address,), labels={"app": "claim"})


def test_an_announcement_counts_until_the_api_knows(tmp_path: Path) -> None:
    key = ("x", "a")
    book = Book("here", tmp_path)
    book.put(pod("a"))
    assert book.facts(key) is None
    book.claim(claim_of())
    for known in (book, Book("here", tmp_path)):
        found = known.facts(key)
        assert found is not None and found.addresses == ("10.1.0.1",)
    found = book.facts(key)
    assert found is not None and dict(found.who.labels) == {"app": "a"}
    book.put(pod("a", "10.1.0.8"))
    found = book.facts(key)
    assert found is not None and found.addresses == ("10.1.0.1",), "the status is an old one"
    book.put(pod("a", "10.1.0.1"))
    assert not list(tmp_path.iterdir())
    book.remove(pod("a", "10.1.0.1"))
    assert book.facts(key) is None


def test_the_end_of_an_earlier_pod_is_not_that_of_its_namesake(tmp_path: Path) -> None:
    book = Book("here", tmp_path)
    book.put(pod("a", "10.1.0.1", "old"))
    book.claim(claim_of(uid="new", address="10.1.0.2"))
    book.remove(pod("a", "10.1.0.1", "old"))
    found = book.facts(("x", "a"))
    assert found is not None and found.addresses == ("10.1.0.2",)
    book.put(pod("a", "", "new"))
    book.remove(pod("a", "", "new"))
    assert book.facts(("x", "a")) is None and not list(tmp_path.iterdir())


def test_an_announcement_ends_earlier_ones_of_its_address(tmp_path: Path) -> None:
    book = Book("here", tmp_path)
    book.claim(claim_of("a", "a"))
    assert book.claim(claim_of("b", "b")) == {("x", "a"), ("x", "b")}
    assert book.facts(("x", "a")) is None and len(list(tmp_path.iterdir())) == 1


def test_an_evicted_pod_that_still_runs_is_isolated_until_its_address_is_anothers() -> None:
    planner, table = Planner(), Table()
    planner.put_policy(policy_of(policy({"podSelector": {"matchLabels": {"app": "a"}}})))
    ended = facts_of(pod("a", "10.1.0.1", phase="Failed"), "here")
    assert ended is not None and not ended.is_peer
    planner.put_pod(ended)
    table.change(planner.flush())
    packet = Connection("192.0.2.9", "10.1.0.1", "tcp", 80)
    assert not Verdicts(table).allows(packet)
    planner.put_pod(facts("b", "10.1.0.1"))
    table.change(planner.flush())
    assert Verdicts(table).allows(packet)


@pytest.mark.parametrize(
    ("commands", "cuts"),
    [
        (["add element inet t peers-1-4 { 10.0.0.1 }"], False),
        (["add set inet t peers-1-4 { type ipv4_addr ; }"], False),
        (["delete element inet t peers-1-4 { 10.0.0.1 }"], True),
        (["add element inet t targets-4 { 10.0.0.1 : goto in-1 }"], True),
        (["add rule inet t policy-in-x/p accept"], True),
    ],
)
def test_connections_are_looked_at_where_one_may_be_forbidden(
    commands: list[str], cuts: bool
) -> None:
    assert any(map(may_deny, commands)) == cuts


async def test_an_announced_pod_is_isolated_before_the_answer(tmp_path: Path) -> None:
    kernel = FakeKernel()
    kernel.refusals = 1
    enforcer = Enforcer(Planner(), Book("here", tmp_path), kernel, RealClock())
    enforcer.put_namespace(Namespace(metadata=ObjectMeta(name="x")))
    enforcer.put_policy(policy({}))
    path = tmp_path / "policy.sock"
    tasks = [asyncio.create_task(serve(path, enforcer.admit)), asyncio.create_task(enforcer.run())]
    sandbox = SandboxRecord("s", "a", "x", "a", 0, True, ips=("10.1.0.1",))
    try:
        await Announcer(path, RealClock()).announce(pod("a"), sandbox)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    lines = [line for commands in kernel.transactions for line in commands]
    assert any("targets-4 { 10.1.0.1 : goto in-" in line for line in lines)


async def test_a_pod_that_no_policy_selects_waits_for_nothing() -> None:
    kernel, clock = FakeKernel(), FakeClock()
    enforcer = Enforcer(Planner(), Book("here"), kernel, clock)
    async with asyncio.timeout(60):
        running = asyncio.create_task(enforcer.run())
        await clock.advance(1)
        for number in range(3):
            claim = Claim(
                namespace="x", name=f"p{number}", uid="u", addresses=(f"10.1.0.{number}",)
            )
            await enforcer.admit(claim)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(kernel.transactions) == 1


async def test_an_announcement_that_waits_keeps_nobody_from_ending(tmp_path: Path) -> None:
    path, asked = tmp_path / "policy.sock", asyncio.Event()

    async def admit(_: Claim) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        server = asyncio.create_task(serve(path, admit))
        sandbox = SandboxRecord("s", "a", "x", "a", 0, True, ips=("10.1.0.1",))
        pod_waits = asyncio.create_task(Announcer(path, FakeClock()).announce(pod("a"), sandbox))
        await asked.wait()
        assert path.stat().st_mode & 0o777 == 0o600, "the node's alone"
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        pod_waits.cancel()
        await asyncio.gather(pod_waits, return_exceptions=True)


async def test_a_pod_waits_while_nobody_answers(tmp_path: Path) -> None:
    sandbox = SandboxRecord("s", "a", "x", "a", 0, True, ips=("10.1.0.1",))
    announcer = Announcer(tmp_path / "nobody", RealClock())
    with pytest.raises(NotAnnounced):
        await announcer.announce(pod("a"), sandbox, seconds=0.1)
    await Announcer(None, FakeClock()).announce(pod("a"), sandbox)


async def test_after_a_refusal_everything_is_made_anew() -> None:
    kernel = FakeKernel()
    enforcer = Enforcer(Planner(), Book("here"), kernel, FakeClock())
    enforcer.put_policy(policy({}))
    enforcer.put_pod(pod("a", "10.1.0.1"))
    await enforcer.sync()
    enforcer.put_pod(pod("b", "10.1.0.2"))
    kernel.refusals = 1
    with pytest.raises(NftError):
        await enforcer.sync()
    await enforcer.sync()
    assert kernel.transactions[-1][1] == "delete table inet navarch-policy"
    assert any("10.1.0.1, 10.1.0.2" in line for line in kernel.transactions[-1])
    before = len(kernel.transactions)
    await enforcer.sync()
    assert len(kernel.transactions) == before, "nothing has changed"


async def test_the_enforcer_ends_though_something_changes_in_the_same_moment() -> None:
    clock = FakeClock()
    for turns in range(4):
        enforcer = Enforcer(Planner(), Book("here"), FakeKernel(), clock)
        task = asyncio.create_task(enforcer._keep_table())
        await clock.advance(10)
        enforcer._wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, f"{turns} turns after the change"
