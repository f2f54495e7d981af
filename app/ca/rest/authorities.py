"""The authorities and the trust bundle in the admin API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Header, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app.ca.model import Origin, Root, Signer, Stage
from app.ca.rest.parameters import Id
from app.ca.service import CaService
from app.core.errors import NotFoundError
from app.spiffe.bundle import bundle_jwks, bundle_pem
from app.transport.rest.authentication import Caller
from app.transport.rest.etags import etag_of
from app.transport.rest.views import Input, Seconds, Text, View

AUTHORITIES_PATH = "/v1/ca/authorities"
AUTHORITY_PATH = AUTHORITIES_PATH + "/{authority_id}"
SIGNING_REQUESTS_PATH = "/v1/ca/signing-requests"
# RFC 8555, section 9.1, and the type that SPIFFE bundle endpoints answer with.
PEM_TYPE = "application/pem-certificate-chain"
JSON_TYPE = "application/json"
# A header of media types is short; a longer one is refused.
MAX_ACCEPT_LENGTH = 1024

Accept = Annotated[str, Header(max_length=MAX_ACCEPT_LENGTH)]


class AuthorityView(View):
    """An authority's certificate, PEM. Its stage is null if it is not trusted; `since` when it has that one.

    `origin` is where a root is from that is not our own.
    """

    id: str
    origin: Origin | None
    stage: Stage | None
    since: datetime | None
    certificate: str
    not_before: datetime
    not_after: datetime


class PlugInView(View):
    """The plug-in CA: the authority of the files that were accepted last; `problem` is why those of now are refused."""

    directory: str
    layout: str | None
    signer_id: str | None
    root_id: str | None
    read_at: datetime | None
    problem: str | None


class UpstreamView(View):
    """The Meshward above, and who this one is there; `problem` is why it has not signed, or is not followed."""

    server: str
    spiffe_id: Text | None
    svid_not_after: datetime | None
    problem: str | None


class CaView(View):
    """The state of the CA as this replica sees it. `signer_id` is null while `waiting_for` has a reason.

    `plug_in` is null without a plug-in CA, `upstream` without an upstream. `problems` have to be put right by an
    operator, although certificates are issued.
    """

    trust_domain: Text
    ready: bool
    waiting_for: str | None
    signer_id: str | None
    root_id: str | None
    root_key_held: bool
    problems: list[str]
    default_svid_ttl_seconds: Seconds = Field(validation_alias="default_ttl")
    max_svid_ttl_seconds: Seconds = Field(validation_alias="max_ttl")
    plug_in: PlugInView | None
    upstream: UpstreamView | None


class AuthoritiesView(View):
    """Every root, oldest first, and the signing authorities under them that have not ended."""

    roots: list[AuthorityView]
    signers: list[AuthorityView]


class SigningRequestView(View):
    """A request for a signing certificate. Its id is the fingerprint of its public key (RFC 7093, section 2)."""

    id: str
    root_id: str
    created_at: datetime


class ForceInput(Input):
    """Whether to go on although others are not ready."""

    force: bool = False


NO_FORCE = ForceInput()


class BehindView(View):
    """A stream whose client has not accepted the trust bundle; `problem` is why it refused it, if it did."""

    spiffe_id: str
    address: str
    node: str
    problem: str


class AcknowledgementsView(View):
    """Who has accepted the trust bundle with a root, and who has not. Of long lists the first 100 are shown.

    `identities` got their bundle with a certificate before the root was in it; `replicas` have no signing authority
    under the root yet, or another bundle.
    """

    complete: bool
    streams: int
    behind_count: int
    behind: list[BehindView]
    identities_count: int
    identities: list[Text]
    replicas: list[str]


class AuthorityRest:
    """The endpoints of authorities and of the trust bundle."""

    def __init__(self, ca: CaService) -> None:
        self._ca, self._authorities, self._rollout = ca, ca.authorities, ca.rollout

    async def get_ca(self) -> CaView:
        """Return the state of the CA: whether it can issue, and if not, what it waits for."""
        return CaView.model_validate(self._ca.status())

    async def list_authorities(self) -> AuthoritiesView:
        """List the certificates of the authorities."""
        status = self._authorities.status()
        return AuthoritiesView(
            roots=[self._shown(root) for root in status.roots],
            signers=[self._shown(signer) for signer in status.signers],
        )

    async def list_signing_requests(self) -> list[SigningRequestView]:
        """List the requests for signing certificates that wait for an operator."""
        return [SigningRequestView.model_validate(each) for each in self._authorities.status().unapproved]

    async def approve_signing_request(self, request_id: Id, caller: Caller) -> SigningRequestView:
        """Approve a request, so that it is signed. Compare the id with what the replica that made it reports."""
        return SigningRequestView.model_validate(await self._authorities.requests.approve(caller, request_id))

    async def prepare(self, caller: Caller) -> AuthorityView:
        """Create a root with a new key, which is trusted from now on and does not sign until it is activated."""
        return self._shown(await self._authorities.roots.prepare(caller))

    async def activate(self, authority_id: Id, caller: Caller, body: ForceInput = NO_FORCE) -> AuthorityView:
        """Have a prepared root sign once everybody has accepted the trust bundle with it, or an old root at once.

        The active root becomes old. With `force` nobody is waited for.
        """
        await self._authorities.roots.activate(caller, authority_id, force=body.force)
        await self._rollout.maintain()
        return self._shown_by(authority_id)

    async def acknowledgements(self, authority_id: Id) -> AcknowledgementsView:
        """Return who has accepted the trust bundle with the root that is to be active next, and who has not."""
        return AcknowledgementsView.model_validate(await self._rollout.acknowledgements(authority_id))

    async def taint(self, authority_id: Id, caller: Caller) -> AuthorityView:
        """Have all that an old root or a signing authority signed be replaced; it signs nothing any more."""
        await self._authorities.roots.taint(caller, authority_id)
        return self._shown_by(authority_id)

    async def revoke(self, authority_id: Id, caller: Caller, body: ForceInput = NO_FORCE) -> AuthorityView:
        """Take a tainted root, or one that was prepared and never used, out of the trust bundle.

        Refused while identities have no other certificate than of this root, unless with `force`.
        """
        await self._authorities.roots.revoke(caller, authority_id, force=body.force)
        return self._shown_by(authority_id)

    async def get_bundle(self, accept: Accept = "*/*") -> Response:
        """Return the trust bundle: PEM, or for `Accept: application/json` the SPIFFE bundle document."""
        bundle = self._authorities.bundle()
        headers = {"ETag": etag_of(bundle.sequence), "Vary": "Accept"}
        if _prefers_json(accept):
            return JSONResponse(bundle_jwks(bundle), headers=headers)
        return Response(bundle_pem(bundle), media_type=PEM_TYPE, headers=headers)

    def _shown_by(self, authority_id: str) -> AuthorityView:
        status = self._authorities.status()
        known: list[Root | Signer] = [*status.roots, *status.signers]
        found = next((each for each in known if each.id == authority_id), None)
        if found is None:
            raise NotFoundError(f"there is no authority {authority_id}")
        return self._shown(found)

    def _shown(self, authority: Root | Signer) -> AuthorityView:
        """Return the view of an authority; a signing authority without a stage is active."""
        stage = self._authorities.stage(authority)
        return AuthorityView(
            id=authority.id,
            origin=authority.origin if isinstance(authority, Root) else None,
            stage=None if stage is None else stage.stage,
            since=None if stage is None else stage.since,
            certificate=authority.certificate,
            not_before=authority.not_before,
            not_after=authority.not_after,
        )


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
