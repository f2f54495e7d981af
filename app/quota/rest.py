"""Quota in the admin API: the configuration of each domain."""

import asyncio
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Path, Request, Response
from pydantic import BaseModel

from app.core.errors import InvalidInputError, Violation
from app.documents.parser import parse_documents
from app.quota.model import MAX_DOMAIN_LENGTH, StoredConfig
from app.quota.service import QuotaService
from app.transport.rest.etags import IfMatch, etag_of, expected_version
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, Limit, Page, decode_cursor, encode_cursor

CONFIGS_PATH = "/v1/quota/configs"
CONFIG_PATH = CONFIGS_PATH + "/{domain:path}"
"""A domain may have slashes: Envoy Gateway's do."""

Domain = Annotated[str, Path(max_length=MAX_DOMAIN_LENGTH, description="The domain that sidecars ask about")]


class QuotaConfigView(BaseModel):
    """A domain's configuration: the document as it was put, and when it was."""

    domain: str
    document: dict[str, Any]
    revision: int
    updated_at: datetime


class QuotaRest:
    """The endpoints under `/v1/quota/configs`."""

    def __init__(self, service: QuotaService) -> None:
        self._service = service

    async def put(
        self, domain: Domain, request: Request, response: Response, if_match: IfMatch = None
    ) -> QuotaConfigView:
        """Put a domain's limits in force: one document in envoyproxy/ratelimit's schema, YAML or JSON.

        201 if the domain had none, 200 if it is replaced. The answer's ETag is that of what is now stored.
        """
        # In a thread: a large document takes a good part of a second, in which checks would wait.
        document = await asyncio.to_thread(_only_document, await request.body())
        stored, created = await self._service.put(domain, document, expected_version(if_match))
        if created:
            response.status_code = 201
            response.headers["Location"] = f"{CONFIGS_PATH}/{quote(domain)}"
        return _view(stored, response)

    async def get(self, domain: Domain, response: Response) -> QuotaConfigView:
        """Return a domain's configuration; send its ETag back in If-Match to change exactly this one."""
        return _view(await self._service.get(domain), response)

    async def list(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> Page[QuotaConfigView]:
        """Return every domain's configuration, in order of domain."""
        found = await self._service.page(decode_cursor(cursor), limit + 1)
        items = found[:limit]
        following = encode_cursor(items[-1].domain) if len(found) > limit else None
        return Page(items=[_view(stored) for stored in items], next_cursor=following)

    async def delete(self, domain: Domain, if_match: IfMatch = None) -> None:
        """Remove a domain's limits: its requests pass from now on."""
        await self._service.delete(domain, expected_version(if_match))


def _only_document(body: bytes) -> dict[str, object]:
    documents = parse_documents(body)
    if len(documents) != 1:
        count = f"{len(documents)} documents" if documents else "no document"
        raise InvalidInputError(
            f"the body has {count}: send the one that holds the domain's limits", Violation("", "must be one document")
        )
    return documents[0]


def _view(stored: StoredConfig, response: Response | None = None) -> QuotaConfigView:
    if response is not None:
        response.headers["ETag"] = etag_of(stored.revision)
    return QuotaConfigView(
        domain=stored.domain, document=stored.document, revision=stored.revision, updated_at=stored.updated_at
    )
