"""Files the user hands over at the start: checked, kept, and named to the API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from navarch.cluster import policies
from navarch.cluster.composition import apiserver_options
from navarch.cluster.profile import ClusterError, Paths, Profile

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
