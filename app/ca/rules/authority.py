"""Making the certificates of authorities, and judging whether one may sign now."""

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.model import CaConfig, Root, Signer, SigningRequest
from app.ca.rules.csr import parse_csr
from app.ca.rules.profile import (
    SIGNER_PATH_LENGTH,
    AuthorityKey,
    AuthorityProfile,
    authority_builder,
    authority_id,
    pem,
    signing_hash,
)
from app.ca.rules.rotation import BACKDATE, validity
from app.core.errors import InvalidInputError, PreconditionError
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import check_authority, parse_certificate

ROOT_TITLE = "root"
SIGNER_TITLE = "signer"


def make_root(config: CaConfig, key: AuthorityKey, serial: int, now: datetime) -> Root:
    """Return the first root of the trust domain, self-signed with `key`."""
    not_before, not_after = validity(now, config.root_ttl, now - BACKDATE, now + config.root_ttl)
    public_key = key.public_key()
    profile = AuthorityProfile(config.trust_domain, ROOT_TITLE, public_key, serial, not_before, not_after, None)
    certificate = authority_builder(profile, None).sign(key, signing_hash(key))
    check_authority(certificate, config.trust_domain, certificate)
    return Root(
        id=authority_id(public_key),
        generation=1,
        trust_domain=config.trust_domain,
        certificate=pem(certificate),
        not_before=not_before,
        not_after=not_after,
        created_at=now,
    )


def sign_authority(
    request: SigningRequest, root: Root, root_key: AuthorityKey, config: CaConfig, serial: int, now: datetime
) -> Signer:
    """Return the signing authority that `request` asks for, with its certificate under `root`.

    Raises InvalidInputError if the request is not one that an authority of ours makes.
    """
    public_key = parse_csr(request.request).public_key
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or authority_id(public_key) != request.id:
        raise InvalidInputError(f"the signing request {request.id} is not for the key that it is named after")
    issuer = parse_certificate(root.certificate)
    not_before, not_after = validity(now, config.signer_ttl, root.not_before, root.not_after)
    profile = AuthorityProfile(
        config.trust_domain, SIGNER_TITLE, public_key, serial, not_before, not_after, SIGNER_PATH_LENGTH
    )
    certificate = authority_builder(profile, issuer).sign(root_key, signing_hash(root_key))
    check_authority(certificate, config.trust_domain, issuer)
    return Signer(request.id, root.id, pem(certificate), not_before, not_after)


def check_trust_domain(roots: tuple[Root, ...], trust_domain: TrustDomain) -> None:
    """Check that stored roots are of the trust domain that is configured. Raises PreconditionError if one is not."""
    for root in roots:
        if root.trust_domain != trust_domain:
            raise PreconditionError(
                f"the database holds the CA of the trust domain {root.trust_domain}, and {trust_domain} is configured: "
                "set the trust domain back, or use another database"
            )


def check_in_force(what: str, not_before: datetime, not_after: datetime, now: datetime) -> None:
    """Check that an authority may sign at `now`; `what` names it. Raises PreconditionError with what to do."""
    if now < not_before:
        raise PreconditionError(
            f"the clock says {now.isoformat(timespec='seconds')}, before the {what} certificate begins at "
            f"{not_before.isoformat()}: set the clock right"
        )
    if now > not_after:
        raise PreconditionError(
            f"the {what} certificate expired at {not_after.isoformat()} and nothing is issued under it: "
            "check the clock; if it is right, this CA has to be replaced"
        )
