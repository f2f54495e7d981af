"""SPIFFE identities, parsed strictly once and then passed as values.

SPIFFE-ID standard, sections 2 and 2.1 to 2.4: no userinfo, port, query or fragment; a lower-case trust domain;
path segments of a small alphabet, never empty, `.` or `..`, and no trailing slash.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from app.core.errors import InvalidInputError

# The standard requires support for ids of up to 2048 bytes; anything longer is refused before it is looked at.
MAX_ID_BYTES = 2048
# The standard's bound for the host part of the id.
MAX_TRUST_DOMAIN_BYTES = 255
# Recently parsed ids; bounds the memory that hostile input can claim.
PARSE_CACHE_SIZE = 4096

SCHEME = "spiffe://"
# Ids under this path belong to the control plane; no workload can have one.
RESERVED_PATH = "/meshward"

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """The root of a namespace of identities, `example.org`."""

    name: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidInputError(
                f"trust domain {self.name!r} is not valid: use 1 to {MAX_TRUST_DOMAIN_BYTES} characters "
                "out of a-z, 0-9, dot, dash and underscore"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> "SpiffeId":
        """The trust domain's own id, `spiffe://example.org`, which signing certificates carry."""
        return SpiffeId(self, "")

    @property
    def server_id(self) -> "SpiffeId":
        """The id of the control plane's own SVID, by which its clients know it."""
        return SpiffeId(self, f"{RESERVED_PATH}/server")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://example.org/ns/shop/sa/cart`: a trust domain and a path, which is empty or starts with a slash."""

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        if len(self.path) > MAX_ID_BYTES or len(str(self)) > MAX_ID_BYTES:
            raise InvalidInputError(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")
        if self.path:
            _check_path(self.path)

    def __hash__(self) -> int:
        # Ids are looked up on every call, and nearly all of them are of one trust domain.
        return hash(self.path)

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"

    @staticmethod
    def parse(text: str) -> "SpiffeId":
        """Return the id in `text`. Raises InvalidInputError, naming the part that is wrong."""
        return _parse(text)

    @property
    def principal(self) -> str:
        """The id without its scheme, as Istio's policies write it: `example.org/ns/shop/sa/cart`."""
        return f"{self.trust_domain.name}{self.path}"

    @property
    def workload(self) -> tuple[str, str] | None:
        """Namespace and service account if the path has Istio's form `/ns/NS/sa/SA`, else None."""
        match self.path.split("/"):
            case ["", "ns", namespace, "sa", service_account]:
                return namespace, service_account
            case _:
                return None

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace of the workload, if the id has Istio's form."""
        workload = self.workload
        return workload[0] if workload else None


@lru_cache(maxsize=PARSE_CACHE_SIZE)
def _parse(text: str) -> SpiffeId:
    if len(text) > MAX_ID_BYTES:
        raise InvalidInputError(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")
    if not text.startswith(SCHEME):
        raise InvalidInputError(f"SPIFFE ID {text!r} must start with {SCHEME}")
    domain, slash, rest = text.removeprefix(SCHEME).partition("/")
    return SpiffeId(TrustDomain(domain), slash + rest)


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise InvalidInputError(f"SPIFFE ID path {path!r} must start with a slash")
    for segment in path[1:].split("/"):
        if segment in {"", ".", ".."}:
            raise InvalidInputError(f"SPIFFE ID path {path!r} has an empty, '.' or '..' segment")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidInputError(
                f"SPIFFE ID path segment {segment!r} has a character other than letters, digits, dot, dash, underscore"
            )
