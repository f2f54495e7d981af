"""Settings of the counter store that have to fit each other."""

import pytest
from pydantic import ValidationError

from app.core.store_url import parse_store_url
from app.settings.quota import CountersSettings

SENTINELS, SERVER = parse_store_url("valkey+sentinel://a,b/main"), parse_store_url("valkey://a")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": SERVER, "sentinel_password_file": "p"}, "needs the URL of sentinels"),
        ({"url": SENTINELS, "sentinel_user": "u"}, "needs sentinel_password_file"),
        ({"url": SENTINELS, "ca_file": "c"}, "need a URL with TLS"),
        ({"url": SENTINELS, "cert_file": "c"}, "must be set together"),
    ],
)
def test_what_does_not_fit_is_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        CountersSettings(**fields)


def test_sentinels_may_have_a_user_and_a_password():
    settings = CountersSettings(url=SENTINELS, sentinel_user="u", sentinel_password_file="p")
    assert (settings.sentinel_user, str(settings.sentinel_password_file)[-1]) == ("u", "p")
