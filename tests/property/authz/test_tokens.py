"""Laws of tokens: what is not what was signed is never accepted, wherever it is and whatever is beside it."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.authz.rules.authentication import Accepted, TokenRules
from app.authz.rules.jwt_rules import JwtRule, KeysFrom
from app.authz.rules.tokens import Token, read_token
from tests.assets.jwts import EC_KEY, ISSUER, token
from tests.assets.request_authentications import KEYS
from tests.fakes.authz import request
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
GOOD = token(NOW, key=EC_KEY, kid="ec", algorithm="ES256")
OTHER = token(NOW, key=EC_KEY, kid="ec", algorithm="ES256", sub="b")
OLD = token(NOW - timedelta(hours=2), key=EC_KEY, kid="ec", algorithm="ES256")
RULES = TokenRules([JwtRule(ISSUER, KeysFrom(inline=KEYS), params=("access_token",), cookies=("jwt",))])
texts = st.sampled_from([GOOD, OTHER, OLD, "x", "a.b.c", f"{GOOD}x"])


def judged(header=None, param=None, cookie=None):
    headers: dict[str, tuple[str, ...]] = {":path": ("/" if param is None else f"/?access_token={param}",)}
    if header is not None:
        headers["authorization"] = (f"Bearer {header}",)
    if cookie is not None:
        headers["cookie"] = (f"jwt={cookie}",)
    return RULES.judge(RULES.tokens_of(request(headers=headers)), RULES.inline.get, NOW.timestamp())


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii", categories=["L", "N", "P"]))
def test_a_token_of_which_one_character_is_another_is_not_accepted(position, character):
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    # The last character of a signature has bits that encode nothing.
    if changed != GOOD and position < len(GOOD) - 1:
        assert not isinstance(judged(changed), Accepted)


@given(st.none() | texts, st.none() | texts, st.none() | texts)
def test_a_request_is_accepted_if_each_of_its_tokens_is(header, param, cookie):
    found = [text for text in (header, param, cookie) if text is not None]
    result = judged(header, param, cookie)
    assert isinstance(result, Accepted) is all(text in {GOOD, OTHER} for text in found)
    if isinstance(result, Accepted):
        assert bool(result.claims) is bool(found)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_token_or_has_its_problem(text):
    found = read_token(text)
    assert not isinstance(found, Token) or text.count(".") == 2
