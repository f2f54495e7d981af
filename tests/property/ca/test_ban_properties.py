"""A ban covers whole segments: what the index finds is what a comparison of segments finds, one ban after the other."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.ca.model import Ban
from app.ca.rules.bans import BanIndex, banned_subject
from app.core.errors import InvalidInputError
from app.spiffe.id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("example.org")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# Segments that begin as others do, and few of them, so that paths are often below each other.
SEGMENTS = st.sampled_from(["a", "ab", "a.b", "ns", "meshward", "meshward2"])
PATHS = st.lists(SEGMENTS, max_size=4)
ENDS = st.sampled_from([None, NOW - timedelta(seconds=1), NOW, NOW + timedelta(seconds=1)])


def spelled(segments, domain="example.org"):
    return "/".join([domain, *segments])


def bans_of(drawn):
    subjects = {}
    for segments, below, end in drawn:
        text = f"spiffe://{spelled(segments)}{'/*' if below else ''}"
        try:
            subject = banned_subject(text, DOMAIN)
        except InvalidInputError:
            continue
        subjects[subject] = Ban("0" * 32, subject, "why", NOW, end)
    return list(subjects.values())


def covers(ban, identity):
    """The law, segment by segment."""
    wanted, given = ban.subject.removeprefix("spiffe://").split("/"), identity.split("/")
    if wanted[-1] != "*":
        return wanted == given
    return len(given) >= len(wanted) and given[: len(wanted) - 1] == wanted[:-1]


@given(
    st.lists(st.tuples(PATHS, st.booleans(), ENDS), max_size=6), PATHS, st.sampled_from(["example.org", "example.or"])
)
def test_an_identity_is_banned_exactly_if_a_ban_that_has_not_ended_covers_it(drawn, segments, domain):
    bans, identity = bans_of(drawn), spelled(segments, domain)
    active = [ban for ban in bans if ban.expires_at is None or ban.expires_at > NOW]
    own = domain == "example.org" and segments[:1] == ["meshward"]
    expected = not own and any(covers(ban, identity) for ban in active)
    found = BanIndex.of(bans).find(identity, "", NOW)
    assert (found is not None) == expected
    assert found is None or covers(found, identity)


@given(st.text(alphabet="sp:/*aif.%2FeE\0é ", max_size=40).map(lambda text: f"spiffe://example.org/{text}"))
def test_what_can_be_banned_is_an_id_or_a_path_and_a_star_at_the_end(text):
    try:
        subject = banned_subject(text, DOMAIN)
    except InvalidInputError:
        return
    assert subject == text
    base = text.removesuffix("/*")
    assert str(SpiffeId.parse(base)) == base
    assert "*" not in base
