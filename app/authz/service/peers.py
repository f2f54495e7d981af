"""The use case of peer authentication: whether the peer of a request proved what its workload demands."""

from functools import partial

from app.authz.model import Cause, CheckInput, Verdict
from app.authz.rules.peers import PEER_AUTHENTICATION_KIND, PeerAuthentication, PeerModes, modes_of
from app.authz.rules.scoped import ScopedDocuments
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import Compiler, Difference, DocumentStore
from app.telemetry.metrics import Metrics

_NOT_LOADED = Verdict(Decision(Outcome.DENY, "the peer authentications are not loaded yet"), Cause.ERROR)
_UNKNOWN_LABELS = Verdict(
    Decision(
        Outcome.DENY,
        "the destination workload's labels are missing, and peer authentications select by labels: "
        "the check has neither destination.labels nor meshward.labels",
    ),
    Cause.UNKNOWN_WORKLOAD,
)

Index = ScopedDocuments[PeerAuthentication, PeerModes]
PeerAuthenticationStore = DocumentStore[PeerAuthentication, PeerAuthentication, Index]


class PeerAuthenticator:
    """Refuses peers without an identity where an active document demands mutual TLS."""

    def __init__(
        self, source: DocumentSource, clock: Clock, metrics: Metrics, root_namespace: str, offload: Offload = in_thread
    ) -> None:
        self._root = root_namespace
        self.documents: PeerAuthenticationStore = DocumentStore(
            PEER_AUTHENTICATION_KIND,
            source,
            Compiler(_as_is, self._index, offload),
            on_change=lambda _: None,
            clock=clock,
            metrics=metrics,
        )

    def refusal(self, request: CheckInput) -> Verdict | None:
        """Return the denial of `request` if its peer is refused."""
        snapshot = self.documents.snapshot
        if snapshot is None:
            return _NOT_LOADED
        if snapshot.index.is_empty:
            return None
        modes = snapshot.index.made_for(request.connection.workload)
        if modes is None:
            return _UNKNOWN_LABELS
        reason = modes.refusal(request)
        return Verdict(Decision(Outcome.DENY, reason), Cause.PEER) if reason else None

    def _index(self, before: Index | None, difference: Difference[PeerAuthentication]) -> Index:
        if before is None:
            return ScopedDocuments(difference.added.values(), self._root, partial(modes_of, root=self._root))
        return before.changed(difference.removed.values(), difference.added.values())


def _as_is(document: PeerAuthentication) -> PeerAuthentication:
    return document
