"""Laws of credentials: a request passes if each of them is accepted by a rule of its place, and keeps none of them."""

from hypothesis import given
from hypothesis import strategies as st

from app.authz.rules.api_keys import digest_of
from app.authz.rules.credential_rules import ApiKeySource, CredentialRule
from app.authz.rules.credentials import (
    MAX_CREDENTIALS,
    Accepted,
    CredentialProblem,
    CredentialRules,
    Proven,
    Refused,
    Rejected,
    changes_of,
    judge,
)
from app.authz.rules.introspection import read_answer
from tests.fakes.authz import request

GOLD, SILVER = ApiKeySource((("tier", "gold"),)), ApiKeySource((("tier", "silver"),))
# Whom each text proves at each source; the others prove nobody.
PROVEN: dict[object, Proven] = {
    (GOLD, "g"): Proven({"sub": "g"}),
    (GOLD, "b"): Proven({"sub": "b"}),
    (SILVER, "b"): Proven({"sub": "B"}),
}
BAD = Rejected(CredentialProblem.INVALID, "unknown")
texts = st.sampled_from(["g", "b", "x"])
names = st.sampled_from(["one", "two"])
rules = st.builds(
    CredentialRule,
    st.sampled_from([GOLD, SILVER]),
    st.lists(st.tuples(names, st.sampled_from(["", "Key "])), max_size=2).map(tuple),
    st.lists(names, max_size=2, unique=True).map(tuple),
    st.lists(names, max_size=2, unique=True).map(tuple),
    st.booleans(),
)
sent = st.lists(st.tuples(st.sampled_from(["header", "prefixed", "param", "cookie"]), names, texts), max_size=6)


def asked(placed):
    headers: dict[str, tuple[str, ...]] = {}
    params, cookies = [], []
    for kind, name, text in placed:
        if kind in {"header", "prefixed"}:
            headers[name] = (*headers.get(name, ()), f"kEY {text}" if kind == "prefixed" else text)
        elif kind == "param":
            params.append(f"{name}={text}")
        else:
            cookies.append(f"{name}={text}")
    headers[":path"] = (f"/?{'&'.join([*params, 'a=b'])}",)
    headers["cookie"] = ("; ".join([*cookies, "a=b"]),)
    return request(headers=headers)


def naive(all_rules, check):
    """The credentials of a request and whether each is accepted, one rule after the other."""
    found = {}
    for number, rule in enumerate(all_rules):
        for name, prefix in rule.headers:
            for at, value in enumerate(check.headers.get(name) or ()):
                if value.lower().startswith(prefix.lower()):
                    text = value[len(prefix) :]
                    found.setdefault(("header", name, prefix, at, text), []).append(number)
        for kind, listed, header, cut in (
            ("param", rule.params, ":path", lambda text: text.partition("?")[2].split("&")),
            ("cookie", rule.cookies, "cookie", lambda text: text.split("; ")),
        ):
            pairs = [pair.partition("=") for pair in cut(check.headers.get(header)[0])]
            for name in listed:
                for value in {value for key, _, value in pairs if key == name}:
                    found.setdefault((kind, name, value), []).append(number)
    return [any((all_rules[at].source, key[-1]) in PROVEN for at in numbers) for key, numbers in found.items()]


@given(st.lists(rules, min_size=1, max_size=3), sent)
def test_a_request_passes_if_each_credential_is_accepted_by_a_rule_of_its_place(listed, placed):
    made, check = CredentialRules(listed), asked(placed)
    found, expected = made.found_in(check), naive(made.rules, check)
    assert len(found) == len(expected)
    if not found:
        return
    result = judge(found, lambda rule, text: PROVEN.get((rule.source, text), BAD))
    assert isinstance(result, Accepted) is (all(expected) and len(found) <= MAX_CREDENTIALS)
    assert isinstance(result, Accepted | Refused)


@given(st.lists(rules, min_size=1, max_size=3), sent)
def test_what_is_not_forwarded_is_in_no_place_any_more(listed, placed):
    made, check = CredentialRules(listed), asked(placed)
    found = made.found_in(check)
    changes = changes_of(check, found, (False,) * len(found))
    headers = {name: values for name, values in check.headers.items() if name not in changes.headers_to_remove}
    headers |= {name: (value,) for name, value in changes.headers}
    path, _, query = headers[":path"][0].partition("?")
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] not in changes.query_to_remove]
    headers[":path"] = (f"{path}?{'&'.join(kept)}",)
    after = request(headers=headers)
    assert made.found_in(after) == ()
    assert "a=b" in kept
    assert "a=b" in headers["cookie"][0]
    assert changes_of(check, found, (True,) * len(found)).headers_to_remove == ()


@given(st.text(max_size=60) | st.text("mwk_A9-", min_size=40, max_size=50))
def test_only_what_has_the_form_of_a_key_is_hashed(text):
    is_key = (
        len(text) == 47
        and text.startswith("mwk_")
        and all(each.isascii() and (each.isalnum() or each in "_-") for each in text[4:])
    )
    assert (digest_of(text) is not None) is is_key


@given(st.binary(max_size=200), st.sampled_from(["", "https://a"]), st.floats(0, 2e9))
def test_whatever_a_server_answers_is_an_outcome_and_proves_nothing_without_active(content, issuer, now):
    outcome, _ = read_answer(content, issuer, now)
    assert isinstance(outcome, Rejected) or b"active" in content
