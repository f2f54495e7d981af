"""Service accounts' tokens, reviewed by their cluster's API server (Kubernetes API, authentication.k8s.io/v1)."""

import asyncio
import math
from collections import OrderedDict
from hashlib import sha256
from typing import Any

from kubernetes.aio.client import AuthenticationV1Api, V1ObjectMeta, V1TokenReview, V1TokenReviewSpec

from app.core.clock import Clock
from app.core.errors import MeshwardError, NotFoundError, UnauthenticatedError, UnavailableError
from app.kube.api import KubeApi
from app.spiffe.jwt import parse
from app.spiffe.service_account import BoundPod, ServiceAccount, TokenReviewer, parse_subject, refused

# Tokens whose review is remembered, those that were accepted and those that were refused each; one takes 1 KB.
MAX_KEPT = 10_000
# Of a message of the API server's, in ours.
MAX_SHOWN = 200

GROUP = "system:serviceaccounts"
EXTRA = "authentication.kubernetes.io/"
_CALL = "tokenreviews"
_Outcome = ServiceAccount | UnauthenticatedError | UnavailableError
_Key = tuple[bytes, tuple[str, ...]]


class TokenReviews(TokenReviewer):
    """Has tokens reviewed by one API server, each once for all who show it within `seconds`.

    A token that is revoked meanwhile, by deleting its pod or its service account, is accepted for so long; one that
    ends meanwhile is not.
    """

    def __init__(self, api: KubeApi, clock: Clock, seconds: float) -> None:
        self._api, self._clock, self._seconds = api, clock, seconds
        self._accepted = _Kept()
        self._refused = _Kept()
        self._asking: dict[_Key, asyncio.Task[_Outcome]] = {}

    async def review(self, token: str, audiences: tuple[str, ...]) -> ServiceAccount:
        key, now = (sha256(token.encode()).digest(), audiences), self._clock.monotonic()
        outcome = self._accepted.get(key, now) or self._refused.get(key, now)
        if outcome is None:
            # One who gives up ends the review for no other.
            outcome = await asyncio.shield(self._asked(key, token))
        if isinstance(outcome, MeshwardError):
            raise type(outcome)(outcome.message, reason=outcome.reason)
        return outcome

    async def check(self) -> None:
        """Have something reviewed that is no token. Raises UnavailableError if the API server reviews none."""
        await self._answer("-", ())

    def _asked(self, key: _Key, token: str) -> "asyncio.Task[_Outcome]":
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, token))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return asking

    async def _ask(self, key: _Key, token: str) -> _Outcome:
        _, audiences = key
        try:
            answer = await self._answer(token, audiences)
        except NotFoundError:
            cluster = self._api.access.cluster
            return UnavailableError(f"the API server of the cluster {cluster} reviews no tokens: it answered 404")
        except UnavailableError as error:
            return error
        outcome = read_review(answer, self._api.access.cluster, audiences)
        if not isinstance(outcome, UnavailableError):
            kept = self._accepted if isinstance(outcome, ServiceAccount) else self._refused
            kept.put(key, self._clock.monotonic() + min(self._seconds, self._left(token)), outcome)
        return outcome

    def _left(self, token: str) -> float:
        """Return how long a token is still valid by what it says, in seconds; infinity if it does not say."""
        try:
            return parse(token).ends - self._clock.now().timestamp()
        except UnauthenticatedError:  # of a form that its API server knows
            return math.inf

    async def _answer(self, token: str, audiences: tuple[str, ...]) -> dict[str, Any]:
        spec = V1TokenReviewSpec(token=token, audiences=list(audiences) or None)
        review = V1TokenReview(metadata=V1ObjectMeta(), spec=spec)
        return await self._api.ask(
            _CALL, lambda client: AuthenticationV1Api(client).create_token_review_without_preload_content(review)
        )


class _Kept:
    """Outcomes by their tokens, each until its time; the one that was kept first goes first."""

    def __init__(self) -> None:
        self._outcomes: OrderedDict[_Key, tuple[float, _Outcome]] = OrderedDict()

    def get(self, key: _Key, now: float) -> _Outcome | None:
        until, outcome = self._outcomes.get(key, (now, None))
        return outcome if until > now else None

    def put(self, key: _Key, until: float, outcome: _Outcome) -> None:
        self._outcomes.pop(key, None)
        self._outcomes[key] = until, outcome
        if len(self._outcomes) > MAX_KEPT:
            self._outcomes.popitem(last=False)


def read_review(answer: object, cluster: str, audiences: tuple[str, ...]) -> _Outcome:
    """Return whose token was reviewed, or why it is refused, by the status of a TokenReview.

    1. It is authenticated, without an error.
    2. It is for one of `audiences`, where there are any: an API server that does not know of audiences names none.
    3. Its user is a service account, by group and by name.

    UnavailableError if the answer is no review.
    """
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict) or not isinstance(status.get("authenticated", False), bool):
        return UnavailableError(f"the API server of the cluster {cluster} answered something that is no TokenReview")
    if not status.get("authenticated") or status.get("error"):
        return refused("refused", f"is refused by the API server: {_shown(status.get('error'))}")
    if audiences and not set(audiences) & set(_texts(status.get("audiences"))):
        return refused("audience", f"has none of the audiences {', '.join(audiences)}")
    user = status.get("user")
    account = parse_subject(user.get("username")) if isinstance(user, dict) else None
    if not isinstance(user, dict) or account is None or GROUP not in _texts(user.get("groups")):
        return refused("user", "is of a user that is no service account")
    namespace, name = account
    return ServiceAccount(cluster, namespace, name, _pod(user.get("extra")))


def _pod(extra: object) -> BoundPod | None:
    """Return the pod that the token is bound to: its name and its UID stand there together, or it is bound to none."""
    facts = extra if isinstance(extra, dict) else {}
    name, uid, node = (_first(facts.get(EXTRA + key)) for key in ("pod-name", "pod-uid", "node-name"))
    return BoundPod(name, uid, node) if name and uid else None


def _first(values: object) -> str:
    found = _texts(values)
    return found[0] if len(found) == 1 else ""


def _texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _shown(error: object) -> str:
    text = error if isinstance(error, str) and error else "it is not authenticated"
    return "".join(character if character.isprintable() else " " for character in text[:MAX_SHOWN])
