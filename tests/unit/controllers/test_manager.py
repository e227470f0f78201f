"""Which controllers run, and what discovery tells them."""

from __future__ import annotations

import pytest

from navarch.controllers.discovery import _Document, preferred
from navarch.controllers.manager import CONTROLLERS, ManagerOptions, selected

CONFIGURED = {
    "root_ca": "/ca.crt",
    "cluster_cidr": "10.0.0.0/8",
    "cluster_signing_cert_file": "/ca.crt",
    "service_account_private_key_file": "/sa.key",
}


def options(*names: str, **other: str) -> ManagerOptions:
    return ManagerOptions(kubeconfig="", controllers=names or ("*",), **other)  # type: ignore[arg-type]


def test_all_that_are_configured_run_by_default() -> None:
    assert selected(options(**CONFIGURED)) == list(CONTROLLERS)
    left_out = set(CONTROLLERS) - set(selected(options()))
    assert left_out == {
        "nodeipam",
        "root-ca-certificate-publisher",
        "csrsigning",
        "serviceaccount-token",
    }


@pytest.mark.parametrize(
    ("names", "runs"),
    [(("job",), {"job"}), (("job", "-job"), set()), (("*", "-job"), set(CONTROLLERS) - {"job"})],
)
def test_choosing(names: tuple[str, ...], runs: set[str]) -> None:
    assert set(selected(options(*names, **CONFIGURED))) == runs


@pytest.mark.parametrize("name", ["nothing", "-nothing"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no controller is called 'nothing'"):
        selected(options(name))


def test_every_registered_controller_can_be_loaded() -> None:
    import importlib

    for registered in CONTROLLERS.values():
        module = importlib.import_module(f"navarch.controllers.{registered.module}")
        assert hasattr(module, registered.class_name)


def test_the_preferred_version_of_a_resource_counts() -> None:
    import msgspec

    document = {
        "items": [
            {
                "metadata": {"name": "example.com"},
                "versions": [
                    {
                        "version": "v2",
                        "resources": [
                            {
                                "resource": "widgets",
                                "responseKind": {"kind": "Widget"},
                                "scope": "Cluster",
                                "verbs": ["list", "delete"],
                            }
                        ],
                    },
                    {
                        "version": "v1",
                        "freshness": "Stale",
                        "resources": [
                            {"resource": "widgets", "responseKind": {"kind": "Widget"}},
                            {"resource": "gadgets", "responseKind": {"kind": "Gadget"}},
                        ],
                    },
                ],
            }
        ]
    }
    found = preferred(msgspec.convert(document, _Document).items)
    assert [(r.plural, r.version, r.is_namespaced) for r in found.resources] == [
        ("widgets", "v2", False),
        ("gadgets", "v1", True),
    ]
    assert found.missing == ["example.com/v1"]
    assert found.kinds["example.com", "Widget"].api_version == "example.com/v2"


def test_autoscalers_take_upstreams_durations() -> None:
    arguments = CONTROLLERS["horizontalpodautoscaling"].arguments
    options = ManagerOptions(
        kubeconfig="",
        horizontal_pod_autoscaler_sync_period="1m30s",
        horizontal_pod_autoscaler_tolerance=0.2,
    )
    found = arguments(options)["options"]
    assert (found.sync_period, found.tolerance) == (90.0, 0.2)
    assert (found.downscale_stabilization, found.initial_readiness_delay) == (300.0, 30.0)
    with pytest.raises(ValueError, match="invalid duration"):
        arguments(ManagerOptions("", horizontal_pod_autoscaler_sync_period="soon"))
