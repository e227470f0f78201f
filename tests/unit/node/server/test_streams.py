"""What port-forward asks of the runtime, by the protocol of the client."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from navarch.api.errors import ApiError
from navarch.node.server.streams import forwarded_ports

SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket"}
TUNNEL = {**SOCKET, "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io"}
SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        (SPDY, "", ()),
        (TUNNEL, "", ()),
        (SOCKET, "?port=80", (80,)),
        (SOCKET, "?port=80,443&port=53", (80, 443, 53)),
        (SOCKET, "", 'query parameter "port" is required'),
        (SOCKET, "?port=0", 'unable to parse "0" as a port'),
        (SOCKET, "?port=x", 'unable to parse "x" as a port'),
    ],
)
def test_the_ports_of_a_forwarding(
    headers: dict[str, str], query: str, expected: tuple[int, ...] | str
) -> None:
    request = make_mocked_request("GET", "/portForward/default/p" + query, headers=headers)
    if isinstance(expected, tuple):
        assert forwarded_ports(request) == expected
        return
    with pytest.raises(ApiError) as refused:
        forwarded_ports(request)
    assert (refused.value.status, refused.value.message) == (400, expected)
