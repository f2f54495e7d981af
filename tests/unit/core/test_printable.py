"""Text from elsewhere, as messages have it."""

from app.core.printable import printable


def test_text_is_cut_and_has_nothing_that_cannot_be_printed():
    assert printable("a\nb\x1b[0mé\u202e", 100) == "a b [0mé "
    assert printable("a\nbc", 3, "?") == "a?b"
    assert printable("", 3) == ""
