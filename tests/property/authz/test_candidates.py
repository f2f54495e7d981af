"""Rules found by what a path begins with: those whose prefix the path has, and no others."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.authz.model import Attribute
from app.authz.rules.candidates import Lookup, Prefixes

texts = st.text("ab/", max_size=6)


def table_of(prefixes):
    """A bucket for each prefix, which has the prefix in the place of rules."""
    return {prefix: ((0, (prefix,)),) for prefix in prefixes}


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sets(texts, max_size=12), min_size=1, max_size=3), st.lists(texts, min_size=1, max_size=8))
def test_a_text_has_the_rules_of_each_of_its_prefixes(sets, asked):
    prefixes = Prefixes({})
    for each in sets:
        prefixes = prefixes.changed(table_of(each))
        for text in asked:
            found = []
            Lookup(Attribute.PATH, {}, prefixes, {}).add_to(found, text)
            names = [prefix for _, (prefix,) in found]
            assert sorted(names) == sorted(filter(text.startswith, each))
