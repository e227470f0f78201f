"""The scheduler's figures: their names, and that they count what happens."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from navarch.api.types.core_v1 import Node
from navarch.scheduler.metrics import Histogram
from navarch.scheduler.scheduler import Scheduler, Settings

from .conftest import node, pod
from .test_scheduler import FakeWorld


def text_of(scheduler: Scheduler) -> list[str]:
    registry = CollectorRegistry()
    registry.register(scheduler.figures)
    return generate_latest(registry).decode().splitlines()


def test_bounds_are_part_of_their_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.sum == 12.0


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(1, 0.0)


async def test_what_is_counted(world: FakeWorld) -> None:
    scheduler = Scheduler(world.context(), Settings(), random.Random(1))
    task = asyncio.create_task(scheduler.run())
    world.informers[Node].set("n", node("n", cpu="1"))
    world.put(pod("fits", requests={"cpu": "1"}).pod)
    world.put(pod("waits", requests={"cpu": "1"}).pod)
    world.put(pod("gated", schedulingGates=[{"name": "g"}]).pod)
    world.show()
    await world.clock.advance(0.0)
    world.show()
    lines = text_of(scheduler)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    profile = 'profile="default-scheduler"'
    for wanted in (
        f'scheduler_schedule_attempts_total{{{profile},result="scheduled"}} 1.0',
        f'scheduler_schedule_attempts_total{{{profile},result="unschedulable"}} 1.0',
        f'scheduler_scheduling_attempt_duration_seconds_count{{{profile},result="scheduled"}} 1.0',
        "scheduler_scheduling_algorithm_duration_seconds_count 2.0",
        'scheduler_pod_scheduling_sli_duration_seconds_count{attempts="1"} 1.0',
        "scheduler_pod_scheduling_attempts_count 1.0",
        'scheduler_queue_incoming_pods_total{event="PodAdd",queue="active"} 2.0',
        'scheduler_pending_pods{queue="gated"} 1.0',
        'scheduler_pending_pods{queue="unschedulable"} 1.0',
        'scheduler_pending_pods{queue="active"} 0.0',
        f'scheduler_unschedulable_pods{{plugin="NodeResourcesFit",{profile}}} 1.0',
        'scheduler_framework_extension_point_duration_seconds_count{extension_point="Filter",'
        f'{profile},status="Success"}} 1.0',
        'scheduler_framework_extension_point_duration_seconds_count{extension_point="PostFilter",'
        f'{profile},status="Unschedulable"}} 1.0',
        "scheduler_preemption_attempts_total 1.0",
        'scheduler_cache_size{type="nodes"} 1.0',
    ):
        assert wanted in [_sorted(line) for line in lines], "\n".join(lines)


def _sorted(line: str) -> str:
    """With its labels in alphabetical order."""
    name, brace, rest = line.partition("{")
    if not brace:
        return line
    labels, _, value = rest.rpartition("}")
    return f"{name}{{{','.join(sorted(labels.split(',')))}}}{value}"
