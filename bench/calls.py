"""The calls that the benchmarks make, as sidecars send them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.message import Message

SOURCE = "spiffe://cluster.local/ns/shop/sa/web"
DOMAIN = "bench"


@dataclass(frozen=True)
class Method:
    """An RPC, a constant in the place of its answer, and whether an answer is a yes, as each that is measured is."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    constant: Message
    is_yes: Callable[[Any], bool]

    @property
    def path(self) -> str:
        """The HTTP/2 path."""
        return f"/{self.service}/{self.name}"


def check_requests(count: int) -> tuple[bytes, ...]:
    """Return so many CheckRequests of different clients for different paths."""
    return tuple(check_request(number=number) for number in range(count))


def check_request(headers: Mapping[str, str] = MappingProxyType({}), number: int = 0) -> bytes:
    """Return a CheckRequest, about 400 bytes without more headers; each number has another client, path and id."""
    path = f"/api/v1/cart/items/{number}?page=2"
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = SOURCE
    attributes.source.address.socket_address.address = f"10.0.{number // 200 % 200}.{number % 200}"
    attributes.source.address.socket_address.port_value = 40_000 + number % 20_000
    attributes.destination.principal = "spiffe://cluster.local/ns/shop/sa/cart"
    attributes.destination.address.socket_address.port_value = 8080
    attributes.destination.labels["app"] = "cart"
    http = attributes.request.http
    http.id, http.method, http.path, http.host = f"{number:020}", "GET", path, "cart.shop.svc"
    http.scheme, http.protocol, http.size = "http", "HTTP/1.1", -1
    for name, value in (
        ("user-agent", "curl/8.5.0"),
        ("accept", "*/*"),
        ("x-request-id", f"7b2f6a52-7f2c-4d0e-9d4e-{number:012x}"),
        ("x-forwarded-proto", "http"),
        (":authority", "cart.shop.svc"),
        (":path", path),
        (":method", "GET"),
        *headers.items(),
    ):
        http.headers[name] = value
    return bytes(message.SerializeToString())


def limit_requests(users: int) -> tuple[bytes, ...]:
    """Return a RateLimitRequest with two descriptors, of three entries in all, for each of so many users."""
    messages = []
    for user in range(users):
        message = RateLimitRequest(domain=DOMAIN)
        message.descriptors.add().entries.add(key="principal", value=SOURCE)
        entries = message.descriptors.add().entries
        entries.add(key="route", value="/api/v1")
        entries.add(key="user", value=f"user-{user:06}")
        messages.append(bytes(message.SerializeToString()))
    return tuple(messages)


def _allowed() -> Any:
    message = CheckResponse()
    message.ok_response.SetInParent()
    return message


def _within_limits() -> Any:
    message = RateLimitResponse(overall_code=RateLimitResponse.OK)
    for _ in range(2):
        status = message.statuses.add(code=RateLimitResponse.OK, limit_remaining=999_999)
        status.current_limit.requests_per_unit = 1_000_000
        status.current_limit.unit = RateLimitResponse.RateLimit.HOUR
        status.duration_until_reset.seconds = 1800
    return message


CHECK = Method(
    "envoy.service.auth.v3.Authorization",
    "Check",
    CheckRequest,
    CheckResponse,
    _allowed(),
    lambda answer: answer.HasField("ok_response"),
)
SHOULD_RATE_LIMIT = Method(
    "envoy.service.ratelimit.v3.RateLimitService",
    "ShouldRateLimit",
    RateLimitRequest,
    RateLimitResponse,
    _within_limits(),
    lambda answer: answer.overall_code == RateLimitResponse.OK,
)
