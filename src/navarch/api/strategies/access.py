"""Who may do what: RBAC objects and certificate signing requests."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import FieldError
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules, keep
from navarch.api.validation import access as validation
from navarch.api.validation.fields import Field

RBAC_GROUP = "rbac.authorization.k8s.io"


class RoleStrategy(GenericStrategy):
    allow_create_on_update = True
    rules = Rules(validation.validate_role)

    def validate_name(self, name: str) -> list[str]:
        return names.path_segment_name(name)


class ClusterRoleStrategy(RoleStrategy):
    rules = Rules(validation.validate_cluster_role)


class RoleBindingStrategy(RoleStrategy):
    rules = Rules(validation.validate_role_binding, validation.validate_role_binding_update)

    def defaults(self, obj: Object) -> None:
        reference = obj.setdefault("roleRef", {})
        if not reference.get("apiGroup"):
            reference["apiGroup"] = RBAC_GROUP
        for subject in obj.get("subjects") or ():
            if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
                subject["apiGroup"] = RBAC_GROUP


class ClusterRoleBindingStrategy(RoleBindingStrategy):
    rules = Rules(
        validation.validate_cluster_role_binding, validation.validate_cluster_role_binding_update
    )


class SigningRequestStrategy(GenericStrategy):
    """The spec is written once, by the server as to who asks. `/approval` may only approve or deny,
    `/status` everything but that."""

    rules = Rules(validation.validate_signing_request)

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        for key in ("username", "uid", "groups", "extra"):
            obj["spec"].pop(key, None)

    def stamp_user(self, obj: Object, user: Object) -> None:
        for key in ("username", "uid", "groups", "extra"):
            if user.get(key):
                obj["spec"][key] = user[key]

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not subresource:
            keep(obj, old, "spec")
            return
        before = (old.get("status") or {}).get("conditions") or []
        conditions = (obj.get("status") or {}).get("conditions") or []
        if subresource == "approval":
            keep(obj, old, "status")
            if conditions:
                obj.setdefault("status", {})["conditions"] = conditions
            else:
                (obj.get("status") or {}).pop("conditions", None)
        else:
            conditions = _keep_verdicts(conditions, before)
            if conditions:
                obj.setdefault("status", {})["conditions"] = conditions
        self._stamp(conditions, before)

    def _stamp(self, conditions: list[Object], before: list[Object]) -> None:
        now = self.timestamp()
        for condition in conditions:
            same = [
                other
                for other in before
                if other.get("type") == condition.get("type")
                and other.get("status") == condition.get("status")
            ]
            if not condition.get("lastUpdateTime"):
                condition["lastUpdateTime"] = now
            if not condition.get("lastTransitionTime"):
                known = same[0].get("lastTransitionTime") if same else None
                condition["lastTransitionTime"] = known or now

    def validate_name(self, name: str) -> list[str]:
        return names.path_segment_name(name)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        field = Field(obj)
        validation.validate_signing_request_update(field, Field(old), subresource)
        return field.errors

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {"spec.signerName": (obj.get("spec") or {}).get("signerName") or ""}


def _keep_verdicts(conditions: list[Object], before: list[Object]) -> list[Object]:
    """A status update shows approvals and denials as they were, even if it leaves them out."""
    verdicts = [each for each in before if each.get("type") in ("Approved", "Denied")]
    given = [each.get("type") for each in conditions]
    missing = [dict(each) for each in verdicts if each.get("type") not in given]
    return missing + conditions
