"""The use case of credential authentication: who sends a request, by credentials that are no JWTs of an issuer."""

from collections.abc import Awaitable, Iterable
from typing import Protocol

from app.authz.model import Cause, CheckInput, Claims, UnknownWorkload, Verdict, Workload
from app.authz.providers import NO_CHANGES, Changes, ProvidedDecision
from app.authz.rules.authentication import is_preflight, realm_of
from app.authz.rules.credential_rules import (
    CredentialAuthentication,
    CredentialRule,
    KnownSources,
    credential_authentication_kind,
)
from app.authz.rules.credentials import (
    Accepted,
    CredentialProblem,
    CredentialRules,
    Found,
    Outcome,
    Proven,
    Refused,
    Rejected,
    ToAsk,
    changes_of,
    judge,
)
from app.authz.rules.places import AUTHORIZATION
from app.authz.rules.scoped import ScopedDocuments
from app.authz.service.authentication import Authenticated, RequestAuthenticator, Sender
from app.authz.service.scoped import not_loaded, scoped_compiler, unknown_labels
from app.core.clock import Clock
from app.core.decision import Outcome as Decided
from app.core.offload import Offload, in_thread
from app.core.rates import Buckets, RateLimit
from app.documents.ports import DocumentSource
from app.documents.store import DocumentStore, Snapshot
from app.telemetry.metrics import Metrics

# Credentials of one client that are not accepted: what programs with an old one, and people, send by mistake.
FAILURES = RateLimit(per_second=1, burst=100)
# Clients' senders that are kept, with what their credentials change; one takes 1 KB.
MAX_KEPT_SENDERS = 10_000

_UNAUTHORIZED, _TOO_MANY_REQUESTS = 401, 429
_NOT_LOADED, _UNKNOWN_LABELS = not_loaded("credential authentications"), unknown_labels("credential authentications")

Index = ScopedDocuments[CredentialAuthentication, CredentialRules]
CredentialAuthenticationStore = DocumentStore[CredentialAuthentication, CredentialAuthentication, Index]


class CredentialVerifier(Protocol):
    """Knows whose the credentials of the sources are. `named` is what documents can name."""

    named: KnownSources

    def known(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome | None:
        """Return what is known of a credential without waiting, None if that is not known."""
        ...

    async def ask(self, rule: CredentialRule, text: str, workload: Workload | None, /) -> Outcome:
        """Return whose credential it is, or why it is not accepted, in bounded time; never raises."""
        ...


class CredentialAuthenticator:
    """Judges the credentials of requests by the active documents, after `tokens` has judged their JWTs.

    A JWT that was verified says who sends a request; the credentials beside it have to be accepted all the same.
    """

    def __init__(  # noqa: PLR0913 - each is a part or a value of the composition root
        self,
        source: DocumentSource,
        tokens: RequestAuthenticator,
        verifier: CredentialVerifier,
        clock: Clock,
        metrics: Metrics,
        *,
        root_namespace: str,
        unknown_workload: UnknownWorkload = UnknownWorkload.DENY,
        offload: Offload = in_thread,
    ) -> None:
        self._tokens, self._verifier, self._metrics = tokens, verifier, metrics
        self._judges_unknown = unknown_workload is UnknownWorkload.ROOT
        self._failures = Buckets(clock.monotonic)
        self._kept: dict[object, tuple[Proven, Authenticated]] = {}
        # Whether a document may ask for credentials.
        self._asks = True
        self.documents: CredentialAuthenticationStore = DocumentStore(
            credential_authentication_kind(verifier.named),
            source,
            scoped_compiler(root_namespace, _rules_of, offload),
            on_change=self._changed,
            clock=clock,
            metrics=metrics,
        )

    @property
    def active(self) -> bool:
        """Whether a document may ask for tokens or credentials; without one, `authenticate` returns None."""
        return self._asks or self._tokens.active

    def authenticate(self, request: CheckInput) -> Sender | Awaitable[Sender]:
        """Return who sends `request`; the denial if one of its credentials is not accepted; None if none is looked for.

        To be awaited where a source of credentials has to be asked, or the keys of a token's issuer are fetched.
        """
        sender = self._tokens.authenticate(request) if self._tokens.active else None
        if not self._asks or isinstance(sender, Verdict):
            return sender
        if sender is None or isinstance(sender, Authenticated):
            return self._judge(request, sender)
        return self._after_tokens(request, sender)

    async def _after_tokens(self, request: CheckInput, waiting: Awaitable[Sender]) -> Sender:
        sender = await waiting
        if isinstance(sender, Verdict):
            return sender
        judged = self._judge(request, sender)
        return judged if judged is None or isinstance(judged, Authenticated | Verdict) else await judged

    def _judge(self, request: CheckInput, tokens: Authenticated | None) -> Sender | Awaitable[Sender]:
        snapshot = self.documents.snapshot
        if snapshot is None:
            return _NOT_LOADED
        if request.is_tcp or (request.connection.workload is None and not self._judges_unknown):
            return tokens
        rules = snapshot.index.made_for(request.connection.workload)
        if rules is None:
            return _UNKNOWN_LABELS
        if not rules.rules or is_preflight(request):
            return tokens
        found = rules.found_in(request)
        if not found:
            return _without_credential(rules, request, tokens)
        outcome = judge(found, lambda rule, text: self._verifier.known(rule, text, request.connection.workload))
        if isinstance(outcome, ToAsk):
            return self._ask(request, tokens, rules, found)
        return self._sender(request, tokens, rules, found, outcome)

    async def _ask(
        self, request: CheckInput, tokens: Authenticated | None, rules: CredentialRules, found: tuple[Found, ...]
    ) -> Sender:
        """Ask sources until it is known whether all of them are accepted, unless too many of this client's were not."""
        asked: dict[tuple[CredentialRule, str], Outcome] = {}
        client = _client_of(request)

        def known(rule: CredentialRule, text: str) -> Outcome | None:
            return asked.get((rule, text)) or self._verifier.known(rule, text, request.connection.workload)

        while isinstance(outcome := judge(found, known), ToAsk):
            if self._failures.take(client, FAILURES):
                rejected = Rejected(CredentialProblem.LIMITED, "too many credentials of its client were not accepted")
                outcome = Refused(rejected, outcome.rule, found[0].place)
                break
            answer = await self._verifier.ask(outcome.rule, outcome.text, request.connection.workload)
            self._failures.give_back(client)
            asked[outcome.rule, outcome.text] = answer
        return self._sender(request, tokens, rules, found, outcome)

    def _sender(
        self,
        request: CheckInput,
        tokens: Authenticated | None,
        rules: CredentialRules,
        found: tuple[Found, ...],
        outcome: Accepted | Refused,
    ) -> Sender:
        if isinstance(outcome, Refused):
            return self._refusal(request, outcome)
        self._metrics.credentials.add(("accepted",))
        if tokens is not None or len(found) > 1 or found[0].located[0] == "cookie":
            return _together(tokens, request, outcome.proven.claims, changes_of(request, found, outcome.forward))
        kind, name, _, spellings = found[0].located
        key = rules, kind, name, spellings, outcome.forward, id(outcome.proven)
        kept = self._kept.get(key)
        if kept is not None and kept[0] is outcome.proven:
            return kept[1]
        if len(self._kept) >= MAX_KEPT_SENDERS:
            self._kept.clear()
        changes = changes_of(request, found, outcome.forward)
        sender = Authenticated(outcome.proven.claims, changes, concealed=changes)
        self._kept[key] = outcome.proven, sender
        return sender

    def _refusal(self, request: CheckInput, refused: Refused) -> Verdict:
        rejected, noun = refused.rejected, refused.rule.source.noun
        # What a source that is away could not verify is no failure of the client's.
        fails = rejected.problem is not CredentialProblem.UNVERIFIED
        wait = self._failures.take(_client_of(request), FAILURES) if fails else 0.0
        if wait:
            rejected = Rejected(CredentialProblem.LIMITED, rejected.reason)
        self._metrics.credentials.add((rejected.problem.name.lower(),))
        limited = rejected.problem is CredentialProblem.LIMITED
        headers = (("retry-after", str(max(1, round(wait)))),) if limited else (_challenge(request, refused.place),)
        changes = Changes(
            headers=headers,
            status=_TOO_MANY_REQUESTS if limited else _UNAUTHORIZED,
            body=rejected.problem.value,
        )
        reason = f"the {noun} in {refused.place} is not accepted: {rejected.reason}"
        return Verdict(ProvidedDecision(Decided.DENY, reason, changes=changes), Cause.UNAUTHENTICATED)

    def _changed(self, snapshot: "Snapshot[CredentialAuthentication, CredentialAuthentication, Index]") -> None:
        self._kept.clear()
        self._asks = not snapshot.index.is_empty


def _without_credential(rules: CredentialRules, request: CheckInput, tokens: Authenticated | None) -> Authenticated:
    """Return who sends a request in which no credential was found: whom its tokens say, if they say someone."""
    claims = _verified(tokens, request)
    if claims is not None:
        assert tokens is not None  # noqa: S101 - who has the claims
        return tokens
    known = not rules.unseen(request) and (tokens is None or tokens.claims is not None)
    notes = (tokens.note if tokens else "", rules.nothing_found)
    note = "" if known and request.claims else "; ".join(filter(None, notes))
    return Authenticated(request.claims if known else None, tokens.changes if tokens else NO_CHANGES, note)


def _together(tokens: Authenticated | None, request: CheckInput, claims: Claims, changes: Changes) -> Authenticated:
    """Return who sends a request whose credentials are accepted."""
    if tokens is None:
        return Authenticated(claims, changes, concealed=changes)
    concealed = changes
    if tokens.changes is not NO_CHANGES:
        changes = tokens.changes + changes
    verified = _verified(tokens, request)
    # Where it is not known whether there is a token, which would come first, it is not known who sends the request.
    return Authenticated(None if tokens.claims is None else verified or claims, changes, concealed=concealed)


def _verified(tokens: Authenticated | None, request: CheckInput) -> Claims | None:
    """Return what a token that was verified here says, None without one."""
    return tokens.claims if tokens is not None and tokens.claims and tokens.claims is not request.claims else None


def _challenge(request: CheckInput, place: str) -> tuple[str, str]:
    """Return the header that a 401 has to have (RFC 9110, section 11.6.1)."""
    scheme = "Bearer" if place == f"header {AUTHORIZATION}" else "ApiKey"
    error = ', error="invalid_token"' if scheme == "Bearer" else ""
    return "www-authenticate", f'{scheme} realm="{realm_of(request)}"{error}'


def _client_of(request: CheckInput) -> object:
    connection = request.connection
    return request.remote_ip or connection.source_ip or (connection.source.principal if connection.source else "")


def _rules_of(documents: Iterable[CredentialAuthentication]) -> CredentialRules:
    return CredentialRules(rule for document in documents for rule in document.rules)
