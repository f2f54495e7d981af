"""A peer's verified identity, in the forms that rules match."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_SCHEME = "spiffe://"


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer's verified names in the forms that rules match.

    `names` are those of its certificate, as Envoy takes them for a principal: its URI names, its DNS names, and its
    subject. An X509-SVID has one, its SPIFFE ID, and perhaps DNS names. `principals` are those that are SPIFFE IDs,
    without `spiffe://`, `trust_domains` theirs, and `namespaces` has every X that a name contains as `/ns/X/`.
    `principal` is the first of the principals, or of the names if none is a SPIFFE ID; empty if there is no name.
    `serial` is the serial number of the certificate, empty where that is not known.
    """

    principal: str = ""
    names: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    serial: str = field(default="", compare=False)

    @staticmethod
    def of(names: Iterable[str], serial: str = "") -> "Identity":
        """Return the identity of a peer with these names, none of which is empty."""
        names = tuple(names)
        principals = tuple(name.removeprefix(_SCHEME) for name in names if name.startswith(_SCHEME))
        domains = (principal.partition("/") for principal in principals)
        return Identity(
            (principals or names or ("",))[0],
            names,
            principals,
            tuple(domain for domain, slash, _ in domains if slash),
            tuple(dict.fromkeys(namespace for name in names for namespace in _namespaces(name))),
            serial,
        )


def _namespaces(name: str) -> Iterator[str]:
    segments = name.split("/")
    return (segments[index + 1] for index in range(1, len(segments) - 2) if segments[index] == "ns")


ANONYMOUS = Identity()
"""The peer proved no identity, as over plaintext."""
