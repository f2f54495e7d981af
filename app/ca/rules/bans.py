"""Which identities and certificates a ban is about."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from app.ca.model import Ban
from app.ca.rules.names import check_workload_id
from app.core.errors import InvalidInputError, Violation
from app.spiffe.id import MAX_ID_BYTES, RESERVED_PATH, SCHEME, SpiffeId, TrustDomain

# The end of a subject that is every identity under a path.
EVERYTHING_BELOW = "/*"
# What a person needs to know of an incident; the reason is in each denial.
MAX_REASON = 256
SERIAL_DIGITS = 32

_SERIAL = re.compile(r"[0-9a-fA-F]{1,32}")


def banned_subject(text: str, trust_domain: TrustDomain) -> str:
    """Return the subject of a ban: the SPIFFE ID of a workload, or a path and `/*` for every identity below it.

    Only whole segments count: `spiffe://example.org/ns/shop/*` is every workload of the namespace `shop`, and none of
    `shop-test`. Raises InvalidInputError for anything else, and for ids that no workload of the trust domain can have.
    """
    try:
        _check_subject(text, trust_domain)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, Violation("spiffe_id", error.message)) from error
    return text


def _check_subject(text: str, trust_domain: TrustDomain) -> None:
    if len(text) > MAX_ID_BYTES:
        raise InvalidInputError(f"what is banned has at most {MAX_ID_BYTES} characters")
    spiffe_id = SpiffeId.parse(text.removesuffix(EVERYTHING_BELOW))
    if spiffe_id != trust_domain.id or not text.endswith(EVERYTHING_BELOW):
        check_workload_id(spiffe_id, trust_domain)


def serial_number(text: str) -> str:
    """Return a serial number in the form of the records. Raises InvalidInputError if it is not hexadecimal."""
    if _SERIAL.fullmatch(text) is None:
        problem = f"a serial number has 1 to {SERIAL_DIGITS} hexadecimal digits"
        raise InvalidInputError(problem, Violation("serial", problem))
    return text.lower().zfill(SERIAL_DIGITS)


def check_reason(reason: str) -> None:
    """Check the reason of a ban. Raises InvalidInputError."""
    if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
        problem = f"1 to {MAX_REASON} characters that can be printed"
        raise InvalidInputError("a ban needs a reason", Violation("reason", problem))


@dataclass(frozen=True, slots=True)
class BanIndex:
    """Bans by their subjects. A lookup costs as many of them as the id has segments, whatever the number of bans."""

    by_subject: Mapping[str, Ban] = field(default_factory=dict)
    has_prefixes: bool = False

    @staticmethod
    def of(bans: Iterable[Ban]) -> "BanIndex":
        """Return the index of bans."""
        by_subject = {ban.subject: ban for ban in bans}
        return BanIndex(by_subject, any(subject.endswith(EVERYTHING_BELOW) for subject in by_subject))

    def find(self, identity: str, serial: str, now: datetime) -> Ban | None:
        """Return a ban of an identity, `example.org/ns/shop/sa/cart`, or of its certificate, that is active at `now`.

        The control plane's own identities are never banned. An empty `serial` is none.
        """
        if not self.by_subject:
            return None
        for subject in self._subjects(SCHEME + identity, serial):
            ban = self.by_subject.get(subject)
            if ban is not None and ban.active(now):
                return ban
        return None

    def _subjects(self, spiffe_id: str, serial: str) -> Iterator[str]:
        yield spiffe_id
        yield serial
        end = len(spiffe_id) if self.has_prefixes and not _is_reserved(spiffe_id) else 0
        while (end := spiffe_id.rfind("/", len(SCHEME), end)) > 0:
            yield spiffe_id[:end] + EVERYTHING_BELOW


def _is_reserved(spiffe_id: str) -> bool:
    _, _, path = spiffe_id.removeprefix(SCHEME).partition("/")
    return f"/{path}/".startswith(f"{RESERVED_PATH}/")
