"""The providers of CUSTOM policies in the settings."""

import json

import pytest

from app.core.errors import InvalidInputError
from app.settings.authz import OpaProviderSettings, RegoProviderSettings
from app.settings.load import load
from app.settings.show import as_toml

FILE = """
[authz.providers.ext]
engine = "rego"
path = "/etc/rego"
workers = 2

[authz.providers."far.away"]
engine = "opa"
url = "https://opa.example.org:8181"
cache_seconds = 1.5

[authz.providers.signed]
engine = "rego"
url = "https://bundles.example.org/b.tar.gz"

[[authz.providers.signed.verification_keys]]
key_id = "old"
file = "/etc/old.pem"

[[authz.providers.signed.verification_keys]]
key_id = "new"
file = "/etc/new.pem"
algorithm = "ES256"
scope = "shop"

[authz.providers.office]
engine = "cel"
expression = 'request.method == "GET"'
"""


def read(tmp_path, text):
    file = tmp_path / "meshward.toml"
    file.write_text(text)
    return load({}, file)


def test_a_table_for_each_provider(tmp_path):
    providers = read(tmp_path, FILE).settings.authz.providers
    ext, far = providers["ext"], providers["far.away"]
    assert isinstance(ext, RegoProviderSettings)
    assert (str(ext.path), ext.query, ext.timeout_ms, ext.workers) == ("/etc/rego", "envoy/authz/allow", 100, 2)
    assert isinstance(far, OpaProviderSettings)
    assert (far.url, far.cache_seconds) == ("https://opa.example.org:8181", 1.5)


def test_a_variable_has_them_as_json():
    variable = json.dumps({"ext": {"engine": "rego", "path": "/etc/rego"}})
    assert load({"MESHWARD_AUTHZ_PROVIDERS": variable}).settings.authz.providers["ext"].query == "envoy/authz/allow"
    with pytest.raises(InvalidInputError, match="must be a JSON object"):
        load({"MESHWARD_AUTHZ_PROVIDERS": "ext"})


def test_what_is_shown_can_be_read_back(tmp_path):
    loaded = read(tmp_path, FILE)
    (tmp_path / "shown").mkdir()
    assert read(tmp_path / "shown", as_toml(loaded)).settings.authz == loaded.settings.authz


KEY = '[[authz.providers.ext.verification_keys]]\nkey_id = "k"\nfile = "/k"'


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('engine = "rego"\npath = "/x"\nwrokers = 2', "authz.providers.ext.wrokers"),
        ('engine = "rego"', "authz.providers.ext"),
        ('engine = "rego"\npath = "/x"\nurl = "https://x/b.tar.gz"', "authz.providers.ext"),
        ('engine = "rego"\npath = "/x"\ntoken_file = "/y"', "authz.providers.ext"),
        (f'engine = "rego"\npath = "/x"\n{KEY}\n{KEY}', "authz.providers.ext"),
        (
            f'engine = "rego"\npath = "/x"\n{KEY}\nalgorithm = "none"',
            "authz.providers.ext.verification_keys.0.algorithm",
        ),
        ('engine = "cel"', "authz.providers.ext"),
        ('engine = "cel"\npath = "/x"\nexpression = "true"', "authz.providers.ext"),
        ('engine = "opa"\nurl = "http://opa"\ncache_by = ["a b"]', "authz.providers.ext.cache_by.0"),
        ('engine = "rego"\npath = "/x"\ntimeout_ms = 0', "authz.providers.ext.timeout_ms"),
        ('engine = "rego"\npath = "/x"\nquery = "a b"', "authz.providers.ext.query"),
        ('engine = "other"', "authz.providers.ext"),
        ('engine = "opa"\nurl = "http://u@opa/x"', "authz.providers.ext.url"),
        ('engine = "opa"\nurl = "http://opa"\npath = "/x"', "authz.providers.ext.path"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path, line, place):
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path, f"[authz.providers.ext]\n{line}\n")
    (violation,) = caught.value.violations
    assert violation.path.partition(" ")[0] == place
