"""How every component sees the API: typed client, informers, work queues, events, leadership.

`navarch.client.clock` and `navarch.client.objects` hold the rest of what components use.
"""

from navarch.api.objects import Object, copy_object
from navarch.client.batches import slow_start, together
from navarch.client.cache import Cache
from navarch.client.client import ApiConnectionError, Client
from navarch.client.clock import Clock, FakeClock, RealClock
from navarch.client.config import ClientConfig, ConfigError
from navarch.client.controller import Controller, ControllerContext
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory, Scope
from navarch.client.leader import LeaderElector, LeadershipLost, LeaseTiming
from navarch.client.objects import (
    KubernetesObject,
    ObjectList,
    PartialObject,
    WatchEvent,
    drop_managed_fields,
    object_key,
    split_key,
)
from navarch.client.owners import (
    Claimant,
    claim,
    controller_of,
    is_controlled_by,
    owner_reference,
    plan_claims,
)
from navarch.client.queue import QueueShutDown, WorkQueue
from navarch.client.resource import PatchType, ResourceClient
from navarch.client.writes import Writes

__all__ = [
    "ApiConnectionError",
    "Cache",
    "Claimant",
    "Client",
    "ClientConfig",
    "Clock",
    "ConfigError",
    "Controller",
    "ControllerContext",
    "EventRecorder",
    "FakeClock",
    "Informer",
    "InformerFactory",
    "KubernetesObject",
    "LeaderElector",
    "LeadershipLost",
    "LeaseTiming",
    "Object",
    "ObjectList",
    "PartialObject",
    "PatchType",
    "QueueShutDown",
    "RealClock",
    "ResourceClient",
    "Scope",
    "WatchEvent",
    "WorkQueue",
    "Writes",
    "claim",
    "controller_of",
    "copy_object",
    "drop_managed_fields",
    "is_controlled_by",
    "object_key",
    "owner_reference",
    "plan_claims",
    "slow_start",
    "split_key",
    "together",
]
