"""Priority: the name of a pod's priority class becomes its number; at most one class is default."""

from __future__ import annotations

from navarch.apiserver.admission.base import AdmissionAccess, ReadingPlugin, denied
from navarch.apiserver.contracts import AdmissionRequest, Object

RESOURCE = "priorityclasses.scheduling.k8s.io"
PREEMPT = "PreemptLowerPriority"


class Priority(ReadingPlugin):
    name = "Priority"
    resources = frozenset({("", "pods"), ("scheduling.k8s.io", "priorityclasses")})

    def __init__(self, access: AdmissionAccess) -> None:
        super().__init__(access)
        self._defaults: dict[str, Object] = {}
        """The classes that say they are the default, by name."""
        access.lookup.subscribe(RESOURCE, self._class_changed)

    def _class_changed(self, old: Object | None, new: Object | None) -> None:
        if old is not None:
            self._defaults.pop(old["metadata"]["name"], None)
        if new is not None and new.get("globalDefault"):
            self._defaults[new["metadata"]["name"]] = new

    async def admit(self, request: AdmissionRequest) -> None:
        if request.info.resource != "pods" or request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        if request.operation == "UPDATE":
            old = (request.old or {}).get("spec") or {}
            for field in ("priority", "preemptionPolicy"):
                if spec.get(field) is None and old.get(field) is not None:
                    spec[field] = old[field]
            return
        klass = await self._class_of(request, spec.get("priorityClassName") or "")
        if klass is not None:
            spec["priorityClassName"] = klass["metadata"]["name"]
        value = (klass or {}).get("value", 0)
        if spec.get("priority") not in (None, value):
            raise denied(
                request,
                f"the integer value of priority ({spec['priority']}) must not be provided in pod "
                f"spec; priority admission controller computed {value} from the given "
                "PriorityClass name",
            )
        spec["priority"] = value
        policy = (klass or {}).get("preemptionPolicy") or PREEMPT
        if spec.get("preemptionPolicy") not in (None, policy):
            raise denied(
                request,
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be "
                f"provided in pod spec; priority admission controller computed {policy} from the "
                "given PriorityClass name",
            )
        spec["preemptionPolicy"] = policy

    async def validate(self, request: AdmissionRequest) -> None:
        obj = request.obj
        if request.info.resource != "priorityclasses" or not (obj or {}).get("globalDefault"):
            return
        default = self._default()
        name = (obj or {})["metadata"].get("name")
        if default is not None and (
            request.operation == "CREATE" or default["metadata"]["name"] != name
        ):
            why = f"PriorityClass {default['metadata']['name']} is already marked as default"
            raise denied(request, f"{why}. Only one default can exist")

    async def _class_of(self, request: AdmissionRequest, name: str) -> Object | None:
        if not name:
            return self._default()
        klass = await self._access.find(RESOURCE, "", name)
        if klass is None:
            raise denied(request, f"no PriorityClass with name {name} was found")
        return klass

    def _default(self) -> Object | None:
        """Should two writers have raced to make a default, the one of the lowest value counts."""
        found = self._defaults.values()
        return min(found, key=lambda item: int(item.get("value", 0)), default=None)
