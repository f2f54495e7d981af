"""Laws: a SPIFFE ID is what the standard says, to the letter, and is spelled back as it was read."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.spiffe.id import MAX_ID_BYTES, SpiffeId
from app.spiffe.service_account import parse_path, parse_subject

SEGMENTS = st.text("abzAZ019._-", min_size=1, max_size=12).filter(lambda segment: segment not in {".", ".."})
DOMAINS = st.text("abz019._-", min_size=1, max_size=40)
PATHS = st.lists(SEGMENTS, max_size=6).map(lambda segments: "".join(f"/{segment}" for segment in segments))
VALID = st.builds(lambda domain, path: f"spiffe://{domain}{path}", DOMAINS, PATHS)
# As the standard has it (SPIFFE-ID, sections 2.1 to 2.4), written apart from the parser.
STANDARD = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[a-zA-Z0-9._-]+)*")


@given(VALID)
def test_an_id_is_spelled_back_as_it_was_read(text):
    assert str(SpiffeId.parse(text)) == text


@given(st.text(max_size=60).map(lambda text: f"spiffe://{text}") | st.text(max_size=60))
@example("spiffe://a/b\n")
@example("spiffe://a/.")
@example("spiffe://a/../b")
@example("spiffe://a//b")
@example("spiffe://a/%2e")
@example("spiffe://u@a/b")
@example("spiffe://a:1/b")
@example("spiffe://a/b?c")
@example("spiffe://a/b#c")
@example("SPIFFE://a/b")
@example("spiffe://A/b")
def test_any_text_is_an_id_if_and_only_if_the_standard_says_so(text):
    if STANDARD.fullmatch(text) and len(text) <= MAX_ID_BYTES:
        assert str(SpiffeId.parse(text)) == text
    else:
        with pytest.raises(InvalidInputError):
            SpiffeId.parse(text)


@given(VALID, st.integers(0, 200), st.characters())
def test_one_character_more_makes_another_id_or_none(text, at, character):
    changed = text[:at] + character + text[at:]
    try:
        assert str(SpiffeId.parse(changed)) == changed
    except InvalidInputError:
        assert not STANDARD.fullmatch(changed)


@given(st.text("ab/:.-\n", max_size=30))
def test_subject_and_path_of_a_service_account_name_the_same(text):
    account = parse_subject(f"system:serviceaccount:{text}")
    if account is not None:
        namespace, name = account
        assert parse_path(f"/ns/{namespace}/sa/{name}") == account
        assert SpiffeId.parse(f"spiffe://a/ns/{namespace}/sa/{name}").path.count("/") == 4
