"""Certificate revocation lists (RFC 5280, section 5): what is on them, and when they are signed again."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509

from app.ca.model import Ban, CrlEntry, IssuedSvid
from app.ca.rules.profile import authority_key_identifier
from app.ca.rules.rotation import BACKDATE
from app.core.errors import InternalError
from app.spiffe.id import SCHEME
from app.spiffe.keys import AuthorityKey
from app.spiffe.x509_svid import MALFORMED

# How long a list can be used. It is signed again at half of it, so that verifiers outlive an outage of some hours.
CRL_TTL = timedelta(hours=24)
# An entry takes some 40 bytes: a list is 2 MB at most.
MAX_CRL_ENTRIES = 50_000


def entry_of(svid: IssuedSvid, ban: Ban) -> CrlEntry:
    """Return the entry of a certificate that a ban is about."""
    return CrlEntry(svid.serial, ban.created_at, of_identity=ban.subject.startswith(SCHEME))


def crl_is_due(this_update: datetime, now: datetime) -> bool:
    """Whether a list is signed again although nothing on it has changed."""
    return not this_update <= now < this_update + BACKDATE + CRL_TTL / 2


def crl_builder(
    issuer: x509.Certificate, number: int, entries: Sequence[CrlEntry], now: datetime
) -> x509.CertificateRevocationListBuilder:
    """Return the builder of the list of a signing authority (RFC 5280, sections 5.1 and 5.2).

    Raises InternalError if a value does not fit into it.
    """
    this_update = (now - BACKDATE).replace(microsecond=0)
    try:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(this_update)
            .next_update(this_update + BACKDATE + CRL_TTL)
            .add_extension(authority_key_identifier(issuer), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for entry in entries:
            builder = builder.add_revoked_certificate(_revoked(entry))
    except MALFORMED as error:
        raise InternalError("the revocation list could not be built") from error
    return builder


def check_crl(signed: x509.CertificateRevocationList, issuer: x509.Certificate) -> None:
    """Check a list that was signed as its readers will. Raises InternalError."""
    key = issuer.public_key()
    if not isinstance(key, AuthorityKey) or not signed.is_signature_valid(key):
        raise InternalError("the revocation list that was signed is not valid and is held back")


def _revoked(entry: CrlEntry) -> x509.RevokedCertificate:
    flags = x509.ReasonFlags
    reason = flags.privilege_withdrawn if entry.of_identity else flags.key_compromise
    return (
        x509.RevokedCertificateBuilder()
        .serial_number(int(entry.serial, 16))
        .revocation_date(entry.revoked_at.replace(microsecond=0))
        .add_extension(x509.CRLReason(reason), critical=False)
        .build()
    )
