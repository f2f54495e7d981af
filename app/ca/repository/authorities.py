"""Queries of roots, signing authorities, their requests and stages, and of the reports of replicas."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, case, delete, func, select, update

from app.ca.model import AuthorityStage, ReplicaReport, Root, Signer, SigningRequest
from app.ca.ports import WITHOUT_STREAM
from app.ca.repository.authentic import CaQueries
from app.ca.rules.authority import has_certificate
from app.ca.tables import AuthorityStageRow, ReplicaRow, RootRow, SignerRow, SvidRow
from app.db.rows import Rows, affected, values_of
from app.spiffe.id import SpiffeId

SIGNERS = Rows(SignerRow, Signer)


class AuthorityQueries(CaQueries):
    """What `CaRepository` has under "Authorities"."""

    async def roots(self) -> Sequence[Root]:
        query = self._tables.roots.select().order_by(RootRow.generation)
        return await self._tables.roots.all(self._session, query, self._trusts)

    async def has_roots(self) -> bool:
        return (await self._session.execute(select(RootRow.id).limit(1))).first() is not None

    async def add_root(self, root: Root) -> None:
        await self._tables.roots.insert(self._session, root)

    async def replace_root(self, root: Root) -> None:
        query = self._tables.roots.select().where(RootRow.id == root.id)
        await self._tables.roots.change(self._session, query, lambda _: root)

    async def hold_authorities(self) -> None:
        # Not against rows that refer to a root, such as signing requests.
        await self._session.execute(select(RootRow.id).order_by(RootRow.id).with_for_update(key_share=True))

    async def stages(self) -> Sequence[AuthorityStage]:
        query = self._tables.stages.select().order_by(AuthorityStageRow.number, AuthorityStageRow.id)
        return await self._tables.stages.all(self._session, query)

    async def put_stage(self, stage: AuthorityStage) -> None:
        await self._session.execute(delete(AuthorityStageRow).where(AuthorityStageRow.id == stage.id))
        await self._tables.stages.insert(self._session, stage)

    async def put_report(self, report: ReplicaReport) -> None:
        await self.remove_report(report.id)
        await self._tables.reports.insert(self._session, report)

    async def reports(self) -> Sequence[ReplicaReport]:
        query = self._tables.reports.select().order_by(ReplicaRow.id)
        return await self._tables.reports.all(self._session, query)

    async def remove_report(self, replica_id: str) -> None:
        await self._session.execute(delete(ReplicaRow).where(ReplicaRow.id == replica_id))

    async def identities_under(self, root_id: str, now: datetime, limit: int) -> Sequence[SpiffeId]:
        under = SvidRow.signer_id.in_(select(SignerRow.id).where(SignerRow.root_id == root_id))
        query = (
            select(SvidRow.spiffe_id)
            .where(SvidRow.not_after > now)
            .group_by(SvidRow.spiffe_id)
            .having(func.min(case((under, 1), else_=0)) == 1)
            .limit(limit)
        )
        return (await self._session.scalars(query)).all()

    async def unrenewed(self, before: datetime, now: datetime, limit: int) -> Sequence[SpiffeId]:
        query = (
            select(SvidRow.spiffe_id)
            .where(SvidRow.not_after > now, SvidRow.surface.in_(WITHOUT_STREAM))
            .group_by(SvidRow.spiffe_id)
            .having(func.max(SvidRow.issued_at) < before)
            .limit(limit)
        )
        return (await self._session.scalars(query)).all()

    async def signers(self, root_id: str, now: datetime) -> Sequence[Signer]:
        query = (
            SIGNERS.select()
            .where(SignerRow.root_id == root_id, SignerRow.certificate.is_not(None), SignerRow.not_after > now)
            .order_by(SignerRow.not_after.desc(), SignerRow.id)
        )
        return await SIGNERS.all(self._session, query)

    async def signer(self, signer_id: str) -> Signer | None:
        with_certificate = SIGNERS.select().where(SignerRow.id == signer_id, SignerRow.certificate.is_not(None))
        return await SIGNERS.first(self._session, with_certificate)

    async def roots_above_others(self, now: datetime) -> Collection[str]:
        given = select(SignerRow.root_id).where(SignerRow.request == "", SignerRow.not_after > now).distinct()
        return (await self._session.scalars(given)).all()

    async def put_signer(self, signer: Signer, now: datetime) -> None:
        stored = update(SignerRow).where(SignerRow.id == signer.id)
        if not await affected(self._session, stored.values(values_of(signer))):
            await SIGNERS.insert(self._session, signer, created_at=now)

    async def signing_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        return await self._tables.requests.all(self._session, self._waiting(root_id, limit))

    async def unapproved_requests(self, root_id: str, limit: int) -> Sequence[SigningRequest]:
        return await self._tables.requests.unauthentic(self._session, self._waiting(root_id, limit))

    async def approve_signing_request(self, request: SigningRequest) -> bool:
        return await self._tables.requests.authenticate(self._session, request)

    async def add_signing_request(self, request: SigningRequest) -> None:
        await self._tables.requests.insert(self._session, request)

    async def answer_signing_request(self, signer: Signer) -> bool:
        waiting = update(SignerRow).where(SignerRow.id == signer.id, SignerRow.certificate.is_(None))
        values = {"certificate": signer.certificate, "not_before": signer.not_before, "not_after": signer.not_after}
        return await affected(self._session, waiting.values(values)) > 0

    async def remove_signing_request(self, request_id: str) -> None:
        waiting = delete(SignerRow).where(SignerRow.id == request_id, SignerRow.certificate.is_(None))
        await self._session.execute(waiting)

    def _trusts(self, root: Root) -> bool:
        trusted = self._tables.trusted_root
        return trusted is not None and has_certificate(root, trusted)

    def _waiting(self, root_id: str, limit: int) -> Select[Any]:
        query = self._tables.requests.select().where(SignerRow.root_id == root_id, SignerRow.certificate.is_(None))
        return query.order_by(SignerRow.created_at, SignerRow.id).limit(limit)
