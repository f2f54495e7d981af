"""Request targets that servers read in more than one way, and whether what a server serves is among our readings."""

import random
from collections.abc import Iterator

from app.authz.rules.paths import canonical, read_path

PIECES = (
    *("/", "//", "/./", "/../", "/..", ".", "..", "items", "secret", ";", ";x=1", "..;/", ".;/", "\\"),
    *("%2f", "%2F", "%5c", "%2e", "%2e%2e", "%3b", "%3f", "%23", "%00", "%20", "%41", "%7e", "%40", "%c3%a9", "%ff"),
    *("%25", "%252f", "%252e", "%255c", "%253b", "%2500", "%2541", '"', "[", "%5B", "|"),
)
KNOWN = (
    "/items//../secret",
    "/items/;/../secret",
    "/items/.;/../secret",
    "/items/%3b/../secret",
    "/items/..;/secret",
    "/items/%2e%2e;/secret",
    "/items%2f..%2fsecret",
    "/items%2f%2f../secret",
    "/items/%252e%252e/secret",
    "/items%252f..%252fsecret",
    "/items\\..\\secret",
    "/items%5c..%5csecret",
    "/items%255c..%255csecret",
    "//items/..//secret",
    "/items/../../secret",
    "/items%3f/../secret",
    "/items%23/../secret",
    "/secret%00",
    "/secret%2500",
    "/%c0%ae%c0%ae/secret",
    "/items/.../secret",
    "/items/..%25/secret",
    "/items/.%2f./secret",
    "/items/",
    "/items/.",
    "/items/..",
    "/caf%c3%a9",
)


def random_targets(count: int) -> Iterator[str]:
    """The same ones each time."""
    chosen = random.Random(8)
    for _ in range(count):
        yield "/" + "".join(chosen.choices(PIECES, k=chosen.randint(1, 7)))


def spelled(resource: bytes) -> str:
    """The canonical path of a resource, in which a `%` that could not be one of an escape is escaped."""
    text = "".join(chr(byte) if byte < 0x7F and byte not in b" " else f"%{byte:02X}" for byte in resource)
    return canonical("".join(part if index == 0 else _percent(part) for index, part in enumerate(text.split("%"))))


def _percent(part: str) -> str:
    escape = len(part) >= 2 and all(digit in "0123456789abcdefABCDEF" for digit in part[:2])
    return f"%{part}" if escape else f"%25{part}"


def is_among_readings(target: str, resource: bytes) -> bool:
    """Whether a server that serves `resource` for `target` reads it in a way that is checked, or the request is denied.

    A slash at the end makes no difference here: servers of files ignore it.
    """
    found = read_path(target)
    served = spelled(resource)
    readings = {found.path, *found.others}
    return bool(found.problem) or served in readings or f"{served}/" in readings
