"""What extends the API: custom resource definitions, API services, admission webhooks and
policies. What is written in CEL is checked by modules that are imported when the first such object
is written: most servers start without."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import FieldError
from navarch.api.schema import structural
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import definitions as definition_rules


class CustomResourceDefinitionStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False

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

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        before = set() if old is None else set(definition_rules.unknown_formats(old))
        found = definition_rules.unknown_formats(obj)
        return [f'unrecognized format "{each}"' for each in found if each not in before]

    def validate(self, obj: Object) -> list[FieldError]:
        return definition_rules.validate_definition(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        if subresource:
            return []  # tools that migrate objects say here which versions are left
        return definition_rules.validate_definition_update(obj, old)


class APIServiceStrategy(GenericStrategy):
    allow_unconditional_update = False
    rules = Rules(
        definition_rules.validate_api_service,
        status=lambda errors, obj, _: definition_rules.validate_api_service_status(errors, obj),
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


class WebhookConfigurationStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False
    mutating = False

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

    def validate(self, obj: Object) -> list[FieldError]:
        from navarch.api.validation import admission as admission_rules

        return admission_rules.validate_webhooks(obj, self.mutating)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        from navarch.api.validation import admission as admission_rules

        return admission_rules.validate_webhooks(obj, self.mutating, old)


class MutatingWebhookConfigurationStrategy(WebhookConfigurationStrategy):
    mutating = True


class AdmissionPolicyStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False
    status_keeps_metadata = True
    mutating = False

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("failurePolicy", "Fail")
        _default_match(spec.get("matchConstraints"))

    def validate(self, obj: Object) -> list[FieldError]:
        from navarch.api.validation import admission as admission_rules

        return admission_rules.validate_policy(obj, self.mutating)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[FieldError]:
        from navarch.api.validation import admission as admission_rules

        return admission_rules.validate_policy(obj, self.mutating, old) if not subresource else []


class MutatingAdmissionPolicyStrategy(AdmissionPolicyStrategy):
    mutating = True


class AdmissionPolicyBindingStrategy(GenericStrategy):
    has_generation = True
    allow_unconditional_update = False
    mutating = False

    def defaults(self, obj: Object) -> None:
        _default_match((obj.get("spec") or {}).get("matchResources"))

    def validate(self, obj: Object) -> list[FieldError]:
        from navarch.api.validation import admission as admission_rules

        return admission_rules.validate_policy_binding(obj, self.mutating)


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
