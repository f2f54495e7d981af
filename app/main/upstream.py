"""The control plane as a client of the Meshward above it: enrolled, renewed and following as an agent is."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from app.agent.authority import MeshAuthority
from app.agent.following import TrustFollower
from app.agent.keeper import IdentityKeeper
from app.agent.options import TokenSource, read_trust_bundle
from app.agent.secrets import HeldSecrets
from app.agent.store import IdentityStore
from app.ca.ports import UpstreamCa
from app.ca.service import CaService
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.net import Address
from app.core.signals import Signal
from app.settings import Settings
from app.spiffe.bundle import TrustBundle
from app.spiffe.id import SpiffeId
from app.spiffe.subscribers import Subscriber
from app.telemetry.metrics import Metrics

# In the data dir: the identity that this control plane has at the upstream.
DIRECTORY = "upstream"


class UpstreamMeshward(UpstreamCa):
    """An UpstreamCa over the network. It acknowledges a trust bundle once everybody here has accepted its roots."""

    def __init__(self, settings: Settings, server: Address, bundle_file: Path, ca: CaService, clock: Clock) -> None:
        upstream = settings.upstream
        bootstrap = read_trust_bundle(bundle_file, settings.trust_domain)
        self._server, self._clock = server, clock
        self._store = IdentityStore(settings.data_dir / DIRECTORY)
        # Metrics of its own: those of an agent are not the control plane's.
        self._held = HeldSecrets(clock, Metrics())
        self._authority = MeshAuthority(server, upstream.server_name or server.host, bootstrap)
        tokens = TokenSource(file=upstream.join_token_file)
        self._keeper = IdentityKeeper(
            self._authority, self._held, read_token=tokens.read, save=self._store.save, clock=clock
        )
        self._beneath = _Beneath(ca, self._held)
        self._follower = TrustFollower(self._authority, self._held, self._beneath, self._keeper)
        self._lock = ExitStack()

    @property
    def place(self) -> str:
        """Its address."""
        return str(self._server)

    @property
    def spiffe_id(self) -> SpiffeId | None:
        """Who this control plane is there, None before it has enrolled."""
        identity = self._held.identity
        return None if identity is None else identity.svid.spiffe_id

    @property
    def svid_not_after(self) -> datetime | None:
        """When the SVID ends that proves it."""
        identity = self._held.identity
        return None if identity is None else identity.svid.not_after

    def bundle(self) -> TrustBundle | None:
        """Return the trust bundle that was pushed last, None before this control plane has enrolled."""
        return None if self._held.identity is None else self._held.identity.bundle

    async def sign(self, csr: str, ttl: timedelta) -> tuple[Sequence[str], Sequence[str]]:
        """Return the chain of a signing authority and the roots. Raises as the Protocol says."""
        return await self._authority.sign_authority(csr, int(ttl.total_seconds()), self._held.current())

    async def start(self) -> None:
        """Use the saved identity, or enrol, which waits while the upstream is away.

        Raises PreconditionError if the saved identity cannot be used, another process uses it, or there is neither that
        nor a join token; and the upstream's error if it refuses the join token.
        """
        self._lock.enter_context(self._store.locked())
        saved = self._store.load(self._clock.now())
        if saved is not None:
            self._keeper.resume(saved)
        else:
            await self._keeper.obtain()

    async def run(self) -> None:
        """Renew the identity and follow the trust bundle for as long as the task runs."""
        await asyncio.gather(self._keeper.keep(), self._follower.follow(), self._beneath.watch())

    def close(self) -> None:
        """Let another process use the identity."""
        self._lock.close()


def make_upstream(settings: Settings, ca: CaService, clock: Clock) -> UpstreamMeshward | None:
    """Return the upstream that the settings name, None if none. Raises InvalidInputError for its trust bundle."""
    upstream = settings.upstream
    if upstream.server is None or upstream.trust_bundle is None:
        return None
    return UpstreamMeshward(settings, upstream.server, upstream.trust_bundle, ca, clock)


class _Beneath:
    """This control plane and its streams as the upstream counts them: by the bundle that it has pushed.

    `changed` fires when one of them may have accepted it.
    """

    def __init__(self, ca: CaService, held: HeldSecrets) -> None:
        self._ca, self._held = ca, held
        self.changed = Signal()

    def of_bundles(self) -> Sequence[Subscriber]:
        """Return a subscriber for each of them; one that has not accepted every root of the upstream has no bundle."""
        pushed = self._held.current().bundle
        try:
            own = self._ca.authorities.bundle()
        except UnavailableError:  # there is nobody yet
            return ()
        ready = set(pushed.roots) <= set(own.roots)
        if not ready:
            return [Subscriber(own.trust_domain.server_id, "", subscribed=True)]
        streams = self._ca.subscribers.of_bundles()
        return [replace(each, bundle=pushed.version if each.bundle == own.version else None) for each in streams]

    async def watch(self) -> None:
        """Fire `changed` for as long as the task runs."""
        signals = (self._ca.subscribers.changed, self._ca.authorities.changed)
        while True:
            waiting = {asyncio.ensure_future(each.wait_beyond(each.count)) for each in signals}
            _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in pending:
                each.cancel()
            self.changed.fire()
