"""Text that was written elsewhere, in messages for operators."""


def printable(text: str, longest: int, instead: str = " ") -> str:
    """Return the first `longest` characters, with `instead` for each that cannot be printed, such as a line break."""
    return "".join(each if each.isprintable() else instead for each in text[:longest])
