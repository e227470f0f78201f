"""The pytest plug-in in suites of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makefile(".yaml", first="apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n")
    return pytester


def test_fixtures(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nnavarch_nodes = 1\nnavarch_manifests = first.yaml\n")
    suite.makepyfile("""
        import os, subprocess, pytest
        from navarch.testing import Cluster

        def kubectl(*arguments):
            return subprocess.check_output(["kubectl", *arguments], text=True)

        def test_session(navarch_session_cluster):
            assert os.environ["KUBECONFIG"] == str(navarch_session_cluster.kubeconfig)
            assert kubectl("get", "nodes", "-o", "name") == "node/node-0\\n"
            kubectl("create", "configmap", "kept")

        def test_same_session(navarch_session_cluster, navarch_namespace):
            assert navarch_session_cluster.get("cm/kept")
            kubectl("create", "configmap", "mine", "-n", navarch_namespace)

        def test_other_namespace(navarch_session_cluster, navarch_namespace):
            assert not navarch_session_cluster.get("cm/mine", namespace=navarch_namespace)

        @pytest.mark.navarch(nodes=0)
        def test_own(navarch_session_cluster, navarch_cluster):
            assert os.environ["KUBECONFIG"] == str(navarch_cluster.kubeconfig)
            assert kubectl("get", "nodes", "-o", "name") == ""
            assert navarch_cluster.get("cm/first") and not navarch_cluster.get("cm/kept")

        def test_session_again(navarch_session_cluster):
            assert os.environ["KUBECONFIG"] == str(navarch_session_cluster.kubeconfig)
    """)
    suite.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=5)


def test_markers(suite: pytest.Pytester) -> None:
    (suite.path / "deeper").mkdir()
    (suite.path / "first.yaml").rename(suite.path / "deeper" / "first.yaml")
    (suite.path / "deeper" / "test_marked.py").write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.navarch(nodes=2)\n"
        "@pytest.mark.navarch(manifests=['first.yaml'])\n"
        "def test(navarch_cluster):\n"
        "    assert navarch_cluster.get('cm/first')\n"
        "    assert len(navarch_cluster.find('nodes')) == 2\n"
        "@pytest.mark.navarch(3)\n"
        "def test_wrong(navarch_cluster): pass\n"
    )
    result = suite.runpytest_subprocess("--strict-markers")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the arguments of the marker navarch have names*"])


def test_the_plugin_is_light(tmp_path: Path) -> None:
    """It is loaded in every run of pytest, whether a cluster is wanted or not."""
    program = (
        "import sys, navarch.testing.plugin\n"
        "print([name for name in ('aiohttp', 'uvloop', 'numpy', 'cryptography', 'asyncio',"
        " 'navarch.cluster') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
