"""Statistics from made-up cgroup trees: both versions, rates, the summary and its metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from navarch.node.eviction import ContainerUse, Disk, PodUse
from navarch.node.stats.cgroup import CgroupReader, CgroupUsage
from navarch.node.stats.exposition import Machine, cadvisor_metrics, resource_metrics
from navarch.node.stats.machine import Interface
from navarch.node.stats.snapshot import (
    ContainerLook,
    ContainerTarget,
    PodLook,
    PodTarget,
    Rates,
    Snapshot,
    usages_of,
)
from navarch.node.stats.summary import NodeIdentity, Storage, VolumeUse, summary
from navarch.node.volumes.plugin import VolumeUsage

V2 = {
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 4\n"
    "nr_throttled 2\nthrottled_usec 250000\n",
    "cpu.max": "20000 100000\n",
    "cpu.weight": "79\n",
    "memory.current": "1000\n",
    "memory.max": "4000\n",
    "memory.swap.current": "10\n",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 300\nfile 500\ninactive_file 400\npgfault 7\npgmajfault 1\n",
    "memory.events": "max 3\noom_kill 1\n",
    "memory.peak": "1200\n",
    "pids.current": "5\n",
    "io.stat": "8:0 rbytes=100 wbytes=200 rios=3 wios=4\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.50 avg300=0.10 total=2000000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}
V1 = {
    "cpuacct/cpuacct.usage": "1500000000\n",
    "cpuacct/cpuacct.stat": "user 100\nsystem 50\n",
    "cpu/cpu.stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 250000000\n",
    "cpu/cpu.cfs_quota_us": "20000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "cpu/cpu.shares": "2048\n",
    "memory/memory.usage_in_bytes": "1000\n",
    "memory/memory.limit_in_bytes": "4000\n",
    "memory/memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.stat": "total_rss 300\ntotal_cache 500\ntotal_inactive_file 400\n"
    "total_swap 10\ntotal_pgfault 7\ntotal_pgmajfault 1\n",
    "memory/memory.max_usage_in_bytes": "1200\n",
    "memory/memory.failcnt": "3\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "pids/pids.current": "5\n",
}


def tree(mount: Path, *, unified: bool) -> CgroupReader:
    if unified:
        (mount / "cgroup.controllers").write_text("cpu memory pids io\n")
    for name, text in (V2 if unified else V1).items():
        controller, _, file = name.rpartition("/")
        directory = mount / controller / "kubepods/pod1"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(text)
    return CgroupReader(mount)


@pytest.mark.parametrize("unified", [True, False])
def test_both_versions_of_cgroups_say_the_same(tmp_path: Path, unified: bool) -> None:
    reader = tree(tmp_path, unified=unified)
    assert reader.unified is unified
    usage = reader.read("/kubepods/pod1", full=True)
    assert usage.cpu_nanoseconds == 1_500_000_000
    assert (usage.memory, usage.working_set, usage.rss) == (1000, 600, 300)
    assert (usage.memory_limit, usage.swap, usage.swap_limit) == (4000, 10, None)
    assert (usage.page_faults, usage.major_page_faults, usage.processes) == (7, 1, 5)
    details = usage.details
    assert details["container_cpu_cfs_throttled_seconds_total"] == 0.25
    assert details["container_spec_cpu_quota"] / details["container_spec_cpu_period"] == 0.2
    assert details["container_spec_cpu_shares"] == pytest.approx(2048, rel=0.02)
    assert details["container_memory_max_usage_bytes"] == 1200
    assert details["container_oom_events_total"] == 1
    assert details["container_memory_failcnt"] == 3
    if unified:
        assert details["container_fs_writes_bytes_total"] == 202
        assert usage.pressure["cpu"]["some"].total == 2_000_000
    assert reader.read("/kubepods/pod1").details == {}


def test_a_cgroup_that_is_gone_has_used_nothing(tmp_path: Path) -> None:
    assert tree(tmp_path, unified=True).read("/none", full=True).cpu_nanoseconds is None
    assert tree(tmp_path, unified=True).children("/none") == []


def used(cpu: int) -> CgroupUsage:
    return CgroupUsage(cpu_nanoseconds=cpu)


def test_rates() -> None:
    rates = Rates(shortest=0.4, oldest=120)
    rates.update(0.0, {"a": used(0), "b": used(5)})
    assert rates.of("a") is None and not rates.are_known
    rates.update(0.1, {"a": used(10), "b": used(5)})
    assert rates.of("a") is None
    rates.update(2.0, {"a": used(400_000_000)})
    assert rates.of("a") == 200_000_000
    # Too soon for a new rate: the old one stands. What is gone is forgotten.
    rates.update(2.1, {"a": used(500_000_000)})
    assert (rates.of("a"), rates.of("b")) == (200_000_000, None)
    # A cgroup of the same name that was made anew counts from zero.
    rates.update(4.0, {"a": used(100)})
    assert rates.of("a") is None
    rates.update(5.0, {"a": used(200)})
    rates.update(500.0, {"a": used(300)})
    assert rates.of("a") is None


SPACE = VolumeUsage(500, 1000, 400, inodes_used=40, inodes=100, inodes_free=60)
USAGE = CgroupUsage(
    cpu_nanoseconds=1_500_000_000, memory=1000, working_set=600, rss=300, memory_limit=4000, swap=10
)
TARGET = PodTarget(
    "web", "default", "u1", 1_767_225_600_000_000_000, "/pods/u1", "s1", False,
    [ContainerTarget("c1", "main", 'im"age', 1_767_225_601_500_000_000)],
)  # fmt: skip
LOOK = PodLook(
    TARGET,
    USAGE,
    [ContainerLook(TARGET.containers[0], "/pods/u1/c1", USAGE)],
    [Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8)],
)
SNAPSHOT = Snapshot(
    datetime(2026, 1, 1, 0, 1, tzinfo=UTC), 10.0, USAGE, USAGE, [LOOK], {"/kubepods": USAGE}
)
STORAGE = Storage(
    datetime(2026, 1, 1, tzinfo=UTC),
    SPACE,
    SPACE,
    pods={"u1": PodUse({"main": ContainerUse(0, Disk(11, 1), Disk(22, 2))}, {"v": Disk(33, 3)})},
    volumes={"u1": [VolumeUse("v", VolumeUsage(33, 1000, 400), ("default", "claim"))]},
)
IDENTITY = NodeIdentity("n1", datetime(2025, 1, 1, tzinfo=UTC), (1000, 10))


def test_the_summary() -> None:
    rates = Rates()
    rates.update(9.0, dict.fromkeys(usages_of(SNAPSHOT), used(1_000_000_000)))
    rates.update(10.0, usages_of(SNAPSHOT))
    found = summary(IDENTITY, SNAPSHOT, rates, STORAGE)
    pod = found["pods"][0]
    assert pod["cpu"] == {
        "time": "2026-01-01T00:01:00Z",
        "usageCoreNanoSeconds": 1_500_000_000,
        "usageNanoCores": 500_000_000,
    }
    container = pod["containers"][0]
    assert container["startTime"] == "2026-01-01T00:00:01Z"
    assert container["memory"]["availableBytes"] == 3400
    assert (container["rootfs"]["usedBytes"], container["logs"]["usedBytes"]) == (11, 22)
    assert pod["ephemeral-storage"]["usedBytes"] == 66
    assert pod["volume"][0]["pvcRef"] == {"name": "claim", "namespace": "default"}
    assert (pod["network"]["rxBytes"], pod["network"]["txErrors"]) == (1, 7)
    assert found["node"]["rlimit"] == {"time": pod["cpu"]["time"], "maxpid": 1000, "curproc": 10}
    assert found["node"]["cpu"]["usageNanoCores"] == 500_000_000
    narrow = summary(IDENTITY, SNAPSHOT, Rates(), None)
    assert "usageNanoCores" not in narrow["pods"][0]["cpu"]
    assert narrow["pods"][0].keys().isdisjoint({"volume", "network", "ephemeral-storage"})


def test_resource_metrics() -> None:
    stamp = "1767225660000"
    lines = resource_metrics(SNAPSHOT).decode().splitlines()
    labels = 'container="main",namespace="default",pod="web"'
    for line in (
        f"node_cpu_usage_seconds_total 1.5 {stamp}",
        f"node_memory_working_set_bytes 600 {stamp}",
        f"container_cpu_usage_seconds_total{{{labels}}} 1.5 {stamp}",
        f"container_memory_working_set_bytes{{{labels}}} 600 {stamp}",
        f"container_start_time_seconds{{{labels}}} 1767225601.5",
        f'pod_cpu_usage_seconds_total{{namespace="default",pod="web"}} 1.5 {stamp}',
        f'pod_swap_usage_bytes{{namespace="default",pod="web"}} 10 {stamp}',
        "resource_scrape_error 0",
        "# TYPE container_cpu_usage_seconds_total counter",
    ):
        assert line in lines, line
    assert resource_metrics(None).decode().splitlines()[2] == "resource_scrape_error 1"


def test_cadvisor_metrics() -> None:
    machine = Machine(4, 1 << 33, 0)
    text = cadvisor_metrics(SNAPSHOT, machine, STORAGE).decode()
    lines = text.splitlines()
    mine = (
        'container="main",id="/pods/u1/c1",image="im\\"age",name="c1",namespace="default",pod="web"'
    )
    for line in (
        f'container_cpu_usage_seconds_total{{{mine},cpu="total"}} 1.5 1767225660000',
        f'container_fs_usage_bytes{{{mine},device="imagefs"}} 11 1767225660000',
        "machine_cpu_cores 4",
        "# TYPE container_memory_failures_total counter",
    ):
        assert line in lines, line
    assert any(
        line.startswith("container_network_transmit_errors_total") and " 7 " in line
        for line in lines
    )
    heads = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
