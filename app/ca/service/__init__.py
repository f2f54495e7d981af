"""The use cases of the CA."""

import asyncio

import structlog

from app.ca.model import CaConfig
from app.ca.ports import BundlePublisher, CaTransactions, KeyStore
from app.ca.service.authorities import Authorities
from app.ca.service.entries import Entries
from app.ca.service.issuance import Issuance
from app.ca.service.join_tokens import JoinTokens
from app.ca.service.records import Records
from app.ca.service.secrets import IssuedSecrets, Sleep
from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.telemetry.metrics import Metrics

# How often to look for what other replicas ask for or have made.
MAINTENANCE_SECONDS = 1.0

log = structlog.get_logger(__name__)


class CaService:
    """Joins the use cases, and keeps them going."""

    def __init__(
        self,
        config: CaConfig,
        transactions: CaTransactions,
        keys: KeyStore,
        publisher: BundlePublisher,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.authorities = Authorities(config, transactions, keys, publisher, clock, metrics)
        self.issuance = Issuance(config, transactions, self.authorities, clock, metrics)
        self.join_tokens = JoinTokens(config, transactions, clock)
        self.entries = Entries(config, transactions, clock)
        self.records = Records(transactions, clock)
        self.secrets = IssuedSecrets(self.issuance, self.authorities, clock)

    async def start(self) -> None:
        """Find or make the authorities. Raises as `Authorities.start` does."""
        await self.authorities.start()

    async def check_ready(self) -> None:
        """Return if an SVID can be issued now; it is tried. Raises a MeshwardError with the reason otherwise."""
        self.issuance.check()

    async def maintain(self) -> None:
        """Make one pass over what is due: authorities, other replicas' requests, records to forget."""
        await self.authorities.maintain()
        await self.records.maintain()

    async def run(self, sleep: Sleep = asyncio.sleep) -> None:
        """Maintain until cancelled. A failure is logged when it begins and when it ends, and tried again."""
        failure = ""
        while True:
            await sleep(MAINTENANCE_SECONDS)
            try:
                await self.maintain()
            except MeshwardError as error:
                if error.message != failure:
                    log.error("ca_maintenance_failed", reason=error.message)  # noqa: TRY400 - a denial, not a crash
                failure = error.message
            else:
                if failure:
                    log.info("ca_maintenance_recovered")
                failure = ""
