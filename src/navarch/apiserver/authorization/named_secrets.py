"""Those who serve Ingresses and Gateways read the Secrets only that these name, and what serves
Gateways writes EndpointSlices only of their Services (which slices say by their names).

RBAC cannot say that, and upstream's controllers may read all Secrets. Here they run on every node,
and who gets hold of a node has their credentials. So this is asked before all other authorizers,
and denies; what is not denied, the roles of the addons allow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from navarch.api.named_secrets import (
    GATEWAY_GROUP,
    GATEWAY_LABEL,
    GATEWAY_USER,
    INGRESS_USER,
    Key,
    of_gateway,
    of_ingress,
)
from navarch.apiserver.contracts import Attributes, Decision, Lookup, Object

SLICE_OF = re.compile("-ipv[46]-")


class NamedSecrets:
    """Implements `Authorizer`; has no opinion on anybody else."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._of_ingresses: Counter[Key] = Counter()
        """How often each is named: there may be thousands of Ingresses, each with a Secret."""
        self._readers: Mapping[str, Callable[[Key], bool]] = {
            INGRESS_USER: self._of_ingresses.__contains__,
            GATEWAY_USER: self._is_of_gateway,
        }
        lookup.subscribe("ingresses.networking.k8s.io", self._ingress_changed)

    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        if info.resource == "endpointslices" and info.verb in ("create", "update", "patch"):
            return self._may_publish(attributes)
        may_read = self._readers.get(attributes.user.name)
        is_about_others = (info.group, info.resource) != ("", "secrets")
        if may_read is None or is_about_others or may_read((info.namespace, info.name)):
            return Decision.NO_OPINION, ""
        return Decision.DENY, "only what Ingresses and Gateways name can be read"

    def _may_publish(self, attributes: Attributes) -> tuple[Decision, str]:
        info = attributes.info
        if attributes.user.name != GATEWAY_USER or any(
            GATEWAY_LABEL
            in self._lookup.labels("services", info.namespace, info.name[: end.start()])
            for end in SLICE_OF.finditer(info.name)
        ):
            return Decision.NO_OPINION, ""
        return Decision.DENY, "this is no EndpointSlice of a Gateway's Service"

    def _ingress_changed(self, old: Object | None, new: Object | None) -> None:
        self._of_ingresses.update(of_ingress(new) if new else ())
        for key in of_ingress(old) if old else ():
            self._of_ingresses[key] -= 1
            if not self._of_ingresses[key]:
                del self._of_ingresses[key]

    def _is_of_gateway(self, key: Key) -> bool:
        grants = [*self._lookup.list(f"referencegrants.{GATEWAY_GROUP}", key[0])]
        gateways = self._lookup.list(f"gateways.{GATEWAY_GROUP}")
        return any(key in of_gateway(each, grants) for each in gateways)
