"""The admission plug-ins in their order, and which of them a write concerns.

Most plug-ins look at a few resources only, and say so by their class; which of them those are is
worked out once for each (operation, resource, subresource), not for each write.
"""

from __future__ import annotations

from collections.abc import Sequence

from navarch.apiserver.contracts import AdmissionPlugin, AdmissionRequest

MAX_KNOWN = 4096
"""Custom resources come and go; the table is begun anew when it has grown to this."""

Phase = list[tuple[AdmissionPlugin, bool]]
"""Plug-ins, and whether each is to be asked every time if it handles the request."""


class Chain:
    """The plug-ins by phase. Those that decide for each request are asked each time."""

    def __init__(self, plugins: Sequence[AdmissionPlugin] = ()) -> None:
        self._mutating = [each for each in plugins if getattr(each, "admits", True)]
        self._validating = [each for each in plugins if getattr(each, "validates", True)]
        self._known: dict[tuple[str, ...], tuple[Phase, Phase]] = {}

    def _phases(self, request: AdmissionRequest) -> tuple[Phase, Phase]:
        info = request.info
        key = (request.operation, info.group, info.resource, info.subresource)
        phases = self._known.get(key)
        if phases is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            phases = self._known[key] = (
                _concerned(self._mutating, request),
                _concerned(self._validating, request),
            )
        return phases

    async def admit(self, request: AdmissionRequest) -> bool:
        """Run the mutating plug-ins, twice when one of them let an outsider change the object.
        Returns whether any may have changed it."""
        may_differ = False
        while True:
            for plugin, asks in self._phases(request)[0]:
                if not asks or plugin.handles(request):
                    await plugin.admit(request)
                    may_differ |= getattr(plugin, "mutates", True)
            if not request.is_rewritten or request.is_second_round:
                return may_differ
            request.is_second_round = True

    async def validate(self, request: AdmissionRequest) -> None:
        for plugin, asks in self._phases(request)[1]:
            if not asks or plugin.handles(request):
                await plugin.validate(request)


def _concerned(plugins: Sequence[AdmissionPlugin], request: AdmissionRequest) -> Phase:
    """Those that do not, by what their classes say, leave all requests of this sort alone."""
    found = ((each, not getattr(each, "is_static", False)) for each in plugins)
    return [(each, asks) for each, asks in found if asks or each.handles(request)]
