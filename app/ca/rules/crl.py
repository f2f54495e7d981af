"""Certificate revocation lists (RFC 5280, section 5): what is on them, when they are signed again, who gets them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.model import Ban, IssuedSvid
from app.ca.rules.bans import SERIAL_DIGITS
from app.ca.rules.profile import authority_key_identifier
from app.ca.rules.rotation import BACKDATE
from app.core.errors import InternalError, InvalidInputError
from app.spiffe.bundle import MAX_CRLS_BYTES
from app.spiffe.id import SCHEME
from app.spiffe.keys import SubjectKey
from app.spiffe.x509_svid import MALFORMED

# How long a list can be used. It is signed again at half of it, so that verifiers outlive an outage of some hours.
CRL_TTL = timedelta(hours=24)
# An entry takes some 40 bytes: a list is 2 MB at most.
MAX_CRL_ENTRIES = 50_000


@dataclass(frozen=True, slots=True)
class CrlEntry:
    """A certificate on a revocation list, until it ends: revoked itself, or as one of a banned identity."""

    serial: str
    revoked_at: datetime
    of_identity: bool
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Crl:
    """The revocation list of the signing authority `id`, DER. `number` grows with each that the authority signs.

    `lasting` has the same certificates and can be used as long as the authority, None if an older version signed the
    list. It is signed again when other certificates are on it.
    """

    id: str
    number: int
    this_update: datetime
    der: bytes
    lasting: bytes | None = None


def entry_of(svid: IssuedSvid, ban: Ban) -> CrlEntry:
    """Return the entry of a certificate that a ban is about."""
    of_identity = ban.subject.startswith(SCHEME)
    return CrlEntry(svid.serial, ban.created_at, of_identity=of_identity, ends_at=svid.not_after)


def crl_is_due(this_update: datetime, now: datetime) -> bool:
    """Whether a list is signed again although nothing on it has changed."""
    return not this_update <= now < this_update + BACKDATE + CRL_TTL / 2


def crl_end(now: datetime) -> datetime:
    """Return until when a list that is signed at `now` can be used by verifiers that fetch it."""
    return now + CRL_TTL


def crl_builder(
    issuer: x509.Certificate, number: int, entries: Sequence[CrlEntry], now: datetime, end: datetime
) -> x509.CertificateRevocationListBuilder:
    """Return the builder of the list of a signing authority, until `end` (RFC 5280, sections 5.1 and 5.2).

    Raises InternalError if a value does not fit into it.
    """
    this_update = (now - BACKDATE).replace(microsecond=0)
    try:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(this_update)
            .next_update(end.replace(microsecond=0))
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
    if not isinstance(key, SubjectKey) or not signed.is_signature_valid(key):
        raise InternalError("the revocation list that was signed is not valid and is held back")


@dataclass(frozen=True, slots=True)
class ReadCrl:
    """A list that sidecars can get: PEM, and the serial numbers on it."""

    pem: str
    serials: frozenset[str]


def read_lasting(crl: Crl, issuer: x509.Certificate) -> ReadCrl:
    """Return the list of a signing authority for sidecars. Raises InvalidInputError if Envoy would not take it.

    1. There is one, and it is well-formed;
    2. its issuer is the authority, and so is its signature;
    3. it can be used as long as the authority's certificate.
    """
    if crl.lasting is None:  # 1
        raise InvalidInputError("an older version has signed the list")
    read, serials = _read(crl.lasting)
    key = issuer.public_key()
    signed = read.issuer == issuer.subject and isinstance(key, SubjectKey) and read.is_signature_valid(key)
    if not signed:  # 2
        raise InvalidInputError("the list is not signed by its authority")
    if read.next_update_utc is None or read.next_update_utc < issuer.not_valid_after_utc:  # 3
        raise InvalidInputError("the list ends before its authority")
    return ReadCrl(read.public_bytes(Encoding.PEM).decode("ascii"), serials)


def serials_on(der: bytes) -> frozenset[str]:
    """Return the serial numbers on a list. Raises InvalidInputError if it is malformed."""
    return _read(der)[1]


def lists_to_send(lists: Mapping[str, ReadCrl]) -> Mapping[str, str]:
    """Return the lists (PEM) that sidecars get if nothing is in the way, by their authorities.

    While nothing is revoked there are none, so that nobody depends on lists then.
    """
    if not any(each.serials for each in lists.values()):
        return {}
    return {authority: lists[authority].pem for authority in sorted(lists)}


def delivery_problem(
    lists: Mapping[str, ReadCrl],
    missing: Collection[str],
    from_outside: Collection[str],
    of_others: Collection[str] = (),
) -> str | None:
    """Return why sidecars get none of `lists`, None if they get all: a verifier that has some refuses what lacks one.

    `missing` are authorities without a list, whose SVIDs are in use; `from_outside` roots under which others sign,
    and `of_others` those under which control planes beneath this one do.
    """
    what = "sidecars get no revocation list, since"
    if from_outside:
        return (
            f"{what} others may have issued certificates under the roots {', '.join(from_outside)}: set "
            "ca.crl_over_sds to on if they have not"
        )
    if of_others:
        roots = ", ".join(of_others)
        return f"{what} control planes beneath this one, which have lists of their own, issue under the roots {roots}"
    if missing:
        return (
            f"{what} these signing authorities, whose certificates are in use, have none: {', '.join(missing)}; start "
            "the replicas that have their keys"
        )
    if sum(len(each.pem) for each in lists.values()) > MAX_CRLS_BYTES:
        return f"{what} too many certificates are revoked: lift bans, or wait until those certificates end"
    return None


def _read(der: bytes) -> tuple[x509.CertificateRevocationList, frozenset[str]]:
    try:
        read = x509.load_der_x509_crl(der)
        return read, frozenset(f"{each.serial_number:0{SERIAL_DIGITS}x}" for each in read)
    except MALFORMED as error:
        raise InvalidInputError("the list is malformed") from error


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
