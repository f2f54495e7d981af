"""The parts of a check become the values that rules match."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from app.authz.model import IpAddress, Labels, Matching
from app.authz.rules.addresses import read_address
from app.authz.rules.hosts import is_authority
from app.authz.rules.kubernetes import is_label_key, is_label_value
from app.authz.rules.paths import read_path
from app.authz.rules.values import MAX_PORT
from app.core.errors import InvalidInputError

# Identities and authorities that were read recently; bounds the memory that hostile input can take.
READ_CACHE_SIZE = 4096
# A DNS name of 253 characters, a dot, a colon and a port.
MAX_AUTHORITY_LENGTH = 261
# Labels of one workload, as in a policy's selector, and their text.
MAX_LABELS = 256
MAX_LABELS_LENGTH = 8 * 1024

_UPPER = re.compile("[A-Z]+")
_METHOD = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]+")


Read = tuple[str, str | None, tuple[str, ...], str | None]
"""The method of a request, its path and other readings of it, and its authority, each None if there is none."""


@dataclass(frozen=True, slots=True)
class Reads:
    """How the parts of a request are read for one kind of matching.

    `request` takes the method, the target and the authority. All raise InvalidInputError for what cannot be judged.
    `no_server_name` is what the server name is if the client is known to have sent none.
    """

    request: Callable[[str, str, str], Read]
    server_name: Callable[[str], str]
    no_server_name: str | None


def read_port(text: str) -> int | None:
    """Return the port, None if the text is none."""
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_PORT))
    return int(text) if digits and 1 <= int(text) <= MAX_PORT else None


def read_method(text: str) -> str:
    """Return the method. Raises InvalidInputError if it is none, or in lower case, which Envoy answers with 400."""
    if _METHOD.fullmatch(text) is None:
        raise InvalidInputError("the method is not one in upper case")
    return text


def read_target(text: str, method: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the path of a request target and its other readings, None if it is a CONNECT's that has none.

    Raises InvalidInputError if it has no agreed one.
    """
    if not text and method == "CONNECT":
        return None, ()
    reading = read_path(text)
    if reading.problem:
        raise InvalidInputError(reading.problem)
    return reading.path, reading.others


def read_authority(text: str) -> str | None:
    """Return host and port in lower case; None if there is none.

    Raises InvalidInputError if the text is not an authority without user information (RFC 3986, section 3.2).
    """
    if not text:
        return None
    if len(text) > MAX_AUTHORITY_LENGTH:
        raise InvalidInputError("the authority is longer than a host and a port can be")
    return _read_authority(text)


@lru_cache(maxsize=READ_CACHE_SIZE)
def _read_authority(text: str) -> str:
    lowered = text.lower()
    if not text.isascii() or not is_authority(lowered):
        raise InvalidInputError("the authority is not a host with an optional port")
    return lowered


def _read_request(method: str, target: str, authority: str) -> Read:
    method = read_method(method)
    return method, *read_target(target, method), read_authority(authority)


def _as_sent(method: str, target: str, authority: str) -> Read:
    """Return the parts as Envoy's matchers have them.

    The path is what comes before a `?` or `#`, empty if there is none; of the authority ASCII alone is in lower case.
    """
    if "?" in target:
        target = target.partition("?")[0]
    if "#" in target:
        target = target.partition("#")[0]
    lowered = authority.lower() if authority.isascii() else _UPPER.sub(lambda found: found[0].lower(), authority)
    return method, target, (), lowered


READS = {
    # Envoy has the server name in lower case where its TLS inspector reads it, as in all listeners of Istio.
    Matching.ISTIO: Reads(_as_sent, str.lower, ""),
    Matching.STRICT: Reads(_read_request, str, None),
}


def remote_address(source: IpAddress | None, forwarded: tuple[str, ...] | None, hops: int) -> IpAddress | None:
    """Return the address of the client that `hops` trusted proxies stand in front of, None if it is missing.

    Each proxy appends the peer it saw to `x-forwarded-for`, Envoy itself last: the client's is the entry `hops` places
    before the last one. Without trusted proxies it is the connection's own.
    """
    if hops == 0:
        return source
    entries = ",".join(forwarded or ()).rsplit(",", hops + 1)
    return read_address(entries[-1 - hops].strip()) if len(entries) > hops else None


def labels_of(given: Mapping[str, str]) -> Labels:
    """Return the labels in the order of their keys. Raises InvalidInputError beyond what a workload can have."""
    if len(given) > MAX_LABELS:
        raise InvalidInputError(f"the destination has more than {MAX_LABELS} labels")
    if sum(map(len, given)) + sum(map(len, given.values())) > MAX_LABELS_LENGTH:
        raise InvalidInputError(f"the destination's labels are longer than {MAX_LABELS_LENGTH} characters")
    return tuple(sorted(given.items()))


def read_labels(text: str) -> Labels:
    """Return the labels in `app=shop,version=v1`: pairs with commas between them and no spaces; none if it is empty.

    Raises InvalidInputError if a pair is not a label as Kubernetes defines it or a key stands twice.
    """
    if len(text) > MAX_LABELS_LENGTH:
        raise InvalidInputError(f"the destination's labels are longer than {MAX_LABELS_LENGTH} characters")
    return _read_labels(text)


@lru_cache(maxsize=READ_CACHE_SIZE)
def _read_labels(text: str) -> Labels:
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    labels: dict[str, str] = {}
    for key, equals, value in pairs:
        if not equals or not is_label_key(key) or not is_label_value(value):
            raise InvalidInputError("the destination's labels are not written as app=shop,version=v1")
        if key in labels:
            raise InvalidInputError(f"the destination's label {key} is given twice")
        labels[key] = value
    return labels_of(labels)
