"""The CA in the admin API: authorities, trust bundle, entries, join tokens, issued SVIDs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, Field

from app.ca.model import SUBJECT_LENGTH, Entry, EntrySpec, IssuedSvid, SignedTreeHead, Surface
from app.ca.rules.bans import MAX_REASON
from app.ca.rules.names import is_random_id
from app.ca.service import CaService
from app.ca.service.bans import Bans
from app.ca.service.crls import RevocationLists
from app.ca.service.join_tokens import DEFAULT_TTL
from app.core.errors import InvalidInputError, NotFoundError, Violation
from app.spiffe.bundle import bundle_jwks, bundle_pem
from app.spiffe.id import MAX_ID_BYTES, SpiffeId, TrustDomain
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import IfMatch, etag_of, expected_version
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of, parse_number
from app.transport.rest.views import Hex, Input, Seconds, Text, View, shown_as

ENTRIES_PATH = "/v1/entries"
JOIN_TOKENS_PATH = "/v1/join-tokens"
SIGNING_REQUESTS_PATH = "/v1/ca/signing-requests"
BANS_PATH = "/v1/bans"
# An id has slashes, which clients may encode or not: an ASGI server decodes a path before it is matched.
BAN_PATH = "/v1/identities/{spiffe_id:path}/ban"
REVOCATION_PATH = "/v1/svids/{serial}/revocation"
CRL_PATH = "/crl/{authority_id}"
# RFC 8555, section 9.1, and the type that SPIFFE bundle endpoints answer with.
PEM_TYPE = "application/pem-certificate-chain"
# RFC 2585, section 4.2.
CRL_TYPE = "application/pkix-crl"
JSON_TYPE = "application/json"
# A header of media types is short; a longer one is refused.
MAX_ACCEPT_LENGTH = 1024
# Ids of entries and tokens are 32 hexadecimal digits; a longer one is not looked up.
MAX_ID_LENGTH = 64
# What a column of 32 bits holds; the CA's own bounds are far below.
MAX_SECONDS = 2**31 - 1

Id = Annotated[str, Path(max_length=MAX_ID_LENGTH)]
SpiffeIdFilter = Annotated[str | None, Query(max_length=MAX_ID_BYTES, description="Only of this SPIFFE ID")]
SubjectPath = Annotated[str, Path(max_length=MAX_ID_BYTES, description="A SPIFFE ID, or a path and `/*`")]
Accept = Annotated[str, Header(max_length=MAX_ACCEPT_LENGTH)]
Subject = Annotated[str, Query(max_length=SUBJECT_LENGTH, description="Serial number, or id of an authority")]
TreeSize = Annotated[int, Query(ge=1, lt=2**63, description="Number of entries")]
SecondsInput = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
SpiffeIdInput = Annotated[str, Field(max_length=MAX_ID_BYTES, examples=["spiffe://cluster.local/ns/shop/sa/cart"])]


class AuthorityView(View):
    """An authority's certificate, PEM."""

    id: str
    certificate: str
    not_before: datetime
    not_after: datetime


class CaView(View):
    """The state of the CA as this replica sees it. `signer_id` is null while `waiting_for` has a reason."""

    trust_domain: Text
    ready: bool
    waiting_for: str | None
    signer_id: str | None
    root_id: str
    root_key_held: bool
    default_svid_ttl_seconds: Seconds = Field(validation_alias="default_ttl")
    max_svid_ttl_seconds: Seconds = Field(validation_alias="max_ttl")


class AuthoritiesView(View):
    """Every root, oldest first, and the signing authorities under the newest."""

    roots: list[AuthorityView]
    signers: list[AuthorityView]


class SigningRequestView(View):
    """A request for a signing certificate. Its id is the fingerprint of its public key (RFC 7093, section 2)."""

    id: str
    root_id: str
    created_at: datetime


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


class TreeHeadView(View):
    """A signed head of the transparency log: hashes and signature are hexadecimal, the certificate is PEM."""

    trust_domain: Text
    size: int
    root_hash: Hex
    signed_at: datetime
    certificate: str
    signature: Hex

    def value(self) -> SignedTreeHead:
        """Return the head. Raises InvalidInputError if its trust domain cannot be one."""
        fields = {**self.model_dump(), "trust_domain": TrustDomain(self.trust_domain)}
        return SignedTreeHead(**{**fields, "root_hash": self.root_hash, "signature": self.signature})


class LeafView(View):
    """An entry of the log at its place. `hash` is that of the leaf, hexadecimal; `text` is what was hashed."""

    index: int
    subject: str
    text: str
    hash: Hex


class InclusionView(View):
    """The proof that a leaf is in the log of the head (RFC 9162, section 2.1.3)."""

    leaf: LeafView
    head: TreeHeadView
    proof: list[Hex]


class ConsistencyView(View):
    """The proof that the log of the head begins with the log of `first` entries (RFC 9162, section 2.1.4)."""

    first: int
    head: TreeHeadView
    proof: list[Hex]


class RevocationInput(Input):
    """Why a certificate is revoked: text for people, which is in each denial's log."""

    reason: str = Field(max_length=MAX_REASON)


class BanInput(RevocationInput):
    """Why an identity is banned, and for how long: until it is lifted, without `ttl_seconds`."""

    ttl_seconds: SecondsInput | None = None


class BanView(View):
    """A ban: of a SPIFFE ID, of every one below a path (`…/*`), or of a certificate, by its serial number."""

    subject: str
    reason: str
    created_at: datetime
    expires_at: datetime | None


class BanRest:
    """The endpoints of bans and revocations."""

    def __init__(self, bans: Bans, crls: RevocationLists) -> None:
        self._bans, self._crls = bans, crls

    async def list(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the bans in the order of their subjects. Those that have ended stay for some minutes."""
        return await page_of(
            self._bans.page, cursor, limit, parse=str, key=lambda ban: ban.subject, render=shown_as(BanView)
        )

    async def get_crl(self, authority_id: Id) -> Response:
        """Return the revocation list of a signing authority, DER (RFC 5280, section 5)."""
        crl = self._crls.get(authority_id)
        return Response(crl.der, media_type=CRL_TYPE, headers={"ETag": etag_of(crl.number)})

    async def ban(self, spiffe_id: SubjectPath, body: BanInput, caller: Caller) -> BanView:
        """Ban an identity, or with `/*` every identity below a path; an earlier ban of the same is replaced."""
        lasts = None if body.ttl_seconds is None else timedelta(seconds=body.ttl_seconds)
        return BanView.model_validate(await self._bans.ban(caller, spiffe_id, body.reason, lasts))

    async def unban(self, spiffe_id: SubjectPath, caller: Caller) -> None:
        """Lift a ban."""
        await self._bans.unban(caller, spiffe_id)

    async def revoke(self, serial: Id, body: RevocationInput, caller: Caller) -> BanView:
        """Revoke a certificate until it ends. 404 if its issuance is not recorded."""
        return BanView.model_validate(await self._bans.revoke(caller, serial, body.reason))

    async def unrevoke(self, serial: Id, caller: Caller) -> None:
        """Accept a revoked certificate again."""
        await self._bans.unrevoke(caller, serial)


class CaRest:
    """The endpoints under `/v1` that are the CA's."""

    def __init__(self, ca: CaService) -> None:
        self._ca = ca

    async def get_ca(self) -> CaView:
        """Return the state of the CA: whether it can issue, and if not, what it waits for."""
        return CaView.model_validate(self._ca.authorities.status())

    async def list_authorities(self) -> AuthoritiesView:
        """List the certificates of the authorities."""
        return AuthoritiesView.model_validate(self._ca.authorities.status())

    async def list_signing_requests(self) -> list[SigningRequestView]:
        """List the requests for signing certificates that wait for an operator."""
        return [SigningRequestView.model_validate(each) for each in self._ca.authorities.status().unapproved]

    async def approve_signing_request(self, request_id: Id, caller: Caller) -> SigningRequestView:
        """Approve a request, so that it is signed. Compare the id with what the replica that made it reports."""
        return SigningRequestView.model_validate(await self._ca.authorities.approve(caller, request_id))

    async def get_bundle(self, accept: Accept = "*/*") -> Response:
        """Return the trust bundle: PEM, or for `Accept: application/json` the SPIFFE bundle document."""
        bundle = self._ca.authorities.bundle()
        headers = {"ETag": etag_of(bundle.sequence), "Vary": "Accept"}
        if _prefers_json(accept):
            return JSONResponse(bundle_jwks(bundle), headers=headers)
        return Response(bundle_pem(bundle), media_type=PEM_TYPE, headers=headers)

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
            entry = await self._ca.entries.find(_parse_id(spiffe_id))
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
        return _tagged(await self._ca.entries.get(_known_id(entry_id, "entry")), response)

    async def replace_entry(
        self, entry_id: Id, body: EntryInput, response: Response, caller: Caller, if_match: IfMatch = None
    ) -> EntryView:
        """Replace an entry. The change applies from the next issuance on."""
        known, version = _known_id(entry_id, "entry"), expected_version(if_match)
        return _tagged(await self._ca.entries.replace(caller, known, _spec(body), version), response)

    async def delete_entry(self, entry_id: Id, caller: Caller, if_match: IfMatch = None) -> None:
        """Delete an entry."""
        await self._ca.entries.delete(caller, _known_id(entry_id, "entry"), expected_version(if_match))

    async def create_join_token(self, body: JoinTokenInput, caller: Caller) -> NewJoinTokenView:
        """Create a join token, which proves one identity once. Only this answer has its secret."""
        ttl = timedelta(seconds=body.ttl_seconds)
        created = await self._ca.join_tokens.create(caller, _parse_id(body.spiffe_id), ttl)
        view = JoinTokenView.model_validate(created.token)
        return NewJoinTokenView(**view.model_dump(), token=created.secret)

    async def list_join_tokens(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the join tokens, with those used or expired in the last week, in the order of their ids."""
        return await page_of(
            self._ca.join_tokens.page,
            cursor,
            limit,
            parse=lambda key: _known_id(key, "join token"),
            key=lambda token: token.id,
            render=shown_as(JoinTokenView),
        )

    async def delete_join_token(self, token_id: Id, caller: Caller) -> None:
        """Delete a join token, which can then no longer be used."""
        await self._ca.join_tokens.delete(caller, _known_id(token_id, "join token"))

    async def list_svids(
        self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None, spiffe_id: SpiffeIdFilter = None
    ) -> ItemsResponse:
        """List the issued SVIDs, the newest first, of all identities or of one."""
        wanted = _parse_id(spiffe_id) if spiffe_id is not None else None
        return await page_of(
            lambda after, count: self._ca.records.page(after, count, wanted),
            cursor,
            limit,
            parse=parse_number,
            key=lambda svid: str(svid.number),
            render=shown_as(SvidView),
        )

    async def get_log_head(self) -> TreeHeadView:
        """Return the newest signed head of the transparency log."""
        return TreeHeadView.model_validate(await self._ca.log.head())

    async def list_log_entries(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the entries of the transparency log, the oldest first."""
        return await page_of(
            lambda after, count: self._ca.log.page(0 if after is None else after + 1, count),
            cursor,
            limit,
            parse=parse_number,
            key=lambda leaf: str(leaf.index),
            render=shown_as(LeafView),
        )

    async def prove_inclusion(self, subject: Subject) -> InclusionView:
        """Return the proof that the log has the entry of an SVID, by its serial number, or of an authority, by its id.

        503 for a second or two after the issuance, until a head that covers it is signed.
        """
        return InclusionView.model_validate(await self._ca.log.inclusion(subject))

    async def prove_consistency(self, first: TreeSize, second: TreeSize | None = None) -> ConsistencyView:
        """Return the proof that the log of a signed head, the newest or that of size `second`, begins with `first`."""
        head, proof = await self._ca.log.consistency(first, second)
        return ConsistencyView(first=first, head=TreeHeadView.model_validate(head), proof=list(proof))


def _prefers_json(accept: str) -> bool:
    """Whether JSON is preferred to PEM (RFC 9110, section 12.5.1). Without a preference the answer is PEM."""
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
    """Return the id if it has the form of one. Nothing else reaches the database."""
    if not is_random_id(text):
        raise NotFoundError(f"there is no {what} with this id")
    return text


def _parse_id(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, Violation("spiffe_id", error.message)) from error


def _spec(body: EntryInput) -> EntrySpec:
    seconds = body.x509_svid_ttl_seconds
    ttl = None if seconds is None else timedelta(seconds=seconds)
    return EntrySpec(_parse_id(body.spiffe_id), ttl, tuple(body.dns_names), body.hint)


def _tagged(entry: Entry, response: Response) -> EntryView:
    response.headers["ETag"] = etag_of(entry.version)
    return EntryView.model_validate(entry)
