"""Types of volumes that this node does not have: each is refused by its name.

The cloud providers' types left upstream's tree, too; their CSI drivers took over.
"""

from __future__ import annotations

from .plugin import VolumeProblem

_MOVED = "use its CSI driver"
_REASONS = {
    "gitRepo": "gitRepo volume plugin has been disabled: it runs git as root on the node; "
    "use an init container and an emptyDir instead",
    "flexVolume": "flexVolume drivers are not supported by this node: use a CSI driver",
    "image": "image volumes are not supported by the container runtime of this node",
    "iscsi": "iscsi volumes are not supported by this node: use a CSI driver",
    "fc": "fc volumes are not supported by this node: use a CSI driver",
}


def refuse(field: str, name: str) -> VolumeProblem:
    """The problem with a volume of a type that no plug-in knows."""
    if not field:
        return VolumeProblem(f"volume {name} has no source that this node knows")
    default = f"{field} volumes are not supported by this node: {_MOVED}"
    return VolumeProblem(_REASONS.get(field, default))
