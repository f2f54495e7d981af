"""Quota in the admin API: the configuration of each domain."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BeforeValidator, Field, model_validator

from app.documents.model import DocumentKey
from app.documents.rest import DocumentRest, WarningView, warnings_of
from app.quota.model import (
    MAX_DESCRIPTORS,
    MAX_DOMAIN_LENGTH,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    Descriptor,
    Status,
)
from app.quota.rules.describe import as_unicode, describe_limit
from app.quota.rules.explain import Explanation
from app.quota.rules.names import read_name, write_name
from app.quota.service import QuotaService
from app.quota.service.counters import CounterService, ShownCounter
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch
from app.transport.rest.pages import (
    DEFAULT_PAGE_SIZE,
    MAX_CURSOR_LENGTH,
    Cursor,
    ItemsResponse,
    Limit,
    Page,
    decode_cursor,
    encode_cursor,
)
from app.transport.rest.views import Input, View

RLCONFIG_PATH = "/rlconfig"
EXPLAIN_PATH = "/v1/quota/explain"
COUNTERS_PATH = "/v1/quota/counters"
RESET_PATH = COUNTERS_PATH + "/reset"
CONFIGS_PATH = "/v1/quota/configs"
CONFIG_PATH = CONFIGS_PATH + "/{domain:path}"
"""A domain may have slashes: Envoy Gateway's do."""

# Characters of a limit's place in its configuration: up to 100 levels, most of them short.
MAX_RULE_LENGTH = 8192

Domain = Annotated[str, Path(max_length=MAX_DOMAIN_LENGTH, description="The domain that sidecars ask about")]


class QuotaConfigHead(View):
    """Which domain's configuration it is, and since when."""

    domain: str = Field(validation_alias="name")
    revision: int = Field(validation_alias="version")
    updated_at: datetime


class QuotaConfigView(QuotaConfigHead):
    """A domain's configuration: the document as it was given, and when."""

    document: dict[str, Any]


class WrittenQuotaConfigView(QuotaConfigView):
    """A domain's configuration as it was just written."""

    warnings: list[WarningView]


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


class EntryView(View):
    """A key and a value that a counter is of."""

    key: str
    value: str


class CounterView(View):
    """A counter: the limit that it is of, as `rule` in metrics, and how much of that is used until it resets.

    `entries` are keys and values that it counts by; null where values are too long to be kept. `limit` and `remaining`
    are null of a limit that requests bring with them, `resets_in_seconds` of one that never resets. `id` identifies the
    counter.
    """

    id: str
    rule: str
    entries: list[EntryView] | None
    used: int
    remaining: int | None
    limit: str | None
    resets_in_seconds: int | None


class ResetInput(Input):
    """Which counters start again: the one with an `id`, every one of the limit `rule`, or that of a request.

    `entries` are those of the request's descriptor.
    """

    domain: Annotated[str, Field(max_length=MAX_DOMAIN_LENGTH)]
    id: Annotated[str, Field(max_length=MAX_CURSOR_LENGTH)] | None = None
    rule: Annotated[str, Field(max_length=MAX_RULE_LENGTH)] | None = None
    entries: Annotated[list[EntryInput], Field(min_length=1, max_length=MAX_ENTRIES)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "ResetInput":
        if sum(each is not None for each in (self.id, self.rule, self.entries)) != 1:
            raise ValueError("exactly one of id, rule and entries must be given")
        return self


class ResetView(View):
    """How many counters started again."""

    counters: int


class CounterRest:
    """The endpoints under `/v1/quota/counters`."""

    def __init__(self, service: CounterService) -> None:
        self._service = service

    async def list(
        self,
        domain: Annotated[str, Query(max_length=MAX_DOMAIN_LENGTH, description="The domain of the counters")],
        rule: Annotated[str | None, Query(max_length=MAX_RULE_LENGTH, description="Of this limit alone")] = None,
        limit: Limit = DEFAULT_PAGE_SIZE,
        cursor: Cursor = None,
    ) -> Page[CounterView]:
        """List the counters of a domain that something is counted in, in the order of their store.

        A page can have fewer, a few more, or none before the last; one counter can be on two of them.
        """
        page = await self._service.page(domain, rule, decode_cursor(cursor, str), limit)
        following = None if page.following is None else encode_cursor(page.following)
        return Page(items=[_counter(each) for each in page.counters], next_cursor=following)

    async def reset(self, caller: Caller, request: ResetInput) -> ResetView:
        """Let one counter start again, or every one of a limit; 404 if nothing is counted in the one."""
        if request.rule is not None:
            return ResetView(counters=await self._service.reset_limit(caller, request.domain, request.rule))
        if request.entries is not None:
            entries = [(each.key, each.value) for each in request.entries]
            return ResetView(counters=await self._service.reset_for(caller, request.domain, entries))
        name = decode_cursor(request.id, read_name)
        return ResetView(counters=await self._service.reset(caller, request.domain, name) if name else 0)


def _counter(shown: ShownCounter) -> CounterView:
    place, counter = shown.place, shown.counter
    entries = place.entries_of(counter.name[1])
    return CounterView(
        id=encode_cursor(write_name(counter.name)),
        rule=place.rule,
        entries=None if entries is None else [EntryView(key=key, value=as_unicode(value)) for key, value in entries],
        used=counter.used,
        remaining=place.remaining_of(counter),
        limit=describe_limit(place.limit) if place.limit else None,
        resets_in_seconds=counter.resets_in,
    )


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

        201 if the domain had none, 200 if it is replaced. The answer's ETag is that of what is now stored; a limit that
        replaces a name which no limit of the domain has is among its warnings.
        """
        return await self._configs.put(caller, DocumentKey("", domain), request, if_match, warnings_of)

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
