"""The audit log in the admin API."""

from typing import Annotated

from fastapi import Query

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter
from app.audit.service import AuditLog
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, Limit, Page, decode_cursor, page_of, parse_number

AUDIT_PATH = "/v1/audit"
MAX_FILTER_LENGTH = 2048

Filter = Annotated[str | None, Query(max_length=MAX_FILTER_LENGTH, description="Only records with this value")]


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
    ) -> Page[AuditRecord]:
        """List changes, the newest first."""
        wanted = AuditFilter(principal, action, target)
        found = await self._audit.page(decode_cursor(cursor, parse_number), limit + 1, wanted)
        return page_of(found, limit, lambda record: record, lambda record: str(record.number))
