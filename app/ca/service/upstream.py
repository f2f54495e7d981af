"""An upstream Meshward as authority: it certifies this replica's signing authority, and its roots are trusted here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from app.ca.model import CaConfig, Origin, Root, Signer
from app.ca.ports import UpstreamCa
from app.ca.rules.authority import authority_request, chain_includes, valid_at
from app.ca.rules.external import Found, others_of, read_external
from app.ca.rules.lifecycle import Trust
from app.ca.rules.profile import authority_id
from app.ca.rules.rotation import signer_is_due
from app.ca.service.authority_keys import AuthorityKeys
from app.ca.service.roots import Roots
from app.ca.status import UpstreamStatus
from app.core.clock import Clock
from app.core.errors import InvalidInputError, MeshwardError
from app.spiffe.bundle import TrustBundle
from app.spiffe.x509_svid import parse_certificate, pem
from app.telemetry.metrics import Metrics

# A request that failed is repeated this often, while the signing certificate in use is good.
RETRY_SECONDS = 10.0
TITLE = "upstream"
ANSWER = "the upstream's answer"

log = structlog.get_logger(__name__)


class OwnAuthority(Protocol):
    """A signing authority of this replica."""

    @property
    def signer(self) -> Signer:
        """What is stored of it."""


class Upstream:
    """Requests signing certificates in time, and follows the trust bundle of the upstream.

    Its roots take the stages of our own: a new one is trusted at once, and signs here once everybody has accepted it.
    What the upstream withdraws is replaced, what it trusts no more is not trusted here either.
    """

    def __init__(
        self, config: CaConfig, source: UpstreamCa, roots: Roots, keys: AuthorityKeys, clock: Clock, metrics: Metrics
    ) -> None:
        self._config, self._source, self._roots, self._keys = config, source, roots, keys
        self._clock, self._metrics = clock, metrics
        self.status = UpstreamStatus(source.place)
        # Why the last request for a signing certificate failed, None if it did not, or there is no need of one.
        self._unsigned: str | None = None
        self._retry_at = float("-inf")
        self._followed: TrustBundle | None = None

    @property
    def refusal(self) -> str:
        """Why there is no CA."""
        return f"the upstream {self._source.place} has not signed: {self.status.problem or 'it has not been asked yet'}"

    def waits(self, trust: Trust) -> str:
        """Return why there is nothing to sign with under the active root, and what to do."""
        root = trust.prepared
        if root is None or self.status.problem is not None:
            return self.refusal
        return (
            f"the upstream has signed under the root {root.id}, which is not active yet: meshward ca acknowledgements "
            f"{root.id} lists who has not accepted it, meshward ca activate {root.id} --force waits for nobody"
        )

    async def maintain(self, own: Sequence[OwnAuthority], trust: Trust) -> None:
        """Make one pass; `own` are the signing authorities of this replica, the last to end first.

        What the upstream trusts and withdraws is followed whether or not it signs. A failure is reported in `status`,
        and tried again.
        """
        bundle = self._source.bundle()
        self.status = replace(self.status, spiffe_id=self._source.spiffe_id, svid_not_after=self._source.svid_not_after)
        if self.status.svid_not_after is not None:
            self._metrics.authority_expiry.set((TITLE,), self.status.svid_not_after.timestamp())
        if bundle is None:
            self._report("this control plane has not enrolled there yet")
            return
        roots = {root.id: root for root in trust.roots if root.origin is Origin.UPSTREAM}
        # Before the first certificate there is nothing to follow: its roots are trusted with it.
        unfollowed = await self._follow(bundle) if roots and bundle != self._followed else None
        good = [each.signer for each in own if each.signer.root_id in roots and trust.stage(each.signer.id) is None]
        if not self._is_due(good, roots, bundle):
            self._unsigned = None
        elif self._clock.monotonic() >= self._retry_at:
            self._unsigned = await self._renew(bundle)
            if self._unsigned is not None:
                self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        self._report(unfollowed or self._unsigned)

    def _is_due(self, signers: Sequence[Signer], roots: Mapping[str, Root], bundle: TrustBundle) -> bool:
        now = self._clock.now()
        usable = (each for each in signers if valid_at(each, now) and not chain_includes(each, bundle.withdrawn))
        current = next(usable, None)
        return current is None or signer_is_due(
            now, current.not_before, current.not_after, roots[current.root_id].not_after
        )

    async def _renew(self, bundle: TrustBundle) -> str | None:
        """Have the upstream certify a new key. Returns the reason why it is not, None if it is."""
        try:
            signer = await self._certified(bundle)
        except MeshwardError as error:
            return error.message
        not_after = signer.not_after.isoformat()
        log.info("ca_upstream_signed", authority=signer.id, root=signer.root_id, not_after=not_after)
        return None

    async def _certified(self, bundle: TrustBundle) -> Signer:
        key, csr = await self._keys.create(lambda _: authority_request())
        own_id = authority_id(key.public_key)
        try:
            chain, roots = await self._source.sign(pem(csr), self._config.signer_ttl)
            authority = read_external(
                Origin.UPSTREAM, _found(chain), _found(roots), self._config.trust_domain, self._clock.now()
            )
            if authority.signer.id != own_id:
                raise InvalidInputError(f"{ANSWER}: the certificate is of another key")
            if chain_includes(authority.signer, bundle.withdrawn):
                raise InvalidInputError(f"{ANSWER}: the certificate was signed by an authority that is tainted there")
            await self._roots.adopt(authority)
        except MeshwardError:
            await self._keys.remove(own_id)
            raise
        return authority.signer

    async def _follow(self, bundle: TrustBundle) -> str | None:
        """Trust the roots that the upstream trusts, and no others of its; have what it withdrew be replaced.

        Returns the reason why that failed, None if it did not.
        """
        try:
            roots = others_of(_found(bundle.roots), Origin.UPSTREAM, self._config.trust_domain, self._clock.now())
            if not await self._roots.follow(Origin.UPSTREAM, roots, bundle.withdrawn):
                self._followed = bundle
        except MeshwardError as error:
            return error.message
        return None

    def _report(self, problem: str | None) -> None:
        before = self.status.problem
        if problem is None and before is not None:
            log.info("ca_upstream_recovered", server=self._source.place)
        if problem is not None and problem != before:
            log.error("ca_upstream_failed", server=self._source.place, reason=problem)
        self.status = replace(self.status, problem=problem)


def _found(certificates: Sequence[str]) -> list[Found]:
    return [Found(parse_certificate(each), ANSWER) for each in certificates]
