"""Entries, join tokens and issued SVIDs in the admin API."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Query, Response
from pydantic import AliasChoices, Field

from app.ca.model import Entry, EntrySpec, IssuedSvid, Surface
from app.ca.rest.parameters import Id, SecondsInput, SpiffeIdInput, known_id, parse_id
from app.ca.service import CaService
from app.ca.service.join_tokens import DEFAULT_TTL
from app.spiffe.id import MAX_ID_BYTES, SpiffeId
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch, etag_of, expected_version
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of, parse_number
from app.transport.rest.views import Input, Seconds, Text, View, shown_as

ENTRIES_PATH = "/v1/entries"
JOIN_TOKENS_PATH = "/v1/join-tokens"

SpiffeIdFilter = Annotated[str | None, Query(max_length=MAX_ID_BYTES, description="Only of this SPIFFE ID")]


class EntryInput(Input):
    """The lifetime and DNS names of an identity's SVIDs. Without a lifetime the caller may ask for one."""

    spiffe_id: SpiffeIdInput
    x509_svid_ttl_seconds: SecondsInput | None = None
    dns_names: list[str] = Field(default=[], examples=[["cart.shop.svc"]])
    hint: str = ""


class EntryView(View):
    """An entry. Its version is also its ETag."""

    id: str
    spiffe_id: Text
    x509_svid_ttl_seconds: Seconds | None = Field(validation_alias="x509_svid_ttl")
    dns_names: list[str]
    hint: str
    version: int
    created_at: datetime
    updated_at: datetime


class JoinTokenInput(Input):
    """The identity that a join token proves, and how long it can be used."""

    spiffe_id: SpiffeIdInput
    ttl_seconds: SecondsInput = int(DEFAULT_TTL.total_seconds())


class JoinTokenView(View):
    """A join token, without its secret."""

    id: str
    spiffe_id: Text
    created_at: datetime
    expires_at: datetime
    redeemed_at: datetime | None


class NewJoinTokenView(JoinTokenView):
    """A join token with its secret, `token`, which is shown this once."""

    token: str


class SvidView(View):
    """An issued SVID. `fingerprint` is the SHA-256 of its DER, hexadecimal, as is `serial`."""

    serial: str
    spiffe_id: Text
    signer_id: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    surface: Surface
    join_token_id: str | None = Field(validation_alias=AliasChoices("token_id", "join_token_id"))

    def value(self) -> IssuedSvid:
        """Return the record. Raises InvalidInputError if its SPIFFE ID is none."""
        fields = {**self.model_dump(exclude={"join_token_id"}), "spiffe_id": SpiffeId.parse(self.spiffe_id)}
        return IssuedSvid(**fields, token_id=self.join_token_id)


class IdentityRest:
    """The endpoints of what identities are issued, and by what."""

    def __init__(self, ca: CaService) -> None:
        self._ca = ca

    async def create_entry(self, body: EntryInput, response: Response, caller: Caller) -> EntryView:
        """Create an entry. 409 if the identity has one already."""
        entry = await self._ca.entries.create(caller, _spec(body))
        response.headers["Location"] = f"{ENTRIES_PATH}/{entry.id}"
        return _tagged(entry, response)

    async def list_entries(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, spiffe_id: SpiffeIdFilter = None
    ) -> ItemsResponse:
        """List the entries in the order of their SPIFFE IDs, or the one of `spiffe_id`."""
        if spiffe_id is not None:
            entry = await self._ca.entries.find(parse_id(spiffe_id))
            return ItemsResponse([entry] if entry else [], shown_as(EntryView), more=',"next_cursor":null')
        return await page_of(
            self._ca.entries.page,
            cursor,
            limit,
            parse=lambda key: str(SpiffeId.parse(key)),
            key=lambda entry: str(entry.spiffe_id),
            render=shown_as(EntryView),
        )

    async def get_entry(self, entry_id: Id, response: Response) -> EntryView:
        """Return an entry; send its ETag back in If-Match to change exactly this version."""
        return _tagged(await self._ca.entries.get(known_id(entry_id, "entry")), response)

    async def replace_entry(
        self, entry_id: Id, body: EntryInput, response: Response, caller: Caller, if_match: IfMatch = None
    ) -> EntryView:
        """Replace an entry. The change applies from the next issuance on."""
        known, version = known_id(entry_id, "entry"), expected_version(if_match)
        return _tagged(await self._ca.entries.replace(caller, known, _spec(body), version), response)

    async def delete_entry(self, entry_id: Id, caller: Caller, if_match: IfMatch = None) -> None:
        """Delete an entry."""
        await self._ca.entries.delete(caller, known_id(entry_id, "entry"), expected_version(if_match))

    async def create_join_token(self, body: JoinTokenInput, caller: Caller) -> NewJoinTokenView:
        """Create a join token, which proves one identity once. Only this answer has its secret."""
        ttl = timedelta(seconds=body.ttl_seconds)
        created = await self._ca.join_tokens.create(caller, parse_id(body.spiffe_id), ttl)
        view = JoinTokenView.model_validate(created.token)
        return NewJoinTokenView(**view.model_dump(), token=created.secret)

    async def list_join_tokens(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the join tokens, with those used or expired in the last week, in the order of their ids."""
        return await page_of(
            self._ca.join_tokens.page,
            cursor,
            limit,
            parse=lambda key: known_id(key, "join token"),
            key=lambda token: token.id,
            render=shown_as(JoinTokenView),
        )

    async def delete_join_token(self, token_id: Id, caller: Caller) -> None:
        """Delete a join token, which can then no longer be used."""
        await self._ca.join_tokens.delete(caller, known_id(token_id, "join token"))

    async def list_svids(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, spiffe_id: SpiffeIdFilter = None
    ) -> ItemsResponse:
        """List the issued SVIDs, the newest first, of all identities or of one."""
        wanted = parse_id(spiffe_id) if spiffe_id is not None else None
        return await page_of(
            lambda after, count: self._ca.records.page(after, count, wanted),
            cursor,
            limit,
            parse=parse_number,
            key=lambda svid: str(svid.number),
            render=shown_as(SvidView),
        )


def _spec(body: EntryInput) -> EntrySpec:
    seconds = body.x509_svid_ttl_seconds
    ttl = None if seconds is None else timedelta(seconds=seconds)
    return EntrySpec(parse_id(body.spiffe_id), ttl, tuple(body.dns_names), body.hint)


def _tagged(entry: Entry, response: Response) -> EntryView:
    response.headers["ETag"] = etag_of(entry.version)
    return EntryView.model_validate(entry)
