"""StreamSecrets: the state-of-the-world variant of xDS for secrets, as a state machine.

The xDS protocol, in the order of its own sections:
1. a stream's first request is always answered, whatever version it names;
2. a response is accepted (ACK) or refused (NACK, with error_detail) by a request that carries its nonce;
3. a request with any other nonce is stale and changes nothing;
4. a request may change the names; only names that are new call for a response;
5. no names on a stream that never named any is the wildcard; on one that did, it ends the subscription;
6. what was refused is not sent again until it has changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from app.ca.rpc.sds_exchange import Reply, make_nonce, nonce_number
from app.ca.rpc.sds_names import WILDCARD, Catalog, check_count, expand
from app.ca.rpc.sds_resources import SECRET_TYPE, SecretResource, check_request, version_of


@dataclass(frozen=True, slots=True)
class StreamExchange:
    """The state of one StreamSecrets stream.

    `stream` sets its nonces apart from those of other streams. `known` maps each name to the version sent last,
    accepted or not. `sent` and `answered` count responses; `accepted` is the version_info that the client holds.
    """

    catalog: Catalog
    stream: str
    opened: bool = False
    named: bool = False
    names: frozenset[str] = frozenset()
    due: bool = False
    known: Mapping[str, str] = field(default_factory=dict)
    sent: int = 0
    answered: int = 0
    version: str = ""
    accepted: str = ""

    @property
    def wanted(self) -> frozenset[str]:
        """The plain names of the secrets that the client is subscribed to."""
        wildcard = WILDCARD in self.names or (self.opened and not self.named)
        return expand(self.names, wildcard=wildcard)

    def receive(self, request: Any) -> tuple["StreamExchange", Reply]:
        """Return the state after `request`. Raises InvalidInputError if it asks for what the caller may not have."""
        check_request(request)
        check_count(request.resource_names)
        if not self.opened:  # 1; a nonce or version from a stream before this one means nothing here
            return replace(self._subscribe(request), accepted=request.version_info, due=True), Reply.REQUEST
        if self.sent and nonce_number(self.stream, request.response_nonce) != self.sent:  # 3
            return self, Reply.STALE
        after = self._subscribe(request)
        after = replace(after, due=self.due or not after.wanted <= self.wanted)  # 4
        if self.sent == self.answered:
            return after, Reply.REQUEST
        after = replace(after, answered=self.sent)  # 2
        if request.HasField("error_detail"):
            return after, Reply.NACK
        return replace(after, accepted=self.version), Reply.ACK

    def offer(self, resources: Mapping[str, SecretResource]) -> tuple["StreamExchange", Any | None]:
        """Return the response that brings the client up to `resources`, or None if it was sent all of them (6)."""
        wanted = {name: resources[name] for name in sorted(self.wanted)}
        changed = any(self.known.get(name) != resource.version for name, resource in wanted.items())
        if not wanted or not (changed or self.due):
            return replace(self, due=False), None
        version, number = version_of(wanted), self.sent + 1
        response = discovery_pb2.DiscoveryResponse(
            version_info=version,
            resources=[resource.body for resource in wanted.values()],
            type_url=SECRET_TYPE,
            nonce=make_nonce(self.stream, number),
        )
        known = {name: resource.version for name, resource in wanted.items()}
        return replace(self, due=False, known=known, sent=number, version=version), response

    def _subscribe(self, request: Any) -> "StreamExchange":
        names = frozenset(request.resource_names)
        self.catalog.check(names)
        return replace(self, opened=True, named=self.named or bool(names), names=names)  # 5
