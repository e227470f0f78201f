"""Clusters drawn at random, small enough that things meet in them."""

from __future__ import annotations

from hypothesis import strategies as st

from navarch.api.objects import from_object
from navarch.api.types.apps_v1 import ReplicaSet, StatefulSet
from navarch.api.types.core_v1 import ReplicationController

from .reference.world import World
from .strategies import Draw, budgets, namespaces, nodes, pods, services
from .volume_strategies import with_volumes


@st.composite
def worlds(draw: Draw, focus: str, most: int = 5) -> World:
    """A cluster of a few nodes, with pods on them and at least one that waits."""
    count = draw(st.integers(1, most))
    names = [f"n{number}" for number in range(count)]
    world = World(nodes=[draw(nodes(name, focus)) for name in names], namespaces=draw(namespaces()))
    # Of a node that is gone, pods may be known for a while.
    places = [*names, *names, *names, *names, "gone"]
    placed = draw(st.integers(3 if focus == "preemption" else 0, 6))
    waiting = draw(st.integers(1, 3 if focus == "preemption" else 2))
    world.pods = [draw(pods(number, focus, places)) for number in range(placed)]
    world.pods += [draw(pods(placed + number, focus)) for number in range(waiting)]
    if focus == "spread":
        world.services = [draw(services(n)) for n in range(draw(st.integers(0, 2)))]
        meta = {"name": "owner", "namespace": "one", "uid": "owner"}
        selector = {"selector": {"matchLabels": {"app": "x"}}}
        template = {"metadata": meta, "spec": selector}
        if draw(st.booleans()):
            world.replica_sets = [from_object(ReplicaSet, template)]
            world.stateful_sets = [from_object(StatefulSet, template)]
            plain = {"metadata": meta, "spec": {"selector": {"app": "x"}}}
            world.controllers = [from_object(ReplicationController, plain)]
    if focus == "preemption":
        world.budgets = [draw(budgets(n)) for n in range(draw(st.integers(0, 2)))]
    if focus == "volumes":
        draw(with_volumes(world))
    return world
