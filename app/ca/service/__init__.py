"""The use cases of the CA."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from app.ca.model import CaConfig, CrlOverSds
from app.ca.ports import BundlePublisher, CaTransactions, KeyStore
from app.ca.service.authorities import Authorities
from app.ca.service.bans import Bans
from app.ca.service.crl_delivery import CrlDelivery
from app.ca.service.crls import RevocationLists
from app.ca.service.downstreams import Downstreams
from app.ca.service.entries import Entries
from app.ca.service.issuance import Issuance
from app.ca.service.join_tokens import JoinTokens
from app.ca.service.log import TransparencyLog
from app.ca.service.records import Records
from app.ca.service.replicas import Replicas
from app.ca.service.rollout import Rollout
from app.ca.service.secrets import IssuedSecrets
from app.ca.status import CaStatus
from app.core.clock import Clock
from app.spiffe.subscribers import Subscribers
from app.telemetry.metrics import Metrics


class CaService:
    """Joins the use cases. `maintain` is to be called about once a second.

    `prepare` is called before the first pass, until it succeeds. `subscribers` are the streams that the trust bundle
    goes to.
    """

    def __init__(
        self,
        config: CaConfig,
        transactions: CaTransactions,
        keys: KeyStore,
        publisher: BundlePublisher,
        clock: Clock,
        metrics: Metrics,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._prepare = prepare
        self.subscribers = Subscribers(clock.monotonic)
        self.authorities = Authorities(config, transactions, keys, publisher, clock, metrics)
        self.bans = Bans(config, transactions, clock, metrics)
        self.issuance = Issuance(config, transactions, self.authorities, self.bans, clock, metrics)
        self.join_tokens = JoinTokens(config, transactions, clock)
        self.entries = Entries(config, transactions, clock)
        self.crls = RevocationLists(transactions, self.authorities, self.bans, clock)
        self.records = Records(transactions, clock, metrics)
        replicas = Replicas(transactions, self.subscribers, clock)
        self._crl_delivery: CrlDelivery | None = None
        if config.crl_over_sds is not CrlOverSds.OFF:
            self._crl_delivery = CrlDelivery(
                transactions,
                self.authorities,
                self.crls,
                replicas,
                clock,
                metrics,
                only_issuer=config.crl_over_sds is CrlOverSds.ON,
            )
            self.authorities.begin = self.crls.begin
        self.rollout = Rollout(config, transactions, self.authorities, replicas, clock)
        self.log = TransparencyLog(config, transactions, self.authorities, clock)
        self.downstreams = Downstreams(config, transactions, self.authorities, self.bans, clock)
        self.secrets = IssuedSecrets(self.issuance, self.authorities, clock)

    def status(self) -> CaStatus:
        """Return the CA as an operator sees it. Raises UnavailableError before the first pass."""
        rotation = self.rollout.problem
        problems = [f"the root cannot be replaced: {rotation}"] if rotation else []
        if self._crl_delivery is not None:
            problems += self._crl_delivery.problems
        status = self.authorities.status()
        if status.plug_in is not None and status.plug_in.problem is not None:
            problems.append(f"the files in {status.plug_in.directory} are refused: {status.plug_in.problem}")
        if status.upstream is not None and status.upstream.problem is not None:
            problems.append(f"the upstream {status.upstream.server} is not followed: {status.upstream.problem}")
        return replace(status, problems=tuple(problems))

    async def start(self) -> None:
        """Find or create the authorities, and read the bans. Raises as `Authorities.start` does."""
        await self._prepared()
        await self.authorities.start()
        await self.bans.refresh()

    async def check_ready(self) -> None:
        """Sign a test SVID and look at the log. Raises a MeshwardError with the reason if none can be issued now."""
        self.log.check()
        await self.issuance.check()

    async def maintain(self) -> None:
        """Make one pass: renew authorities, answer other replicas' requests, sign the log, remove old records."""
        await self._prepared()
        await self.authorities.maintain()
        await self.rollout.maintain()
        await self.log.maintain()
        await self.records.maintain()
        await self.bans.maintain()

    async def maintain_crls(self) -> None:
        """Sign revocation lists, and give them to sidecars: a few times a second, and when bans have changed."""
        try:
            await self.crls.maintain()
        finally:  # what others have signed is given out although nothing can be signed here
            if self._crl_delivery is not None:
                await self._crl_delivery.maintain()

    async def _prepared(self) -> None:
        if self._prepare is not None:
            await self._prepare()
            self._prepare = None
