"""DeltaSecrets: the incremental variant of xDS for secrets, as a state machine.

The xDS protocol, in the order of its own sections:
1. the first request may say which versions the client still holds: those are not sent again;
2. later, a name that is subscribed is sent even if the client had it: it may have dropped it in between;
3. no names in the first request is the wildcard; `*` subscribes and unsubscribes it by name;
4. a name unsubscribed under the wildcard is sent again or told as removed: the client cannot know which;
5. each response is accepted or refused on its own; a nonce says which, and never hides a change of subscription;
6. what was refused is not sent again until it has changed or is subscribed anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from app.ca.rpc.sds_exchange import Reply, make_nonce, nonce_number
from app.ca.rpc.sds_names import WILDCARD, WILDCARD_NAMES, Catalog, check_count, expand
from app.ca.rpc.sds_resources import SECRET_TYPE, SecretResource, check_request, version_of


@dataclass(frozen=True, slots=True)
class DeltaExchange:
    """The state of one DeltaSecrets stream.

    `stream` sets its nonces apart from those of other streams. `known` maps each name to the version that the client
    held at first or was sent last. `owed` must be sent even if known; `removed` must be told as gone. `sent` counts
    responses, `answered` is the last one that was accepted or refused.
    """

    catalog: Catalog
    stream: str
    opened: bool = False
    wildcard: bool = False
    names: frozenset[str] = frozenset()
    due: bool = False
    known: Mapping[str, str] = field(default_factory=dict)
    owed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    sent: int = 0
    answered: int = 0

    @property
    def wanted(self) -> frozenset[str]:
        """The plain names of the secrets that the client is subscribed to."""
        return expand(self.names, wildcard=self.wildcard)

    def receive(self, request: Any) -> tuple["DeltaExchange", Reply]:
        """Return the state after `request`. Raises InvalidInputError if it asks for what the caller may not have."""
        check_request(request)
        for names in (request.resource_names_subscribe, request.resource_names_unsubscribe):
            check_count(names)
        if not self.opened:
            return self._open(request), Reply.REQUEST
        after, reply = self._reply(request)
        after = _unsubscribe(after, frozenset(request.resource_names_unsubscribe))
        after = _subscribe(after, frozenset(request.resource_names_subscribe))
        return replace(after, due=bool(self.due or after.owed or after.removed)), reply

    def offer(self, resources: Mapping[str, SecretResource]) -> tuple["DeltaExchange", Any | None]:
        """Return the response that brings the client up to `resources`, or None if it has all of them."""
        wanted = {name: resources[name] for name in sorted(self.wanted)}
        changed = [
            resource
            for name, resource in wanted.items()
            if name in self.owed or self.known.get(name) != resource.version
        ]
        if not changed and not self.removed:
            return replace(self, due=False), None
        number = self.sent + 1
        response = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=version_of(wanted),
            resources=[
                discovery_pb2.Resource(name=resource.name, version=resource.version, resource=resource.body)
                for resource in changed
            ],
            removed_resources=sorted(self.removed),
            type_url=SECRET_TYPE,
            nonce=make_nonce(self.stream, number),
        )
        known = {name: resource.version for name, resource in wanted.items()}
        after = replace(self, due=False, known=known, owed=frozenset(), removed=frozenset(), sent=number)
        return after, response

    def _open(self, request: Any) -> "DeltaExchange":
        held = request.initial_resource_versions
        check_count(held)
        names = frozenset(request.resource_names_subscribe)
        self.catalog.check(names)
        wildcard = not names or WILDCARD in names  # 3
        wanted = expand(names, wildcard=wildcard)
        known = {name: version for name, version in held.items() if name in wanted}  # 1
        gone = frozenset(held) - wanted if wildcard else frozenset[str]()
        return replace(
            self,
            opened=True,
            wildcard=wildcard,
            names=names - {WILDCARD},
            known=known,
            removed=gone,
            due=True,
        )

    def _reply(self, request: Any) -> tuple["DeltaExchange", Reply]:
        if not request.response_nonce:
            return self, Reply.REQUEST
        number = nonce_number(self.stream, request.response_nonce)  # 5
        if number is None or not self.answered < number <= self.sent:
            return self, Reply.STALE
        after = replace(self, answered=number)
        return after, Reply.NACK if request.HasField("error_detail") else Reply.ACK


def _unsubscribe(before: DeltaExchange, names: frozenset[str]) -> DeltaExchange:
    wildcard = before.wildcard and WILDCARD not in names
    dropped = names & before.names
    remaining = before.names - names
    wanted = expand(remaining, wildcard=wildcard)
    return replace(
        before,
        wildcard=wildcard,
        names=remaining,
        known={name: version for name, version in before.known.items() if name in wanted},
        owed=(before.owed & wanted) | (names & WILDCARD_NAMES if wildcard else frozenset()),  # 4
        removed=before.removed | (dropped - WILDCARD_NAMES if wildcard else frozenset()),
    )


def _subscribe(before: DeltaExchange, names: frozenset[str]) -> DeltaExchange:
    before.catalog.check(names)
    again = expand(names, wildcard=WILDCARD in names)
    return replace(
        before,
        wildcard=before.wildcard or WILDCARD in names,
        names=before.names | (names - {WILDCARD}),
        owed=before.owed | again,  # 2
        removed=before.removed - again,
    )
