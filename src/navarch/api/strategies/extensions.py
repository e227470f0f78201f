"""What extends the API: custom resource definitions, API services, admission webhooks and
policies. What is written in CEL is checked by modules that are imported when the first such object
is written: most servers start without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from navarch.api import names
from navarch.api.errors import FieldError
from navarch.api.schema import structural
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import definitions as definition_rules
from navarch.api.validation.fields import Field


class CustomResourceDefinitionStrategy(GenericStrategy):
    """No rule is for the status: tools that migrate objects say there which versions are left."""

    has_generation = True
    allow_unconditional_update = False
    rules = Rules(definition_rules.validate_definition, definition_rules.validate_definition_update)

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        kind_names = spec.setdefault("names", {})
        kind = kind_names.get("kind") or ""
        if kind and not kind_names.get("singular"):
            kind_names["singular"] = kind.lower()
        if kind and not kind_names.get("listKind"):
            kind_names["listKind"] = kind + "List"
        if not spec.get("conversion"):
            spec["conversion"] = {"strategy": "None"}
        structural.plain_numbers(spec.get("versions"))
        webhook = spec["conversion"].get("webhook")
        if webhook is not None and not any(webhook.values()):
            del spec["conversion"]["webhook"]

    def empty_status(self, obj: Object) -> Object:
        stored = [
            version.get("name")
            for version in obj["spec"].get("versions") or ()
            if version.get("storage")
        ]
        return {
            "conditions": None,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": stored[:1],
        }

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource:
            return
        status = obj.setdefault("status", {})
        stored = status.setdefault("storedVersions", []) or []
        for version in obj["spec"].get("versions") or ():
            if version.get("storage") and version.get("name") not in stored:
                status["storedVersions"] = [*stored, version.get("name")]

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        before = set() if old is None else set(definition_rules.unknown_formats(old))
        found = definition_rules.unknown_formats(obj)
        return [f'unrecognized format "{each}"' for each in found if each not in before]


class APIServiceStrategy(GenericStrategy):
    allow_unconditional_update = False
    rules = Rules(
        definition_rules.validate_api_service,
        status=lambda obj, _: definition_rules.validate_api_service_status(obj),
    )

    def defaults(self, obj: Object) -> None:
        service = (obj.get("spec") or {}).get("service")
        if service is not None:
            service.setdefault("port", 443)

    def empty_status(self, obj: Object) -> Object:
        if (obj.get("spec") or {}).get("service"):
            return {}
        condition = {
            "type": "Available",
            "status": "True",
            "lastTransitionTime": self.timestamp(),
            "reason": "Local",
            "message": "Local APIServices are always available",
        }
        return {"conditions": [condition]}

    def validate_name(self, name: str) -> list[str]:
        """`v1.` is the name of the core group's version."""
        return names.path_segment_name(name)


class _AdmissionStrategy(GenericStrategy, ABC):
    """Kinds of which there is a validating and a mutating one. `old` is the stored state, if there
    is one."""

    has_generation = True
    allow_unconditional_update = False
    mutating = False

    @abstractmethod
    def check(self, obj: Field, old: Field) -> None:
        """Complain about what is wrong."""

    def validate(self, obj: Object) -> list[FieldError]:
        field = Field(obj)
        self.check(field, Field(None))
        return field.errors

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        field = Field(obj)
        if not subresource:
            self.check(field, Field(old))
        return field.errors


class WebhookConfigurationStrategy(_AdmissionStrategy):
    def defaults(self, obj: Object) -> None:
        for webhook in obj.get("webhooks") or ():
            webhook.setdefault("failurePolicy", "Fail")
            webhook.setdefault("matchPolicy", "Equivalent")
            webhook.setdefault("namespaceSelector", {})
            webhook.setdefault("objectSelector", {})
            webhook.setdefault("timeoutSeconds", 10)
            if self.mutating:
                webhook.setdefault("reinvocationPolicy", "Never")
            _default_rules(webhook.get("rules"))
            service = (webhook.get("clientConfig") or {}).get("service")
            if service is not None:
                service.setdefault("port", 443)

    def check(self, obj: Field, old: Field) -> None:
        from navarch.api.validation.admission import validate_webhooks

        validate_webhooks(obj, old)


class MutatingWebhookConfigurationStrategy(WebhookConfigurationStrategy):
    mutating = True


class AdmissionPolicyStrategy(_AdmissionStrategy):
    status_keeps_metadata = True

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("failurePolicy", "Fail")
        _default_match(spec.get("matchConstraints"))

    def check(self, obj: Field, old: Field) -> None:
        from navarch.api.validation.admission import validate_policy

        validate_policy(obj, old, self.mutating)


class MutatingAdmissionPolicyStrategy(AdmissionPolicyStrategy):
    mutating = True


class AdmissionPolicyBindingStrategy(_AdmissionStrategy):
    def defaults(self, obj: Object) -> None:
        _default_match((obj.get("spec") or {}).get("matchResources"))

    def check(self, obj: Field, old: Field) -> None:
        from navarch.api.validation.admission import validate_policy_binding

        validate_policy_binding(obj, self.mutating)


class MutatingAdmissionPolicyBindingStrategy(AdmissionPolicyBindingStrategy):
    mutating = True


def _default_match(match: Object | None) -> None:
    if match is None:
        return
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    _default_rules(match.get("resourceRules"))
    _default_rules(match.get("excludeResourceRules"))


def _default_rules(rules: list[Object] | None) -> None:
    for rule in rules or ():
        rule.setdefault("scope", "*")
