"""Random histories of Services on two API servers, against a literal model.

The model is a dictionary of what each Service was asked to be. After every step: nothing is held
twice, what is held is recorded, addresses out of the band for those who choose come last. After the
grace of the repair nothing is recorded that is not held.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.apiserver.services.machine import Clock, Machine, service
from tests.unit.apiserver.services.test_shared_store import (
    LIMITS,
    check_held_once,
    check_recorded,
    settle,
)

from navarch.api.errors import ApiError
from navarch.apiserver.services.addresses import static_band
from navarch.apiserver.services.holdings import cluster_addresses, node_ports
from navarch.apiserver.services.ports import static_band as port_band
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

FOUR, SIX, MORE = "10.0.0.0/27", "fd00::/123", "10.0.1.0/29"
PORTS: list[Any] = [
    [{"port": 80, "name": "a"}],
    [{"port": 53, "name": "a"}, {"port": 53, "name": "b", "protocol": "UDP"}],
    [{"port": 80, "name": "a", "nodePort": 30003}, {"port": 81, "name": "b"}],
]
servers = st.integers(0, 1)
service_names = st.sampled_from("abcd")
wishes = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        "ports": st.sampled_from(PORTS),
        "ipFamilyPolicy": st.sampled_from(["SingleStack", "PreferDualStack", "RequireDualStack"]),
        "externalTrafficPolicy": st.sampled_from(["Cluster", "Local"]),
    }
)
addresses = st.sampled_from(["", "", "None", "10.0.0.3", "10.0.0.20", "10.0.1.2", "10.9.9.9"])
outcomes = st.sampled_from(["", "", "", "refused", "dry"])
cuts = st.tuples(st.integers(0, 5), st.booleans())
creations = st.tuples(st.just("create"), servers, service_names, wishes, addresses, outcomes)
updates = st.tuples(st.just("update"), servers, service_names, wishes, st.booleans())
steps = st.one_of(
    creations,
    creations,
    updates,
    st.tuples(st.just("delete"), servers, service_names),
    st.tuples(st.just("crash"), servers, cuts, st.one_of(creations, updates)),
    st.tuples(st.just("race"), st.lists(creations, min_size=2, max_size=4)),
    st.tuples(st.just("forget"), servers, service_names),
    st.tuples(st.just("range"), servers),
    st.tuples(st.just("settle"), servers),
)


def wanted_spec(wish: Object, address: str = "") -> Object:
    """The wish without what its type may not have."""
    spec = {key: value for key, value in wish.items() if key != "externalTrafficPolicy"}
    spec["ports"] = [{**port} for port in wish["ports"]]
    if spec["type"] in ("ClusterIP", "ExternalName"):
        for port in spec["ports"]:
            port.pop("nodePort", None)
    else:
        spec["externalTrafficPolicy"] = wish["externalTrafficPolicy"]
    if spec["type"] == "ExternalName":
        del spec["ipFamilyPolicy"]
        spec["externalName"] = "a.example.com"
    elif address and not (address == "None" and spec["type"] != "ClusterIP"):
        spec["clusterIP"] = address
    return spec


@dataclass
class Model:
    """What clients were told that there is."""

    machines: list[Machine]
    known: dict[str, Object] = field(default_factory=dict)
    """The specs by name, as the server answered."""
    has_more: bool = False
    has_crashed: bool = False
    """Since the last repair: records may be too many."""

    def taken(self) -> set[str]:
        return {each for spec in self.known.values() for each in cluster_addresses({"spec": spec})}

    async def run(self, step: tuple[Any, ...]) -> None:
        action: Any = getattr(self, step[0])
        await action(*step[1:])
        for machine in self.machines:
            await machine.catch_up()

    # ---- steps

    async def create(
        self, server: int, name: str, wish: Object, address: str, outcome: str
    ) -> None:
        machine, spec = self.machines[server], wanted_spec(wish, address)
        records = machine.records()
        fresh = service(name, refused=outcome == "refused", **spec)
        try:
            made = await machine.create(fresh, dry_run=outcome == "dry")
        except ApiError as error:
            self.check_refusal(error, name, spec.get("clusterIP", ""), (outcome, records))
            return
        assert name not in self.known
        assert outcome != "refused"
        self.check_families(made["spec"])
        if not spec.get("clusterIP"):
            self.check_band(made, records)
        if outcome != "dry":
            self.known[name] = made["spec"]

    async def update(self, server: int, name: str, wish: Object, refused: bool) -> None:
        spec = wanted_spec(wish)
        try:
            made = await self.machines[server].update(name, spec, refused=refused)
        except ApiError as error:
            assert error.status in (403, 404, 422, 500), error.message
            assert (error.status == 404) is (name not in self.known)
            return
        assert not refused
        old, new = self.known[name], made["spec"]
        if "ExternalName" not in (old["type"], new["type"]):
            assert new["clusterIPs"][0] == old["clusterIPs"][0]
        self.check_families(new)
        self.known[name] = new

    async def delete(self, server: int, name: str) -> None:
        if name in self.known:
            await self.machines[server].delete(name)
            del self.known[name]

    async def crash(self, server: int, cut: tuple[int, bool], step: tuple[Any, ...]) -> None:
        """The server is killed in the middle of a step and started again. Its client does not know
        what has become of it."""
        machine = self.machines[server]
        machine.line.writes_left, machine.line.after = cut
        self.has_crashed = True
        _, _, name, wish, *rest = step
        try:
            if step[0] == "create":
                await machine.create(service(name, **wanted_spec(wish, rest[0])))
            else:
                await machine.update(name, wanted_spec(wish))
        except ApiError:
            pass
        await machine.stop()
        await machine.start()
        stored = machine.stored()
        for other in {*stored, *self.known} - {name, "kubernetes"}:
            assert stored[other]["spec"] == self.known[other]
        if name in stored:
            self.known[name] = stored[name]["spec"]
        else:
            assert name not in self.known

    async def race(self, creations: list[tuple[Any, ...]]) -> None:
        """Several clients at once: some of them are refused for what others only tried."""

        async def attempt(number: int, creation: tuple[Any, ...]) -> None:
            _, server, name, wish, address, _ = creation
            name = f"{name}{number}"
            try:
                spec = wanted_spec(wish, address)
                made = await self.machines[server].create(service(name, **spec))
            except ApiError as error:
                assert error.status in (409, 422, 500), error.message
                return
            self.known[name] = made["spec"]

        await asyncio.gather(*(attempt(*each) for each in enumerate(creations)))

    async def forget(self, server: int, name: str) -> None:
        """Somebody deletes the IPAddress of a Service; the next repair brings it back."""
        machine = self.machines[server]
        for address in cluster_addresses({"spec": self.known.get(name, {})}):
            await machine.forget(address)
        await machine.repair.turn()

    async def range(self, server: int) -> None:
        """A second range comes, or goes when nothing is in it, as its controller sees to."""
        machine = self.machines[server]
        if not self.has_more:
            await machine.add_range("more", MORE)
        elif any(ipaddress.ip_address(each) in ipaddress.ip_network(MORE) for each in self.taken()):
            return
        else:
            await machine.remove_range("more")
        self.has_more = not self.has_more

    async def settle(self, server: int) -> None:
        await settle(self.machines[server])
        self.has_crashed = False

    # ---- what must hold

    def check_refusal(
        self, error: ApiError, name: str, address: str, case: tuple[str, Object]
    ) -> None:
        outcome, records = case
        reason = error.message
        if error.status == 409:
            assert name in self.known
        elif error.status == 403:
            assert outcome == "refused"
        elif "already allocated" in reason and "failed to allocate IP" in reason:
            assert address in records
        elif "does not match the current range" in reason:
            assert address == "10.9.9.9" or (address == "10.0.1.2" and not self.has_more)
        elif "provided port is already allocated" in reason:
            assert "30003" in reason
        else:
            assert "range is full" in reason, reason
            assert len(records) > 20 or "nodePort" in reason or "NodePort" in reason, reason

    def check_families(self, spec: Object) -> None:
        families = [f"IPv{ipaddress.ip_address(each).version}" for each in spec_addresses(spec)]
        if families:
            assert families == spec["ipFamilies"]
            assert (len(families) == 1) is (spec["ipFamilyPolicy"] == "SingleStack")

    def check_band(self, made: Object, records: Object) -> None:
        """The lower band is used only when the upper one is full."""
        for address in cluster_addresses(made):
            network = ipaddress.ip_network(SIX if ":" in address else FOUR)
            if ipaddress.ip_address(address) not in network:
                continue
            band = static_band(network.num_addresses)
            place = int(ipaddress.ip_address(address)) - int(network.network_address)
            last = network.num_addresses - (2 if network.version == 4 else 1)
            upper = {str(network[index]) for index in range(band + 1, last + 1)}
            assert place > band or upper <= records.keys()
        middle = LIMITS[0] + port_band(LIMITS[1] - LIMITS[0] + 1)
        held = {port for spec in self.known.values() for port in node_ports({"spec": spec})}
        for number in node_ports(made) - {30003}:
            assert number >= middle or len([each for each in held if each >= middle]) >= 16

    def check(self) -> None:
        for machine in self.machines:
            check_held_once(machine)
            stored = machine.stored()
            stored.pop("kubernetes")
            assert {name: each["spec"] for name, each in stored.items()} == self.known


def spec_addresses(spec: Object) -> list[str]:
    return [each for each in spec.get("clusterIPs") or () if each != "None"]


async def follow(history: list[tuple[Any, ...]]) -> None:
    store, clock = open_memory_store(), Clock()
    machines = [Machine(store, clock, f"{FOUR},{SIX}", LIMITS, seed) for seed in (1, 2)]
    for machine in machines:
        await machine.start()
    model = Model(machines)
    try:
        for step in history:
            await model.run(step)
            model.check()
            await check_recorded(machines[0], exactly=not model.has_crashed)
            clock.pass_by(1)
        for server, machine in enumerate(machines):
            await model.run(("settle", server))
            model.check()
            await check_recorded(machine, exactly=True)
    finally:
        for machine in machines:
            await machine.stop()
        await store.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, min_size=10, max_size=40))
def test_histories(history: list[tuple[Any, ...]]) -> None:
    asyncio.run(follow(history))
