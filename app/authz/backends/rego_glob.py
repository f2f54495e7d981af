"""Patterns of `glob.match` as regular expressions (OPA's documentation, "Policy Reference": Glob).

`*` stands for any text without a delimiter, `**` for any, `?` for one character that is no delimiter; `[a-z]`, `[!abc]`
and `{one,two}` for what is listed, and what follows a backslash for itself.
"""

from collections.abc import Iterable

# Alternatives in each other.
MAX_NESTED = 16

_CLOSES_CLASS = "]"


class GlobError(ValueError):
    """A text is no pattern."""


def pattern_of(glob: str, delimiters: Iterable[str]) -> str:
    """Return the regular expression that matches the whole of what `glob` does.

    Raises GlobError if it is no pattern.
    """
    return _Glob(glob, "".join(map(_literal, delimiters))).pattern()


class _Glob:
    """A pattern that is read from left to right."""

    def __init__(self, text: str, delimiters: str) -> None:
        self._text, self._at = text, 0
        self._one = f"[^{delimiters}]" if delimiters else "."
        self._nested = 0

    def pattern(self) -> str:
        parts: list[str] = []
        while (character := self._next()) is not None:
            parts.append(self._part(character))
        if self._nested:
            raise GlobError("a { has no }")
        return f"(?s)^(?:{''.join(parts)})$"

    def _next(self) -> str | None:
        self._at += 1
        return self._text[self._at - 1] if self._at <= len(self._text) else None

    def _takes(self, character: str) -> bool:
        found = self._text[self._at : self._at + 1] == character
        self._at += found
        return found

    def _part(self, character: str) -> str:
        match character:
            case "*":
                return ".*" if self._takes("*") else f"{self._one}*"
            case "?":
                return self._one
            case "[":
                return self._class()
            case "{":
                self._nested += 1
                if self._nested > MAX_NESTED:
                    raise GlobError(f"more than {MAX_NESTED} {{ are in each other")
                return "(?:"
            case "}" if self._nested:
                self._nested -= 1
                return ")"
            case "," if self._nested:
                return "|"
            case "\\":
                escaped = self._next()
                if escaped is None:
                    raise GlobError("a \\ has nothing after it")
                return _literal(escaped)
            case _:
                return _literal(character)

    def _class(self) -> str:
        negated = "^" if self._takes("!") else ""
        first = self._next()
        if first is not None and self._takes("-"):
            last = self._next()
            if last is None or last < first or not self._takes(_CLOSES_CLASS):
                raise GlobError("a [ is neither a range nor a list")
            return f"[{negated}{_literal(first)}-{_literal(last)}]"
        self._at -= 1
        listed = list(self._listed())
        if not listed:
            raise GlobError("a [ has nothing in it")
        return f"[{negated}{''.join(listed)}]"

    def _listed(self) -> Iterable[str]:
        while (character := self._next()) != _CLOSES_CLASS:
            if character == "\\":
                character = self._next()
            if character is None:
                raise GlobError("a [ has no ]")
            yield _literal(character)


def _literal(character: str) -> str:
    return f"\\x{{{ord(character):x}}}" if character else ""
