"""Signing certificates: a replica requests its own through the database, and the holder of the root's key answers."""

import secrets
from collections.abc import Collection
from datetime import datetime

import structlog

from app.audit.model import record_of
from app.ca.model import CaConfig, Root, SigningRequest
from app.ca.ports import CaTransactions, SigningKey
from app.ca.rules.authority import (
    authority_request,
    check_request,
    is_stale,
    signer_builder,
    signer_of,
    validity_problem,
)
from app.ca.rules.log import signer_entry
from app.ca.rules.profile import SERIAL_BITS, authority_id
from app.ca.service.authority_keys import AuthorityKeys
from app.ca.service.known import MAX_REQUESTS_PER_PASS, Known, read_trust
from app.ca.service.leaves import append
from app.core.clock import Clock
from app.core.errors import InvalidInputError, MeshwardError, NotFoundError
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import pem
from app.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)


class SigningRequests:
    """Requests signing certificates for keys that are made here, and answers requests by the roots' keys."""

    def __init__(
        self, config: CaConfig, transactions: CaTransactions, keys: AuthorityKeys, clock: Clock, metrics: Metrics
    ) -> None:
        self._config, self._transactions, self._keys = config, transactions, keys
        self._clock, self._metrics = clock, metrics
        # The request of this replica that waits, by the root that is to sign it.
        self._waiting: dict[str, str] = {}

    def waiting(self, root_id: str) -> str:
        """Return the id of the request of this replica that waits for a root, "" if there is none."""
        return self._waiting.get(root_id, "")

    async def approve(self, caller: Principal, request_id: str) -> SigningRequest:
        """Make a signing request that waits for an operator authentic, and return it: the root's key signs it.

        Raises NotFoundError if none with this id waits, InvalidInputError if it is not for the key that it is named
        after.
        """
        now = self._clock.now()
        async with self._transactions() as repository:
            waiting: list[SigningRequest] = []
            for root in (await read_trust(repository)).targets:
                waiting += await repository.unapproved_requests(root.id, MAX_REQUESTS_PER_PASS)
            request = next((each for each in waiting if each.id == request_id), None)
            if request is None:
                raise NotFoundError(f"no signing request {request_id} waits for approval")
            check_request(request)
            if not await repository.approve_signing_request(request):
                raise NotFoundError(f"the signing request {request_id} was answered or removed meanwhile")
            after = {"id": request.id, "root_id": request.root_id, "created_at": request.created_at.isoformat()}
            await repository.record(record_of(caller, now, "signing_request.approve", request_id, after=after))
        return request

    async def make(self, known: Known, roots: Collection[Root], now: datetime) -> Known:
        """Request a signing certificate of each root, unless one is requested; return what is known then.

        Outside the life of a root, as at a wrong clock, nothing is requested of it.
        """
        for root in roots:
            if validity_problem("root", root, now) is None and not await self._is_waiting(known, root, now):
                request = await self._request(root, now)
                known = Known(known.trust, known.signers, (*known.requests, request), known.unapproved)
        return known

    async def answer(self, known: Known, now: datetime) -> bool:
        """Sign the requests to the roots whose keys are here, and return whether there were any."""
        answered = False
        for root in known.trust.targets:
            requests = [request for request in known.requests if request.root_id == root.id]
            key = await self._keys.find(root.id)
            if requests and key is not None and validity_problem("root", root, now) is None:
                await self._answer(requests, root, key, now)
                answered = True
        return answered

    async def _is_waiting(self, known: Known, root: Root, now: datetime) -> bool:
        # One that an operator has approved at another replica is not authentic here, and still ours.
        for request in (*known.requests, *known.unapproved):
            ours = request.root_id == root.id and not is_stale(request, self._config, now)
            if ours and await self._keys.find(request.id) is not None:
                self._waiting[root.id] = request.id
                return True
        return False

    async def _request(self, root: Root, now: datetime) -> SigningRequest:
        key, csr = await self._keys.create(lambda _: authority_request())
        request = SigningRequest(authority_id(key.public_key), root.id, pem(csr), now)
        try:
            async with self._transactions() as repository:
                await repository.add_signing_request(request)
        except MeshwardError:
            # Every pass tries again with another key; without this a read-only database would fill the key store.
            await self._keys.remove(request.id)
            raise
        self._waiting[root.id] = request.id
        return request

    async def _answer(self, requests: Collection[SigningRequest], root: Root, key: SigningKey, now: datetime) -> None:
        async with self._transactions() as repository:
            for request in requests:
                if is_stale(request, self._config, now):
                    # Kept, so that a replica whose clock is far behind waits, and does not make one after another.
                    self._metrics.refusals.record("database", "stale_signing_request", row=request.id)
                    continue
                try:
                    certificate = await key.sign(signer_builder(request, root, self._config, new_serial(), now))
                    signer = signer_of(certificate, request, root)
                except InvalidInputError as error:
                    log.warning("ca_signing_request_refused", authority=request.id, reason=error.message)
                    await repository.remove_signing_request(request.id)
                    continue
                if await repository.answer_signing_request(signer):
                    await append(repository, [signer_entry(signer)])
                    log.info("ca_signer_signed", authority=signer.id, not_after=signer.not_after.isoformat())


def new_serial() -> int:
    """Return a random serial number of 128 bits, which is never zero (RFC 5280, section 4.1.2.2)."""
    return secrets.randbits(SERIAL_BITS) or 1
