"""The transparency log in the admin API."""

from datetime import datetime
from typing import Annotated

from fastapi import Query

from app.ca.model import SUBJECT_LENGTH
from app.ca.rules.log import SignedTreeHead
from app.ca.service.log import TransparencyLog
from app.spiffe.id import TrustDomain
from app.transport.rest.pages import DEFAULT_PAGE_SIZE, Cursor, ItemsResponse, Limit, page_of, parse_number
from app.transport.rest.views import Hex, Text, View, shown_as

Subject = Annotated[str, Query(max_length=SUBJECT_LENGTH, description="Serial number, or id of an authority")]
TreeSize = Annotated[int, Query(ge=1, lt=2**63, description="Number of entries")]


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


class LogRest:
    """The endpoints of the transparency log."""

    def __init__(self, log: TransparencyLog) -> None:
        self._log = log

    async def head(self) -> TreeHeadView:
        """Return the newest signed head of the transparency log."""
        return TreeHeadView.model_validate(await self._log.head())

    async def list(self, limit: Limit = DEFAULT_PAGE_SIZE, cursor: Cursor = None) -> ItemsResponse:
        """List the entries of the transparency log, the oldest first."""
        return await page_of(
            lambda after, count: self._log.page(0 if after is None else after + 1, count),
            cursor,
            limit,
            parse=parse_number,
            key=lambda leaf: str(leaf.index),
            render=shown_as(LeafView),
        )

    async def inclusion(self, subject: Subject) -> InclusionView:
        """Return the proof that the log has the entry of an SVID, by its serial number, or of an authority, by its id.

        503 for a second or two after the issuance, until a head that covers it is signed.
        """
        return InclusionView.model_validate(await self._log.inclusion(subject))

    async def consistency(self, first: TreeSize, second: TreeSize | None = None) -> ConsistencyView:
        """Return the proof that the log of a signed head, the newest or that of size `second`, begins with `first`."""
        head, proof = await self._log.consistency(first, second)
        return ConsistencyView(first=first, head=TreeHeadView.model_validate(head), proof=list(proof))
