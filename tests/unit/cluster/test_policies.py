"""Files the user hands over at the start: checked, kept, and named to who reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.cluster import policies
from navarch.cluster.components import options_from
from navarch.cluster.composition import apiserver_options, node_components, scheduler_options
from navarch.cluster.profile import ClusterError, Paths, Profile
from navarch.node.settings import NodeOptions

POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n"
ENCRYPTION = """
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: one, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}
  - identity: {}
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "dev")


def given(tmp_path: Path, text: str) -> str:
    file = tmp_path / "given.yaml"
    file.write_text(text)
    return str(file)


def options(paths: Paths) -> dict[str, object]:
    return apiserver_options(Profile("dev"), paths)


def test_files_are_kept_beside_the_cluster(paths: Paths, tmp_path: Path) -> None:
    assert "audit_policy_file" not in options(paths)
    policies.adopt(paths, given(tmp_path, POLICY), None)
    policies.adopt(paths, None, given(tmp_path, ENCRYPTION))
    (tmp_path / "given.yaml").unlink()
    found = options(paths)
    assert Path(str(found["audit_policy_file"])).read_text() == POLICY
    assert found["audit_log_path"] == str(paths.logs / "audit.log")
    kept = Path(str(found["encryption_provider_config"]))
    assert kept.read_text() == ENCRYPTION
    assert kept.stat().st_mode & 0o777 == 0o600
    policies.adopt(paths, "off", None)
    assert "audit_policy_file" not in options(paths)


@pytest.mark.parametrize("text", ["", "kind: Policy", ENCRYPTION])
def test_a_file_that_is_no_policy_changes_nothing(paths: Paths, tmp_path: Path, text: str) -> None:
    with pytest.raises(ClusterError):
        policies.adopt(paths, given(tmp_path, text), None)
    with pytest.raises(ClusterError):
        policies.adopt(paths, str(tmp_path / "missing.yaml"), None)
    assert not paths.root.exists()


def test_encryption_does_not_simply_end(paths: Paths, tmp_path: Path) -> None:
    policies.adopt(paths, None, "off")
    policies.adopt(paths, None, given(tmp_path, ENCRYPTION))
    with pytest.raises(ClusterError, match="cannot be turned off"):
        policies.adopt(paths, None, "off")
    assert "encryption_provider_config" in options(paths)


KUBELET = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 42
port: 12345
evictionHard: {memory.available: 50Mi}
"""


def kubelet(paths: Paths) -> NodeOptions:
    """A node's options, as its process reads them."""
    profile = Profile("dev")
    values = node_components(profile, paths, "dev")["kubelet"]
    result = options_from(values, NodeOptions)
    assert isinstance(result, NodeOptions)
    return result


def test_kubelets_read_the_configuration_of_the_user(paths: Paths, tmp_path: Path) -> None:
    assert (kubelet(paths).max_pods, kubelet(paths).config) == (110, None)
    # A laptop's disk may be nearly full.
    assert kubelet(paths).eviction_hard["nodefs.available"] == "1Gi"
    assert kubelet(paths).image_gc_high_threshold_percent == 95
    policies.adopt(paths, None, None, given(tmp_path, KUBELET))
    found = kubelet(paths)
    assert found.max_pods == 42
    assert found.eviction_hard == {"memory.available": "50Mi"}
    # Where a node can be reached is the profile's, as is what the file does not mention.
    assert found.port == 10250
    assert found.cluster_dns == ("10.96.0.10",)
    policies.adopt(paths, None, None, "off")
    assert kubelet(paths).max_pods == 110


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod", "Object 'apiVersion' is missing"),
        (KUBELET.replace("42", "-1"), "must not be a negative number"),
        (KUBELET + "staticPodPath: manifests\n", "staticPodPath must be absolute"),
    ],
)
def test_a_configuration_that_cannot_be(
    paths: Paths, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        policies.adopt(paths, None, None, given(tmp_path, text))
    assert kubelet(paths).config is None


SCHEDULING = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


def test_a_scheduler_gets_its_configuration(paths: Paths, tmp_path: Path) -> None:
    """An election costs a write every other second: nobody stands by unless asked to."""
    assert "config" not in scheduler_options(paths)
    policies.adopt(paths, None, None, None, given(tmp_path, SCHEDULING))
    found = scheduler_options(paths)
    assert Path(str(found["config"])).read_text() == SCHEDULING
    assert found["leader_elect"] is False
    elected = f"{SCHEDULING}leaderElection: {{leaderElect: true}}\n"
    policies.adopt(paths, None, None, None, given(tmp_path, elected))
    assert "leader_elect" not in scheduler_options(paths)
    wrong = f"{SCHEDULING}profiles: [{{plugins: {{filter: {{enabled: [{{name: X}}]}}}}}}]\n"
    with pytest.raises(ClusterError, match='FilterPlugin "X" does not exist'):
        policies.adopt(paths, None, None, None, given(tmp_path, wrong))
    policies.adopt(paths, None, None, None, "off")
    assert "config" not in scheduler_options(paths)
