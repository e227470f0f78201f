"""Putting one question to both, and comparing the answers."""

from __future__ import annotations

from navarch.api.types.core_v1 import Pod
from navarch.scheduler.cycle import Choice, Failure

from .product import Product
from .reference.scheduler import Reference, Refused
from .reference.world import World


class Pair:
    """Navarch's scheduler and the reference, told of the same world."""

    def __init__(self) -> None:
        self.product = Product()
        self.reference = Reference()

    def decide(self, world: World, pod: Pod, *, pods_first: bool = False) -> Choice | Failure:
        """What both say of the pod. Fails when they do not say the same."""
        self.product.follow(world, pods_first=pods_first)
        found = self.product.decide(pod)
        expected = self.reference.decide(world, pod)
        who = pod.metadata.name
        if isinstance(expected, Refused):
            assert isinstance(found, Failure), f"{who}: {found}, not {expected}"
            _same_failure(who, found, expected)
        else:
            assert isinstance(found, Choice), f"{who}: {found}, not {expected}"
            assert found.node in expected.best, f"{who}: {found}, not {expected}"
            if expected.chosen:
                assert found.node == expected.chosen, f"{who}: {found}, not {expected}"
        return found


def _same_failure(who: str, found: Failure, expected: Refused) -> None:
    if expected.nominated:
        victims = {victim.uid for victim in found.victims}
        assert found.nominated in expected.nominated, f"{who}: {found}, not {expected}"
        assert victims == expected.nominated[found.nominated], f"{who}: {victims}, not {expected}"
    else:
        nominated = "" if expected.is_cleared else None
        assert found.nominated == nominated, f"{who}: {found}, not {expected}"
        assert not found.victims
        assert found.message == expected.message, who
    assert found.plugins == expected.plugins, f"{who}: {found}, not {expected}"
