"""Bans and revocations in the admin API."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Path, Response
from pydantic import Field

from app.ca.rest.parameters import Id, SecondsInput
from app.ca.rules.bans import MAX_REASON
from app.ca.service.bans import Bans
from app.ca.service.crls import RevocationLists
from app.spiffe.id import MAX_ID_BYTES
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import etag_of
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of
from app.transport.rest.views import Input, View, shown_as

BANS_PATH = "/v1/bans"
# An id has slashes, which clients may encode or not: an ASGI server decodes a path before it is matched.
BAN_PATH = "/v1/identities/{spiffe_id:path}/ban"
REVOCATION_PATH = "/v1/svids/{serial}/revocation"
CRL_PATH = "/crl/{authority_id}"
# RFC 2585, section 4.2.
CRL_TYPE = "application/pkix-crl"

SubjectPath = Annotated[str, Path(max_length=MAX_ID_BYTES, description="A SPIFFE ID, or a path and `/*`")]


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
