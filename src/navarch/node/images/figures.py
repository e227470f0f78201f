"""What is counted of images, under upstream's names, in the process-wide Prometheus registry."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_MIB, _GIB = 1 << 20, 1 << 30
_SIZES = (
    (100 * _GIB, "GT100GB"),
    (60 * _GIB, "60GB-100GB"),
    (40 * _GIB, "40GB-60GB"),
    (30 * _GIB, "30GB-40GB"),
    (20 * _GIB, "20GB-30GB"),
    (10 * _GIB, "10GB-20GB"),
    (5 * _GIB, "5GB-10GB"),
    (_GIB, "1GB-5GB"),
    (500 * _MIB, "500MB-1GB"),
    (100 * _MIB, "100MB-500MB"),
    (10 * _MIB, "10MB-100MB"),
    (0, "0-10MB"),
)

pull_seconds = Histogram(
    "kubelet_image_pull_duration_seconds",
    "[ALPHA] Duration in seconds to pull an image.",
    ["image_size_in_bytes"],
    buckets=(1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600),
)
collected = Counter(
    "kubelet_image_garbage_collected",
    "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage "
    "or image age.",
    ["reason"],
)
requests = Counter(
    "kubelet_image_manager_ensure_image_requests",
    "[ALPHA] Number of ensure-image requests processed by the kubelet.",
    ["pull_policy", "present_locally", "pull_required"],
)
provider_errors = Counter(
    "kubelet_credential_provider_plugin_errors",
    "[ALPHA] Number of errors from credential provider plugin",
    ["plugin_name"],
)
provider_seconds = Histogram(
    "kubelet_credential_provider_plugin_duration",
    "[ALPHA] Duration of execution in seconds for credential provider plugin",
    ["plugin_name"],
)


def size_label(size: int) -> str:
    """The size of an image as the pull's figure has it."""
    return next((label for least, label in _SIZES if size > least), "N/A")
