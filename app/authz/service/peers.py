"""The use case of peer authentication: whether the peer of a request proved what its workload demands."""

from functools import partial

from app.authz.model import Cause, CheckInput, Verdict
from app.authz.rules.peers import PEER_AUTHENTICATION_KIND, PeerAuthentication, PeerModes, modes_of
from app.authz.rules.scoped import ScopedDocuments
from app.authz.service.scoped import not_loaded, scoped_compiler, unknown_labels
from app.core.clock import Clock
from app.core.decision import Decision, Outcome
from app.core.offload import Offload, in_thread
from app.documents.ports import DocumentSource
from app.documents.store import DocumentStore, Snapshot
from app.telemetry.metrics import Metrics

_NOT_LOADED, _UNKNOWN_LABELS = not_loaded("peer authentications"), unknown_labels("peer authentications")

Index = ScopedDocuments[PeerAuthentication, PeerModes]
PeerAuthenticationStore = DocumentStore[PeerAuthentication, PeerAuthentication, Index]


class PeerAuthenticator:
    """Refuses peers without an identity where an active document demands mutual TLS."""

    def __init__(
        self, source: DocumentSource, clock: Clock, metrics: Metrics, root_namespace: str, offload: Offload = in_thread
    ) -> None:
        self.active = True
        """Whether a document may demand anything of a peer; without one, `refusal` refuses nobody."""
        self.documents: PeerAuthenticationStore = DocumentStore(
            PEER_AUTHENTICATION_KIND,
            source,
            scoped_compiler(root_namespace, partial(modes_of, root=root_namespace), offload),
            on_change=self._changed,
            clock=clock,
            metrics=metrics,
        )

    def refusal(self, request: CheckInput) -> Verdict | None:
        """Return the denial of `request` if its peer is refused."""
        snapshot = self.documents.snapshot
        if snapshot is None:
            return _NOT_LOADED
        modes = snapshot.index.made_for(request.connection.workload)
        if modes is None:
            return _UNKNOWN_LABELS
        reason = modes.refusal(request)
        return Verdict(Decision(Outcome.DENY, reason), Cause.PEER) if reason else None

    def _changed(self, snapshot: "Snapshot[PeerAuthentication, PeerAuthentication, Index]") -> None:
        self.active = not snapshot.index.is_empty
