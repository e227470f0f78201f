"""The cluster as the scheduler would see it, read once through the API: for those who ask what it
would say of a pod, without being the scheduler.

It holds what a scheduler holds that has just started, so what is assumed or in flight in another
process (a pod that is being bound this moment) is not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node, Pod
from navarch.client import Client, InformerFactory
from navarch.client.resource import ResourcePath, resource_path_of
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.lookups import InformerObjects
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo

UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Nodes and pods, and everything else that plugins look up."""

    cluster: Cluster
    objects: Objects
    unread: Mapping[ResourcePath, ApiError]
    """What could not be read: the caller may not, or the server has no such resource. Plugins see
    none of it."""

    def failure(self) -> ApiError | None:
        """Why nothing can be said at all."""
        needed = (self.unread.get(resource_path_of(kind)) for kind in (Node, Pod))
        return next((error for error in needed if error is not None), None)


async def read_snapshot(client: Client) -> Snapshot:
    informers = InformerFactory(client)
    cluster, objects = Cluster(), InformerObjects(informers)
    objects.devices.now = client.clock.now
    informers.informer(Node).add_handler(cluster.set_node)
    informers.informer(Pod, field_selector=UNFINISHED).add_handler(lambda pod: _put(cluster, pod))
    return Snapshot(cluster, objects, await informers.read())


def _put(cluster: Cluster, pod: Pod) -> None:
    info = PodInfo(pod)
    if info.node:
        cluster.set_pod(info, info.node)
    else:
        cluster.nominations.set(info, pod.status.nominatedNodeName)
