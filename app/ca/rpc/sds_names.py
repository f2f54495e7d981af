"""The names that secrets go by in SDS, and which of them a caller may ask for."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from app.core.errors import InvalidInputError, Violation
from app.spiffe.id import SpiffeId

SVID_NAME = "default"
BUNDLE_NAME = "ROOTCA"
# xDS: "The special resource name `*`", an explicit wildcard subscription.
WILDCARD = "*"
WILDCARD_NAMES = frozenset({SVID_NAME, BUNDLE_NAME})

# A caller has four names and the wildcard; the rest is room for repetition. Bounds the work of one request.
MAX_NAMES = 16
# How much of a name that was refused is repeated to the caller.
MAX_QUOTED = 128


class SecretKind(Enum):
    """What stands behind a name."""

    SVID = "svid"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Catalog:
    """The secrets that `owner`, and nobody else, may ask for."""

    owner: SpiffeId

    def kind(self, name: str) -> SecretKind:
        """Return what a name stands for. Raises InvalidInputError, saying what may be asked, if it is not the owner."""
        if name in {SVID_NAME, str(self.owner)}:
            return SecretKind.SVID
        if name in {BUNDLE_NAME, str(self.owner.trust_domain.id)}:
            return SecretKind.BUNDLE
        raise InvalidInputError(
            f"there is no secret {_quoted(name)} for {self.owner}: ask for {SVID_NAME} or {self.owner} (its SVID), "
            f"{BUNDLE_NAME} or {self.owner.trust_domain.id} (the trust bundle)",
            Violation("resource_names", f"unknown secret {_quoted(name)}"),
        )

    def check(self, names: Collection[str]) -> None:
        """Raise InvalidInputError if there are too many names or one of them is not the owner's nor the wildcard."""
        check_count(names)
        for name in names:
            if name != WILDCARD:
                self.kind(name)


def check_count(names: Collection[str]) -> None:
    """Raise InvalidInputError if a request carries more names than any honest one."""
    if len(names) > MAX_NAMES:
        raise InvalidInputError(
            f"a request names {len(names)} secrets; at most {MAX_NAMES} are accepted",
            Violation("resource_names", f"more than {MAX_NAMES} names"),
        )


def expand(names: Iterable[str], *, wildcard: bool) -> frozenset[str]:
    """Return the plain names behind a subscription: the names, and both of the wildcard's if it is subscribed."""
    plain = frozenset(names) - {WILDCARD}
    return plain | WILDCARD_NAMES if wildcard else plain


def _quoted(name: str) -> str:
    return repr(name if len(name) <= MAX_QUOTED else name[:MAX_QUOTED] + "…")
