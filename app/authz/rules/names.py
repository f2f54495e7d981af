"""The values of a rule about a peer's names. `source in patterns` is the match: one of the names has to.

As Envoy's RBAC filter compares them with what Istio's builder makes of a policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from app.authz.identity import Identity
from app.authz.rules.patterns import ANY, Strings, read_strings, spelled


@dataclass(frozen=True, slots=True)
class _Globs:
    """Patterns in which every `*` stands for any characters, and those that have none and are compared as they are."""

    exact: frozenset[str]
    globs: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Self:
        """Sort `patterns` by kind."""
        values = tuple(patterns)
        exact = frozenset(value for value in values if "*" not in value and "/" not in value)
        return cls(exact, tuple(value for value in values if value not in exact))

    def __str__(self) -> str:
        return ", ".join([*sorted(self.exact), *self.globs])


class NamespacePatterns(_Globs):
    """Patterns for `/ns/NAMESPACE/` anywhere in one of a peer's names, as in Istio."""

    __slots__ = ()

    def __contains__(self, source: Identity) -> bool:
        if not self.exact.isdisjoint(source.namespaces):
            return True
        return any(_contains_glob(name, f"/ns/{glob}/") for glob in self.globs for name in source.names)


class TrustDomainPatterns(_Globs):
    """Patterns for a whole trust domain; `*` is any SPIFFE ID."""

    __slots__ = ()

    def __contains__(self, source: Identity) -> bool:
        if not self.exact.isdisjoint(source.trust_domains):
            return True
        if ANY in self.globs:
            return bool(source.principals)
        # The slashes bind the pattern to the whole of the trust domain, which has none in it.
        return any(_contains_glob(f"/{name}/", f"/{glob}/") for glob in self.globs for name in source.trust_domains)


@dataclass(frozen=True, slots=True)
class PrincipalPatterns:
    """Patterns for one of a peer's SPIFFE IDs, without `spiffe://`; `*` is any name, also one of another kind."""

    patterns: Strings
    anything: bool

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Return the patterns for a policy's values."""
        given = tuple(values)
        return cls(read_strings(value for value in given if value != ANY), ANY in given)

    def __contains__(self, source: Identity) -> bool:
        for principal in source.principals:
            if principal in self.patterns:
                return True
        return self.anything and bool(source.names)

    def __str__(self) -> str:
        return ", ".join(filter(None, [spelled(self.patterns), ANY if self.anything else ""]))


@dataclass(frozen=True, slots=True)
class ServiceAccounts:
    """Service accounts `N/S`, which match a SPIFFE ID with `/ns/N/` and, after it, `sa/S` as whole segments.

    As in Istio, whose expression is `spiffe://.+/ns/N/(.+/|)sa/S(/.+)?`: every `.+` is at least one character.
    """

    accounts: tuple[str, ...]

    def __contains__(self, source: Identity) -> bool:
        for account in self.accounts:
            namespace, _, name = account.partition("/")
            before = f"/ns/{namespace}/"
            for principal in source.principals:
                # The first place leaves the longest rest, which matches wherever a shorter one does.
                at = principal.find(before, 1)
                if at > 0 and _has_account(principal[at + len(before) :], f"sa/{name}"):
                    return True
        return False

    def __str__(self) -> str:
        return ", ".join(self.accounts)


def _has_account(rest: str, account: str) -> bool:
    """Whether the rest of a SPIFFE ID has the account after nothing, or a slash, and before nothing, or a slash."""
    if rest == account or rest.endswith(f"/{account}", 1):
        return True
    if rest.startswith(f"{account}/") and len(rest) > len(account) + 1:
        return True
    inside = f"/{account}/"
    return 0 < rest.find(inside, 1) < len(rest) - len(inside)


def _contains_glob(text: str, glob: str) -> bool:
    """Whether `text` contains `glob`, every `*` of which stands for any characters.

    The pieces between the stars are found one after the other, each as early as it occurs: one pass over the text,
    with the result that the regular expression `.*glob.*` has with backtracking.
    """
    position = 0
    for piece in glob.split("*"):
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return True
