"""Istio's string patterns: `*` any, `*s` suffix, `p*` prefix, anything else exact. A leading `*` is looked at first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

StringTest = Callable[[str], bool]

ANY = "*"


@dataclass(frozen=True, slots=True)
class StringPatterns:
    """Patterns sorted by kind, so that many of them cost as little as one."""

    anything: bool
    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]

    @staticmethod
    def of(patterns: Iterable[str]) -> "StringPatterns":
        """Sort `patterns` by kind."""
        exact, prefixes, suffixes = [], [], []
        anything = False
        for pattern in patterns:
            if pattern == ANY:
                anything = True
            elif pattern.startswith("*"):
                suffixes.append(pattern[1:])
            elif pattern.endswith("*"):
                prefixes.append(pattern[:-1])
            else:
                exact.append(pattern)
        return StringPatterns(anything, frozenset(exact), tuple(prefixes), tuple(suffixes))

    def test(self) -> StringTest:
        """Return a test whether a text matches one of the patterns; `*` matches any text that is not empty."""
        exact, prefixes, suffixes = self.exact, self.prefixes, self.suffixes
        if self.anything:
            return bool
        if not prefixes and not suffixes:
            return exact.__contains__
        if not suffixes:
            return lambda text: text in exact or text.startswith(prefixes)
        if not prefixes:
            return lambda text: text in exact or text.endswith(suffixes)
        return lambda text: text in exact or text.startswith(prefixes) or text.endswith(suffixes)


def glob_test(patterns: Iterable[str], before: str, after: str) -> StringTest:
    """Return a test whether a text contains `before` + pattern + `after`, every `*` of the pattern standing for any.

    The pieces between the stars are found one after the other, each as early as it stands: one pass over the text,
    which gives the same answer as the regular expression `.*before…after.*` does with backtracking.
    """
    globs = [tuple(piece for piece in f"{before}{pattern}{after}".split("*") if piece) for pattern in patterns]

    def test(text: str) -> bool:
        return any(_contains_in_order(text, pieces) for pieces in globs)

    return test


def _contains_in_order(text: str, pieces: tuple[str, ...]) -> bool:
    position = 0
    for piece in pieces:
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return True
