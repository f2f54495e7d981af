"""The audit log in the admin API."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query

from app.audit.ports import AuditFilter
from app.audit.service import AuditLog
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, Limit, Page, decode_number, page_of
from app.transport.rest.views import View

AUDIT_PATH = "/v1/audit"
MAX_FILTER_LENGTH = 2048

Filter = Annotated[str | None, Query(max_length=MAX_FILTER_LENGTH, description="Only records with this value")]


class AuditRecordView(View):
    """One change: who made it, what was done to which object, its state before and after."""

    number: int
    at: datetime
    principal: str
    credential: str
    address: str
    request_id: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditRest:
    """The endpoint `/v1/audit`."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    async def list(
        self,
        limit: Limit = DEFAULT_PAGE_SIZE,
        cursor: Cursor = None,
        principal: Filter = None,
        action: Filter = None,
        target: Filter = None,
    ) -> Page[AuditRecordView]:
        """List changes, the newest first."""
        wanted = AuditFilter(principal, action, target)
        found = await self._audit.page(decode_number(cursor), limit + 1, wanted)
        return page_of(found, limit, AuditRecordView.model_validate, lambda record: str(record.number))
