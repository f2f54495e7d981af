"""The replicas on one database: each reports which of its streams have accepted the trust bundle."""

import secrets
from collections.abc import Sequence

from app.ca.model import ReplicaReport, Signer
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.rollout import report_of
from app.core.clock import Clock
from app.spiffe.subscribers import Subscribers

# A report is written when it has changed, and as often as this to show that its replica is there.
BEAT_SECONDS = 10.0
# A replica that has not reported for this long is gone; those that were connected to it come back to others.
GONE_SECONDS = 35.0
# After this long its row is removed.
FORGOTTEN_SECONDS = 600.0
REPLICA_ID_BYTES = 16


class Replicas:
    """Reports of this replica, and those of all that are there.

    That another replica is there is seen by its reports going on, by the clock of this one: clocks may differ.
    """

    def __init__(self, transactions: CaTransactions, subscribers: Subscribers, clock: Clock) -> None:
        self.id = secrets.token_hex(REPLICA_ID_BYTES)
        self._transactions, self._subscribers, self._clock = transactions, subscribers, clock
        self._written: ReplicaReport | None = None
        self._written_at = 0.0
        # The beat that was seen last of each replica, and when it was seen first.
        self._seen: dict[str, tuple[int, float]] = {}

    async def report(
        self, bundle: str, signers: Sequence[Signer], *, identities: bool = False, exact: bool = False
    ) -> None:
        """Write what is true of this replica, if that has changed or is long ago; forget replicas that are gone.

        With `identities`, for a root that is to be active next, or if it is to be `exact`, changes of streams count.
        """
        now, before = self._clock.monotonic(), self._written
        beat = 0 if before is None else before.beat
        report = report_of(self.id, beat, bundle, self._subscribers.of_bundles(), signers, identities=identities)
        if not (identities or exact) and before is not None:
            # Streams come and go: what is behind matters while a root, or another signing authority, waits for them.
            unchanged = (report.bundle, report.signers) == (before.bundle, before.signers)
        else:
            unchanged = report == before
        if unchanged and now < self._written_at + BEAT_SECONDS:
            return
        report = report_of(self.id, beat + 1, bundle, self._subscribers.of_bundles(), signers, identities=identities)
        async with self._transactions() as repository:
            await repository.put_report(report)
            for gone in self._silent(await repository.reports(), FORGOTTEN_SECONDS):
                await repository.remove_report(gone)
        self._written, self._written_at = report, now

    async def present(self, repository: CaRepository) -> Sequence[ReplicaReport]:
        """Return the reports of the replicas that are there."""
        reports = await repository.reports()
        gone = set(self._silent(reports, GONE_SECONDS))
        return [report for report in reports if report.id not in gone]

    def _silent(self, reports: Sequence[ReplicaReport], seconds: float) -> list[str]:
        """Return the replicas, other than this one, that have not reported for so long."""
        now = self._clock.monotonic()
        for report in reports:
            if self._seen.get(report.id, (None, 0.0))[0] != report.beat:
                self._seen[report.id] = (report.beat, now)
        stored = {report.id for report in reports}
        self._seen = {each: seen for each, seen in self._seen.items() if each in stored}
        return [each for each, (_, at) in self._seen.items() if each != self.id and now >= at + seconds]
