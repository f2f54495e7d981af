"""What authorization's service needs from outside, as Protocols."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from app.audit.ports import AuditTrail
from app.authz.model import AuthzOptions, CheckInput, Verdict
from app.authz.providers import Answer
from app.authz.rules.api_keys import ApiKey
from app.authz.rules.compile import CompiledPolicy


class PolicyEngine(Protocol):
    """Evaluates requests by one set of policies, which never changes: `changed` makes another engine.

    An engine that waits bounds the time itself: a check over HTTP has no deadline.
    """

    def evaluate(self, request: CheckInput, /) -> Verdict | Awaitable[Verdict]:
        """Return the verdict on `request`, or an awaitable of it where the engine has to wait for something."""
        ...

    def changed(self, removed: Iterable[CompiledPolicy], added: Iterable[CompiledPolicy], /) -> "PolicyEngine":
        """Return the engine without the policies `removed` and with those `added`.

        Called in a thread, in which it keeps no check waiting, while checks are evaluated by this one.
        """
        ...


class Provider(Protocol):
    """A policy engine that CUSTOM policies name; calling it is an `Ask`."""

    @property
    def loaded(self) -> bool:
        """Whether it has policies to decide by."""
        ...

    async def refresh(self) -> None:
        """Read what it decides by, if it was changed. Raises MeshwardError; what was active stays."""
        ...

    async def close(self) -> None:
        """End what it has running."""
        ...

    def __call__(self, request: CheckInput, /) -> Answer | Awaitable[Answer]:
        """Return the decision on a request in bounded time; what goes wrong is an answer that denies."""
        ...


class Plugin(Protocol):
    """A policy engine of a third party, which its package's entry point in the group `meshward.providers` makes.

    The entry point is a callable that takes the name of the provider and the options that the settings have for it, and
    returns one of these; what it raises is reported at the start. It needs nothing of Meshward: what it is given and
    what it returns is JSON as Python has it. It runs in the event loop that answers every check: what blocks belongs
    into a thread, and what computes for long into another process.

    It may have two further coroutine methods without arguments: `refresh`, called before the first decision and then
    about once a second, raises while the plug-in has nothing to decide by; `close` ends what it has running.
    """

    async def decide(self, document: dict[str, Any], /) -> object:
        """Return the decision on a request: a boolean or an object, as OPA-Envoy takes it (`rules.opa`).

        `document` is OPA-Envoy's input document, a copy that the plug-in may change. What is raised denies.
        """
        ...


MakeEngine = Callable[[Iterable[CompiledPolicy], AuthzOptions], PolicyEngine]
"""Returns the engine for the first set of policies. Called in a thread, in which it keeps no check waiting."""


class ApiKeyRepository(AuditTrail, Protocol):
    """The stored API keys, within one transaction.

    They are authentic: what was not written with the secret of the replicas is left out.
    """

    async def revision(self) -> int:
        """Return the number of the last change of API keys, 0 before the first."""
        ...

    async def next_revision(self) -> int:
        """Count a change of API keys; other transactions that change some wait until this one ends."""
        ...

    async def count(self) -> int:
        """Return how many keys there are, revoked and expired ones that are still recorded with them."""
        ...

    async def get(self, key_id: str) -> ApiKey | None:
        """Return a key, None if there is none."""
        ...

    async def page(self, after: str | None, limit: int) -> Sequence[ApiKey]:
        """Return at most `limit` keys with ids above `after`, in the order of their ids."""
        ...

    async def changed(self, since: int) -> Sequence[ApiKey]:
        """Return the keys that were changed after the revision `since`."""
        ...

    async def add(self, key: ApiKey) -> None:
        """Store a key."""
        ...

    async def revoke(self, key_id: str, now: datetime, revision: int) -> ApiKey | None:
        """Mark a key as revoked and return it, None if there is none that is not revoked."""
        ...

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Remove at most `limit` keys that expired or were revoked before the time; return how many those were."""
        ...


ApiKeyTransactions = Callable[[], AbstractAsyncContextManager[ApiKeyRepository]]
"""Opens a transaction that commits when its block ends and rolls back when it raises."""


class IntrospectionEndpoint(Protocol):
    """Where an authorization server answers what a token is (RFC 7662, section 2)."""

    async def introspect(self, token: str, /) -> bytes:
        """Return the body of its answer, bounded in time and size. Raises UnavailableError if there is none."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
