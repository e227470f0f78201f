"""`pods/eviction`: a deletion that asks the pod's disruption budget first."""

from __future__ import annotations

from typing import Any

from aiohttp.web import StreamResponse

from navarch.api.errors import ApiError, bad_request, forbidden, internal_error
from navarch.api.kinds import Subresource
from navarch.api.selectors import label_selector_from_object
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import respond_object, success_status
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.subresources.bodies import read_kind
from navarch.apiserver.verbs.delete import DeleteOptions, Deletion, options_from_body

Object = dict[str, Any]

EVICTION = Subresource("eviction", (), "policy", "v1", "Eviction")
MAX_DISRUPTED = 2000
RETRY_SECONDS = 10
BLOCKED = "Cannot evict pod as it would violate the pod's disruption budget."


async def evict(core: Core, call: Call, resource: Resource) -> StreamResponse:
    eviction, context = await read_kind(call, EVICTION, "CreateOptions")
    namespace, name = call.info.namespace, call.info.name
    given = eviction["metadata"].get("name")
    if given != name:
        raise bad_request(f"name in URL does not match name in Eviction object: {name} != {given}")
    request = core.registry.admission(resource, "CREATE", eviction, None, context, "Eviction")
    await core.registry.admit(request)
    options = options_from_body(eviction.get("deleteOptions") or {})
    is_dry = options.dry_run or context.dry_run
    pod = resource.decode(core.registry.get(resource, namespace, name))
    if not _needs_no_budget(pod):
        budget = _budget_of(core, pod)
        if budget is not None and not _is_spare(pod, budget):
            await _spend(core, budget["metadata"]["name"], pod, is_dry)
    await _delete(core, resource, pod, options, context)
    return respond_object(call, success_status(code=201), 201)


def _needs_no_budget(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(
        pod["metadata"].get("deletionTimestamp")
    )


def _budget_of(core: Core, pod: Object) -> Object | None:
    """The one budget that covers the pod."""
    metadata = pod["metadata"]
    found = []
    for budget in core.lookup.list("poddisruptionbudgets.policy", metadata["namespace"]):
        selector = label_selector_from_object((budget.get("spec") or {}).get("selector"))
        if selector.matches(metadata.get("labels") or {}):
            found.append(budget)
    if len(found) > 1:
        raise internal_error(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does "
            "not support."
        )
    return found[0] if found else None


def _is_spare(pod: Object, budget: Object) -> bool:
    """A pod that is not ready may be evicted without spending the budget."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    if any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    desired = status.get("desiredHealthy") or 0
    return desired > 0 and (status.get("currentHealthy") or 0) >= desired


async def _spend(core: Core, name: str, pod: Object, is_dry: bool) -> None:
    """Take one disruption off the budget. Raises 429 when there is none left."""
    budgets = core.catalog.get("policy", "v1", "poddisruptionbudgets")
    now = core.registry.timestamp()
    pod_name = pod["metadata"]["name"]

    def spend(budget: Object) -> None:
        status = budget.setdefault("status", {})
        metadata = budget["metadata"]
        if (status.get("observedGeneration") or 0) < (metadata.get("generation") or 0):
            text = f"The disruption budget {name} is still being processed by the server."
            raise too_many_requests(text, RETRY_SECONDS)
        allowed = status.get("disruptionsAllowed") or 0
        if allowed < 0:
            raise forbidden(
                "poddisruptionbudgets", "policy", name, "pdb disruptions allowed is negative"
            )
        disrupted = status.get("disruptedPods") or {}
        if len(disrupted) > MAX_DISRUPTED:
            raise forbidden(
                "poddisruptionbudgets",
                "policy",
                name,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            )
        if allowed == 0:
            raise too_many_requests(
                f"The disruption budget {name} needs {status.get('desiredHealthy') or 0} healthy "
                f"pods and has {status.get('currentHealthy') or 0} currently"
            )
        status["disruptionsAllowed"] = allowed - 1
        status["disruptedPods"] = {**disrupted, pod_name: now}
        if allowed == 1:
            _set_not_allowed(status, now, metadata.get("generation") or 0)

    await core.registry.modify(budgets, (pod["metadata"]["namespace"], name), spend, is_dry)


def _set_not_allowed(status: Object, now: str, generation: int) -> None:
    conditions = [
        each for each in status.get("conditions") or () if each.get("type") != "DisruptionAllowed"
    ]
    conditions.append(
        {
            "type": "DisruptionAllowed",
            "status": "False",
            "observedGeneration": generation,
            "lastTransitionTime": now,
            "reason": "InsufficientPods",
            "message": "",
        }
    )
    status["conditions"] = conditions


def too_many_requests(cause: str, retry_after: int = 0) -> ApiError:
    """429 for an eviction that has to wait."""
    details: Object = {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
    if retry_after:
        details["retryAfterSeconds"] = retry_after
    return ApiError(429, "TooManyRequests", BLOCKED, details)


async def _delete(
    core: Core, resource: Resource, pod: Object, options: DeleteOptions, context: WriteContext
) -> None:
    """Delete the very pod that was looked at."""
    metadata = pod["metadata"]
    own = DeleteOptions(
        grace_period=options.grace_period,
        uid=options.uid or metadata["uid"],
        resource_version=options.resource_version,
        propagation=options.propagation,
        orphan=options.orphan,
        dry_run=options.dry_run or context.dry_run,
    )
    deletion = Deletion(core.registry, resource, own, context, is_admitted=True)
    await deletion.run(metadata["namespace"], metadata["name"])


def add_eviction(app: App) -> None:
    """Put the handler into the app's table."""
    app.subresources["pods", "eviction", "create"] = evict
