"""A plug-in CA: the signing authority that an operator keeps in files, which are read again when they change."""

import asyncio
from dataclasses import replace

import structlog

from app.ca.model import CaConfig, KnownAuthorities, Root
from app.ca.ports import PlugInSource
from app.ca.rules.external import ExternalAuthority
from app.ca.rules.plug_in import read_plug_in
from app.ca.service.authority_keys import AuthorityKeys
from app.ca.service.roots import Roots
from app.ca.status import PlugInStatus
from app.core.clock import Clock
from app.core.errors import ConflictError, InvalidInputError, PreconditionError
from app.telemetry.metrics import Metrics

# Files that were refused are read again this often: what is wrong may be the time, or a root that is prepared.
RETRY_SECONDS = 10.0
# Of replicas that store the same roots at once, one is first, and the others find them.
MAX_ATTEMPTS = 3

log = structlog.get_logger(__name__)


class PlugIn:
    """Reads the files, checks them, and has their authority sign instead of the one before.

    Files that are refused change nothing: the authority of before goes on. `signer_id` is the one to sign with.
    """

    def __init__(
        self,
        config: CaConfig,
        source: PlugInSource,
        roots: Roots,
        keys: AuthorityKeys,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._config, self._source, self._roots, self._keys = config, source, roots, keys
        self._clock, self._metrics = clock, metrics
        self.status = PlugInStatus(source.place)
        self.signer_id: str | None = None
        # Of the files that were looked at last, and of those that were read last, whatever came of it.
        self._seen: str | None = None
        self._read: str | None = None
        self._retry_at = 0.0
        self._adopted: ExternalAuthority | None = None

    async def maintain(self) -> None:
        """Make one pass: read the files if they have changed, once they stay as they are for a pass.

        Raises UnavailableError if the database is away.
        """
        version, before = await self._source.version(), self._seen
        self._seen = version
        settled = before in (None, version)
        due = self.status.problem is not None and self._clock.monotonic() >= self._retry_at
        if not settled or (version == self._read and not due):
            return
        try:
            authority, problem = await self.load(), None
        except InvalidInputError as error:
            authority, problem = None, error.message
        if await self._source.version() != version:  # they were being replaced
            return
        if authority is not None:
            problem = await self._adopt(authority)
        if problem is not None:
            self._refuse(problem)
        self._read = version

    async def load(self) -> ExternalAuthority:
        """Return the authority of the files, whose key can be used from now on. Raises InvalidInputError."""
        files, key = await self._source.read()
        authority = await asyncio.to_thread(read_plug_in, files, self._config.trust_domain, self._clock.now())
        self._keys.hold(authority.signer.id, key)
        self.status = replace(self.status, layout=files.layout.name)
        return authority

    async def restore(self, kept: KnownAuthorities) -> None:
        """Use the authority of the files if it is among those that were `kept`; without the database no other is."""
        try:
            authority = await self.load()
        except InvalidInputError as error:
            self._refuse(error.message)
            return
        if any(signer.id == authority.signer.id for signer in kept.signers):
            self.signer_id = authority.signer.id

    @property
    def refusal(self) -> str:
        """Why there is no CA."""
        return f"the plug-in CA in {self._source.place} is refused: {self.status.problem or 'its files are changing'}"

    def waits(self, root: Root) -> str:
        """Return why there is nothing to sign with under the active root, and what to do."""
        if self.status.problem is not None:
            return f"the files in {self._source.place} are refused: {self.status.problem}"
        return (
            f"the authority in {self._source.place} is not under the active root {root.id}: put back the files of "
            f"before until everybody has accepted the root of these (meshward ca acknowledgements), or activate that"
        )

    async def _adopt(self, authority: ExternalAuthority) -> str | None:
        """Have the authority sign, and return why it may not, None if it may."""
        for attempt in range(MAX_ATTEMPTS):
            try:
                await self._roots.adopt(authority)
                break
            except PreconditionError as error:
                return error.message
            except ConflictError:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
        self._use(authority)
        return None

    def _use(self, authority: ExternalAuthority) -> None:
        signer, now = authority.signer, self._clock.now()
        self.signer_id = signer.id
        self.status = PlugInStatus(self._source.place, self.status.layout, signer.id, signer.root_id, now, None)
        self._metrics.plug_in_refused.set((), 0)
        if authority.signer != (self._adopted.signer if self._adopted else None):
            log.info(
                "ca_plug_in_read",
                authority=signer.id,
                root=signer.root_id,
                layout=self.status.layout,
                not_after=signer.not_after.isoformat(),
            )
        self._adopted = authority

    def _refuse(self, reason: str) -> None:
        if reason != self.status.problem:
            log.error("ca_plug_in_refused", directory=self._source.place, reason=reason)
        self.status = replace(self.status, problem=reason)
        self._metrics.plug_in_refused.set((), 1)
        self._retry_at = self._clock.monotonic() + RETRY_SECONDS
