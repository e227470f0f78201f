"""`pods/eviction`: a deletion that asks the pod's disruption budget first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiohttp.web import StreamResponse
from msgspec import structs

from navarch.api.errors import ApiError, bad_request, forbidden, invalid, invalid_object
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
from navarch.apiserver.verbs.write_body import place

Object = dict[str, Any]

EVICTION = Subresource("eviction", (), "policy", "v1", "Eviction")
MAX_DISRUPTED = 2000
RETRY_SECONDS = 10
RETRIES = 20
UNREADABLE = "ignoreStoreReadErrorWithClusterBreakingPotential"
BLOCKED = "Cannot evict pod as it would violate the pod's disruption budget."


async def evict(core: Core, call: Call, resource: Resource) -> StreamResponse:
    eviction, context = await read_kind(call, EVICTION, "CreateOptions")
    namespace, name = call.info.namespace, call.info.name
    place(call, resource, eviction)
    # Webhooks see it in the one version, whichever of the two it came in.
    eviction["apiVersion"] = f"{EVICTION.group}/{EVICTION.version}"
    if eviction["metadata"].get("name") != name:
        raise bad_request("name in URL does not match name in Eviction object")
    options = _options_of(eviction)
    # Either the request or the options in its body may ask for a rehearsal.
    options = replace(options, dry_run=options.dry_run or context.dry_run)
    context = structs.replace(context, dry_run=options.dry_run)
    request = core.registry.admission(resource, "CREATE", eviction, None, context, "Eviction")
    await core.registry.admit(request)
    for attempt in range(RETRIES):
        pod = resource.decode(core.registry.get(resource, namespace, name))
        budget = None if _needs_no_budget(pod) else _budget_of(core, pod)
        # A pod that may go because it is not ready must not have got ready meanwhile.
        is_guarded = (pod.get("status") or {}).get("phase") == "Pending" and not _is_leaving(pod)
        if budget is not None:
            is_guarded = _is_spare(pod, budget)
            if not is_guarded:
                await _spend(core, budget["metadata"]["name"], pod, options.dry_run)
        try:
            await _delete(core, resource, pod, options, context, is_guarded)
        except ApiError as error:
            if not (error.is_conflict and is_guarded) or options.resource_version:
                raise
            if budget is not None:
                raise _unsettled(budget["metadata"]["name"]) from error
            if attempt == RETRIES - 1:
                raise
        else:
            break
    return respond_object(call, success_status(code=201), 201)


def _options_of(eviction: Object) -> DeleteOptions:
    """How to delete the pod. What lets an object go that cannot even be read would go past the
    budget. Raises 400, 422."""
    given = eviction.get("deleteOptions") or {}
    if given.get(UNREADABLE):
        why = "can not be set for pod eviction, try after removing the option"
        errors = [invalid(f"deleteOptions.{UNREADABLE}", True, why)]
        raise invalid_object("Eviction", "policy", eviction["metadata"]["name"], errors)
    return options_from_body(given)


def _is_leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _needs_no_budget(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or _is_leaving(pod)


def _budget_of(core: Core, pod: Object) -> Object | None:
    """The one budget that covers the pod."""
    metadata = pod["metadata"]
    found = []
    for budget in core.lookup.list("poddisruptionbudgets.policy", metadata["namespace"]):
        selector = label_selector_from_object((budget.get("spec") or {}).get("selector"))
        if selector.matches(metadata.get("labels") or {}):
            found.append(budget)
    if len(found) > 1:
        raise ApiError(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does "
            "not support.",
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
            raise _unsettled(name)
        allowed = status.get("disruptionsAllowed") or 0
        if allowed < 0:
            raise forbidden(
                "poddisruptionbudget", "policy", name, "pdb disruptions allowed is negative"
            )
        disrupted = status.get("disruptedPods") or {}
        if len(disrupted) > MAX_DISRUPTED:
            raise forbidden(
                "poddisruptionbudget",
                "policy",
                name,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            )
        if allowed == 0:
            raise too_many_requests(_why_none(name, status))
        status["disruptionsAllowed"] = allowed - 1
        status["disruptedPods"] = {**disrupted, pod_name: now}
        if allowed == 1:
            _set_not_allowed(status, now, metadata.get("generation") or 0)

    await core.registry.modify(budgets, (pod["metadata"]["namespace"], name), spend, is_dry)


def _why_none(name: str, status: Object) -> str:
    """What to tell of a budget that allows no disruption."""
    desired, current = status.get("desiredHealthy") or 0, status.get("currentHealthy") or 0
    reason, message = "", ""
    for each in status.get("conditions") or ():
        if each.get("type") == "DisruptionAllowed" and each.get("status") == "False":
            reason, message = each.get("reason", ""), each.get("message", "")
    refusal = f"The disruption budget {name} does not allow evicting pods currently"
    # After a failed count the numbers mean nothing.
    if message and reason == "SyncFailed":
        return f"{refusal} because it failed sync: {message}"
    if current <= desired:
        return (
            f"The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        )
    return f"{refusal} ({reason}): {message}" if message else refusal


def _unsettled(name: str) -> ApiError:
    text = f"The disruption budget {name} is still being processed by the server."
    return too_many_requests(text, RETRY_SECONDS)


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
    core: Core,
    resource: Resource,
    pod: Object,
    options: DeleteOptions,
    context: WriteContext,
    is_guarded: bool,
) -> None:
    """Delete the very pod that was looked at (`is_guarded`: in this very version), saying in its
    conditions why."""
    metadata = pod["metadata"]
    key = metadata["namespace"], metadata["name"]
    version = options.resource_version or (metadata["resourceVersion"] if is_guarded else "")
    own = replace(options, uid=options.uid or metadata["uid"], resource_version=version)
    deletion = Deletion(core.registry, resource, own, context, is_admitted=True)
    if not options.dry_run:

        def mark(latest: Object) -> None:
            deletion.check_preconditions(latest)
            _set_target(latest, core.registry.timestamp())

        marked = await core.registry.modify(resource, key, mark)
        if version:
            deletion.options = replace(own, resource_version=marked["metadata"]["resourceVersion"])
    await deletion.run(*key)


def _set_target(pod: Object, now: str) -> None:
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    old = next((each for each in conditions if each.get("type") == "DisruptionTarget"), None)
    wanted = {
        "type": "DisruptionTarget",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }
    if old is None:
        conditions.append(wanted)
        return
    if old.get("status") == "True":
        del wanted["lastTransitionTime"]
    old.update(wanted)


def add_eviction(app: App) -> None:
    """Put the handler into the app's table."""
    app.subresources["pods", "eviction", "create"] = evict
