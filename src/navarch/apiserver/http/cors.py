"""Pages of other origins in a browser (CORS): those that an option names, by default none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web
from multidict import CIMultiDict

HEADERS = {
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, "
    "Authorization, X-Requested-With, If-Modified-Since",
    "Access-Control-Expose-Headers": "Date",
    "Access-Control-Allow-Credentials": "true",
}


class Origins:
    """The origins that are allowed, as patterns that have to match somewhere in them."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError for a pattern that is none."""
        try:
            self._patterns = [re.compile(each) for each in patterns]
        except re.error as error:
            raise ValueError(f"--cors-allowed-origins: {error}") from error

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """What the answer to this request carries; nothing for a page that is not allowed."""
        origin = request.headers.get("Origin", "")
        if not origin or not any(each.search(origin) for each in self._patterns):
            return {}
        return {"Access-Control-Allow-Origin": origin, **HEADERS}


def preflight(headers: CIMultiDict[str]) -> web.Response:
    """The answer to a browser that asks whether it may ask."""
    return web.Response(status=204, headers=headers)
