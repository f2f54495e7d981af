"""The state-of-the-world variant of xDS, as a state machine: each response has every resource of the subscription.

The xDS protocol, in the order of its own sections:
1. a stream's first request is always answered, whatever version it names;
2. a response is accepted (ACK) or refused (NACK, with error_detail) by a request that carries its nonce;
3. a request with any other nonce is stale and changes nothing;
4. a request may change the names; only names that are new call for a response;
5. no names on a stream that never named any is the wildcard; on one that did, it ends the subscription;
6. what was refused is not sent again until it has changed;
7. a resource that is gone is missing from the next response.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from envoy.service.discovery.v3 import discovery_pb2

from app.transport.xds.exchange import Exchange, Reply, check_names, check_request
from app.transport.xds.resources import WILDCARD, Resource, version_of


@dataclass(frozen=True, slots=True)
class StateOfTheWorldExchange(Exchange):
    """The state of one type on one stream. `named`: a request has named resources."""

    named: bool = False

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset({WILDCARD}) if self.opened and not self.named else self.names

    def receive(self, request: Any) -> tuple[Self, Reply]:
        check_request(request, self.catalog)
        if not self.opened:  # 1; a nonce or version from a stream before this one means nothing here
            return replace(self._subscribe(request), due=True), Reply.REQUEST
        if self.sent and self.response_number(request) != self.sent:  # 3
            return self, Reply.STALE
        after = self._subscribe(request)
        if self.sent == self.answered:
            return after, Reply.REQUEST
        return after.reply(request, self.sent)  # 2

    def offer(self, resources: Mapping[str, Resource]) -> tuple[Self, Any | None]:
        versions = {name: resource.version for name, resource in sorted(resources.items())}
        if not self.wanted or (versions == self.known and not self.due):  # 6
            return replace(self, due=False), None
        response = discovery_pb2.DiscoveryResponse(
            version_info=version_of(resources),
            resources=[resources[name].body for name in versions],  # 7
            type_url=self.catalog.type_url,
            nonce=self.next_nonce(),
        )
        sent = self.sent + 1
        return replace(self, due=False, known=versions, sent=sent, sent_in=dict.fromkeys(versions, sent)), response

    def _subscribe(self, request: Any) -> Self:
        names = frozenset(request.resource_names)
        check_names(request.resource_names, self.catalog)
        after = replace(self, opened=True, named=self.named or bool(names), names=names)  # 5
        added = after.wanted - self.wanted
        if WILDCARD in self.wanted:
            added -= self.known.keys()
        known = {name: version for name, version in self.known.items() if name in after.wanted}
        return replace(after, due=self.due or bool(added), known=self.known if WILDCARD in after.wanted else known)  # 4
