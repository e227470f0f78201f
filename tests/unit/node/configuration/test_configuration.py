"""KubeletConfiguration files: what is read, merged, refused, honoured and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from navarch.api.component_config import ConfigurationError
from navarch.cluster.components import options_from
from navarch.node.configuration.files import load
from navarch.node.configuration.options import NOTHING, effective, options_of_fields, remarks
from navarch.node.configuration.types import KubeletConfiguration
from navarch.node.settings import EVICTION_HARD, NodeOptions, parse_cpu_set

HEAD = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}


def written(directory: Path, text: str | dict[str, Any], name: str = "kubelet.yaml") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else yaml.safe_dump({**HEAD, **text}))
    return path


def options(path: Path, **given: Any) -> NodeOptions:
    values = {"kubeconfig": "k", "node_name": "n", "config": str(path), **given}
    result = options_from(values, NodeOptions)
    assert isinstance(result, NodeOptions)
    return result


FIELDS = [
    ({"maxPods": 40}, "max_pods", 40),
    ({"maxPods": 0}, "max_pods", 110),
    ({"clusterDNS": ["10.0.0.1"]}, "cluster_dns", ("10.0.0.1",)),
    ({"volumeStatsAggPeriod": "1m30s"}, "volume_stats_agg_period", 90.0),
    ({"volumeStatsAggPeriod": "0s"}, "volume_stats_agg_period", 60.0),
    ({"nodeStatusUpdateFrequency": "20s"}, "node_status_report_frequency", 20.0),
    ({"nodeStatusMaxImages": 0}, "node_status_max_images", 0),
    ({"healthzPort": 0}, "healthz_port", 0),
    ({"podPidsLimit": -5}, "pod_pids_limit", -1),
    ({"containerLogMaxSize": "1Mi"}, "container_log_max_size", 1 << 20),
    ({"evictionHard": {"memory.available": "0"}}, "eviction_hard", {"memory.available": "0"}),
    (
        {"evictionHard": {"pid.available": "5%"}, "mergeDefaultEvictionSettings": True},
        "eviction_hard",
        {**EVICTION_HARD, "pid.available": "5%"},
    ),
    ({}, "eviction_hard", EVICTION_HARD),
    (
        {
            "evictionSoft": {"memory.available": "1Gi"},
            "evictionSoftGracePeriod": {"memory.available": "1m"},
        },
        "eviction_soft_grace_period",
        {"memory.available": 60.0},
    ),
    ({"maxParallelImagePulls": 4}, "serialize_image_pulls", False),
    ({}, "serialize_image_pulls", True),
    ({"authentication": {"anonymous": {"enabled": True}}}, "anonymous_auth", True),
    ({"authorization": {"mode": "AlwaysAllow"}}, "authorization_mode", "AlwaysAllow"),
    ({"memorySwap": {"swapBehavior": "LimitedSwap"}}, "memory_swap_behavior", "LimitedSwap"),
    ({"resolvConf": ""}, "resolv_conf", Path("/dev/null")),
    ({"failSwapOn": True}, "fail_swap_on", True),
    ({}, "fail_swap_on", False),
    ({"featureGates": {"MemoryQoS": True}}, "feature_gates", {"MemoryQoS": True}),
    (
        {"shutdownGracePeriodByPodPriority": [{"priority": 100, "shutdownGracePeriodSeconds": 5}]},
        "shutdown_grace_period_by_pod_priority",
        {100: 5.0},
    ),
    ({"enforceNodeAllocatable": []}, "enforce_node_allocatable", ()),
]


@pytest.mark.parametrize(("document", "option", "value"), FIELDS)
def test_fields_become_options(
    tmp_path: Path, document: dict[str, Any], option: str, value: Any
) -> None:
    assert getattr(options(written(tmp_path, document)), option) == value


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"maxPods": 40, "port": 1234, "featureGates": {"MemoryQoS": True}})
    found = options(path, max_pods=110, feature_gates={"EventedPLEG": True})
    assert (found.max_pods, found.port) == (110, 1234)
    assert found.feature_gates == {"MemoryQoS": True, "EventedPLEG": True}


def test_files_are_named_relative_to_the_configuration(tmp_path: Path) -> None:
    document = {"staticPodPath": "manifests", "authentication": {"x509": {"clientCAFile": "/ca"}}}
    found = options(written(tmp_path, document))
    assert found.manifest_directory == tmp_path / "manifests"
    assert found.client_ca == Path("/ca")


def test_drop_ins_are_merged_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"maxPods": 40, "kubeReserved": {"cpu": "1"}, "port": 1234})
    drop_ins = tmp_path / "drop"
    written(drop_ins, {"maxPods": 60, "port": None}, "20-b.conf")
    written(drop_ins, {"maxPods": 50, "kubeReserved": {"memory": "1Gi"}}, "10/a.conf")
    written(drop_ins, "not read", "README")
    found = options(path, config_dir=str(drop_ins))
    assert (found.max_pods, found.port) == (60, 10250)
    assert found.kube_reserved == {"cpu": "1", "memory": "1Gi"}
    assert load(path, drop_ins)[1] == [
        f"{drop_ins}/README is no drop-in file: only *.conf are read"
    ]


def test_what_strictness_finds_is_a_warning(tmp_path: Path) -> None:
    head = yaml.safe_dump(HEAD)
    path = written(
        tmp_path,
        f"{head}maxPods: 1\nmaxPods: 2\nunheardOf: 1\nauthentication: {{webhook: {{odd: 1}}}}\n",
    )
    configuration, warnings = load(path, None)
    assert configuration.maxPods == 2
    assert warnings == [
        f'{path}: strict decoding error: line 4: key "maxPods" already set in map, unknown field '
        '"unheardOf", unknown field "authentication.webhook.odd"; it is read without these'
    ]


INVALID = [
    ({"maxPods": -1}, "maxPods (--max-pods) -1 must not be a negative number"),
    ({"port": 70000}, "port (--port) 70000 must be between 1 and 65535, inclusive"),
    (
        {"imageGCLowThresholdPercent": 90},
        "imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than "
        "imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
    ),
    (
        {"shutdownGracePeriodCriticalPods": "10s"},
        "shutdownGracePeriodCriticalPods 10s must be <= shutdownGracePeriod 0s",
    ),
    (
        {"shutdownGracePeriod": "500ms"},
        "shutdownGracePeriod 500ms must be either zero or otherwise >= 1 sec",
    ),
    (
        {"enforceNodeAllocatable": ["pods", "kube-reserved"]},
        'kubeReservedCgroup (--kube-reserved-cgroup) must be specified when "kube-reserved" or '
        '"kube-reserved-compressible" included in enforceNodeAllocatable '
        "(--enforce-node-allocatable)",
    ),
    (
        {"hairpinMode": "odd"},
        'option "odd" specified for hairpinMode (--hairpin-mode). Valid options are "none", '
        '"hairpin-veth" or "promiscuous-bridge"',
    ),
    (
        {"memorySwap": {"swapBehavior": "All"}},
        'memorySwap.swapBehavior "All" must be one of: "", "LimitedSwap" or "NoSwap"',
    ),
    ({"containerLogMaxFiles": 1}, "containerLogMaxFiles must be greater than 1"),
    ({"podLogsDir": "logs"}, 'pod logs path "logs" must be absolute path'),
    ({"podLogsDir": "/var/../x"}, 'pod logs path "/var/../x" must be normalized'),
    (
        {"crashLoopBackOff": {"maxContainerRestartPeriod": "301s"}},
        "CrashLoopBackOff.MaxContainerRestartPeriod (got: 301 seconds) must be set between 1s and "
        "300s",
    ),
    ({"featureGates": {"Unheard": True}}, "unrecognized feature gate: Unheard"),
    (
        {"featureGates": {"KubeletFineGrainedAuthz": False}},
        "cannot set feature gate KubeletFineGrainedAuthz to false, feature is locked to true",
    ),
    ({"evictionSoft": {"disk": "1"}}, "unsupported eviction signal disk"),
    (
        {"evictionSoft": {"memory.available": "1Gi"}},
        "grace period must be specified for the soft eviction threshold memory.available",
    ),
    ({"kubeReserved": {"gpu": "1"}}, 'cannot reserve "gpu" resource'),
    (
        {"runOnce": True},
        "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set",
    ),
    ({"registerWithTaints": [{"key": "a", "effect": "Never"}]}, "invalid taint: {a  Never <nil>}"),
]


@pytest.mark.parametrize(("document", "message"), INVALID)
def test_what_cannot_be_is_refused(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(written(tmp_path, document), None)
    assert message in str(raised.value)


UNREADABLE = [
    ("", 'kubelet config file "{path}" was empty'),
    ("[1]", "Object 'Kind' is missing"),
    ("kind: KubeletConfiguration", "Object 'apiVersion' is missing"),
    ({"kind": "Pod"}, 'no kind "Pod" is registered'),
    ({"apiVersion": "kubelet.config.k8s.io/v1"}, 'for version "kubelet.config.k8s.io/v1"'),
    (
        {"maxPods": "many"},
        "json: cannot unmarshal string into Go struct field KubeletConfiguration.maxPods of type "
        "int32",
    ),
    ({"syncFrequency": "soon"}, 'time: invalid duration "soon"'),
    ({"kubeReserved": {"cpu": 1}}, "cannot unmarshal number into Go struct field"),
    ("a: [", "yaml: "),
]


@pytest.mark.parametrize(("document", "message"), UNREADABLE)
def test_what_cannot_be_read(tmp_path: Path, document: Any, message: str) -> None:
    path = written(tmp_path, document)
    with pytest.raises(ConfigurationError) as raised:
        load(path, None)
    assert str(raised.value).startswith(f"failed to load kubelet config file, path: {path}")
    assert message.format(path=path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        load(tmp_path / "none", None)
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        load(None, tmp_path / "none")


def test_configz_shows_what_is_in_force(tmp_path: Path) -> None:
    path = written(tmp_path, {"maxPods": 40, "cpuManagerPolicy": "static", "syncFrequency": "5s"})
    shown = effective(options(path, max_pods=30), load(path, None)[0])
    assert (shown["maxPods"], shown["syncFrequency"]) == (30, "5s")
    assert shown["cpuManagerPolicy"] == "static"
    assert shown["authentication"]["webhook"] == {"enabled": True, "cacheTTL": "2m0s"}
    assert shown["containerLogMaxSize"] == "10Mi"
    secret = written(tmp_path, {"staticPodURLHeader": {"Authorization": ["Bearer secret"]}})
    headers = effective(options(secret), load(secret, None)[0])["staticPodURLHeader"]
    assert headers == {"Authorization": ["<masked>"]}
    # What is shown is itself a configuration that says the same.
    again = written(tmp_path, {name: value for name, value in shown.items() if name not in HEAD})
    assert effective(options(again), load(again, None)[0]) == shown


def test_each_field_is_honoured_or_it_is_known_why_not() -> None:
    honoured = {path.partition(".")[0] for path in options_of_fields()}
    about_the_file = {"kind", "apiVersion", "mergeDefaultEvictionSettings"}
    known = honoured | NOTHING.keys() | about_the_file | {"runOnce"}  # which is refused
    assert known == {*KubeletConfiguration.__struct_fields__}


def test_what_is_not_honoured_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, {"maxPods": 5, "cpuManagerPolicy": "static", "maxOpenFiles": 5})
    assert list(remarks(load(path, None)[0])) == [
        "KubeletConfiguration: cpuManagerPolicy is not honoured: all containers share all CPUs",
        "KubeletConfiguration: maxOpenFiles is not honoured: the agent opens as many files as the "
        "process may that started it",
    ]
    assert list(remarks(KubeletConfiguration())) == []


def test_every_option_of_a_field_exists() -> None:
    known = set(NodeOptions.__dataclass_fields__)
    assert set(options_of_fields().values()) <= known


def test_every_option_is_for_something() -> None:
    """An option that nothing reads would be a promise nobody keeps."""
    import navarch.node

    root = Path(navarch.node.__file__).parent
    files = [each for each in root.rglob("*.py") if each.name != "settings.py"]
    text = "".join(each.read_text() for each in files)
    names = NodeOptions.__dataclass_fields__
    unread = [name for name in names if not re.search(rf"options\.{name}\b", text)]
    # What is kept back is summed up where the options are.
    summed = {"kube_reserved", "system_reserved", "reserved_system_cpus"}
    collection = {name for name in unread if name.startswith(("maximum_dead", "minimum_container"))}
    assert set(unread) <= summed | collection


@pytest.mark.parametrize(
    ("text", "expected"), [("", set()), ("0", {0}), ("0-2,7", {0, 1, 2, 7}), ("1,3", {1, 3})]
)
def test_sets_of_processors(text: str, expected: set[int]) -> None:
    assert parse_cpu_set(text) == expected
    for wrong in ("a", "3-1", "1-", "-2"):
        with pytest.raises(ValueError, match="unable to parse"):
            parse_cpu_set(wrong)


def test_processors_of_the_system_count_as_reserved() -> None:
    options = NodeOptions(
        Path("k"), "n", reserved_system_cpus="0-1", kube_reserved={"cpu": "3", "memory": "1Gi"}
    )
    assert options.reserved == ({"memory": "1Gi"}, {"cpu": "2"})
