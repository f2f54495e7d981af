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
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from envoy.service.discovery.v3 import discovery_pb2

from app.transport.xds.exchange import Exchange, Reply, check_count, check_names, check_request
from app.transport.xds.resources import WILDCARD, Resource, version_of

Delta = TypeVar("Delta", bound="DeltaExchange")


@dataclass(frozen=True, slots=True)
class DeltaExchange(Exchange):
    """The state of one type on one stream.

    `known` has the versions that the client held at first, too; `owed` must be sent, or reported as removed, even if
    known.
    """

    wildcard: bool = False
    owed: frozenset[str] = frozenset()

    @property
    def wanted(self) -> frozenset[str]:
        return self.names | {WILDCARD} if self.wildcard else self.names

    def receive(self, request: Any) -> tuple[Self, Reply]:
        check_request(request, self.catalog)
        check_count(request.resource_names_unsubscribe, self.catalog)
        check_names(request.resource_names_subscribe, self.catalog)
        subscribed = frozenset(request.resource_names_subscribe)
        if not self.opened:
            return self._open(subscribed, request.initial_resource_versions), Reply.REQUEST
        after, reply = self._reply(request)
        return _subscribe(_unsubscribe(after, frozenset(request.resource_names_unsubscribe)), subscribed), reply

    def offer(self, resources: Mapping[str, Resource]) -> tuple[Self, Any | None]:
        changed = [
            resource
            for name, resource in sorted(resources.items())
            if name in self.owed or self.known.get(name) != resource.version
        ]
        removed = (self.owed | self.known.keys()) - resources.keys()  # 7
        if not changed and not removed:
            return replace(self, due=False), None
        response = discovery_pb2.DeltaDiscoveryResponse(
            system_version_info=version_of(resources),
            resources=[
                discovery_pb2.Resource(name=resource.name, version=resource.version, resource=resource.body)
                for resource in changed
            ],
            removed_resources=sorted(removed),
            type_url=self.catalog.type_url,
            nonce=self.next_nonce(),
        )
        known = {name: resource.version for name, resource in resources.items()}
        sent_in = {name: number for name, number in self.sent_in.items() if name in known}
        sent_in.update({resource.name: self.sent + 1 for resource in changed})
        return replace(self, due=False, known=known, owed=frozenset(), sent=self.sent + 1, sent_in=sent_in), response

    def _open(self, subscribed: frozenset[str], held: Mapping[str, str]) -> Self:
        check_count(held, self.catalog)
        wildcard, names = not subscribed or WILDCARD in subscribed, subscribed - {WILDCARD}  # 3
        known = _versions_of(names, held, wildcard=wildcard)  # 1
        owed = names - held.keys()
        state = replace(self, opened=True, wildcard=wildcard, names=names, known=known, owed=owed, due=True)
        return replace(state, accepted=known)  # a client lists what it has accepted

    def _reply(self, request: Any) -> tuple[Self, Reply]:
        if not request.response_nonce:
            return self, Reply.REQUEST
        number = self.response_number(request)  # 5
        if number is None or not self.answered < number <= self.sent:
            return self, Reply.STALE
        return self.reply(request, number)


def _unsubscribe(before: Delta, dropped: frozenset[str]) -> Delta:
    wildcard, names = before.wildcard and WILDCARD not in dropped, before.names - dropped
    known = _versions_of(names, before.known, wildcard=wildcard)
    owed = before.owed & names
    if wildcard:
        owed = before.owed | (dropped & (before.names | before.known.keys()))  # 4
    return replace(before, wildcard=wildcard, names=names, known=known, owed=owed, due=before.due or bool(owed))


def _subscribe(before: Delta, added: frozenset[str]) -> Delta:
    names = before.names | (added - {WILDCARD})
    check_count(names, before.catalog)
    again = added - {WILDCARD} | (before.known.keys() if WILDCARD in added else frozenset())  # 2
    wildcard, due = before.wildcard or WILDCARD in added, before.due or bool(added)
    return replace(before, wildcard=wildcard, names=names, owed=before.owed | again, due=due)


def _versions_of(names: frozenset[str], versions: Mapping[str, str], *, wildcard: bool) -> dict[str, str]:
    """Return the versions of what is subscribed."""
    return {name: version for name, version in versions.items() if wildcard or name in names}
