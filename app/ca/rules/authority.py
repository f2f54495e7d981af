"""The certificates of authorities, and whether one may sign now."""

from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from app.ca.model import CaConfig, Origin, Root, Signer, SigningRequest
from app.ca.rules.csr import parse_csr
from app.ca.rules.profile import authority_builder, authority_id
from app.ca.rules.rotation import BACKDATE, validity
from app.core.errors import InvalidInputError, PreconditionError
from app.spiffe.id import TrustDomain
from app.spiffe.keys import SubjectKey, accepted_key
from app.spiffe.x509_svid import MALFORMED, authority_life, check_authority, parse_certificate, pem


def root_builder(config: CaConfig, public_key: SubjectKey, serial: int, now: datetime) -> x509.CertificateBuilder:
    """Return the builder of a root of the trust domain, to be signed with the root's own key."""
    lifetime = validity(now, config.root_ttl, now - BACKDATE, now + config.root_ttl)
    named = config.organization
    return authority_builder(config.trust_domain, public_key, serial, lifetime, None, organization=named)


def root_of(
    certificate: x509.Certificate,
    trust_domain: TrustDomain,
    generation: int,
    now: datetime,
    origin: Origin | None = None,
) -> Root:
    """Return the root with a certificate. Raises InvalidInputError if that is not a root's."""
    check_authority(certificate, trust_domain, certificate)
    return Root(
        id=authority_id(accepted_key(certificate)),
        generation=generation,
        trust_domain=trust_domain,
        certificate=pem(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        created_at=now,
        origin=origin,
    )


def authority_request() -> x509.CertificateSigningRequestBuilder:
    """Return the builder of an authority's request for its certificate, of which only the key is used."""
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))


def is_stale(request: SigningRequest, config: CaConfig, now: datetime) -> bool:
    """Whether a certificate for the request would have ended, since its life counts from the request."""
    return now >= request.created_at + config.signer_ttl


def signer_builder(
    request: SigningRequest, root: Root, config: CaConfig, serial: int, now: datetime
) -> x509.CertificateBuilder:
    """Return the builder of the certificate that `request` asks for, under `root`.

    Its life counts from the request at the latest, so that a request that is put back into the database, as it was,
    gains nothing; it must not be stale. Raises InvalidInputError if it is not for the key that it is named after.
    """
    public_key = check_request(request)
    ttl = min(now, request.created_at) + config.signer_ttl - now
    lifetime = validity(now, ttl, root.not_before, root.not_after)
    issuer, named = parse_certificate(root.certificate), config.organization
    return authority_builder(config.trust_domain, public_key, serial, lifetime, issuer, organization=named)


def signer_of(certificate: x509.Certificate, request: SigningRequest, root: Root) -> Signer:
    """Return the signing authority with a certificate just signed. Raises InvalidInputError if that is not valid."""
    check_authority(certificate, root.trust_domain, parse_certificate(root.certificate))
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Signer(request.id, root.id, pem(certificate), start, end)


def has_certificate(root: Root, sha256: str) -> bool:
    """Whether a stored root is the one whose certificate (DER) has this SHA-256, in hexadecimal."""
    if _id_of(root.certificate) != root.id:
        return False
    certificate = parse_certificate(root.certificate)
    life = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (root.not_before, root.not_after) == life and certificate.fingerprint(hashes.SHA256()).hex() == sha256


def check_request(request: SigningRequest) -> SubjectKey:
    """Return the key that a signing request is for. Raises InvalidInputError if it is not the one it is named after."""
    public_key = parse_csr(request.request).public_key
    if authority_id(public_key) != request.id:
        raise InvalidInputError(f"the signing request {request.id} is not for the key that it is named after")
    return public_key


def check_stored(signer: Signer, root: Root) -> None:
    """Check a stored signing authority: whatever else the row has, its certificates must lead to `root`.

    Raises InvalidInputError with the reason.
    """
    root_certificate = parse_certificate(root.certificate)
    chain = [parse_certificate(each) for each in signer.chain]
    check_authority(root_certificate, root.trust_domain, root_certificate)
    life = authority_life(chain, root_certificate, root.trust_domain)
    if authority_id(accepted_key(chain[0])) != signer.id:
        raise InvalidInputError("the certificate is of another key")
    if (signer.not_before, signer.not_after) != life:
        raise InvalidInputError("the row has another life than the certificate")


def check_trust_domain(roots: tuple[Root, ...], trust_domain: TrustDomain) -> None:
    """Check that stored roots are of the trust domain that is configured. Raises PreconditionError if one is not."""
    for root in roots:
        if root.trust_domain != trust_domain:
            raise PreconditionError(
                f"the database has the CA of the trust domain {root.trust_domain}, and {trust_domain} is configured: "
                "configure the trust domain of before, or use another database"
            )


def chain_includes(signer: Signer, authority_ids: Collection[str]) -> bool:
    """Whether a signing authority, or one between it and its root, has one of these ids."""
    if signer.id in authority_ids:
        return True
    return any(_id_of(each) in authority_ids for each in signer.intermediates)


def valid_at(authority: Root | Signer, now: datetime) -> bool:
    """Whether an authority may sign at `now`."""
    return authority.not_before <= now <= authority.not_after


def validity_problem(what: str, authority: Root | Signer, now: datetime) -> str | None:
    """Return why an authority, which `what` names, may not sign at `now` and what to do, None if it may."""
    if now < authority.not_before:
        return f"the {what} certificate is valid from {authority.not_before.isoformat()} on: set the clock right"
    if now > authority.not_after:
        return (
            f"the {what} certificate expired at {authority.not_after.isoformat()} and nothing is issued under it: "
            "check the clock; if it is right, this CA has to be replaced"
        )
    return None


def _id_of(certificate: str) -> str | None:
    try:
        return authority_id(accepted_key(parse_certificate(certificate)))
    except (InvalidInputError, *MALFORMED):  # of a row of the database, which is never used
        return None
