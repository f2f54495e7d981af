"""What authorization's service needs from outside, as Protocols."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from app.authz.model import AuthzOptions, CheckInput, Verdict
from app.authz.providers import Answer
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


MakeEngine = Callable[[Iterable[CompiledPolicy], AuthzOptions], PolicyEngine]
"""Returns the engine for the first set of policies. Called in a thread, in which it keeps no check waiting."""
