"""Quota in the admin API: the configuration of each domain."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import Field

from app.documents.model import DocumentKey
from app.documents.rest import DocumentRest
from app.quota.model import MAX_DOMAIN_LENGTH
from app.quota.service import QuotaService
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit
from app.transport.rest.views import View

RLCONFIG_PATH = "/rlconfig"
CONFIGS_PATH = "/v1/quota/configs"
CONFIG_PATH = CONFIGS_PATH + "/{domain:path}"
"""A domain may have slashes: Envoy Gateway's do."""

Domain = Annotated[str, Path(max_length=MAX_DOMAIN_LENGTH, description="The domain that sidecars ask about")]


class QuotaConfigHead(View):
    """Which domain's configuration it is, and since when."""

    domain: str = Field(validation_alias="name")
    revision: int = Field(validation_alias="version")
    updated_at: datetime


class QuotaConfigView(QuotaConfigHead):
    """A domain's configuration: the document as it was given, and when."""

    document: dict[str, Any]


class QuotaRest:
    """The endpoints under `/v1/quota/configs`, and `/rlconfig`."""

    def __init__(self, service: QuotaService) -> None:
        self._service = service
        self._configs = DocumentRest(service.documents, CONFIGS_PATH, QuotaConfigHead)

    async def describe(self) -> PlainTextResponse:
        """Show every active limit, a line each, as envoyproxy/ratelimit's `/rlconfig`."""
        return PlainTextResponse("".join(f"{line}\n" for line in self._service.describe()))

    async def put(self, caller: Caller, domain: Domain, request: Request, if_match: IfMatch = None) -> Response:
        """Create or replace a domain's limits: one document in envoyproxy/ratelimit's schema, YAML or JSON.

        201 if the domain had none, 200 if it is replaced. The answer's ETag is that of what is now stored.
        """
        return await self._configs.put(caller, DocumentKey("", domain), request, if_match)

    async def get(self, domain: Domain) -> Response:
        """Get a domain's configuration; send its ETag back in If-Match to change exactly this version."""
        return await self._configs.get(DocumentKey("", domain))

    async def list(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the configurations of all domains, in the order of domains."""
        return await self._configs.page(limit, cursor)

    async def delete(self, caller: Caller, domain: Domain, if_match: IfMatch = None) -> None:
        """Delete a domain's limits: its requests pass from now on."""
        await self._configs.delete(caller, DocumentKey("", domain), if_match)
