"""Quota in the admin API: the configuration of each domain."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BeforeValidator, Field

from app.documents.model import DocumentKey
from app.documents.rest import DocumentRest
from app.quota.model import (
    MAX_DESCRIPTORS,
    MAX_DOMAIN_LENGTH,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    Descriptor,
    Status,
)
from app.quota.rules.describe import describe_limit
from app.quota.rules.explain import Explanation
from app.quota.service import QuotaService
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit
from app.transport.rest.views import Input, View

RLCONFIG_PATH = "/rlconfig"
EXPLAIN_PATH = "/v1/quota/explain"
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


class EntryInput(Input):
    """A key and a value of a request's descriptor."""

    key: Annotated[str, Field(max_length=MAX_KEY_LENGTH)]
    value: Annotated[str, Field(max_length=MAX_VALUE_LENGTH)] = ""


class DescriptorInput(Input):
    """What a request asks to count."""

    entries: Annotated[list[EntryInput], Field(max_length=MAX_ENTRIES)]


class ExplainInput(Input):
    """A request as sidecars make it, in the JSON form of a RateLimitRequest."""

    domain: Annotated[str, Field(max_length=MAX_DOMAIN_LENGTH)]
    descriptors: Annotated[list[DescriptorInput], Field(min_length=1, max_length=MAX_DESCRIPTORS)]

    def parsed(self) -> list[Descriptor]:
        """Return the descriptors."""
        return [Descriptor(tuple((each.key, each.value) for each in one.entries)) for one in self.descriptors]


class MissView(View):
    """A descriptor of the configuration that an entry passed by, and why."""

    descriptor: str
    reason: str


class StepView(View):
    """What one entry came to: the descriptor that it matched, and how; some that it passed by, and how many others."""

    entry: str
    matched: str | None
    how: str
    misses: list[MissView]
    others: int


class ExplanationView(View):
    """The limit of one descriptor, why it applies or none does, and the way to it.

    `rule` is its name in metrics, `counter` the values that it counts by. `remaining` is what is left of it until it
    resets in `reset_seconds`; both are null without a limit that counts.
    """

    limit: Annotated[str | None, BeforeValidator(lambda limit: describe_limit(limit) if limit else None)]
    reason: str
    rule: str
    counter: list[str]
    remaining: int | None = None
    reset_seconds: int | None = None
    steps: list[StepView]


class ExplanationList(View):
    """The explanation of each descriptor, in their order."""

    items: list[ExplanationView]


class QuotaRest:
    """The endpoints under `/v1/quota`, and `/rlconfig`."""

    def __init__(self, service: QuotaService) -> None:
        self._service = service
        self._configs = DocumentRest(service.documents, CONFIGS_PATH, QuotaConfigHead)

    async def describe(self) -> PlainTextResponse:
        """Show every active limit, a line each, as envoyproxy/ratelimit's `/rlconfig`."""
        return PlainTextResponse("".join(f"{line}\n" for line in self._service.describe()))

    async def explain(self, request: ExplainInput) -> ExplanationList:
        """Show which limit applies to each descriptor of a request, why not the others, and what its counter is at.

        Nothing is counted.
        """
        found = await self._service.explain(request.domain, request.parsed())
        return ExplanationList(items=[explained(explanation, status) for explanation, status in found])

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


def explained(explanation: Explanation, status: Status | None = None) -> ExplanationView:
    """Return what is shown of an explanation, with what its counter is at if `status` has it."""
    view = ExplanationView.model_validate(explanation)
    if status is None or status.limit is None:
        return view
    return view.model_copy(update={"remaining": status.remaining, "reset_seconds": status.reset_seconds})
