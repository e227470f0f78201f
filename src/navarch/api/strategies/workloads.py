"""The kinds that make pods from a template: Deployment, ReplicaSet, ReplicationController,
StatefulSet, DaemonSet, and the helpers PodTemplate and ControllerRevision."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from navarch.api import names
from navarch.api.numbers import natural
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules, keep
from navarch.api.strategies.podspec import default_pod_spec
from navarch.api.validation import workloads as validation
from navarch.api.validation.pod_warnings import pod_warnings


def default_template(spec: Object) -> None:
    template = spec.get("template")
    if template is not None and template.get("spec") is not None:
        default_pod_spec(template["spec"])


class PodMakerStrategy(GenericStrategy):
    """A kind with a template of pods, about which there are warnings when it may have changed."""

    has_generation = True
    template_path = "spec.template"
    names_pods = False
    """Whether the object's name becomes part of host names, which must be DNS labels."""

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        metadata, found = obj["metadata"], []
        if old is not None and metadata.get("generation") == old["metadata"].get("generation"):
            return []
        problems = names.dns1123_label(metadata.get("name") or "") if self.names_pods else []
        if old is None and problems:
            found.append(
                "metadata.name: this is used in Pod names and hostnames, which can result in "
                f"surprising behavior; a DNS label is recommended: [{' '.join(problems)}]"
            )
        template = obj
        for name in self.template_path.split("."):
            template = template.get(name) or {}
        return chain(found, pod_warnings(template, self.template_path))


class DeploymentStrategy(PodMakerStrategy):
    names_pods = True
    rules = Rules(
        validation.validate_deployment,
        validation.validate_deployment_update,
        status=validation.validate_deployment_status,
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_template(spec)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")

    def desired_state(self, obj: Object) -> Object:
        # A rollback lives in annotations, so they are part of what is desired.
        return {"spec": obj.get("spec"), "annotations": obj["metadata"].get("annotations")}

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource:
            keep(obj["metadata"], old["metadata"], "labels")


class ReplicaSetStrategy(PodMakerStrategy):
    names_pods = True
    rules = Rules(
        validation.validate_replica_set,
        validation.validate_replica_set_update,
        status=lambda obj, _: validation.validate_replica_status(obj),
    )

    def defaults(self, obj: Object) -> None:
        default_template(obj.setdefault("spec", {}))

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {"status.replicas": str((obj.get("status") or {}).get("replicas") or 0)}


class ReplicationControllerStrategy(ReplicaSetStrategy):
    rules = Rules(
        validation.validate_replication_controller,
        status=lambda obj, _: validation.validate_replica_status(obj),
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_template(spec)
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
        if labels:
            if not spec.get("selector"):
                spec["selector"] = dict(labels)
            if not obj["metadata"].get("labels"):
                obj["metadata"]["labels"] = dict(labels)


class StatefulSetStrategy(PodMakerStrategy):
    rules = Rules(
        validation.validate_stateful_set,
        validation.validate_stateful_set_update,
        status=lambda obj, _: validation.validate_stateful_set_status(obj),
    )

    def validate_name(self, name: str) -> list[str]:
        return names.dns1123_label(name)

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_template(spec)
        strategy = spec.setdefault("updateStrategy", {})
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
            strategy.setdefault("rollingUpdate", {})
        if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
            strategy["rollingUpdate"].setdefault("partition", 0)
        for claim in spec.get("volumeClaimTemplates") or ():
            claim.setdefault("apiVersion", "v1")
            claim.setdefault("kind", "PersistentVolumeClaim")
            claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
            claim.setdefault("status", {}).setdefault("phase", "Pending")

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        # As upstream without the MaxUnavailableStatefulSet gate, which is off by default.
        rolling = (obj["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
        rolling.pop("maxUnavailable", None)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        rolling = (obj["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
        rolling.pop("maxUnavailable", None)
        super().prepare_update(obj, old, subresource)

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        yield from super().warnings(obj, old)
        limit = obj["spec"].get("revisionHistoryLimit")
        if isinstance(limit, int) and limit < 0:
            yield (
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; "
                "a value >= 0 is recommended"
            )


class DaemonSetStrategy(PodMakerStrategy):
    rules = Rules(
        validation.validate_daemon_set,
        validation.validate_daemon_set_update,
        status=lambda obj, _: validation.validate_daemon_set_status(obj),
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_template(spec)
        strategy = spec.setdefault("updateStrategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", 1)
            rolling.setdefault("maxSurge", 0)

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        # The count of template changes predates apps/v1, where an annotation carries it.
        annotations = obj["metadata"].setdefault("annotations", {})
        annotations.setdefault("deprecated.daemonset.template.generation", "1")

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource:
            return
        key = "deprecated.daemonset.template.generation"
        before = (old["metadata"].get("annotations") or {}).get(key, "1")
        is_new = obj["spec"].get("template") != old["spec"].get("template")
        if is_new and (number := natural(before)) is not None:
            before = str(number + 1)
        obj["metadata"].setdefault("annotations", {})[key] = before


class PodTemplateStrategy(PodMakerStrategy):
    template_path = "template"
    has_generation = True
    rules = Rules(validation.validate_pod_template)

    def defaults(self, obj: Object) -> None:
        default_template(obj)


class ControllerRevisionStrategy(GenericStrategy):
    rules = Rules(
        validation.validate_controller_revision, validation.validate_controller_revision_update
    )
