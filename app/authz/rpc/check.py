"""Envoy's external authorization over gRPC (envoy/service/auth/v3/external_auth.proto).

The source is the peer that Envoy verified: `source.principal`, or the names in `source.certificate`, and where both are
sent they must agree. The destination is the context extension `meshward.namespace`; or `destination.principal`; or the
caller itself, if it proved an SVID; see `destination`. Its labels are `destination.labels` and those of the context
extension `meshward.labels` (`app=shop,version=v1`). The check has every header of the request, unless the context
extension `meshward.forwarded_headers` says which ones. What filters of the proxy found is believed of those that the
context extension `meshward.metadata` names.
"""

import json
from collections.abc import Awaitable
from functools import partial
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError

from app.authz.model import NO_CLAIMS, CheckInput, Connection, Headers, Joined
from app.authz.providers import HeaderValues, ProvidedDecision
from app.authz.rpc.answer import (
    CONTENT_TYPE,
    DECISION_HEADER,
    decision_header,
    denial_body,
    observed_metadata,
    query_name,
    query_value,
)
from app.authz.rpc.attributes import READS, remote_address
from app.authz.rpc.connections import Connections
from app.authz.rpc.destination import NO_GATEWAYS, Gateways
from app.authz.rpc.document import attributes_of
from app.authz.rpc.message import AttributeContext, read_attributes, rest_of, whole_attributes
from app.authz.rpc.metadata import read_metadata, verified_claims
from app.authz.rules.addresses import FORWARDED_FOR
from app.authz.rules.parts import Parts
from app.authz.service import PolicyService
from app.core.decision import Decision
from app.core.errors import InvalidInputError, MeshwardError
from app.transport.grpc.call import malformed_message
from app.transport.grpc.context import CallContext
from app.transport.grpc.routes import Prepared
from app.transport.grpc.status import Code

# Answers that are kept ready: one for each rule that decided, some thousands in a large mesh.
MAX_KEPT_ANSWERS = 4096

_FORBIDDEN = 403
_NOT_UTF8 = "a header that the answer changes is not UTF-8, and Envoy takes no other text"
_NO_REQUEST = AttributeContext.HttpRequest()
_PSEUDO_HEADERS = {":authority": "host", ":method": "method", ":path": "path", ":scheme": "scheme"}
_Response: Any = external_auth_pb2.CheckResponse
_Struct: Any = struct_pb2.Struct
_Header: Any = base_pb2.HeaderValue


class AuthorizationRpc:
    """The handlers of `envoy.service.auth.v3.Authorization`.

    `expose_decision`: the client learns which rule decided, in `x-meshward-decision` and the body of a denial.
    `trusted_hops`: proxies in front of Envoy whose `x-forwarded-for` entries are believed, see `remote_address`.
    `gateways`: the callers that speak for other namespaces.
    """

    def __init__(
        self,
        service: PolicyService,
        *,
        expose_decision: bool = False,
        trusted_hops: int = 0,
        gateways: Gateways = NO_GATEWAYS,
    ) -> None:
        self._service = service
        self._expose_decision = expose_decision
        self._read_request = READS[service.matching].request
        self._connections = Connections(service.matching, gateways, trusted_hops)
        # Whole answers to what is allowed, and answers to what is denied, which lack the body.
        self._ready: dict[object, Prepared] = {}
        self._denials: dict[Decision, Any] = {}

    def Check(self, payload: bytes, context: CallContext) -> Any:  # noqa: N802 - the RPC's name
        """Answer a serialized CheckRequest with a CheckResponse: OK, or PERMISSION_DENIED with 403; or an awaitable.

        Raises InvalidInputError if it is no CheckRequest, which `deny` answers. Neither raises otherwise, because the
        sidecar would decide on an error by its `failure_mode_allow`. Cancelling does.
        """
        http = _NO_REQUEST
        try:
            attributes = read_attributes(payload)
            request = attributes.request
            http = request.http
            decision = self._service.check(self._read(attributes, request, http, payload, context))
        except DecodeError as error:
            raise malformed_message(external_auth_pb2.CheckRequest) from error
        except InvalidInputError as error:
            decision = self._service.malformed(error.message)
        except Exception:  # noqa: BLE001 - as the docstring says
            decision = self._service.failed()
        ready = self._ready.get(decision)
        if ready is not None:
            return ready
        return self._respond(decision, http) if isinstance(decision, Decision) else self._respond_later(decision, http)

    async def _respond_later(self, decision: Awaitable[Decision], http: Any) -> Any:
        return self._respond(await decision, http)

    def _respond(self, decision: Decision, http: Any) -> Any:
        ready = self._ready.get(decision)
        if ready is not None:
            return ready
        if isinstance(decision, ProvidedDecision):
            try:
                return self._changing(decision, http)
            except UnicodeEncodeError:
                decision = self._service.malformed(_NOT_UTF8)
            except Exception:  # noqa: BLE001 - as the docstring of Check says
                decision = self._service.failed()
        if decision.allowed:
            return self._keep(decision, self._answer(decision))
        return self._denial(decision, http.method, http.path)

    def _read(self, attributes: Any, request: Any, http: Any, payload: bytes, context: CallContext) -> CheckInput:
        """Return what rules look at.

        Raises InvalidInputError for a request that cannot be evaluated, DecodeError if a part of it is none.
        """
        found_by_filters = attributes.metadata_context
        declared = self._connections.read(rest_of(attributes), context.principal.spiffe_id)
        connection = declared.connection
        if not request.HasField("http"):
            return _tcp(connection, payload)
        method, path, other_paths, host = self._read_request(http.method, http.path, http.host)
        raw = http.HasField("header_map") and http.header_map.headers
        headers: Headers = _RawHeaders(http) if raw else _Headers(http)
        remote_ip, hops = connection.source_ip, connection.trusted_hops
        if hops:
            remote_ip = remote_address(remote_ip, headers.get(FORWARDED_FOR), hops)
        claims = metadata = NO_CLAIMS
        if declared.filters is not None:
            metadata = read_metadata(declared.filters, found_by_filters)
            claims = verified_claims(metadata)
        # By position, in the order of CheckInput's fields: so many keywords take longer than all else of making one.
        return CheckInput(
            connection,
            method,
            path,
            host,
            headers,
            claims,
            metadata,
            declared.forwarded_headers,
            other_paths,
            remote_ip,
            partial(_attributes, payload),
        )

    def deny(self, error: MeshwardError) -> Any:
        """Return the denial of a check whose request never reached `Check`: too large, no message, out of time."""
        return self._denial(self._service.malformed(error.message), "", "")

    def _denial(self, decision: Decision, method: str, path: str) -> Any:
        response = _Response()
        response.CopyFrom(self._denials.get(decision) or self._keep_denial(decision))
        response.denied_response.body = denial_body(decision, method, path, expose=self._expose_decision)
        return response

    def _changing(self, decision: ProvidedDecision, http: Any) -> Any:
        """Return the answer with what providers have Envoy change."""
        response, changes = self._answer(decision), decision.changes
        if changes.metadata:
            given = _Struct()
            given.update(json.loads(changes.metadata))
            given.MergeFrom(response.dynamic_metadata)
            response.dynamic_metadata.CopyFrom(given)
        if decision.allowed:
            answer = response.ok_response
            _give(answer.headers, changes.headers)
            _give(answer.response_headers_to_add, changes.response_headers)
            answer.headers_to_remove.extend(changes.headers_to_remove)
            for key, value in changes.query_to_set:
                answer.query_parameters_to_set.add(key=query_name(key), value=query_value(value))
            answer.query_parameters_to_remove.extend(map(query_name, changes.query_to_remove))
            return response if changes.metadata else self._keep(decision, response)
        answer = response.denied_response
        answer.status.code = changes.status or _FORBIDDEN
        if changes.body is not None:
            del answer.headers[0]  # the content type of the body that is replaced
        _give(answer.headers, changes.headers)
        body = denial_body(decision, http.method, http.path, expose=self._expose_decision)
        answer.body = body if changes.body is None else changes.body
        return response

    def _answer(self, decision: Decision) -> Any:
        return _answer(decision, expose=self._expose_decision)

    def _keep(self, decision: Decision, answer: Any) -> Prepared:
        """Return the answer to what is allowed, and keep it for the next check that is decided the same."""
        if len(self._ready) >= MAX_KEPT_ANSWERS:
            self._ready.clear()
        ready = self._ready[decision] = Prepared(answer.SerializeToString())
        return ready

    def _keep_denial(self, decision: Decision) -> Any:
        """Return the answer to what is denied, without a body, and keep it as well."""
        if len(self._denials) >= MAX_KEPT_ANSWERS:
            self._denials.clear()
        answer = self._denials[decision] = self._answer(decision)
        return answer


def _answer(decision: Decision, *, expose: bool) -> Any:
    response = _Response()
    metadata = response.dynamic_metadata
    metadata["meshward.decision"] = decision.outcome.value
    metadata["meshward.reason"] = decision.reason
    if decision.policy:
        metadata["meshward.policy"] = decision.policy
        metadata["meshward.rule"] = decision.rule
    for key, value in observed_metadata(decision):
        metadata[key] = value
    if decision.allowed:
        response.status.code = Code.OK.value
        response.ok_response.SetInParent()
        headers = response.ok_response.response_headers_to_add
    else:
        response.status.code = Code.PERMISSION_DENIED.value
        response.denied_response.status.code = _FORBIDDEN
        headers = response.denied_response.headers
        _add(headers, "content-type", CONTENT_TYPE)
    if expose:
        _add(headers, DECISION_HEADER, decision_header(decision))
    return response


def _add(headers: Any, key: str, value: str) -> None:
    option = headers.add()
    option.header.key = key
    option.header.value = value
    option.append_action = option.OVERWRITE_IF_EXISTS_OR_ADD


def _give(options: Any, headers: HeaderValues) -> None:
    """Add the headers of a provider, which Envoy sets or adds as it does those of OPA-Envoy."""
    for key, value in headers:
        options.add().header.MergeFrom(_Header(key=key, value=value))


def _tcp(connection: Connection, payload: bytes) -> CheckInput:
    """Return what rules look at of a TCP connection, as Envoy's network filter asks about it."""
    return CheckInput(
        connection,
        method=None,
        path=None,
        host=None,
        headers={},
        claims=None,
        metadata=NO_CLAIMS,
        remote_ip=connection.source_ip,
        is_tcp=True,
        attributes=partial(_attributes, payload),
    )


def _attributes(payload: bytes, parts: Parts) -> dict[str, Any]:
    return attributes_of(whole_attributes(payload), parts)


class _Headers:
    """The header map of a check, read where a rule asks for a header and nowhere else."""

    __slots__ = ("_http", "_map")

    def __init__(self, http: Any) -> None:
        self._http = http
        self._map = http.headers

    def get(self, name: str, /) -> tuple[str, ...] | None:
        if name in _PSEUDO_HEADERS:
            return _pseudo_header(self._http, name)
        value = self._map.get(name)
        if value is None:
            return None
        return Joined((value,)) if "," in value else (value,)


class _RawHeaders:
    """The headers as they came, repeated ones apart, with bytes that are not UTF-8 kept as they are."""

    __slots__ = ("_by_name", "_http")

    def __init__(self, http: Any) -> None:
        self._http = http
        self._by_name: dict[str, list[str]] | None = None

    def get(self, name: str, /) -> tuple[str, ...] | None:
        if name in _PSEUDO_HEADERS:
            return _pseudo_header(self._http, name)
        if self._by_name is None:
            self._by_name = {}
            for header in self._http.header_map.headers:
                value = header.raw_value.decode("utf-8", "surrogateescape") if header.raw_value else header.value
                self._by_name.setdefault(header.key.lower(), []).append(value)
        values = self._by_name.get(name)
        return None if values is None else tuple(values)


def _pseudo_header(http: Any, name: str) -> tuple[str, ...] | None:
    value = getattr(http, _PSEUDO_HEADERS[name])
    return (value,) if value else None
