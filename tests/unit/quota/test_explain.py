"""Why a limit applies, and why not the others."""

from hypothesis import given
from hypothesis import strategies as st

from app.documents.parser import parse_documents
from app.quota.model import Descriptor, RateLimit, Unit
from app.quota.rules.explain import MAX_MISSES, Miss, explain
from app.quota.rules.parse import QUOTA_KIND
from app.quota.rules.tree import compile_config, find_limit


def tree(text):
    return compile_config(QUOTA_KIND.parse(parse_documents(text.encode()))[0])


SHOP = tree("""
domain: shop
descriptors:
- key: user
  descriptors:
  - {key: path, value: '/cart*', rate_limit: {unit: minute, requests_per_unit: 5, name: cart}}
  - {key: path, value: '/c*', rate_limit: {unit: minute, requests_per_unit: 6}}
  - {key: path, rate_limit: {unit: minute, requests_per_unit: 10, replaces: [{name: cart}]}}
- {key: user, value: vip, rate_limit: {unlimited: true}}
""")
IN_CART = ("user", "ann"), ("path", "/cart/1")


def one(*entries, config=SHOP, **fields):
    return explain(config, [Descriptor(entries, **fields)])[0]


def test_each_step_names_what_it_matched_and_what_it_passed_by():
    found = one(*IN_CART)
    assert [(step.entry, step.matched, step.how) for step in found.steps] == [
        ("user=ann", "user", "it takes any value"),
        ("path=/cart/1", "path_/cart*", "the first pattern that fits, in the order of the file"),
    ]
    assert found.steps[0].misses == (Miss("user_vip", "the value is another one"),)
    assert found.steps[1].misses == (
        Miss("path_/c*", "another one comes first"),
        Miss("path", "one with the value comes first"),
    )
    assert (found.limit, found.rule, found.counter) == (
        RateLimit(Unit.MINUTE, 5, "cart"),
        "shop.user.path_/cart*",
        ("ann", "/cart/1"),
    )
    assert found.reason == "the last entry leads to it"


def test_what_is_missing_is_named():
    assert one(("usr", "ann")).reason == (
        "nothing is configured for usr=ann: no descriptor has this key; the keys here are user"
    )
    assert one(("user", "vip"), ("path", "/")).reason.endswith("the descriptor before has none below it")
    assert one(("user", "ann")).reason == (
        "the last entry leads to a descriptor without a rate_limit; "
        "those below it need a further entry, with the key path"
    )
    only = tree("domain: d\ndescriptors: [{key: k, value: v}]")
    assert one(("k", "w"), config=only).reason.endswith("no descriptor with this key has the value")
    assert one(config=only).limit is None


def test_a_limit_that_another_replaces_and_an_override_say_so():
    cart, other = explain(SHOP, [Descriptor(IN_CART), Descriptor((("user", "ann"), ("path", "/x")))])
    assert (cart.limit, cart.reason) == (None, "another limit of the request replaces 'cart'")
    assert other.limit is not None
    override = one(("nothing", ""), override=RateLimit(Unit.DAY, 1))
    assert (override.limit, override.rule) == (RateLimit(Unit.DAY, 1), "shop.nothing")
    assert override.reason.startswith("the request brings its own limit")


def test_of_many_descriptors_some_are_listed_and_the_others_counted():
    values = "".join(f"- {{key: k, value: v{number}}}\n" for number in range(1000))
    (step,) = one(("k", "x"), config=tree(f"domain: d\ndescriptors:\n{values}")).steps
    assert (len(step.misses), step.others) == (MAX_MISSES, 1000 - MAX_MISSES)


KEYS = st.sampled_from("ab")
VALUES = st.sampled_from(["", "x", "xy", "x*", "*"])


@given(
    st.lists(st.tuples(KEYS, VALUES, KEYS, VALUES), max_size=6, unique_by=lambda each: each[:2]),
    st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3),
)
def test_the_explanation_ends_at_the_limit_that_applies(descriptors, entries):
    limit = {"unit": "day", "requests_per_unit": 1}
    document = [
        {"key": a, "value": b, "rate_limit": limit, "descriptors": [{"key": c, "value": d, "rate_limit": limit}]}
        for a, b, c, d in descriptors
    ]
    config = compile_config(QUOTA_KIND.parse([{"domain": "d", "descriptors": document}])[0])
    found, applied = one(*entries, config=config), find_limit(config.root, tuple(entries))
    assert (found.limit, found.rule) == ((applied.limit, applied.rule) if applied else (None, ""))
    if applied:
        assert ".".join(["d", *(step.matched for step in found.steps)]) == applied.rule
