"""The audit log in the admin API."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query

from app.audit.model import AuditRecord
from app.audit.ports import AuditFilter
from app.audit.service import AuditLog
from app.core.json_text import JsonText
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of, parse_number
from app.transport.rest.views import View, shown_as, with_texts

AUDIT_PATH = "/v1/audit"
MAX_FILTER_LENGTH = 2048

Filter = Annotated[str | None, Query(max_length=MAX_FILTER_LENGTH, description="Only records with this value")]


class AuditRecordHead(View):
    """One change: who made it, and what was done to which object."""

    number: int
    at: datetime
    principal: str
    credential: str
    address: str
    request_id: str
    action: str
    target: str


class AuditRecordView(AuditRecordHead):
    """One change, with the state of the object before and after."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None


_head = shown_as(AuditRecordHead)


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
    ) -> ItemsResponse:
        """List changes, the newest first."""
        wanted = AuditFilter(principal, action, target)
        return await page_of(
            lambda after, count: self._audit.page(after, count, wanted),
            cursor,
            limit,
            parse=parse_number,
            key=lambda record: str(record.number),
            render=_shown,
            size=lambda record: sum(len(text) for text in _states(record).values() if text),
        )


def _shown(record: AuditRecord) -> str:
    return with_texts(_head(record), **_states(record))


def _states(record: AuditRecord) -> dict[str, str | None]:
    states = {"before": record.before, "after": record.after}
    return {name: None if state is None else JsonText.of(state).text for name, state in states.items()}
