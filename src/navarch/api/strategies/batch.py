"""Jobs and CronJobs. A Job without a selector of its own gets one by its uid, which also labels its
pods, so that no two Jobs ever fight over a pod."""

from __future__ import annotations

from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import Rules
from navarch.api.strategies.workloads import PodMakerStrategy, default_template
from navarch.api.validation import batch as validation

MAX_INT32 = 2**31 - 1
JOB_NAME_LABELS = ("job-name", "batch.kubernetes.io/job-name")
CONTROLLER_UID_LABELS = ("controller-uid", "batch.kubernetes.io/controller-uid")


class JobStrategy(PodMakerStrategy):
    names_pods = True
    rules = Rules(
        validation.validate_job,
        validation.validate_job_update,
        status=validation.validate_job_status_update,
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_template(spec)
        if spec.get("completions") is None and spec.get("parallelism") is None:
            spec["completions"] = 1
        spec.setdefault("parallelism", 1)
        if spec.get("backoffLimit") is None:
            per_index = spec.get("backoffLimitPerIndex") is not None
            spec["backoffLimit"] = MAX_INT32 if per_index else 6
        _label_like_template(obj)
        if spec.get("podReplacementPolicy") is None:
            failed = spec.get("podFailurePolicy") is not None
            spec["podReplacementPolicy"] = "Failed" if failed else "TerminatingOrFailed"

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        if not obj["spec"].get("manualSelector"):
            _generate_selector(obj)
            # Upstream defaults once more when it reads what it stored.
            _label_like_template(obj)
        _own_labels(obj)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        _own_labels(obj)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {"status.successful": str((obj.get("status") or {}).get("succeeded") or 0)}


def _label_like_template(obj: Object) -> None:
    """A Job without labels of its own has its template's, and, like upstream, the very same ones:
    what the selector adds to them shows on the Job, where people look for `job-name`."""
    labels = ((obj["spec"].get("template") or {}).get("metadata") or {}).get("labels")
    if labels and not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = labels


def _own_labels(obj: Object) -> None:
    """What is stored shares nothing."""
    if labels := obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(labels)


def _generate_selector(obj: Object) -> None:
    """Values that are there already stay; validation refuses those that do not fit."""
    spec, metadata = obj["spec"], obj["metadata"]
    template = spec.setdefault("template", {}).setdefault("metadata", {})
    labels = template["labels"] = template.get("labels") or {}
    for key in JOB_NAME_LABELS:
        labels.setdefault(key, metadata.get("name", ""))
    for key in CONTROLLER_UID_LABELS:
        labels.setdefault(key, metadata.get("uid", ""))
    selector = spec.setdefault("selector", {}).setdefault("matchLabels", {})
    selector.setdefault(CONTROLLER_UID_LABELS[1], metadata.get("uid", ""))


class CronJobStrategy(PodMakerStrategy):
    names_pods = True
    template_path = "spec.jobTemplate.spec.template"
    rules = Rules(validation.validate_cron_job, validation.validate_cron_job_update)

    def defaults(self, obj: Object) -> None:
        default_template((obj.get("spec", {}).get("jobTemplate") or {}).get("spec") or {})
