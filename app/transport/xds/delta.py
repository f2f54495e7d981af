"""The delta (incremental) variant of xDS, as a state machine: each response has what changed.

The xDS protocol, in the order of its own sections:
1. the first request may list the versions that the client still holds: those are not sent again;
2. later, a name that is subscribed is sent even if the client had it: it may have dropped it in between;
3. no names in the first request is the wildcard; `*` subscribes and unsubscribes it by name;
4. a name unsubscribed under the wildcard is sent again or reported as removed: the client cannot know which;
5. each response is accepted or refused on its own; a nonce tells which, and never hides a change of subscription;
6. what was refused is not sent again until it has changed or is subscribed again;
7. a resource that is gone, or that was subscribed and does not exist, is reported as removed once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from app.transport.xds.exchange import Reply, check_count, check_names, check_request, make_nonce, nonce_number
from app.transport.xds.resources import WILDCARD, Catalog, Resource, version_of


@dataclass(frozen=True, slots=True)
class DeltaExchange:
    """The state of one type on one stream.

    `stream` distinguishes its nonces from those of other streams. `known` maps each name to the version that the client
    held at first or was sent last; `owed` must be sent, or reported as removed, even if known. `sent` counts responses,
    `answered` is the last one that was accepted or refused.
    """

    catalog: Catalog
    stream: str
    opened: bool = False
    wildcard: bool = False
    names: frozenset[str] = frozenset()
    due: bool = False
    known: Mapping[str, str] = field(default_factory=dict)
    owed: frozenset[str] = frozenset()
    sent: int = 0
    answered: int = 0

    @property
    def wanted(self) -> frozenset[str]:
        """The names that the client is subscribed to; `*` among them is the wildcard."""
        return self.names | {WILDCARD} if self.wildcard else self.names

    def receive(self, request: Any) -> tuple["DeltaExchange", Reply]:
        """Return the state after `request`. Raises InvalidInputError if it asks for what the caller may not have."""
        check_request(request, self.catalog)
        check_count(request.resource_names_unsubscribe, self.catalog)
        check_names(request.resource_names_subscribe, self.catalog)
        subscribed = frozenset(request.resource_names_subscribe)
        if not self.opened:
            return self._open(subscribed, request.initial_resource_versions), Reply.REQUEST
        after, reply = self._reply(request)
        after = _unsubscribe(after, frozenset(request.resource_names_unsubscribe))
        return _subscribe(after, subscribed), reply

    def offer(self, resources: Mapping[str, Resource]) -> tuple["DeltaExchange", Any | None]:
        """Return the response that brings the client up to `resources`, or None if it has all of them."""
        changed = [
            resource
            for name, resource in sorted(resources.items())
            if name in self.owed or self.known.get(name) != resource.version
        ]
        removed = (self.owed | self.known.keys()) - resources.keys()  # 7
        if not changed and not removed:
            return replace(self, due=False), None
        number = self.sent + 1
        response = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=version_of(resources),
            resources=[
                discovery_pb2.Resource(name=resource.name, version=resource.version, resource=resource.body)
                for resource in changed
            ],
            removed_resources=sorted(removed),
            type_url=self.catalog.type_url,
            nonce=make_nonce(self.stream, number),
        )
        known = {name: resource.version for name, resource in resources.items()}
        return replace(self, due=False, known=known, owed=frozenset(), sent=number), response

    def _open(self, subscribed: frozenset[str], held: Mapping[str, str]) -> "DeltaExchange":
        check_count(held, self.catalog)
        wildcard, names = not subscribed or WILDCARD in subscribed, subscribed - {WILDCARD}  # 3
        known = _versions_of(names, held, wildcard=wildcard)  # 1
        owed = names - held.keys()
        return replace(self, opened=True, wildcard=wildcard, names=names, known=known, owed=owed, due=True)

    def _reply(self, request: Any) -> tuple["DeltaExchange", Reply]:
        if not request.response_nonce:
            return self, Reply.REQUEST
        number = nonce_number(self.stream, request.response_nonce)  # 5
        if number is None or not self.answered < number <= self.sent:
            return self, Reply.STALE
        after = replace(self, answered=number)
        return after, Reply.NACK if request.HasField("error_detail") else Reply.ACK


def _unsubscribe(before: DeltaExchange, dropped: frozenset[str]) -> DeltaExchange:
    wildcard, names = before.wildcard and WILDCARD not in dropped, before.names - dropped
    known = _versions_of(names, before.known, wildcard=wildcard)
    owed = before.owed & names
    if wildcard:
        owed = before.owed | (dropped & (before.names | before.known.keys()))  # 4
    return replace(before, wildcard=wildcard, names=names, known=known, owed=owed, due=before.due or bool(owed))


def _subscribe(before: DeltaExchange, added: frozenset[str]) -> DeltaExchange:
    names = before.names | (added - {WILDCARD})
    check_count(names, before.catalog)
    again = added - {WILDCARD} | (before.known.keys() if WILDCARD in added else frozenset())  # 2
    return replace(
        before,
        wildcard=before.wildcard or WILDCARD in added,
        names=names,
        owed=before.owed | again,
        due=before.due or bool(added),
    )


def _versions_of(names: frozenset[str], versions: Mapping[str, str], *, wildcard: bool) -> dict[str, str]:
    """Return the versions of what is subscribed."""
    return {name: version for name, version in versions.items() if wildcard or name in names}
