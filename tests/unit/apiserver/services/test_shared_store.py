"""Several API servers on one store, and servers that die between two writes: nothing is given twice
and nothing is lost for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.apiserver.services.machine import Clock, Machine, service

from navarch.api.errors import ApiError
from navarch.apiserver.security import system_context
from navarch.apiserver.services.holdings import cluster_addresses, node_ports
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

RANGES = "10.0.0.0/27,fd00::/123"
LIMITS = (30000, 30039)
REPAIR_TIME = 200.0


@asynccontextmanager
async def machines(
    count: int, ranges: str = RANGES, limits: tuple[int, int] = LIMITS
) -> AsyncIterator[list[Machine]]:
    store, clock = open_memory_store(), Clock()
    found = [Machine(store, clock, ranges, limits, seed) for seed in range(count)]
    for each in found:
        await each.start()
    try:
        yield found
    finally:
        for each in found:
            await each.stop()
        await store.close()


def check_held_once(machine: Machine) -> None:
    services = machine.stored().values()
    for held in (cluster_addresses, node_ports):
        counts = Counter(each for one in services for each in held(one))
        assert all(count == 1 for count in counts.values()), counts


async def check_recorded(machine: Machine, *, exactly: bool) -> None:
    """Everything held is recorded for whom it is, and with `exactly` nothing else."""
    holders = {
        address: one["metadata"]["name"]
        for one in machine.stored().values()
        for address in cluster_addresses(one)
    }
    records = {
        name: record["spec"]["parentRef"]["name"] for name, record in machine.records().items()
    }
    ports = {number for one in machine.stored().values() for number in node_ports(one)}
    recorded = set(await machine.ports.records())
    assert holders.items() <= records.items()
    assert ports <= recorded
    if exactly:
        assert (records, recorded) == (holders, ports)


async def settle(machine: Machine) -> None:
    """Long enough for every repair."""
    machine.clock.pass_by(REPAIR_TIME)
    await machine.repair.turn()


async def test_two_servers_never_give_the_same() -> None:
    """All of a range is asked for at once, of both servers, which know nothing of each other."""
    async with machines(2, "10.0.0.0/27", (30000, 30031)) as pair:

        async def ask(number: int) -> str:
            spec: Object = {"type": "NodePort"}
            if number % 3 == 0:
                spec["clusterIP"] = f"10.0.0.{number % 30 + 1}"
            try:
                await pair[number % 2].create(service(f"s{number}", **spec))
            except ApiError as error:
                return error.message
            return ""

        answers = await asyncio.gather(*(ask(number) for number in range(60)))
        failures = [each for each in answers if each]
        assert all("already allocated" in each or "range is full" in each for each in failures)
        for machine in pair:
            await machine.catch_up()
            check_held_once(machine)
            await check_recorded(machine, exactly=True)
        # What failed kept nothing: all the rest can be had, one of which is the server's own.
        for number in range(30 - len(pair[0].stored())):
            await pair[number % 2].create(service(f"more{number}", type="NodePort"))
            await pair[(number + 1) % 2].catch_up()
        assert len(pair[0].records()) == 30


async def test_a_late_release_leaves_the_next_holder_alone() -> None:
    """One server deletes a Service and is slow; meanwhile the other gives the address and port to
    the next."""
    async with machines(2) as (slow, fast):
        ports = [{"port": 80, "nodePort": 30005, "name": "a"}]
        chosen: Object = {"clusterIP": "10.0.0.5", "type": "NodePort", "ports": ports}
        await slow.create(service("a", **chosen))
        entry = slow.registry.get(slow.services, "default", "a")
        removed = slow.registry.removed.pop("services")
        revision = await slow.registry.remove(slow.services, entry)
        await fast.catch_up()
        await settle(fast)
        await fast.create(service("a", **chosen))
        await slow.catch_up()
        await removed(entry, revision)
        await check_recorded(slow, exactly=True)
        check_held_once(slow)


async def test_a_second_server_starts_while_the_first_makes_the_servers_own_service() -> None:
    async with machines(1) as (first,):
        await first.delete("kubernetes")
        await first.write_record("10.0.0.1", service("kubernetes"))
        second = Machine(first.store, first.clock, RANGES, LIMITS)
        await second.start()
        assert "kubernetes" not in second.stored()
        await settle(second)
        await second.own.repair()
        await check_recorded(second, exactly=True)
        assert second.stored()["kubernetes"]["spec"]["clusterIP"] == "10.0.0.1"
        await second.stop()


BOTH: Object = {"ipFamilyPolicy": "RequireDualStack"}
NODE: Object = {"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}
OPERATIONS: list[Any] = [
    pytest.param(lambda m: m.create(service("new", **NODE, **BOTH)), id="create"),
    pytest.param(lambda m: m.create(service("new", refused=True, **NODE)), id="refused"),
    pytest.param(lambda m: m.update("old", {**NODE, **BOTH}), id="more"),
    pytest.param(lambda m: m.update("both", {"type": "ClusterIP"}), id="fewer ports"),
    pytest.param(
        lambda m: m.update("both", {"type": "ClusterIP", "ipFamilyPolicy": "SingleStack"}),
        id="fewer addresses",
    ),
    pytest.param(
        lambda m: m.update("both", {"type": "ExternalName", "externalName": "a.io"}), id="none"
    ),
    pytest.param(lambda m: m.update("name", {"type": "NodePort"}), id="from a name"),
    pytest.param(lambda m: m.delete("both"), id="delete"),
]


@pytest.mark.parametrize("after", [False, True], ids=["lost", "done"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_kill_between_any_two_writes(operation: Any, after: bool) -> None:
    for writes in range(12):
        async with machines(1) as (first,):
            await first.create(service("old"))
            await first.create(service("both", **NODE, **BOTH))
            await first.create(service("name", type="ExternalName", externalName="a.io"))
            first.line.writes_left, first.line.after = writes, after
            try:
                await operation(first)
            except ApiError as error:
                assert error.status in (403, 500), error.message
            was_cut = first.line.is_cut
            second = Machine(first.store, first.clock, RANGES, LIMITS, seed=9)
            await second.start()
            check_held_once(second)
            await check_recorded(second, exactly=False)
            assert "ClusterIPNotAllocated" not in second.reasons()
            for number in range(4):
                await second.create(service(f"later{number}", **NODE, **BOTH))
            check_held_once(second)
            await settle(second)
            await check_recorded(second, exactly=True)
            await second.stop()
            if not was_cut:
                break
    else:
        pytest.fail("the operation has more writes than were tried")


async def test_a_write_that_was_broken_off_keeps_what_it_may_need() -> None:
    """A request that is cancelled may have been written all the same."""
    async with machines(1) as (machine,):
        put = machine.line.put
        reached = asyncio.Event()

        async def slow(key: str, value: bytes, *, expected: int | None = None) -> int:
            revision = await put(key, value, expected=expected)
            if key.startswith("/registry/services/specs/"):
                reached.set()
                await asyncio.Event().wait()
            return revision

        machine.line.put = slow  # type: ignore[method-assign]
        task = asyncio.create_task(machine.create(service("a", **NODE)))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await machine.catch_up()
        assert "a" in machine.stored()
        await check_recorded(machine, exactly=True)


def _record(machine: Machine, name: str) -> Object:
    return machine.records()[name]


async def test_what_strangers_did_is_mended_and_told() -> None:
    async with machines(1) as (machine,):
        for name, address in (("a", "10.0.0.5"), ("b", "10.0.0.6"), ("c", "10.0.0.7")):
            await machine.create(service(name, clusterIP=address, type="NodePort"))
        await machine.forget("10.0.0.5")
        # Even before it is mended, the address is not given away.
        with pytest.raises(ApiError, match="already allocated"):
            await machine.create(service("thief", clusterIP="10.0.0.5"))
        await machine.forget("10.0.0.6")
        await machine.write_record("10.0.0.6", service("nobody"))
        await machine.write_record("10.0.0.9", service("a"))
        number = machine.stored()["c"]["spec"]["ports"][0]["nodePort"]
        await machine.ports.release(number, 1 << 60)
        await machine.ports.record(30001, ("default", "nobody"))
        await settle(machine)
        await check_recorded(machine, exactly=True)
        assert sorted(machine.reasons()) == [
            "ClusterIPNotAllocated",
            "ClusterIPNotAllocated",
            "IPAddressWrongReference",
            "PortNotAllocated",
        ]
        await settle(machine)
        assert len(machine.reasons()) == 4, "told twice"


async def test_what_only_people_can_mend_is_told() -> None:
    """Two Services with one address and port, and addresses and ports out of all ranges: they come
    from before, when the options were others or the store was written by hand."""
    async with machines(1) as (machine,):
        ports = [{"port": 80, "name": "a", "nodePort": 30009}]
        await machine.create(service("a", clusterIP="10.0.0.5", type="NodePort", ports=ports))
        held = machine.stored()["a"]
        for name, address, port in (("b", "10.0.0.5", 30009), ("c", "10.9.9.9", 99)):
            spec = {**held["spec"], "clusterIP": address, "clusterIPs": [address]}
            spec["ports"] = [{**held["spec"]["ports"][0], "nodePort": port}]
            metadata = {**held["metadata"], "name": name, "uid": name}
            metadata.pop("resourceVersion")
            await machine.registry.rewrite(
                machine.services, {**held, "metadata": metadata, "spec": spec}, 0
            )
        await settle(machine)
        assert sorted(machine.reasons()) == [
            "ClusterIPAlreadyAllocated",
            "ClusterIPOutOfRange",
            "PortAlreadyAllocated",
            "PortOutOfRange",
        ]
        # The address stays with the one that is left.
        await machine.delete("a")
        await settle(machine)
        assert _record(machine, "10.0.0.5")["spec"]["parentRef"]["name"] == "b"


async def test_addresses_of_people_are_left_alone() -> None:
    async with machines(1) as (machine,):
        record = {"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress"}
        parent = {"group": "gateway.io", "resource": "gateways", "name": "g"}
        obj: Object = {**record, "metadata": {"name": "10.0.0.20"}, "spec": {"parentRef": parent}}
        context = system_context(machine.addresses, obj, "create")
        await machine.registry.create(machine.addresses, obj, context)
        await settle(machine)
        assert "10.0.0.20" in machine.records()
        with pytest.raises(ApiError, match="already allocated"):
            await machine.create(service("a", clusterIP="10.0.0.20"))


async def test_ranges_come_and_go() -> None:
    async with machines(2, "10.0.0.0/29") as (first, second):
        for number in range(5):
            await first.create(service(f"s{number}"))
        with pytest.raises(ApiError, match="range is full"):
            await first.create(service("full"))
        await second.add_range("more", "10.0.1.0/29")
        await first.catch_up()
        made = await first.create(service("more"))
        assert made["spec"]["clusterIP"].startswith("10.0.1.")
        entry = second.registry.get(second.cidrs, "", "more")
        going = entry.decode(second.cidrs.stored_kind)
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        await second.registry.rewrite(second.cidrs, going, entry.revision)
        await first.catch_up()
        with pytest.raises(ApiError, match="range is full"):
            await first.create(service("late"))
        with pytest.raises(ApiError, match="does not match the current range"):
            await first.create(service("late", clusterIP="10.0.1.6"))
        await settle(first)
        assert first.reasons() == [], "an address of a range that goes is still in one"
        await second.remove_range("more")
        await first.catch_up()
        await settle(first)
        assert first.reasons() == ["ClusterIPOutOfRange"]


async def test_the_default_range_stays_when_the_options_change() -> None:
    async with machines(1, "10.0.0.0/24") as (first,):
        for ranges, expected in (
            ("10.7.0.0/24", ["10.0.0.0/24"]),
            ("10.0.0.0/24,fd00::/112", ["10.0.0.0/24", "fd00::/112"]),
            ("10.0.0.0/24", ["10.0.0.0/24", "fd00::/112"]),
        ):
            later = Machine(first.store, first.clock, ranges, LIMITS)
            await later.start()
            (default,) = later.lookup.list("servicecidrs.networking.k8s.io")
            assert default["spec"]["cidrs"] == expected
            assert default["status"]["conditions"][0]["status"] == "True"
            await later.stop()


def _servers(machine: Machine) -> list[str]:
    """The endpoints of `default/kubernetes`, in both forms alike."""
    [own] = (each for each in machine.lookup.list("endpoints"))
    [slice_] = (each for each in machine.lookup.list("endpointslices.discovery.k8s.io"))
    found = [each["ip"] for each in own["subsets"][0]["addresses"]]
    assert found == [each["addresses"][0] for each in slice_["endpoints"]]
    return found


async def test_all_servers_are_endpoints_as_long_as_they_live() -> None:
    store, clock = open_memory_store(), Clock()
    first, second = (
        Machine(store, clock, RANGES, LIMITS, address=f"192.0.2.{number}") for number in (1, 2)
    )

    async def turns(seconds: int, *machines: Machine) -> None:
        for _ in range(seconds // 10):
            clock.pass_by(10)
            for machine in machines:
                await machine.own.repair()
                await first.catch_up()

    await first.start()
    await turns(100, first)
    revision = await store.revision()
    await turns(100, first)
    assert await store.revision() == revision, "a server that is alone writes nothing"
    await second.start()
    await turns(100, first, second)
    assert _servers(first) == ["192.0.2.1", "192.0.2.2"]
    await second.stop()
    await turns(50, first)
    assert _servers(first) == ["192.0.2.1"], "one was killed"
    await second.start()
    await turns(20, second, first)
    assert _servers(first) == ["192.0.2.1", "192.0.2.2"]
    await second.own.leave()
    await turns(10, first)
    assert _servers(first) == ["192.0.2.1"], "one went"
    await first.stop()
    await second.stop()
    await store.close()


async def test_a_repair_that_fails_is_tried_again() -> None:
    async with machines(1) as (machine,):
        await machine.create(service("a", clusterIP="10.0.0.5"))
        await machine.forget("10.0.0.5")
        machine.line.is_cut = True
        await settle(machine)
        assert "10.0.0.5" not in machine.records()
        machine.line.is_cut = False
        await machine.repair.turn()
        await check_recorded(machine, exactly=True)


async def test_a_request_that_ends_just_after_its_write_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with machines(1) as (only,):
        create, written = only.registry.create, asyncio.Event()

        async def slow(resource: Any, *rest: Any) -> Any:
            made = await create(resource, *rest)
            if resource is only.addresses:
                written.set()
                await asyncio.Event().wait()
            return made

        with monkeypatch.context() as patched:
            patched.setattr(only.registry, "create", slow)
            asked = asyncio.create_task(only.create(service("a")))
            await asyncio.wait_for(written.wait(), 60)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        with pytest.raises(AssertionError):
            await check_recorded(only, exactly=True)
        await settle(only)
        await check_recorded(only, exactly=True)
