"""Tokens of an expression of the Common Expression Language (cel-spec, doc/langdef.md, "Syntax")."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from app.cel.values import MAX_INT, MAX_UINT, UInt
from app.core.errors import InvalidInputError

# Characters of an expression, its tokens, and expressions inside each other: what calls itself stays shallow.
MAX_EXPRESSION = 8192
MAX_TOKENS = 2048
MAX_DEPTH = 32

_TOKEN = re.compile(
    r"(?P<float>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<int>0x[0-9a-fA-F]+|[0-9]+)(?P<unsigned>[uU]?)"
    r"|(?P<prefix>[rRbB]{0,2})(?P<quoted>\"\"\"(?s:.*?)\"\"\"|'''(?s:.*?)'''"
    r"|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|\.\?|\[\?|[-+*/%<>!?:.,()\[\]{}])"
)
_BLANK = re.compile(r"(?:\s|//[^\n]*)*")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(?s:(.)))"
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}
_SURROGATES = range(0xD800, 0xE000)
_LAST_CHARACTER = 0x10FFFF
# Reserved for use in the future, which cannot be names of variables.
_RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()  # noqa: SIM905 - as the specification has them
)


class Token(NamedTuple):
    """A token: its kind (`literal`, `name`, `sign` or `end`), its value, and its place in the text."""

    kind: str
    value: Any
    place: int


def tokens_of(text: str) -> list[Token]:
    """Return the tokens. Raises InvalidInputError with what cannot be read, and where."""
    if len(text) > MAX_EXPRESSION:
        raise InvalidInputError(f"is longer than {MAX_EXPRESSION} characters")
    found = list(_tokens(text))
    if len(found) > MAX_TOKENS:
        raise InvalidInputError(f"has more than {MAX_TOKENS} names, signs and values")
    return found


def at(text: str, place: int) -> str:
    """Return where a place in the text is, as people count: `line 2, character 7`, without the line if there is one."""
    line = text.count("\n", 0, place) + 1
    character = place - text.rfind("\n", 0, place)
    return f"line {line}, character {character}" if "\n" in text.strip() else f"character {character}"


def _tokens(text: str) -> Iterator[Token]:
    place = _blank(text, 0)
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise InvalidInputError(f"cannot be read from {at(text, place)} on: {text[place : place + 20]!r}")
        yield _token(text, found, place)
        place = _blank(text, found.end())
    yield Token("end", None, len(text.rstrip()))


def _blank(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place


def _token(text: str, found: re.Match[str], place: int) -> Token:
    if found["float"]:
        return Token("literal", float(found["float"]), place)
    if found["int"]:
        number = int(found["int"], 0 if found["int"].startswith("0x") else 10)
        if number > (MAX_UINT if found["unsigned"] else MAX_INT + 1):
            raise InvalidInputError(f"has a number beyond 64 bits at {at(text, place)}")
        return Token("literal", UInt(number) if found["unsigned"] else number, place)
    if found["quoted"]:
        return Token("literal", _string(text, found["prefix"].lower(), found["quoted"], place), place)
    name = found["name"]
    if not name:
        return Token("sign", found["sign"], place)
    if name in _CONSTANTS:
        return Token("literal", _CONSTANTS[name], place)
    if name in _RESERVED:
        raise InvalidInputError(f"has the reserved word {name!r} at {at(text, place)}")
    return Token("name", name, place)


def _string(text: str, prefix: str, quoted: str, place: int) -> str | bytes:
    if prefix not in {"", "r", "b", "rb", "br"}:
        raise InvalidInputError(f"has a string with an unknown prefix at {at(text, place)}")
    marks = 3 if quoted[:3] in {'"""', "'''"} else 1
    inside = quoted[marks:-marks]
    if "r" not in prefix:
        inside = _ESCAPE.sub(lambda escape: _unescaped(text, escape, place, is_bytes="b" in prefix), inside)
    if "b" not in prefix:
        return inside
    # An escape of one byte was put as one of these characters, which no text has.
    return inside.encode("utf-8", "surrogateescape")


def _unescaped(text: str, escape: re.Match[str], place: int, *, is_bytes: bool) -> str:
    simple, byte, short, long, octal, other = escape.groups()
    if other is not None or (is_bytes and (short or long)):
        raise InvalidInputError(f"has an escape that is not supported, {escape[0]}, in the string at {at(text, place)}")
    if simple:
        return _ESCAPED.get(simple, simple)
    number = int(octal, 8) if octal else int(byte or short or long, 16)
    if number in _SURROGATES or number > _LAST_CHARACTER:
        raise InvalidInputError(f"has an escape of no character, {escape[0]}, in the string at {at(text, place)}")
    return bytes([number]).decode("utf-8", "surrogateescape") if is_bytes else chr(number)
