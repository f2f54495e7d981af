"""Keeping the identity: enrolling, renewing with a new key each time, and serving it through outages."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import SystemRandom
from typing import Protocol

import structlog

from app.agent.identity import Identity, JoinToken, Proof, accept_answer, is_trusted, is_withdrawn, make_request
from app.agent.renewal import Action, Need, Renewal
from app.agent.secrets import HeldSecrets
from app.core import errors
from app.core.clock import Clock, Sleep
from app.core.signals import Latest, Signal
from app.spiffe.bundle import TrustBundle

log = structlog.get_logger()

_RANDOM = SystemRandom()

# Errors that another attempt with the same token, server and bundle would meet again.
FINAL = (errors.UnauthenticatedError, errors.PermissionDeniedError, errors.InvalidInputError, errors.PreconditionError)


class CertificateAuthority(Protocol):
    """The part of the control plane that the agent calls."""

    async def certify(self, csr: str, proof: Proof) -> tuple[str, ...]:
        """Return the `cert_chain` for a PEM request.

        Raises UnauthenticatedError, PermissionDeniedError or InvalidInputError if it was refused, PreconditionError if
        the server could not be trusted, and UnavailableError if it may work later.
        """


class IdentityKeeper:
    """Runs the renewal of one identity; `Renewal` decides when.

    `read_token` returns the current join token, None if there is none, and raises InvalidInputError if it is malformed;
    `save` writes an identity, and raises PreconditionError if that fails.

    Log events: `trust_bundle_replaced`, `svid_withdrawn`, `control_plane_away`, `certificate_refused` and
    `control_plane_back`, `svid_issued`, `svid_expired`, `svid_not_saved`; each once per change of state rather than
    once per attempt.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        held: HeldSecrets,
        *,
        read_token: Callable[[], JoinToken | None],
        save: Callable[[Identity], None],
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._authority, self._held = authority, held
        self._read_token, self._save = read_token, save
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._renewal = Renewal()
        self._refused: JoinToken | None = None
        self._failure: Latest[type[errors.MeshwardError] | None] = Latest(None)
        self._expired = Latest(value=False)
        self._serving = False
        self._followed = False
        self._hurry = Signal()

    def resume(self, identity: Identity) -> None:
        """Continue with an identity that was saved before."""
        svid = identity.svid
        self._held.hold(identity)
        self._renewal = self._renewal.held(svid.not_after, self._clock.now(), self._chance(), svid.not_before)

    async def obtain(self) -> Identity:
        """Return the current identity, enrolling first if there is none.

        During an outage it waits and tries again. Raises PreconditionError if there is no join token to enrol with, and
        the control plane's error if it refused the enrolment.
        """
        while True:
            identity = self._held.identity
            if identity is not None and not self._renewal.expired(self._clock.now()):
                return identity
            action, proof = self._next()
            if action.need is Need.TOKEN:
                raise errors.PreconditionError(self._token_needed())
            try:
                await self._take(action, proof)
            except FINAL as error:
                raise type(error)(f"enrolment failed: {error.message}") from error

    async def keep(self) -> None:
        """Renew for as long as the task runs. No failure ends it: the held identity is served meanwhile."""
        self._serving = True
        while True:
            # A refusal of a running agent is logged and tried again later: an operator may fix its cause.
            with suppress(*FINAL):
                await self._take(*self._next())

    def trust(self, bundle: TrustBundle) -> None:
        """Serve a trust bundle that the control plane has pushed; renew at once if that withdraws the SVID."""
        identity, now = self._held.identity, self._clock.now()
        if identity is None:
            return
        self._followed = True
        if bundle != identity.bundle:
            self._hold(Identity(identity.svid, bundle))
            log.info("trust_bundle_replaced", roots=len(bundle.roots), crls=len(bundle.crls))
        svid = identity.svid
        withdrawn = is_withdrawn(svid, bundle.withdrawn) or not is_trusted(svid, bundle, now)
        if withdrawn and not self._renewal.expired(now):
            log.warning("svid_withdrawn", spiffe_id=str(svid.spiffe_id))
            self._renewal = self._renewal.hurried(now, self._chance())
            self._hurry.fire()

    def unfollowed(self) -> None:
        """Take trust bundles from the answers to renewals again: none is pushed any more."""
        self._followed = False

    def _next(self) -> tuple[Action, Proof | None]:
        """Return what to do next, and what to authenticate with."""
        now = self._clock.now()
        proof: Proof | None = self._held.identity
        if proof is None or self._renewal.expired(now):
            self._log_expiry()
            proof = self._token()
        return self._renewal.next(now, self._clock.monotonic(), token=proof is not None), proof

    async def _take(self, action: Action, proof: Proof | None) -> None:
        if proof is None or action.need is Need.WAIT:
            await self._wait(action.seconds)
        else:
            await self._certify(proof)

    async def _wait(self, seconds: float) -> None:
        """Return after the time, or when there is a reason to hurry."""
        hurried = asyncio.ensure_future(self._hurry.wait_beyond(self._hurry.count))
        slept = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait({hurried, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
            slept.cancel()

    async def _certify(self, proof: Proof) -> None:
        """Make one attempt. Raises errors that are FINAL; any other was an outage, and the next attempt waits."""
        # A renewal does not change the SPIFFE ID. Before an identity is served, a token may enrol any.
        identity = self._held.identity if self._serving or not isinstance(proof, JoinToken) else None
        expected = identity.svid.spiffe_id if identity else None
        request = make_request()
        try:
            answer = await self._authority.certify(request.csr, proof)
            certified = accept_answer(request.private_key, answer, self._clock.now(), expected)
        except FINAL as error:
            # An untrusted server never received the token, and a server of another kind could not check it.
            if isinstance(proof, JoinToken) and not isinstance(error, errors.PreconditionError):
                self._refused = proof
            self._failed("certificate_refused", error)
            raise
        except errors.MeshwardError as error:
            self._failed("control_plane_away", error)
        else:
            self._succeeded(certified)

    def _succeeded(self, identity: Identity) -> None:
        before, now = self._held.identity, self._clock.now()
        if self._followed and before is not None and is_trusted(identity.svid, before.bundle, now):
            # What is pushed is newer: another replica may have answered that has not read the last change yet.
            identity = Identity(identity.svid, before.bundle)
        elif before is not None:
            # An answer has no revocation lists: those that were pushed last are better than none.
            identity = Identity(identity.svid, replace(identity.bundle, crls=before.bundle.crls))
        self._renewal = self._renewal.held(identity.svid.not_after, self._clock.now(), self._chance())
        self._expired.set(value=False)
        if self._failure.set(None):
            log.info("control_plane_back")
        log.info("svid_issued", spiffe_id=str(identity.svid.spiffe_id), not_after=identity.svid.not_after.isoformat())
        self._hold(identity)

    def _hold(self, identity: Identity) -> None:
        self._held.hold(identity)
        try:
            self._save(identity)
        except (errors.PreconditionError, errors.UnavailableError) as error:
            log.error("svid_not_saved", reason=error.message)  # noqa: TRY400 - the message has the reason

    def _failed(self, event: str, error: errors.MeshwardError) -> None:
        self._renewal = self._renewal.failed(self._clock.monotonic(), self._chance())
        if self._failure.set(type(error)):
            log.warning(event, reason=error.message)

    def _log_expiry(self) -> None:
        identity = self._held.identity
        if identity is not None and self._expired.set(value=True):
            log.error("svid_expired", spiffe_id=str(identity.svid.spiffe_id), reason=self._token_needed())
            self._held.changed.fire()

    def _token(self) -> JoinToken | None:
        """Return a token that was not refused before. Raises InvalidInputError before there is an identity to serve."""
        try:
            token = self._read_token()
        except errors.InvalidInputError as error:
            if self._held.identity is None:
                raise
            log.warning("join_token_unreadable", reason=error.message)
            return None
        return None if token == self._refused else token

    def _token_needed(self) -> str:
        identity = self._held.identity
        if identity is None:
            return "there is no saved identity and no join token: make one with `meshward token create`"
        return (
            f"the SVID of {identity.svid.spiffe_id} expired at {identity.svid.not_after.isoformat()} and can no longer "
            "renew itself: make a new join token with `meshward token create`"
        )
