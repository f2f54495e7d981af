"""The secrets of the agent's SDS streams: the identity that the agent holds now."""

from app.agent.identity import Identity
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.signals import Signal
from app.spiffe.bundle import TrustBundle
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import WorkloadSvid
from app.telemetry.metrics import Metrics


class HeldSecrets:
    """The current identity, shared by every stream. An implementation of `app.envoy.sds.SecretSource`.

    `identity` may have expired; it is None before the first. `changed` is fired when another identity is held, and by
    its keeper when the one that is held has expired.
    """

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.identity: Identity | None = None
        self.changed = Signal()

    def hold(self, identity: Identity) -> None:
        """Replace the current identity and wake every stream."""
        self.identity = identity
        self._metrics.agent_svid_expiry.set((), identity.svid.not_after.timestamp())
        self.changed.fire()

    def open(self, caller: Principal, *, once: bool = False) -> "HeldSession":
        """Return the session of a caller. Every one that was admitted is the one workload of this agent."""
        del caller, once
        return HeldSession(self)

    def current(self) -> Identity:
        """Return the identity, which may have expired. Raises UnavailableError before the first enrolment."""
        if self.identity is None:
            raise UnavailableError("the agent has not been enrolled yet")
        return self.identity

    def expired(self, svid: WorkloadSvid) -> bool:
        """Whether `svid` has ended."""
        return self._clock.now() >= svid.not_after


class HeldSession:
    """One stream's view of the current identity."""

    def __init__(self, source: HeldSecrets) -> None:
        self._source = source
        self._svid: WorkloadSvid | None = None
        self._bundle: TrustBundle | None = None

    async def svid(self) -> WorkloadSvid:
        """Return the current SVID. Raises UnavailableError if there is none or it has expired."""
        self._svid = svid = self._source.current().svid
        if self._source.expired(svid):
            raise UnavailableError(
                f"the SVID of {svid.spiffe_id} expired at {svid.not_after.isoformat()} and the agent could not renew "
                "it in time: see its log"
            )
        return svid

    async def bundle(self) -> TrustBundle:
        """Return the current trust bundle. Raises UnavailableError if there is none."""
        self._bundle = self._source.current().bundle
        return self._bundle

    async def wait_for_change(self) -> None:
        """Return once the SVID or the bundle returned last has been replaced or has expired."""
        while not self._outdated():
            await self._source.changed.wait_beyond(self._source.changed.count)

    def _outdated(self) -> bool:
        identity = self._source.identity
        if identity is None:
            return False
        if self._bundle is not None and self._bundle != identity.bundle:
            return True
        return self._svid is not None and (self._svid != identity.svid or self._source.expired(self._svid))
