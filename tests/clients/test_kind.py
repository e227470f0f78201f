"""Suites written for pytest-kind and pytest-kubernetes, run as they are, and the command behind
them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from navarch.testing import kind_config
from navarch.testing.kind import install

pytest_plugins = ["pytester"]

PYTEST_KIND = """
def test_cluster(kind_cluster):
    from pykube import ConfigMap, Node, Pod
    kind_cluster.kubectl("create", "configmap", "hello", "--from-literal=a=b")
    (found,) = [each for each in ConfigMap.objects(kind_cluster.api) if each.name == "hello"]
    assert found.obj["data"] == {"a": "b"}
    assert [node.name for node in Node.objects(kind_cluster.api)] == ["pytest-kind-control-plane"]
    kind_cluster.kubectl("run", "web", "--image=registry.example/web")
    kind_cluster.kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=120s")
    kind_cluster.load_docker_image("registry.example/web")
    found = Pod.objects(kind_cluster.api).get_by_name("web")
    found.labels["tier"] = "front"
    found.update()
    assert Pod.objects(kind_cluster.api).filter(selector={"tier": "front"})
"""

PYTEST_KUBERNETES = """
import pytest

@pytest.mark.k8s(cluster_name="suite")
def test_cluster(k8s):
    k8s.create()
    k8s.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    k8s.load_image("registry.example/web")
    k8s.kubectl(["run", "web", "--image=registry.example/web", "-n", "shop"], as_dict=False)
    k8s.wait("pod/web", "condition=Ready", namespace="shop", timeout=60)
    assert k8s.kubectl(["get", "pod", "web", "-n", "shop"])["status"]["phase"] == "Running"
    assert k8s.version() >= (1, 36)
    assert k8s.ready()
"""

CONFIG = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
- role: worker
  labels: {tier: front}
- role: worker
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No cluster of another test, no kubeconfig of the user."""
    monkeypatch.setenv("NAVARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NAVARCH_KIND", "memory")
    monkeypatch.delenv("KIND_CLUSTER_NAME", raising=False)
    yield tmp_path
    kind = install(tmp_path / "bin")
    subprocess.run([kind, "delete", "clusters", "--all"], check=True, capture_output=True)


class Kind:
    def __init__(self, directory: Path) -> None:
        self.program = install(directory / "bin")

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments], input=stdin, capture_output=True, text=True, timeout=90
        )


@pytest.fixture
def kind(home: Path) -> Kind:
    return Kind(home)


def kubectl(*arguments: str) -> str:
    command = ["kubectl", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_suite_for_pytest_kind(home: Path, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PYTEST_KIND)
    pytester.runpytest_subprocess("--navarch-kind=memory").assert_outcomes(passed=1)
    assert not list((home / "home").glob("*"))


def test_a_suite_for_pytest_kubernetes(home: Path, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PYTEST_KUBERNETES)
    result = pytester.runpytest_subprocess("--navarch-kind=memory", "--k8s-provider=kind")
    result.assert_outcomes(passed=1)
    assert not list((home / "home").glob("*"))


def test_pytest_kubernetes_in_process(home: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from navarch.testing.pytest_kubernetes import k8s_manager")
    pytester.makepyfile(PYTEST_KUBERNETES)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_pytest_kubernetes_with_an_external_cluster(home: Path, pytester: pytest.Pytester) -> None:
    kind = Kind(home)
    kind("create", "cluster", "--kubeconfig", str(home / "other"))
    pytester.makepyfile(PYTEST_KUBERNETES)
    result = pytester.runpytest_subprocess(
        "--k8s-provider=external", f"--k8s-kubeconfig={home / 'other'}"
    )
    result.assert_outcomes(passed=1)
    assert kind("get", "clusters") == "kind\n"


def test_the_life_of_a_cluster(home: Path, kind: Kind) -> None:
    nothing = kind.run("get", "clusters")
    assert (nothing.stdout, nothing.stderr) == ("", "No kind clusters found.\n")
    (home / "kind.yaml").write_text(CONFIG)
    kind("create", "cluster", "--name=shop", f"--config={home / 'kind.yaml'}", "--wait=60s")
    assert kind("get", "clusters") == "shop\n"
    assert kubectl("config", "current-context") == "kind-shop\n"
    names = ["shop-control-plane", "shop-worker", "shop-worker2"]
    assert kind("get", "nodes", "--name", "shop").split() == names
    assert kubectl("get", "nodes", "-l", "tier=front", "-o", "name") == "node/shop-worker\n"
    roles = kubectl("get", "nodes", "--no-headers", "-l", "node-role.kubernetes.io/control-plane")
    assert "control-plane" in roles.split()
    again = kind.run("create", "cluster", "--name=shop")
    assert again.returncode == 1
    assert 'already exist for a cluster with the name "shop"' in again.stderr
    (home / "printed").write_text(kind("get", "kubeconfig", "--name=shop"))
    assert "shop-worker" in kubectl("--kubeconfig", str(home / "printed"), "get", "nodes")
    kind("export", "logs", str(home / "logs"), "--name=shop")
    assert (home / "logs" / "cluster.log").is_file()
    kind("delete", "cluster", "--name=shop")
    assert kind("get", "clusters") == ""
    assert not (home / "kubeconfig").exists()
    assert not (home / "home").exists()
    # Deleting what is not there is no failure; asking for it is one.
    kind("delete", "cluster", "--name=shop")
    missing = kind.run("get", "kubeconfig", "--name=shop")
    assert missing.returncode == 1
    assert 'could not locate any control plane nodes for cluster named "shop"' in missing.stderr


def test_two_clusters_share_a_kubeconfig(home: Path, kind: Kind) -> None:
    kind("create", "cluster", "-q", "--name=a")
    kind("create", "cluster", "-q", "--name=b", "--config=-", stdin=CONFIG)
    assert kind("get", "clusters").split() == ["a", "b"]
    assert len(kubectl("get", "nodes", "-o", "name", "--context=kind-a").split()) == 1
    assert len(kubectl("get", "nodes", "-o", "name", "--context=kind-b").split()) == 3
    kind("delete", "clusters", "--all")
    assert kind("get", "clusters") == ""


def test_a_failed_start_leaves_nothing(home: Path, kind: Kind) -> None:
    bad = CONFIG.replace("tier: front", "'not a label!': x")
    result = kind.run("create", "cluster", "--config=-", stdin=bad)
    assert result.returncode == 1
    assert "not a label!" in result.stderr
    assert kind("get", "clusters") == ""
    assert not list((home / "home").glob("*"))


def test_an_unknown_mode(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAVARCH_KIND", "virtual")
    assert "neither real nor memory" in kind.run("create", "cluster").stderr


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha3", "unknown apiVersion"),
        ("[]", "not of kind Cluster"),
        ("{", "not YAML"),
        (CONFIG.replace("worker", "helper"), "'helper' is not a node role"),
        (CONFIG.replace("control-plane", "worker"), "at least one control-plane"),
        (CONFIG + "  extraMounts: [{hostPath: /a}]\n", r"nodes\[2\]\.extraMounts"),
        (CONFIG + "networking: {podSubnet: 10.1.0.0/16}\n", r"networking\.podSubnet"),
        (CONFIG + "containerdConfigPatches: [x]\n", "containerdConfigPatches"),
    ],
)
def test_configurations_that_cannot_be_followed(text: str, complaint: str) -> None:
    with pytest.raises(kind_config.ConfigError, match=complaint):
        kind_config.parse(text, {})


def test_fields_may_be_ignored_by_name() -> None:
    text = CONFIG + "networking: {podSubnet: 10.1.0.0/16, ipFamily: ipv4}\n"
    config = kind_config.parse(text, {"NAVARCH_KIND_IGNORE": "podSubnet, other"})
    assert [node.name for node in config.nodes("a")] == ["a-control-plane", "a-worker", "a-worker2"]
