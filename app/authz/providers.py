"""What a provider decides about a request that a CUSTOM policy matches, and what it has Envoy change."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.authz.model import CheckInput
from app.core.decision import Decision

HeaderValues = tuple[tuple[str, str], ...]
"""Names and values, in their order; a name may be there more than once."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a provider has Envoy change, in the words of OPA-Envoy's decision.

    `headers` go to the workload where a request passes, and to the client where it does not; the other three of the
    request and `response_headers` apply where it passes, `status` and `body` where it does not. `metadata` is JSON.
    """

    headers: HeaderValues = ()
    response_headers: HeaderValues = ()
    headers_to_remove: tuple[str, ...] = ()
    query_to_set: HeaderValues = ()
    query_to_remove: tuple[str, ...] = ()
    status: int | None = None
    body: str | None = None
    metadata: str = ""

    def __add__(self, other: "Changes") -> "Changes":
        """Return the changes of both, of two providers that let a request pass."""
        metadata = self.metadata or other.metadata
        if self.metadata and other.metadata:
            metadata = json.dumps(json.loads(self.metadata) | json.loads(other.metadata))
        return Changes(
            self.headers + other.headers,
            self.response_headers + other.response_headers,
            self.headers_to_remove + other.headers_to_remove,
            self.query_to_set + other.query_to_set,
            self.query_to_remove + other.query_to_remove,
            metadata=metadata,
        )


NO_CHANGES = Changes()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider decided: `denial` is its reason for a denial, empty if the request may pass.

    `undecided`: the provider did not decide, and the request is denied for that.
    """

    denial: str = ""
    changes: Changes = NO_CHANGES
    undecided: bool = False


Ask = Callable[[CheckInput], Answer | Awaitable[Answer]]
"""Asks a provider about a request. It bounds its time, and what goes wrong is an answer that denies.

The answer is to be awaited where the provider has to wait for it.
"""


@dataclass(frozen=True, slots=True)
class ProvidedDecision(Decision):
    """A decision that providers took part in, with what they have Envoy change."""

    changes: Changes = NO_CHANGES
