"""Service accounts' tokens, reviewed by their cluster's API server (Kubernetes API, authentication.k8s.io/v1)."""

import math
from functools import partial
from hashlib import sha256
from typing import Any

from kubernetes.aio.client import AuthenticationV1Api, V1ObjectMeta, V1TokenReview, V1TokenReviewSpec

from app.core.clock import Clock
from app.core.errors import MeshwardError, NotFoundError, UnauthenticatedError, UnavailableError
from app.core.inquiries import Inquiries
from app.core.printable import printable
from app.kube.api import KubeApi
from app.spiffe.jwt import parse
from app.spiffe.service_account import BoundPod, ServiceAccount, TokenReviewer, parse_subject, refused

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
        self._reviews = Inquiries[_Key, _Outcome](clock.monotonic, lambda outcome: isinstance(outcome, ServiceAccount))

    def known(self, token: str, audiences: tuple[str, ...]) -> ServiceAccount | None:
        outcome = self._reviews.known(_key(token, audiences))
        return outcome if isinstance(outcome, ServiceAccount) else None

    async def review(self, token: str, audiences: tuple[str, ...]) -> ServiceAccount:
        key = _key(token, audiences)
        outcome = self._reviews.known(key)
        if outcome is None:
            outcome = await self._reviews.answer(key, partial(self._ask, token, audiences))
        if isinstance(outcome, MeshwardError):
            raise type(outcome)(outcome.message, reason=outcome.reason)
        return outcome

    async def check(self) -> None:
        """Have something reviewed that is no token. Raises UnavailableError if the API server reviews none."""
        await self._answer("-", ())

    async def _ask(self, token: str, audiences: tuple[str, ...]) -> tuple[_Outcome, float]:
        """Return the outcome, and for how long it is remembered: not at all if there was no answer."""
        try:
            answer = await self._answer(token, audiences)
        except UnavailableError as error:
            return error, 0.0
        outcome = read_review(answer, self._api.access.cluster, audiences)
        return outcome, 0.0 if isinstance(outcome, UnavailableError) else min(self._seconds, self._left(token))

    def _left(self, token: str) -> float:
        """Return how long a token is still valid by what it says, in seconds; infinity if it does not say."""
        try:
            return parse(token).ends - self._clock.now().timestamp()
        except UnauthenticatedError:  # of a form that its API server knows
            return math.inf

    async def _answer(self, token: str, audiences: tuple[str, ...]) -> dict[str, Any]:
        spec = V1TokenReviewSpec(token=token, audiences=list(audiences) or None)
        review = V1TokenReview(metadata=V1ObjectMeta(), spec=spec)
        try:
            return await self._api.ask(
                _CALL, lambda client: AuthenticationV1Api(client).create_token_review_without_preload_content(review)
            )
        except NotFoundError as error:
            cluster = self._api.access.cluster
            raise UnavailableError(
                f"the API server of the cluster {cluster} reviews no tokens: it answered 404"
            ) from error


def _key(token: str, audiences: tuple[str, ...]) -> _Key:
    return sha256(token.encode("utf-8", "surrogatepass")).digest(), audiences


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
    return printable(text, MAX_SHOWN)
