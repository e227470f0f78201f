"""Service-account tokens of pods."""

from __future__ import annotations

from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import FakeObjects

from navarch.api.types.authentication_v1 import TokenRequest
from navarch.client.clock import FakeClock
from navarch.node.volumes.payload import TokenWish
from navarch.node.volumes.tokens import PodTokens


class CountingObjects(FakeObjects):
    """Hands out numbered tokens that live for a year, as an issuer that extends them does."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[TokenRequest] = []

    async def token(self, namespace: str, account: str, request: TokenRequest) -> TokenRequest:
        self.requests.append(request)
        request.status.token = f"token-{len(self.requests)}"
        request.status.expirationTimestamp = "2027-01-01T00:00:00Z"
        return request


async def test_tokens_are_renewed_when_most_of_their_life_is_over() -> None:
    objects, clock = CountingObjects(), FakeClock()
    tokens = PodTokens(objects, clock)
    pod, wish = make_pod(serviceAccountName="builder"), TokenWish("vault", 3600)

    async def current() -> str:
        return (await tokens.get(pod, frozenset([wish])))[wish]

    assert await current() == "token-1"
    await clock.advance(0.79 * 3600)
    assert await current() == "token-1"
    await clock.advance(0.02 * 3600)
    assert await current() == "token-2"
    request = objects.requests[0].spec
    assert (request.audiences, request.expirationSeconds) == (["vault"], 3600)
    assert request.boundObjectRef is not None and request.boundObjectRef.uid == "u-1"
    tokens.forget("u-1")
    assert await current() == "token-3"


async def test_long_tokens_are_renewed_daily() -> None:
    objects, clock = CountingObjects(), FakeClock()
    tokens = PodTokens(objects, clock)
    wish = TokenWish("", 30 * 24 * 3600)
    await tokens.get(make_pod(), frozenset([wish]))
    await clock.advance(23 * 3600)
    await tokens.get(make_pod(), frozenset([wish]))
    assert len(objects.requests) == 1
    await clock.advance(2 * 3600)
    await tokens.get(make_pod(), frozenset([wish]))
    assert len(objects.requests) == 2
