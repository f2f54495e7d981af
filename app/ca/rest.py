"""The CA in the admin API: authorities, trust bundle, entries, join tokens, issued SVIDs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.ca.model import CaStatus, Entry, EntrySpec, IssuedSvid, JoinToken, Root, Signer
from app.ca.rules.names import is_random_id
from app.ca.service import CaService
from app.ca.service.join_tokens import DEFAULT_TTL
from app.core.errors import InvalidInputError, NotFoundError, Violation
from app.spiffe.bundle import bundle_jwks, bundle_pem
from app.spiffe.id import MAX_ID_BYTES, SpiffeId
from app.transport.rest.etags import IfMatch, etag_of, expected_version
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, Limit, Page, decode_cursor, decode_number, page_of

ENTRIES_PATH = "/v1/entries"
JOIN_TOKENS_PATH = "/v1/join-tokens"
# RFC 8555, section 9.1, and the type that SPIFFE bundle endpoints answer with.
PEM_TYPE = "application/pem-certificate-chain"
JSON_TYPE = "application/json"
# A header of media types is short; what is longer is refused.
MAX_ACCEPT_LENGTH = 1024
# Ids of entries and tokens are 32 hexadecimal digits; what is longer is not looked up.
MAX_ID_LENGTH = 64
# What a column of 32 bits holds; the CA's own bounds are far below.
MAX_SECONDS = 2**31 - 1

Id = Annotated[str, Path(max_length=MAX_ID_LENGTH)]
SpiffeIdFilter = Annotated[str | None, Query(max_length=MAX_ID_BYTES, description="Only of this SPIFFE ID")]
Accept = Annotated[str, Header(max_length=MAX_ACCEPT_LENGTH)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
SpiffeIdText = Annotated[str, Field(max_length=MAX_ID_BYTES, examples=["spiffe://cluster.local/ns/shop/sa/cart"])]


class Input(BaseModel):
    """A body: unknown fields are refused, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AuthorityView(BaseModel):
    """An authority's certificate, PEM."""

    id: str
    certificate: str
    not_before: datetime
    not_after: datetime


class CaView(BaseModel):
    """The state of the CA as this replica sees it. `signer_id` is null while `waiting_for` says why."""

    trust_domain: str
    ready: bool
    waiting_for: str | None
    signer_id: str | None
    root_id: str
    root_key_held: bool
    default_svid_ttl_seconds: int
    max_svid_ttl_seconds: int


class AuthoritiesView(BaseModel):
    """Every root, oldest first, and the signing authorities under the newest."""

    roots: list[AuthorityView]
    signers: list[AuthorityView]


class EntryInput(Input):
    """What to say of an identity. Without `x509_svid_ttl_seconds` its holder may ask for a lifetime."""

    spiffe_id: SpiffeIdText
    x509_svid_ttl_seconds: Seconds | None = None
    dns_names: list[str] = Field(default=[], examples=[["cart.shop.svc"]])
    hint: str = ""


class EntryView(BaseModel):
    """An entry. Its version is also its ETag."""

    id: str
    spiffe_id: str
    x509_svid_ttl_seconds: int | None
    dns_names: list[str]
    hint: str
    version: int
    created_at: datetime
    updated_at: datetime


class JoinTokenInput(Input):
    """For whom to make a join token, and for how long it can be used."""

    spiffe_id: SpiffeIdText
    ttl_seconds: Seconds = int(DEFAULT_TTL.total_seconds())


class JoinTokenView(BaseModel):
    """A join token, without its secret."""

    id: str
    spiffe_id: str
    created_at: datetime
    expires_at: datetime
    redeemed_at: datetime | None


class NewJoinTokenView(JoinTokenView):
    """A join token with its secret, `token`, which is shown this once."""

    token: str


class SvidView(BaseModel):
    """An issued SVID. `fingerprint` is the SHA-256 of its DER, hexadecimal, as is `serial`."""

    serial: str
    spiffe_id: str
    signer_id: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    issued_at: datetime
    surface: str
    join_token_id: str | None


class CaRest:
    """The endpoints under `/v1` that are the CA's."""

    def __init__(self, ca: CaService) -> None:
        self._ca = ca

    async def get_ca(self) -> CaView:
        """Return the state of the CA: whether it can issue, and if not, what it waits for."""
        return _ca_view(self._ca.authorities.status())

    async def list_authorities(self) -> AuthoritiesView:
        """Return the certificates of the authorities."""
        status = self._ca.authorities.status()
        return AuthoritiesView(
            roots=[_authority_view(root) for root in status.roots],
            signers=[_authority_view(signer) for signer in status.signers],
        )

    async def get_bundle(self, accept: Accept = "*/*") -> Response:
        """Return the trust bundle: PEM, or for `Accept: application/json` the SPIFFE bundle document."""
        bundle = self._ca.authorities.bundle()
        headers = {"ETag": etag_of(bundle.sequence), "Vary": "Accept"}
        if _prefers_json(accept):
            return JSONResponse(bundle_jwks(bundle), headers=headers)
        return Response(bundle_pem(bundle), media_type=PEM_TYPE, headers=headers)

    async def create_entry(self, body: EntryInput, response: Response) -> EntryView:
        """Store what is said of an identity. 409 if it has an entry already."""
        entry = await self._ca.entries.create(_spec(body))
        response.headers["Location"] = f"{ENTRIES_PATH}/{entry.id}"
        return _entry_view(entry, response)

    async def list_entries(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, spiffe_id: SpiffeIdFilter = None
    ) -> Page[EntryView]:
        """Return the entries in the order of their SPIFFE IDs, or the one of `spiffe_id`."""
        if spiffe_id is not None:
            entry = await self._ca.entries.find(_parse_id(spiffe_id))
            return Page(items=[_entry_view(entry)] if entry else [])
        found = await self._ca.entries.page(decode_cursor(cursor, _is_spiffe_id), limit + 1)
        return page_of(found, limit, _entry_view, lambda entry: str(entry.spec.spiffe_id))

    async def get_entry(self, entry_id: Id, response: Response) -> EntryView:
        """Return an entry; send its ETag back in If-Match to change exactly this version."""
        return _entry_view(await self._ca.entries.get(_known_id(entry_id, "entry")), response)

    async def replace_entry(
        self, entry_id: Id, body: EntryInput, response: Response, if_match: IfMatch = None
    ) -> EntryView:
        """Put what is said of an identity in the place of what was. It applies from the next issuance on."""
        entry = await self._ca.entries.replace(_known_id(entry_id, "entry"), _spec(body), expected_version(if_match))
        return _entry_view(entry, response)

    async def delete_entry(self, entry_id: Id, if_match: IfMatch = None) -> None:
        """Remove an entry."""
        await self._ca.entries.delete(_known_id(entry_id, "entry"), expected_version(if_match))

    async def create_join_token(self, body: JoinTokenInput) -> NewJoinTokenView:
        """Make a join token, which proves one identity once. Its secret is in this answer and nowhere else."""
        ttl = timedelta(seconds=body.ttl_seconds)
        created = await self._ca.join_tokens.create(_parse_id(body.spiffe_id), ttl)
        return NewJoinTokenView(**_token_view(created.token).model_dump(), token=created.secret)

    async def list_join_tokens(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> Page[JoinTokenView]:
        """Return the join tokens, used up and expired ones of the last week included, in the order of their ids."""
        found = await self._ca.join_tokens.page(decode_cursor(cursor, is_random_id), limit + 1)
        return page_of(found, limit, _token_view, lambda token: token.id)

    async def delete_join_token(self, token_id: Id) -> None:
        """Remove a join token, which then proves nothing."""
        await self._ca.join_tokens.delete(_known_id(token_id, "join token"))

    async def list_svids(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, spiffe_id: SpiffeIdFilter = None
    ) -> Page[SvidView]:
        """Return the issued SVIDs, the newest first, of all identities or of one."""
        wanted = _parse_id(spiffe_id) if spiffe_id is not None else None
        found = await self._ca.records.page(decode_number(cursor), limit + 1, wanted)
        return page_of(found, limit, _svid_view, lambda svid: str(svid.number))


def _prefers_json(accept: str) -> bool:
    """Whether JSON is asked for before PEM (RFC 9110, section 12.5.1). What takes anything gets PEM."""
    weights = {PEM_TYPE: 0.0, JSON_TYPE: 0.0}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_type in weights:
            weights[media_type] = _weight(parameters)
    return weights[JSON_TYPE] > weights[PEM_TYPE]


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _known_id(text: str, what: str) -> str:
    """Return an id that we may have made. Nothing else reaches the database."""
    if not is_random_id(text):
        raise NotFoundError(f"there is no {what} with this id")
    return text


def _is_spiffe_id(text: str) -> bool:
    try:
        SpiffeId.parse(text)
    except InvalidInputError:
        return False
    return True


def _parse_id(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, Violation("spiffe_id", error.message)) from error


def _spec(body: EntryInput) -> EntrySpec:
    seconds = body.x509_svid_ttl_seconds
    ttl = None if seconds is None else timedelta(seconds=seconds)
    return EntrySpec(_parse_id(body.spiffe_id), ttl, tuple(body.dns_names), body.hint)


def _ca_view(status: CaStatus) -> CaView:
    return CaView(
        trust_domain=status.trust_domain.name,
        ready=status.waiting_for is None,
        waiting_for=status.waiting_for,
        signer_id=status.signer_id,
        root_id=status.roots[-1].id,
        root_key_held=status.root_key_held,
        default_svid_ttl_seconds=int(status.default_ttl.total_seconds()),
        max_svid_ttl_seconds=int(status.max_ttl.total_seconds()),
    )


def _authority_view(authority: Root | Signer) -> AuthorityView:
    return AuthorityView(
        id=authority.id,
        certificate=authority.certificate,
        not_before=authority.not_before,
        not_after=authority.not_after,
    )


def _entry_view(entry: Entry, response: Response | None = None) -> EntryView:
    if response is not None:
        response.headers["ETag"] = etag_of(entry.version)
    ttl = entry.spec.x509_svid_ttl
    return EntryView(
        id=entry.id,
        spiffe_id=str(entry.spec.spiffe_id),
        x509_svid_ttl_seconds=None if ttl is None else int(ttl.total_seconds()),
        dns_names=list(entry.spec.dns_names),
        hint=entry.spec.hint,
        version=entry.version,
        created_at=entry.created_at,
        updated_at=entry.updated_at,
    )


def _token_view(token: JoinToken) -> JoinTokenView:
    return JoinTokenView(
        id=token.id,
        spiffe_id=str(token.spiffe_id),
        created_at=token.created_at,
        expires_at=token.expires_at,
        redeemed_at=token.redeemed_at,
    )


def _svid_view(svid: IssuedSvid) -> SvidView:
    return SvidView(
        serial=svid.serial,
        spiffe_id=str(svid.spiffe_id),
        signer_id=svid.signer_id,
        fingerprint=svid.fingerprint,
        not_before=svid.not_before,
        not_after=svid.not_after,
        issued_at=svid.issued_at,
        surface=svid.surface.value,
        join_token_id=svid.token_id,
    )
