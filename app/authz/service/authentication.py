"""The use case of request authentication: who sends a request, by the tokens in it."""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256

from app.authz.model import Cause, CheckInput, Claims, Headers, UnknownWorkload, Verdict
from app.authz.providers import NO_CHANGES, Changes, ProvidedDecision
from app.authz.rules.authentication import (
    Accepted,
    NeedsKeys,
    Refused,
    Result,
    TokenRules,
    challenge,
    is_preflight,
)
from app.authz.rules.changed_headers import ChangedHeaders
from app.authz.rules.custom import with_changes
from app.authz.rules.jwt_rules import REQUEST_AUTHENTICATION_KIND, KeysFrom, RequestAuthentication
from app.authz.rules.places import Located
from app.authz.rules.scoped import ScopedDocuments
from app.authz.rules.tokens import TokenProblem
from app.authz.service.scoped import not_loaded, scoped_compiler, unknown_labels
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import DocumentStore, Snapshot
from app.issuers.key_sets import KeySets
from app.spiffe.jwks import KeySet
from app.telemetry.metrics import Metrics

# Tokens whose verification is kept, for all workloads; what a token says takes 1 to 4 KB.
MAX_KEPT_TOKENS = 10_000

# Verdicts that are kept with what tokens change, and different changes that are: all tokens of a rule change the same,
# unless claims become headers.
MAX_KEPT_VERDICTS = 64
MAX_KEPT_CHANGES = 1024

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_KEPT = ("kept",)
_NOT_LOADED, _UNKNOWN_LABELS = not_loaded("request authentications"), unknown_labels("request authentications")

Digest = tuple[str, str, tuple[str, ...], bytes]
"""The place of a token and its SHA-256, or that of several with their places."""
Index = ScopedDocuments[RequestAuthentication, TokenRules]
RequestAuthenticationStore = DocumentStore[RequestAuthentication, RequestAuthentication, Index]


ChangedVerdicts = dict[int, tuple[Verdict, Verdict]]
"""Verdicts by their object, and each with what tokens change. Senders with the same changes share them."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """What is known of who sends a request.

    `claims` are what to believe, None if it is not known whether there is a token. `changes` are made in the request
    if it passes. `note` says what is missing, for the reason of a denial. `concealed` are those of the changes that are
    made for providers as well.
    """

    claims: Claims | None
    changes: Changes = NO_CHANGES
    note: str = ""
    concealed: Changes = NO_CHANGES
    kept: ChangedVerdicts = field(default_factory=dict[int, tuple[Verdict, Verdict]], repr=False, compare=False)

    def headers_of(self, request: CheckInput) -> Headers:
        """Return the headers that policies judge: those that the workload gets, as after Envoy's own `jwt_authn`.

        Whether a CUSTOM policy has its provider asked is judged by those that the client sent, see `rules.custom`.
        """
        changed: dict[str, tuple[str, ...] | None] = dict.fromkeys(self.changes.headers_to_remove)
        changed |= {name: (value,) for name, value in self.changes.headers}
        return ChangedHeaders(request.headers, changed)

    def changed(self, verdict: Verdict) -> Verdict:
        """Return the verdict with what the tokens change, and with the note.

        Verdicts of rules are the same objects for every request, so that what was made of a few is kept.
        """
        kept = self.kept.get(id(verdict))
        if kept is not None and kept[0] is verdict:
            return kept[1]
        changed = with_note(with_changes(verdict, self.changes), self.note)
        if len(self.kept) >= MAX_KEPT_VERDICTS:
            self.kept.clear()
        self.kept[id(verdict)] = verdict, changed
        return changed


Sender = Authenticated | Verdict | None


class RequestAuthenticator:
    """Verifies the tokens of requests, by the active documents.

    What was verified is kept by the SHA-256 of the token until that ends, while the documents and the keys that
    verified it are the same.
    """

    def __init__(
        self,
        source: DocumentSource,
        key_sets: KeySets[KeysFrom],
        clock: Clock,
        metrics: Metrics,
        *,
        root_namespace: str,
        unknown_workload: UnknownWorkload = UnknownWorkload.DENY,
        offload: Offload = in_thread,
    ) -> None:
        self._key_sets, self._clock, self._metrics = key_sets, clock, metrics
        self._judges_unknown = unknown_workload is UnknownWorkload.ROOT
        self._kept: dict[tuple[TokenRules, Digest], tuple[Accepted, Authenticated]] = {}
        self._changes: dict[Changes, ChangedVerdicts] = {}
        self.active = True
        """Whether a document may ask for tokens; without one, `authenticate` returns None."""
        self.documents: RequestAuthenticationStore = DocumentStore(
            REQUEST_AUTHENTICATION_KIND,
            source,
            scoped_compiler(root_namespace, _rules_of, offload),
            on_change=self._changed,
            clock=clock,
            metrics=metrics,
        )

    def authenticate(self, request: CheckInput) -> Sender | Awaitable[Sender]:
        """Return who sends `request`; the denial if its tokens are not accepted; None where no token is looked for.

        To be awaited while the keys of a token's issuer are fetched for the first time.
        """
        snapshot = self.documents.snapshot
        if snapshot is None:
            return _NOT_LOADED
        workload = request.connection.workload
        if request.is_tcp or (workload is None and not self._judges_unknown):
            return None
        rules = snapshot.index.made_for(workload)
        if rules is None:
            return _UNKNOWN_LABELS
        if not rules.rules:
            return None
        found = rules.tokens_of(request)
        if not any(found):
            return self._without_token(rules, request)
        if request.over_http and (forged := _forged(rules, request)):
            reason = f"the request has, or may have, the header {forged}, which only its token may set"
            return Verdict(Decision(Outcome.DENY, reason), Cause.UNAUTHENTICATED)
        if is_preflight(request):
            return Authenticated(request.claims, rules.anonymous().changes)
        key = rules, _digest(found)
        kept = self._kept.get(key)
        if kept is not None and self._still_holds(kept[0]):
            self._metrics.authentications.add(_KEPT)
            return kept[1]
        result = self._judge(rules, found)
        if isinstance(result, NeedsKeys):
            return self._judge_later(rules, found, request)
        return self._outcome(result, key, request)

    def _without_token(self, rules: TokenRules, request: CheckInput) -> Authenticated:
        claims = None if rules.unseen(request) else request.claims
        note = "" if claims else rules.nothing_found
        changes = rules.anonymous().changes if rules.output_headers and _forged(rules, request) else NO_CHANGES
        return Authenticated(claims, changes, note)

    def _judge(self, rules: TokenRules, found: tuple[tuple[Located, ...], ...], *away: KeysFrom) -> Result:
        return rules.judge(found, partial(self._keys, rules), self._clock.now().timestamp(), away)

    async def _judge_later(
        self, rules: TokenRules, found: tuple[tuple[Located, ...], ...], request: CheckInput
    ) -> Sender:
        """Wait for the keys that are fetched now, as long as that may take, and for no others."""
        away: list[KeysFrom] = []
        while isinstance(result := self._judge(rules, found, *away), NeedsKeys):
            if self._key_sets.is_awaited(result.keys):
                await self._key_sets.attempted(result.keys)
            if self._keys(rules, result.keys) is None:
                away.append(result.keys)
        return self._outcome(result, (rules, _digest(found)), request)

    def _outcome(self, result: Accepted | Refused, key: tuple[TokenRules, Digest], request: CheckInput) -> Sender:
        if isinstance(result, Refused):
            return self._refusal(result, key[0], request)
        self._metrics.authentications.add(("verified",))
        if len(self._kept) >= MAX_KEPT_TOKENS:
            del self._kept[next(iter(self._kept))]
        if len(self._changes) >= MAX_KEPT_CHANGES:
            self._changes.clear()
        sender = Authenticated(result.claims, result.changes, kept=self._changes.setdefault(result.changes, {}))
        self._kept[key] = result, sender
        return sender

    def _refusal(self, refused: Refused, rules: TokenRules, request: CheckInput) -> Verdict:
        problem, rule = refused.problem, rules.rules[refused.rule]
        self._metrics.authentications.add((problem.name.lower(),))
        if problem is TokenProblem.UNKNOWN_KEY:
            self._key_sets.look_again(rule.keys)
        status = _FORBIDDEN if problem is TokenProblem.AUDIENCE else _UNAUTHORIZED
        changes = Changes(headers=(("www-authenticate", challenge(request)),), status=status, body=problem.value)
        whose = f"of issuer {rule.issuer!r}" if rule.issuer else "of any issuer"
        reason = f"the request's token is not accepted by the rule {whose}: {problem.value}"
        return Verdict(ProvidedDecision(Outcome.DENY, reason, changes=changes), Cause.UNAUTHENTICATED)

    def _still_holds(self, kept: Accepted) -> bool:
        for place, keys in kept.keys:
            if self._key_sets.known(place) is not keys:
                return False
        return self._clock.now().timestamp() <= kept.until

    def _keys(self, rules: TokenRules, place: KeysFrom) -> KeySet | None:
        return rules.inline.get(place) or self._key_sets.known(place)

    def _changed(self, snapshot: "Snapshot[RequestAuthentication, RequestAuthentication, Index]") -> None:
        self._kept.clear()
        self.active = not snapshot.index.is_empty
        rules = (rule for each in snapshot.documents.values() for rule in each.parsed.rules)
        self._key_sets.use(rule.keys for rule in rules if not rule.keys.inline)


def with_note(verdict: Verdict, note: str) -> Verdict:
    """Return the verdict; where no rule lets the request pass, or one denies it, with the note in its reason."""
    if not note or verdict.cause not in {Cause.NO_MATCH, Cause.POLICY} or verdict.decision.allowed:
        return verdict
    return replace(verdict, decision=replace(verdict.decision, reason=f"{verdict.decision.reason}; {note}"))


def _forged(rules: TokenRules, request: CheckInput) -> str:
    """Return a header that the client sent, or may have sent, where only a token may set it; empty if there is none."""
    return next(
        (name for name in rules.output_headers if request.headers.get(name) is not None or request.lacks(name)), ""
    )


def _rules_of(documents: Iterable[RequestAuthentication]) -> TokenRules:
    return TokenRules(rule for document in documents for rule in document.rules)


def _digest(found: tuple[tuple[Located, ...], ...]) -> Digest:
    """Return what stands for the tokens and their places, each written so that none can pass for two."""
    match found:
        case (((kind, name, text, spellings),),):
            return kind, name, spellings, sha256(text.encode("utf-8", "surrogateescape")).digest()
        case _:
            return "", "", (), sha256(repr(found).encode()).digest()
