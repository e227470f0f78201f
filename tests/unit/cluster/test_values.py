"""Small decisions of the cluster's parts, as tables."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from navarch.cluster import building, components, composition, containerd, doctor, images, status
from navarch.cluster import logs as cluster_logs
from navarch.cluster.doctor import Level
from navarch.cluster.namespaces import usable_resolver
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.cluster.setup import Package
from navarch.cluster.status import MachineStatus

SETTINGS = containerd.RuntimeSettings(
    root=Path("/state/containerd"),
    cni_conf=Path("/state/cni"),
    cni_bin="/usr/lib/cni",
    pause_image="navarch.local/pause:1",
    snapshotter="overlayfs",
    restrict_oom_score=True,
)


def test_plugins_are_where_any_distribution_puts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = (str(tmp_path / "none"), str(tmp_path))
    monkeypatch.setattr(containerd, "CNI_DIRECTORIES", places)
    assert not containerd.has_plugin("bandwidth")  # before `navarch setup` there are none at all
    (tmp_path / "bandwidth").touch()
    assert containerd.has_plugin("bandwidth")


def test_containerd_is_told_where_everything_is() -> None:
    config = tomllib.loads(containerd.config(SETTINGS))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["version"] == 2
    assert (config["root"], config["state"]) == ("/state/containerd", "/run/containerd")
    assert cri["sandbox_image"] == "navarch.local/pause:1"
    assert cri["stream_server_address"] == "127.0.0.1"
    assert cri["restrict_oom_score_adj"] is True
    assert cri["cni"] == {"bin_dir": "/usr/lib/cni", "conf_dir": "/state/cni", "max_conf_num": 1}
    assert cri["containerd"]["snapshotter"] == "overlayfs"


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("me/app", "docker.io/me/app:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.example/pause:3.10", "registry.example/pause:3.10"),
        ("app@sha256:" + 64 * "0", "docker.io/library/app@sha256:" + 64 * "0"),
    ],
)
def test_image_names(short: str, full: str) -> None:
    assert images.normalized(short) == full


def test_a_name_that_is_none() -> None:
    with pytest.raises(ClusterError, match="couldn't parse image name"):
        images.normalized("app@sha256:00")


def test_base_images_of_a_dockerfile() -> None:
    text = """\
        # FROM comment
        ARG VERSION=1
        FROM --platform=linux/amd64 python:3.11 AS build
        FROM build as second
        FROM scratch
        FROM app:$VERSION
        FROM ${REGISTRY:-r.example}/tool:${VERSION}
        FROM $UNKNOWN
        from localhost/base:1
        FROM python:3.11
        COPY --from=build /a /b
        COPY --from=0 --chown=1 /a /b
        COPY --from=tools:2 /a /b
    """
    assert building.base_images(text) == [
        "docker.io/library/python:3.11",
        "docker.io/library/app:1",
        "r.example/tool:1",
        "localhost/base:1",
        "docker.io/library/tools:2",
    ]
    assert "docker.io/library/app:9" in building.base_images(text, ["VERSION=9"])


def test_build_arguments() -> None:
    request = building.BuildRequest(
        Path("/src"), "app", arguments=("A=1",), target="final", use_cache=False
    )
    words = building.build_arguments(
        request, Path("/src/Dockerfile"), "docker.io/library/app:latest"
    )
    assert words[0] == "build"
    assert words[-1] == "/src"
    assert "--no-cache" in words
    assert words[words.index("--build-arg") + 1] == "A=1"
    assert words[words.index("--target") + 1] == "final"
    for arguments, cached in (((), True), (("A=1",), False)):
        request = building.BuildRequest(Path("/src"), "app", arguments=arguments)
        words = building.build_arguments(request, Path("/src/Dockerfile"), "app")
        assert ("--layers" in words) == cached, arguments


def test_a_directory_without_dockerfile(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no Dockerfile"):
        building.find_dockerfile(building.BuildRequest(tmp_path, "app"))
    (tmp_path / "Own").write_text("FROM scratch\n")
    request = building.BuildRequest(tmp_path, "app", Path("Own"))
    assert building.find_dockerfile(request) == tmp_path / "Own"


def test_what_a_killed_build_has_left_is_removed(tmp_path: Path) -> None:
    for name in (f"oci-{os.getpid()}", f"oci-{1 << 23}", "layers"):
        (tmp_path / name).mkdir()
    building.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["layers", f"oci-{os.getpid()}"]
    with pytest.raises(ClusterError, match="absent does not exist"):
        building.find_dockerfile(building.BuildRequest(tmp_path, "app", Path("absent")))
    with pytest.raises(ClusterError, match="not a directory"):
        building.find_dockerfile(building.BuildRequest(tmp_path / "Own", "app"))


@pytest.mark.parametrize(
    ("texts", "usable"),
    [
        pytest.param(["nameserver 10.0.0.1\n"], "nameserver 10.0.0.1\n", id="plain"),
        pytest.param(
            ["nameserver 127.0.0.53\noptions edns0\n", "search lan\nnameserver 10.0.0.1\n"],
            "search lan\nnameserver 10.0.0.1\n",
            id="systemd-resolved's stub",
        ),
        pytest.param(
            ["nameserver ::1\nnameserver 10.0.0.2\n"], "nameserver 10.0.0.2\n", id="one of two"
        ),
        pytest.param(["search lan\nnameserver 127.0.0.1\n"], "search lan\n", id="loopback only"),
        pytest.param([], "", id="no file"),
    ],
)
def test_resolvers_a_node_can_use(texts: list[str], usable: str) -> None:
    assert usable_resolver(texts) == usable


GOOD = MachineStatus("dev", "Running", "Running", "Running", "Configured")


@pytest.mark.parametrize(
    ("machines", "code"),
    [
        pytest.param([GOOD], 0, id="all is well"),
        pytest.param([replace(GOOD, host="Stopped")], 1, id="host"),
        pytest.param([replace(GOOD, apiserver="Error")], 2, id="API server"),
        pytest.param([replace(GOOD, kubelet="Stopped")], 2, id="kubelet"),
        pytest.param([replace(GOOD, kubeconfig="Misconfigured")], 4, id="kubeconfig"),
        pytest.param(
            [MachineStatus("dev", "Stopped", "Stopped", "Stopped", "Stopped")], 7, id="stopped"
        ),
        pytest.param([replace(GOOD, kubelet="Irrelevant")], 0, id="the API alone"),
        pytest.param(
            [GOOD, MachineStatus("w", "Running", "Running", "Irrelevant", "Irrelevant", True)],
            0,
            id="a worker",
        ),
        pytest.param(
            [GOOD, MachineStatus("w", "Running", "Stopped", "Irrelevant", "Irrelevant", True)],
            2,
            id="a sick worker",
        ),
    ],
)
def test_exit_codes(machines: list[MachineStatus], code: int) -> None:
    assert status.exit_code(machines) == code


def test_status_text_is_minikubes() -> None:
    assert GOOD.text() == (
        "dev\ntype: Control Plane\nhost: Running\nkubelet: Running\n"
        "apiserver: Running\nkubeconfig: Configured\n"
    )
    worker = MachineStatus("w", "Running", "Running", "Irrelevant", "Irrelevant", True)
    assert worker.text() == "w\ntype: Worker\nhost: Running\nkubelet: Running\n"
    assert worker.data()["Worker"] is True


def test_a_profile_that_never_ran_is_stopped(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "dev")
    paths.create()
    found = status.status(Profile("dev", nodes=2), paths)
    assert [machine.host for machine in found] == ["Stopped", "Stopped"]
    assert status.exit_code(found) == 7


V1 = {"cgroup:/sys/fs/cgroup/memory", "cgroup2:/sys/fs/cgroup/unified"}
TABLE = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" + "".join(
    f"{name}\t1\t1\t1\n" for name in ("cpu", "cpuset", "memory", "pids")
)


@pytest.mark.parametrize(
    ("mounts", "table", "unified", "level"),
    [
        pytest.param(set(), TABLE, "", Level.BAD, id="not mounted"),
        pytest.param(V1, TABLE, "", Level.GOOD, id="version 1 or hybrid"),
        pytest.param(
            V1, TABLE.replace("memory\t1\t1\t1", "memory\t0\t1\t0"), "", Level.BAD, id="no memory"
        ),
        pytest.param({"cgroup2:/sys/fs/cgroup"}, "", "cpu cpuset io memory pids", Level.GOOD),
        pytest.param({"cgroup2:/sys/fs/cgroup"}, "", "cpu io", Level.BAD, id="v2 without memory"),
    ],
)
def test_doctor_on_cgroups(mounts: set[str], table: str, unified: str, level: Level) -> None:
    found = doctor.judge_cgroups(mounts, table, unified)
    assert found.level is level
    assert bool(found.mend) is (level is Level.BAD)


@pytest.mark.parametrize(
    ("free", "level"), [(0, Level.BAD), (2 << 30, Level.NOTE), (50 << 30, Level.GOOD)]
)
def test_doctor_on_disks(free: int, level: Level) -> None:
    assert doctor.judge_disk("/var", free).level is level


@pytest.mark.parametrize(
    ("chains", "level"),
    [
        ("", Level.GOOD),
        ("table ip filter {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;",
         Level.NOTE),
        ("table ip filter {\n chain INPUT {\n type filter hook input priority 0; policy drop;",
         Level.GOOD),
    ],
)  # fmt: skip
def test_doctor_on_firewalls(chains: str, level: Level) -> None:
    assert doctor.judge_firewall(chains).level is level


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("containerd github.com/containerd/containerd 1.6.20 ds1", (1, 6, 20)),
        ("runc version 1.1.5+ds1", (1, 1, 5)),
        ("nftables v1.0.6 (Lester)", (1, 0, 6)),
        ("nothing", ()),
    ],
)
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert doctor.version_numbers(text) == numbers


def test_packages_are_found_by_what_they_bring(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert Package("a", "x").is_there(lambda _: "/bin/x")
    assert not Package("a", "x").is_there(lambda _: None)
    assert Package("a", files=(str(tmp_path / "there"),)).is_there()
    assert not Package("a", files=(str(tmp_path / "not"),)).is_there()


@dataclass(frozen=True)
class Sample:
    kubeconfig: str
    node_ips: tuple[str, ...] = ()
    labels: dict[str, str] | None = None
    root: Path = Path("/x")
    port: int = 1
    secure: bool = True
    limits: tuple[int, int] = (1, 2)


def test_options_from_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    row = components.Component("module", "Sample", "a sample")
    monkeypatch.setitem(components.COMPONENTS, "sample", row)
    parser = components.parser_for("sample", Sample)
    words = "--kubeconfig k --node-ips 1 --node-ips 2 --labels a=b --labels c= --root /r --port 7"
    values = vars(parser.parse_args([*words.split(), "--no-secure"]))
    values.pop("verbose")
    assert components.options_from(components.values_from_flags(values, Sample), Sample) == Sample(
        "k", ("1", "2"), {"a": "b", "c": ""}, Path("/r"), 7, False
    )
    with pytest.raises(SystemExit):
        parser.parse_args([])


@pytest.mark.parametrize(
    "values", [{"kubeconfig": "k", "unknown": 1}, {"kubeconfig": "k", "port": "x"}, {}]
)
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        components.options_from(values, Sample)


def test_a_process_is_replaced_when_its_options_or_certificates_change(tmp_path: Path) -> None:
    one, two = tmp_path / "a.json", tmp_path / "a.crt"
    one.write_text("1")
    first = composition.digest([one, two])
    assert composition.digest([two, one]) == first
    two.write_text("certificate")
    second = composition.digest([one, two])
    one.write_text("2")
    assert len({first, second, composition.digest([one, two])}) == 3


def test_logs_are_chosen_by_name(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.create()
    for name in ("apiserver", "node-a", "node-b"):
        (paths.logs / f"{name}.log").write_text("1\n2\n3\n")
    chosen = cluster_logs.files(paths, "node")
    assert [file.stem for file in chosen] == ["node-a", "node-b"]
    assert list(cluster_logs.last(chosen[:1], 2)) == ["", "==> node-a <==", "2", "3"]
    for node in ("a", "b"):
        access = paths.root / "nodes" / node / "gateway" / "gateway-access.log"
        access.parent.mkdir(parents=True)
        access.write_text("GET\n")
    told = [*cluster_logs.last(cluster_logs.files(paths, "gateway-access"), 1)]
    assert told == ["", "==> gateway-access-a <==", "GET", "", "==> gateway-access-b <==", "GET"]
    with pytest.raises(ClusterError, match="no log"):
        cluster_logs.files(paths, "etcd")


def test_docker_s_manifests_become_the_builder_s(tmp_path: Path) -> None:
    """buildah passes over an entry of an image directory that is not of OCI's own kinds."""
    (tmp_path / building.BLOBS).mkdir(parents=True)

    def store(value: dict[str, Any]) -> str:
        content = json.dumps(value).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        building.blob_path(tmp_path, digest).write_bytes(content)
        return digest

    def read(digest: str) -> dict[str, Any]:
        return dict(json.loads(building.blob_path(tmp_path, digest).read_bytes()))

    docker = "application/vnd.docker.distribution.manifest"
    layer = "application/vnd.docker.image.rootfs.diff.tar"
    plain = {
        "mediaType": f"{docker}.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "c"},
        "layers": [{"mediaType": layer, "digest": "1"}, {"mediaType": f"{layer}.gzip"}],
    }
    manifests: list[dict[str, Any]] = [
        {"digest": store(plain), "platform": {"os": "linux"}},
        {"digest": "sha256:00"},
    ]
    entry = building.descriptor(
        tmp_path, store({"mediaType": f"{docker}.list.v2+json", "manifests": manifests})
    )
    assert entry["mediaType"] == "application/vnd.oci.image.index.v1+json"
    (own,) = read(entry["digest"])["manifests"]
    assert own["platform"] == {"os": "linux"}
    manifest = read(own["digest"])
    kinds = [each["mediaType"] for each in (own, manifest, manifest["config"], *manifest["layers"])]
    assert [kind.removeprefix("application/vnd.oci.image.") for kind in kinds] == [
        "manifest.v1+json", "manifest.v1+json", "config.v1+json", "layer.v1.tar",
        "layer.v1.tar+gzip",
    ]  # fmt: skip
    # What is OCI's already stays as it is, under its own digest.
    assert building.descriptor(tmp_path, own["digest"])["digest"] == own["digest"]
