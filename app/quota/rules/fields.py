"""Fields that configurations and limits in limitador's schema have in common."""

from app.documents.reader import Reader
from app.quota.model import MAX_DOMAIN_LENGTH

# Characters of a limit's name, which is sent in response headers.
MAX_NAME_LENGTH = 128


def domain_problem(domain: str) -> str | None:
    """Return what keeps `domain` from being a domain's name, None if nothing does."""
    if not domain or len(domain) > MAX_DOMAIN_LENGTH:
        return f"must have 1 to {MAX_DOMAIN_LENGTH} characters"
    if not domain.isprintable() or domain != domain.strip():
        return "must have printable characters only, and no space around them"
    return None


def read_domain(document: Reader, field: str, longest: int) -> str:
    """Return the domain at `field`, of up to `longest` characters; with a problem noted it is wrong."""
    domain = document.required_text(field, longest)
    problem = domain_problem(domain) if domain else None
    if problem:
        document.refuse(field, problem)
    return domain


def read_integer(reader: Reader, field: str, least: int, most: int) -> int:
    """Return the required integer at `field`, `least` with a problem noted if it is wrong."""
    number = reader.take(field)
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return number
    reader.refuse(field, f"must be an integer from {least} to {most}" if reader.has(field) else "is required")
    return least


def read_name(limit: Reader) -> str:
    """Return the optional name: it is sent in header values, so it must be one there without escapes."""
    name = limit.scalar("name") or ""
    if len(name) > MAX_NAME_LENGTH:
        limit.refuse("name", f"is longer than {MAX_NAME_LENGTH} characters")
    elif not _fits_header(name):
        limit.refuse("name", "must be printable ASCII without quotes and backslashes")
    return name


def _fits_header(name: str) -> bool:
    """Return whether `name` can stand in a header's value without escapes."""
    return name.isascii() and name.isprintable() and '"' not in name and "\\" not in name
