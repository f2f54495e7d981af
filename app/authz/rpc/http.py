"""Envoy's external authorization over HTTP: the path of a check is a prefix and the path of the request.

What Envoy sends of itself is little: method, path, host and the headers that `allowed_headers` names. The rest comes
from headers that the proxy's configuration has to set in `authorization_request.headers_to_add`, where they replace
those of a client:

| header | value | what it is |
|---|---|---|
| `x-meshward-namespace` | the namespace | the destination, where it is not the proxy's own |
| `x-meshward-labels` | `app=shop,version=v1` | the destination's labels |
| `x-meshward-destination-ip` | `%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%` | the destination's address |
| `x-meshward-destination-port` | `%DOWNSTREAM_LOCAL_PORT%` | the destination's port |
| `x-meshward-sni` | `%REQUESTED_SERVER_NAME%` | the server name that the client asked for |
| `x-meshward-forwarded-headers` | `*, !connection, !upgrade` | the headers that `allowed_headers` lets through |
| `x-meshward-content-type` | `%FILTER_STATE(meshward.content-type:PLAIN)%` | that of the request, see below |
| `x-meshward-source-ip` | `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%` | the peer's address, see below |

The destination is the caller itself if it proved an SVID and names no other. The peer is believed only if
`trust_forwarded_client_cert` is set: its identity from `x-forwarded-client-cert`, which Envoy must then sanitise
(SANITIZE_SET) and allow, and its address from `x-meshward-source-ip`. Behind `trusted_hops` proxies the client's
address comes from `x-forwarded-for`, which Envoy must then allow as well. What is missing never grants and always
denies, and so does a rule about a header that is absent and not declared as forwarded.

`content-type` must not be allowed: to a check with that of gRPC Envoy reports its own errors with status 200, so that a
request would pass while this service is away. The proxy's configuration keeps it in filter state, and adds it.

`failure_mode_allow` must stay off for HTTP checks: the path of a request becomes the path of the check, and the server
may refuse it (`/%zz`) by resetting the stream before this application is asked. A gRPC check has the path in a message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from typing import Any

from app.authz.identity import ANONYMOUS, Identity
from app.authz.model import NO_CLAIMS, CheckInput, Connection, Joined, Workload
from app.authz.providers import NO_CHANGES, Changes, ProvidedDecision
from app.authz.rpc.answer import CONTENT_TYPE, DECISION_HEADER, decision_header, denial_body
from app.authz.rpc.attributes import (
    READS,
    read_port,
    remote_address,
)
from app.authz.rpc.declared import read_forwarded
from app.authz.rpc.destination import NO_GATEWAYS, Gateways, Named, read_workload
from app.authz.rpc.document import http_attributes
from app.authz.rpc.peers import read_identity
from app.authz.rules.addresses import FORWARDED_FOR, read_address
from app.authz.service import PolicyService
from app.core.decision import Decision
from app.core.errors import InvalidInputError
from app.spiffe.forwarded import peer_uri
from app.spiffe.principal import ANONYMOUS as NO_CALLER
from app.spiffe.principal import Principal
from app.transport.mesh import PRINCIPAL_KEY

PREFIX = "/ext_authz"
# A body that Envoy sends along is read for providers; not more of it than this.
MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_SECONDS = 5.0

CERTIFICATE_HEADER = "x-forwarded-client-cert"
FORWARDED_HEADER = "x-meshward-forwarded-headers"
CONTENT_TYPE_HEADER = b"x-meshward-content-type"
# Headers that Envoy writes for the check itself, or the proxy's configuration for this service: those of the request
# are not known.
_OF_THE_CHECK = ("x-meshward-", "x-envoy-", "content-length")
_WRITTEN_FOR_THE_CHECK = "x-meshward-"
_NOT_OF_THE_REQUEST = "".join(f",!{prefix}*" for prefix in _OF_THE_CHECK)

_ALLOWED = 200
_FORBIDDEN = 403
# What Envoy takes for a denial: 200 lets the request pass, and 5xx is an error, which `failure_mode_allow` lets pass.
_DENYING = frozenset(range(201, 500))
_TO_REMOVE = b"x-envoy-auth-headers-to-remove"

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class HttpAuthorization:
    """The ASGI application that is mounted under `prefix`: 200 lets a request pass, 403 does not, nothing else comes.

    `expose_decision`: the client learns which rule decided, in `x-meshward-decision` and the body of a denial.
    """

    def __init__(
        self,
        service: PolicyService,
        *,
        expose_decision: bool = False,
        trust_forwarded_client_cert: bool = False,
        trusted_hops: int = 0,
        gateways: Gateways = NO_GATEWAYS,
        prefix: str = PREFIX,
    ) -> None:
        self._service = service
        self._expose_decision = expose_decision
        self._trust_peer = trust_forwarded_client_cert
        self._trusted_hops = trusted_hops
        self._gateways = gateways
        self._reads = READS[service.matching]
        self._prefix = prefix.encode()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one check (ASGI 3, http). Whatever goes wrong is a denial: `failure_mode_allow` admits on an error."""
        decision = await self._decide(scope, await _read_body(receive))
        changes = decision.changes if isinstance(decision, ProvidedDecision) else NO_CHANGES
        path = scope["path"].removeprefix(self._prefix.decode())
        own = denial_body(decision, scope["method"], path, expose=self._expose_decision, metadata=False)
        headers = _changed_headers(changes, allowed=decision.allowed)
        if changes.body is None:
            headers.insert(0, (b"content-type", CONTENT_TYPE.encode()))
        if self._expose_decision:
            headers.append((DECISION_HEADER.encode(), decision_header(decision).encode()))
        status, body = _ALLOWED, b""
        if not decision.allowed:
            status = changes.status if changes.status in _DENYING else _FORBIDDEN
            body = (own if changes.body is None else changes.body).encode() if scope["method"] != "HEAD" else b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _decide(self, scope: Mapping[str, Any], body: bytes | None) -> Decision:
        try:
            decision = self._service.check(self._read(scope, body))
        except InvalidInputError as error:
            return self._service.malformed(error.message)
        except Exception:  # noqa: BLE001 - as the docstring of __call__ says
            return self._service.failed()
        return decision if isinstance(decision, Decision) else await decision

    def _read(self, scope: Mapping[str, Any], body: bytes | None) -> CheckInput:
        scope = {**scope, "headers": _with_content_type(scope["headers"])}
        headers = _headers(scope)
        raw: bytes = scope["raw_path"]
        if not raw.startswith(self._prefix + b"/"):
            raise InvalidInputError("the path of the check does not begin with the prefix as it is")
        target = raw[len(self._prefix) :].decode("ascii", "surrogateescape")
        host = _single(headers, "host") or ""
        method, path, other_paths, authority = self._reads.request(scope["method"], target, host)
        whole = _with_query(target, scope["query_string"])
        source_ip = read_address(_single(headers, "x-meshward-source-ip") or "") if self._trust_peer else None
        declared = _single(headers, FORWARDED_HEADER) or ""
        forwarded = read_forwarded(f"{declared}{_NOT_OF_THE_REQUEST}")
        source = self._source(headers, forwarded)
        connection = Connection(
            workload=_workload(scope, headers, self._gateways),
            source=source,
            source_ip=source_ip,
            destination_ip=read_address(_single(headers, "x-meshward-destination-ip") or ""),
            destination_port=read_port(_single(headers, "x-meshward-destination-port") or ""),
            sni=self._server_name(headers),
            trusted_hops=self._trusted_hops,
        )
        return CheckInput(
            connection,
            method=method,
            path=path,
            other_paths=other_paths,
            host=authority,
            headers={
                **{name: headers[name] for name in headers if not name.startswith(_OF_THE_CHECK)},
                ":method": (scope["method"],),
                ":path": (whole,),
                **({":authority": (host,)} if host else {}),
            },
            claims=NO_CLAIMS,
            metadata=NO_CLAIMS,
            forwarded_headers=forwarded,
            remote_ip=remote_address(source_ip, headers.get(FORWARDED_FOR), self._trusted_hops),
            over_http=True,
            attributes=lambda _parts: _attributes(scope, whole, body, source),
        )

    def _server_name(self, headers: Mapping[str, tuple[str, ...]]) -> str | None:
        name = _single(headers, "x-meshward-sni")
        return self._reads.server_name(name) if name else None

    def _source(self, headers: Mapping[str, tuple[str, ...]], forwarded: Container[str]) -> Identity | None:
        if not self._trust_peer:
            return None
        certificate = _single(headers, CERTIFICATE_HEADER)
        if certificate is None:
            return ANONYMOUS if CERTIFICATE_HEADER in forwarded else None
        return read_identity(peer_uri(certificate))


def _attributes(scope: Mapping[str, Any], target: str, body: bytes | None, source: Identity | None) -> dict[str, Any]:
    if body is None:
        raise InvalidInputError(f"its body did not come within {BODY_TIMEOUT_SECONDS:g} s, or is too long")
    headers = [(name.decode("latin-1").lower(), value) for name, value in scope["headers"]]
    of_request = [(name, value) for name, value in headers if not name.startswith(_WRITTEN_FOR_THE_CHECK)]
    principal = f"spiffe://{source.principal}" if source and source.principal else ""
    return http_attributes(scope["method"], target, of_request, body, principal)


def _changed_headers(changes: Changes, *, allowed: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of the answer, of which Envoy passes on those that its configuration names."""
    given = changes.headers + changes.response_headers if allowed else changes.headers
    # What is left of a header of the request has the bytes that it came with.
    headers = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in given]
    if allowed and changes.headers_to_remove:
        headers.append((_TO_REMOVE, ",".join(changes.headers_to_remove).encode()))
    return headers


def _with_content_type(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers with the `content-type` that the proxy kept of the request, if it kept one."""
    return [(b"content-type" if name == CONTENT_TYPE_HEADER and value else name, value) for name, value in headers]


def _headers(scope: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("utf-8", "surrogateescape"))
    return {name: _values(values) for name, values in found.items()}


def _values(values: list[str]) -> tuple[str, ...]:
    """Return the values of a header; without `encode_raw_headers` Envoy joins those of a repeated one with commas."""
    return Joined(values) if any("," in value for value in values) else tuple(values)


def _with_query(target: str, query: bytes) -> str:
    return f"{target}?{query.decode('utf-8', 'surrogateescape')}" if query else target


def _single(headers: Mapping[str, tuple[str, ...]], name: str) -> str | None:
    """Return the header's only value. Raises InvalidInputError if it is repeated: one of them is not the proxy's."""
    values = headers.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise InvalidInputError(f"the header {name} is there {len(values)} times")
    return values[0]


def _workload(scope: Mapping[str, Any], headers: Mapping[str, tuple[str, ...]], gateways: Gateways) -> Workload | None:
    principal: Principal = scope.get("state", {}).get(PRINCIPAL_KEY, NO_CALLER)
    named = Named(_single(headers, "x-meshward-namespace"), _single(headers, "x-meshward-labels"))
    return read_workload(gateways, principal.spiffe_id, None, named, None)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, which providers are sent; None if it is too long or does not end."""
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while len(body) <= MAX_BODY_BYTES:
                message = await receive()
                body += message.get("body", b"")
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return body if len(body) <= MAX_BODY_BYTES else None
    except TimeoutError:
        pass
    return None
