"""Name servers of machines that join and leave, over the API."""

from __future__ import annotations

from navarch.api.types.core_v1 import (
    Node,
    NodeAddress,
    NodeStatus,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client
from navarch.controllers.joined_name_servers import LABEL, NAMES, NAMESPACE, SERVICE

from .conftest import eventually, running

CONTROLLER = "joined-name-servers"


async def asked(client: Client, *addresses: str) -> None:
    async def are_told() -> bool:
        found = await client.resource(EndpointSlice).get(NAMES["IPv4"], NAMESPACE)
        return [each.addresses[0] for each in found.endpoints] == [*addresses]

    await eventually(are_told, f"name servers {addresses}")


async def test_a_machine_that_left_while_nobody_looked_is_asked_no_more(client: Client) -> None:
    service = Service(
        metadata=ObjectMeta(name=SERVICE, namespace=NAMESPACE),
        spec=ServiceSpec(ports=[ServicePort(name="dns", port=53, protocol="UDP")]),
    )
    await client.resource(Service).create(service)
    nodes = client.resource(Node)
    for name, address in (("far", "192.0.2.7"), ("near", "junk")):
        node = await nodes.create(Node(metadata=ObjectMeta(name=name, labels={LABEL: "true"})))
        node.status = NodeStatus(addresses=[NodeAddress(type="InternalIP", address=address)])
        await nodes.update_status(node)
    async with running(client, CONTROLLER):
        await asked(client, "192.0.2.7")
    await nodes.delete("far")
    async with running(client, CONTROLLER):
        await asked(client)
