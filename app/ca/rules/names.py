"""The names that an SVID may have besides its SPIFFE ID, and the ids that workloads may have."""

import re
from datetime import timedelta

from app.ca.model import CaConfig, EntrySpec
from app.core.errors import InvalidInputError, Violation
from app.core.net import MAX_DNS_NAME_LENGTH, is_dns_label
from app.spiffe.id import RESERVED_PATH, SpiffeId, TrustDomain
from app.spiffe.renewal import MAX_SVID_TTL

# Every name makes each certificate of the identity longer; a workload has a handful.
MAX_DNS_NAMES = 64
# SPIFFE Workload API, section 5.2.1: a hint is at most 1024 bytes.
MAX_HINT_BYTES = 1024
# A wildcard under a bare top-level label would cover every name there is.
MIN_WILDCARD_LABELS = 3

_RANDOM_ID = re.compile(r"[0-9a-f]{32}")


def check_workload_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> None:
    """Check that a workload of `trust_domain` may have the id. Raises InvalidInputError with the reason."""
    problem = ""
    if spiffe_id.trust_domain != trust_domain:
        problem = f"{spiffe_id} is not in the trust domain {trust_domain}"
    elif not spiffe_id.path:
        problem = f"{spiffe_id} has no path: it names the trust domain, not a workload"
    elif spiffe_id.path == RESERVED_PATH or spiffe_id.path.startswith(RESERVED_PATH + "/"):
        problem = f"{spiffe_id} is reserved for the control plane: choose a path outside {RESERVED_PATH}"
    if problem:
        raise InvalidInputError(problem, Violation("spiffe_id", problem))


def check_entry(spec: EntrySpec, config: CaConfig) -> None:
    """Check an entry. Raises InvalidInputError that names every invalid field."""
    check_workload_id(spec.spiffe_id, config.trust_domain)
    violations = [*_ttl_violations(spec.x509_svid_ttl), *_dns_violations(spec.dns_names, config.server_dns_names)]
    if len(spec.hint.encode("utf-8", "surrogatepass")) > MAX_HINT_BYTES:
        violations.append(Violation("hint", f"longer than {MAX_HINT_BYTES} bytes"))
    if not spec.hint.isprintable():
        violations.append(Violation("hint", "has characters that cannot be printed"))
    if violations:
        raise InvalidInputError("the entry is not valid", *violations)


def is_random_id(text: str) -> bool:
    """Whether `text` has the form of the ids of entries and join tokens."""
    return _RANDOM_ID.fullmatch(text) is not None


def dns_name_problem(name: str) -> str | None:
    """Return what is wrong with a DNS name, None if a certificate may have it (RFC 1123, section 2.1; RFC 9525).

    Names are lower case, in their ASCII form; the first label may be a wildcard.
    """
    if not 1 <= len(name) <= MAX_DNS_NAME_LENGTH:
        return f"a DNS name has 1 to {MAX_DNS_NAME_LENGTH} characters"
    labels = name.split(".")
    if labels[0] == "*":
        if len(labels) < MIN_WILDCARD_LABELS:
            return "a wildcard must be followed by at least two labels"
        labels = labels[1:]
    if not all(is_dns_label(label) for label in labels):
        return "a label must have 1 to 63 of a-z, 0-9 and inner dashes"
    if labels[-1].isdigit():
        return "the last label must not be a number: an IP address is not a DNS name"
    return None


def covers(name: str, host: str) -> bool:
    """Whether a certificate with a DNS name, which may be a wildcard, is valid for the host (RFC 9525, section 6.3)."""
    return name == host or (name.startswith("*.") and name[2:] == host.partition(".")[2])


def _ttl_violations(ttl: timedelta | None) -> list[Violation]:
    if ttl is None or timedelta(seconds=1) <= ttl <= MAX_SVID_TTL:
        return []
    return [Violation("x509_svid_ttl_seconds", f"between 1 and {int(MAX_SVID_TTL.total_seconds())} seconds")]


def _dns_violations(names: tuple[str, ...], server_names: tuple[str, ...]) -> list[Violation]:
    if len(names) > MAX_DNS_NAMES:
        return [Violation("dns_names", f"more than {MAX_DNS_NAMES} names")]
    if len(set(names)) != len(names):
        return [Violation("dns_names", "a name is given twice")]
    problems = (dns_name_problem(name) or _server_name_problem(name, server_names) for name in names)
    return [Violation(f"dns_names[{index}]", problem) for index, problem in enumerate(problems) if problem]


def _server_name_problem(name: str, server_names: tuple[str, ...]) -> str | None:
    taken = next((host for host in server_names if covers(name, host)), None)
    return f"{taken} is a name of the control plane (mesh.server_names)" if taken else None
