"""Regular expressions of `matches()`: RE2's, which takes time in proportion to the text (github.com/google/re2)."""

from collections.abc import Callable
from typing import Any

from app.core.errors import InvalidInputError

# Bytes that a compiled pattern and its states may take.
MAX_MEMORY = 1 << 20
MAX_PATTERN = 1024

Pattern = Callable[[str], bool]
"""Returns whether the pattern is found somewhere in a text."""


def compile_pattern(text: str) -> Pattern:
    """Return the pattern. Raises InvalidInputError if it is none of RE2's, too large, or RE2 is not installed."""
    try:
        import re2  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInputError("has matches(), and RE2 is not installed: install meshward[cel]") from error
    if len(text) > MAX_PATTERN:
        raise InvalidInputError(f"has a pattern longer than {MAX_PATTERN} characters")
    options: Any = re2.Options()
    options.log_errors, options.max_mem, options.never_capture = False, MAX_MEMORY, True
    try:
        found: Any = re2.compile(text, options)
    except re2.error as error:
        problem = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise InvalidInputError(f"has a pattern that RE2 does not take: {problem}") from error
    return lambda value: found.search(value.encode("utf-8", "surrogateescape")) is not None
