"""The authorization servers in the settings."""

import pytest

from app.authz.service.api_keys import ApiKeys
from app.core.errors import InvalidInputError
from app.main.credentials import make_credential_sources
from app.settings.load import load
from app.settings.show import as_toml
from tests.fakes.api_keys import MemoryApiKeys
from tests.fakes.clock import ManualClock

FILE = """
[authz.authorization_servers.idp]
introspection_url = "https://idp.example.org/oauth2/introspect"
client_id = "meshward"
client_secret_file = "/etc/meshward/idp.secret"
issuer = "https://idp.example.org"
"""


def read(tmp_path, text):
    file = tmp_path / "meshward.toml"
    file.write_text(text)
    return load({}, file)


def test_a_table_for_each_server_which_documents_can_name(tmp_path, metrics):
    loaded = read(tmp_path, FILE)
    idp = loaded.settings.authz.authorization_servers["idp"]
    assert (idp.client_auth, idp.timeout_ms, idp.cache_seconds) == ("client_secret_basic", 1000, 60.0)
    clock = ManualClock()
    api_keys = ApiKeys(MemoryApiKeys(), clock, metrics)
    sources = make_credential_sources(loaded.settings, api_keys, None, clock, metrics)
    assert sources.named.servers == {"idp"}
    assert read(tmp_path, as_toml(loaded)).settings == loaded.settings


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('introspection_url = "http://idp.example.org/i"', "https://"),
        ('introspection_url = "/etc/passwd"', "https://"),
        ('introspection_url = "https://a:b@idp.example.org/"', "without user"),
        ('client_auth = "private_key_jwt"', "client_secret_basic"),
        ("cache_seconds = 3601", "3600"),
        ("timeout_ms = 0", "1"),
        ('client_secret = "s"', "not permitted"),
    ],
)
def test_what_is_wrong_is_named_and_the_secret_is_in_a_file(tmp_path, line, problem):
    name = line.partition(" =")[0]
    kept = "\n".join(each for each in FILE.splitlines() if not each.startswith(f"{name} ="))
    with pytest.raises(InvalidInputError) as refused:
        read(tmp_path, f"{kept}\n{line}\n")
    (violation,) = refused.value.violations
    assert violation.path.startswith(f"authz.authorization_servers.idp.{name}")
    assert problem in violation.problem
