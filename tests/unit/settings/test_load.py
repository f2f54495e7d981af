"""Settings: what is read from where, and the one sentence about what is wrong."""

import json
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core.errors import InvalidInputError
from app.core.net import Address, UnixSocket
from app.settings import load
from app.settings.show import as_toml, as_values
from app.spiffe.id import TrustDomain


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "meshward.toml"
        path.write_text(text)
        return path

    return write


def test_nothing_has_to_be_set():
    settings = load({}).settings
    assert settings.trust_domain == TrustDomain("cluster.local")
    assert settings.database_url == "sqlite+aiosqlite:///.meshward/meshward.db"
    assert settings.mesh.tls_bind == Address("0.0.0.0", 15012)
    assert settings.mesh.plaintext_bind == Address("127.0.0.1", 15010)
    assert settings.admin.bind == Address("127.0.0.1", 15014)
    assert settings.ca.svid_default_ttl == timedelta(hours=24)
    assert settings.authz.unknown_workload == "deny"


def test_variables_win_over_the_file_and_the_file_over_the_defaults(config):
    path = config('trust_domain = "file.example"\n[log]\nlevel = "error"\n[authz]\nexpose_decision = true\n')
    loaded = load({"MESHWARD_LOG_LEVEL": "debug"}, path)
    assert loaded.settings.trust_domain.name == "file.example"
    assert loaded.settings.authz.expose_decision is True
    assert loaded.settings.log.level == "debug"
    assert loaded.sources["log.level"] == "MESHWARD_LOG_LEVEL"
    assert loaded.sources["trust_domain"] == str(path)
    assert loaded.sources["log.format"] == "default"


def test_the_database_is_in_the_data_dir_whatever_the_dir_is_called():
    settings = load({"MESHWARD_DATA_DIR": "/srv/a b?c%20"}).settings
    from app.db.engine import parse_url

    assert parse_url(settings.database_url).database == "/srv/a b?c%20/meshward.db"


@pytest.mark.parametrize(
    ("bind", "expected"),
    [("off", "off"), ("unix:/run/meshward/mesh.sock", UnixSocket("/run/meshward/mesh.sock")), ("[::1]:1", None)],
)
def test_the_plaintext_port_may_be_closed_or_a_unix_socket(config, bind, expected):
    loaded = load({"MESHWARD_MESH_PLAINTEXT_BIND": bind})
    assert loaded.settings.mesh.plaintext_bind == (expected or Address("::1", 1))
    assert load({}, config(as_toml(loaded))).settings == loaded.settings


def test_a_socket_is_limited_by_its_mode_or_to_users(config):
    path = config("[mesh]\nplaintext_bind = 'unix:/run/a'\nplaintext_mode = '0600'\nplaintext_uids = [33, 101]\n")
    mesh = load({}, path).settings.mesh
    assert (mesh.plaintext_mode, mesh.plaintext_uids) == ("0600", (33, 101))
    variables = {"MESHWARD_MESH_PLAINTEXT_BIND": "unix:/run/a", "MESHWARD_MESH_PLAINTEXT_UIDS": "33, 101"}
    assert load(variables).settings.mesh.plaintext_uids == (33, 101)


@pytest.mark.parametrize("limit", [{"PLAINTEXT_UIDS": "33"}, {"PLAINTEXT_MODE": "0600"}])
@pytest.mark.parametrize("bind", [{}, {"PLAINTEXT_BIND": "off"}, {"PLAINTEXT_BIND": "127.0.0.1:1"}])
def test_what_limits_a_socket_is_refused_without_one(bind, limit):
    """An operator who believes that a TCP port is limited to some users is told that it is not."""
    with pytest.raises(InvalidInputError, match="limit who may connect to a Unix socket"):
        load({f"MESHWARD_MESH_{name}": value for name, value in (bind | limit).items()})


def test_settings_do_not_change_once_read():
    settings = load({}).settings
    with pytest.raises(ValidationError):
        settings.authz.unknown_workload = "root"  # type: ignore[misc]  # read-only, as the test shows


def test_server_names_are_a_list_in_the_file_and_comma_separated_in_a_variable(config):
    path = config('[mesh]\nserver_names = ["mesh.example", "192.0.2.1"]\n')
    assert load({}, path).settings.mesh.server_names == ("mesh.example", "192.0.2.1")
    names = load({"MESHWARD_MESH_SERVER_NAMES": "a.example, ::1"}).settings.mesh.server_names
    assert names == ("a.example", "::1")


def test_callers_of_rate_limit_domains_are_read_from_a_list(config):
    gateway = "spiffe://cluster.local/ns/edge/sa/gateway"
    path = config(f'[quota]\ncallers = ["edge={gateway}", "a=b,c=loopback"]\n')
    found = load({}, path).settings.quota.callers
    assert [(each.domain, each.caller) for each in found] == [("edge", gateway), ("a=b,c", "loopback")]
    found = load({"MESHWARD_QUOTA_CALLERS": f"*={gateway}, shop/*=spiffe://*/ns/shop/*"}).settings.quota.callers
    assert [str(each) for each in found] == [f"*={gateway}", "shop/*=spiffe://*/ns/shop/*"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MESHWARD_QUOTA_CALLERS", "edge", "is not DOMAIN=CALLER"),
        ("MESHWARD_QUOTA_CALLERS", "=loopback", "is not DOMAIN=CALLER"),
        ("MESHWARD_QUOTA_CALLERS", "edge=", "SPIFFE ID"),
        ("MESHWARD_QUOTA_CALLERS", "edge=plaintext", "SPIFFE ID"),
        ("MESHWARD_QUOTA_CALLERS", "edge=spiffe://cluster.local//sa/web", "SPIFFE ID"),
        ("MESHWARD_QUOTA_MAX_HITS", "0", "greater than or equal to 1"),
        ("MESHWARD_MESH_TLS_BIND", "15012", "is not host:port"),
        ("MESHWARD_MESH_TLS_BIND", ":15012", "is not host:port"),
        ("MESHWARD_MESH_TLS_BIND", "0.0.0.0:", "is not host:port"),
        ("MESHWARD_MESH_TLS_BIND", "0.0.0.0:65536", "a port up to 65535"),
        ("MESHWARD_MESH_TLS_BIND", "0.0.0.0:" + "9" * 5000, "a port up to 65535"),
        ("MESHWARD_MESH_TLS_BIND", "0.0.0.0:1٣", "is not host:port"),
        ("MESHWARD_MESH_TLS_BIND", "::1:15012", "in brackets"),
        ("MESHWARD_MESH_TLS_BIND", "[fe80::z]:15012", "neither an address"),
        ("MESHWARD_MESH_TLS_BIND", "a b:15012", "neither an address"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "0.0.0.0:15010", "can be reached from other machines"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "mesh.example:15010", "can be reached from other machines"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "unix:mesh.sock", "is not an absolute path"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "unix:", "is not an absolute path"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "unix:/" + "x" * 107, "is not an absolute path of up to 107 bytes"),
        ("MESHWARD_MESH_PLAINTEXT_BIND", "OFF", "or write unix:/path or off"),
        ("MESHWARD_MESH_TLS_BIND", "unix:/run/mesh.sock", "is not host:port"),
        ("MESHWARD_MESH_TLS_BIND", "off", "is not host:port"),
        ("MESHWARD_MESH_PLAINTEXT_MODE", "0777", "'0600', '0660' or '0666'"),
        ("MESHWARD_MESH_PLAINTEXT_UIDS", "root", "valid integer"),
        ("MESHWARD_MESH_PLAINTEXT_UIDS", "-1", "greater than or equal to 0"),
        ("MESHWARD_MESH_PLAINTEXT_UIDS", str(2**32 - 1), "less than or equal to"),
        ("MESHWARD_MESH_PLAINTEXT_UIDS", ",".join("1" * 65), "at most 64"),
        ("MESHWARD_MESH_SERVER_NAMES", "", "is empty"),
        ("MESHWARD_MESH_SERVER_NAMES", "Mesh.example", "neither a DNS name"),
        ("MESHWARD_MESH_SERVER_NAMES", "a..b", "neither a DNS name"),
        ("MESHWARD_MESH_SERVER_NAMES", "*.example", "neither a DNS name"),
        ("MESHWARD_MESH_MAX_MESSAGE_BYTES", "1", "greater than or equal to"),
        ("MESHWARD_MESH_MAX_MESSAGE_BYTES", "4MiB", "valid integer"),
        ("MESHWARD_TRUST_DOMAIN", "Example.org", "trust domain 'Example.org' is not valid"),
        ("MESHWARD_TRUST_DOMAIN", "spiffe://example.org", "is not valid"),
        ("MESHWARD_DATABASE_URL", "mysql://root:hunter2@db/x", "not supported"),
        ("MESHWARD_DATABASE_URL", "sqlite+aiosqlite://", "names no file"),
        ("MESHWARD_COUNTERS_URL", "valkey://root:hunter2@db:x", "must have HOST or HOST:PORT"),
        ("MESHWARD_ADMIN_BIND", "127.0.0.1:15010", "must differ"),
        ("MESHWARD_ADMIN_METRICS_PUBLIC", "perhaps", "valid boolean"),
        ("MESHWARD_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("MESHWARD_CA_SVID_DEFAULT_TTL", "3600", "with its unit"),
        ("MESHWARD_CA_SVID_DEFAULT_TTL", "-1h", "with its unit"),
        ("MESHWARD_CA_SVID_DEFAULT_TTL", "0s", "one second or more"),
        ("MESHWARD_CA_SVID_DEFAULT_TTL", "91d", "svid_max_ttl is above 90d"),
        ("MESHWARD_CA_SVID_DEFAULT_TTL", "999999999d", "longer than 3660 days"),
        ("MESHWARD_CA_SVID_MAX_TTL", "91d", "above 90d"),
        ("MESHWARD_AUTHZ_UNKNOWN_WORKLOAD", "allow", "'deny' or 'root'"),
        ("MESHWARD_AUTHZ_ROOT_NAMESPACE", "istio_system", "Kubernetes namespace"),
        ("MESHWARD_QUOTA_HEADERS", "on", "'draft03', 'ietf', 'plain' or 'retry-after'"),
        ("MESHWARD_QUOTA_LIMIT_HEADER", "x limit", "must be a header name"),
        ("MESHWARD_DATA_DIR", "", "is empty"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_wrong(variable, value, said):
    with pytest.raises(InvalidInputError, match=re.escape(said)) as caught:
        load({variable: value})
    assert "hunter2" not in caught.value.message
    assert len(caught.value.message) < 500


def test_callers_may_ask_for_the_default_lifetime_at_most_unless_another_maximum_is_set():
    hour, day, ninety_days = (timedelta(hours=hours) for hours in (1, 24, 90 * 24))
    assert load({}).settings.ca.svid_max_ttl == day
    assert load({"MESHWARD_CA_SVID_DEFAULT_TTL": "1h"}).settings.ca.svid_max_ttl == hour
    assert load({"MESHWARD_CA_SVID_MAX_TTL": "90d"}).settings.ca.svid_max_ttl == ninety_days


def test_a_wrong_value_names_its_key_and_its_source(config):
    path = config('[log]\nlevel = "loud"\n')
    with pytest.raises(InvalidInputError, match=re.escape(f"log.level (from {path}): ")):
        load({}, path)
    with pytest.raises(InvalidInputError, match=re.escape("log.level (from MESHWARD_LOG_LEVEL): ")):
        load({"MESHWARD_LOG_LEVEL": "loud"})


def test_everything_wrong_is_told_at_once():
    with pytest.raises(InvalidInputError) as caught:
        load({"MESHWARD_LOG_LEVEL": "loud", "MESHWARD_QUOTA_HEADERS": "on", "MESHWARD_ADMIN_BIND": "x"})
    assert {violation.path.split()[0] for violation in caught.value.violations} == {
        "admin.bind",
        "log.level",
        "quota.headers",
    }


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("MESHWARD_AUTZ_EXPOSE_DECISION", "MESHWARD_AUTHZ_EXPOSE_DECISION"),
        ("MESHWARD_TRUSTDOMAIN", "MESHWARD_TRUST_DOMAIN"),
        ("MESHWARD_TLS_BIND", "MESHWARD_MESH_TLS_BIND"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(variable, nearest):
    with pytest.raises(InvalidInputError, match=f"{variable}: no such setting: did you mean {nearest}"):
        load({variable: "1"})


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("trust_domian = 'a'", "trust_domian", "trust_domain"),
        ("[mesh]\ntls_bnid = 'a'", "mesh.tls_bnid", "mesh.tls_bind"),
        ("tls_bind = 'a:1'", "tls_bind", "mesh.tls_bind"),
        ("[authz.deep]\nx = 1", "authz.deep", None),
        ("mesh = 3", "mesh", None),
    ],
)
def test_an_unknown_key_of_the_file_is_refused_with_the_nearest_known_one(config, text, key, nearest):
    with pytest.raises(InvalidInputError, match=f"{key}: no such setting, in ") as caught:
        load({}, config(text))
    if nearest:
        assert f"did you mean {nearest}?" in caught.value.message


def test_variables_of_others_are_left_alone():
    load(
        {
            "HOME": "/",
            "MESHWARD_ADMIN_TOKEN": "x",
            "MESHWARD_JOIN_TOKEN": "x",
            "MESHWARD_SERVICE_HOST": "10.0.0.1",
            "MESHWARD_SERVICE_PORT": "15012",
            "MESHWARD_SERVICE_PORT_GRPC_TLS": "15012",
            "MESHWARD_PORT": "tcp://10.0.0.1:15012",
            "MESHWARD_PORT_15012_TCP": "tcp://10.0.0.1:15012",
            "MESHWARD_PORT_15012_TCP_ADDR": "10.0.0.1",
            "MESHWARD_ADMIN_SERVICE_HOST": "10.0.0.1",
            "MESHWARD_ADMIN_PORT_15014_TCP_PROTO": "tcp",
        }
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "not valid TOML"),
        ("data_dir = 3", "data_dir (from"),
        ("[ca]\nsvid_default_ttl = 3600", "with its unit"),
        ("[mesh]\ntls_bind = ['a']", "must be host:port"),
        ("[mesh]\nserver_names = []", "at least one name"),
        ("[mesh]\nserver_names = [1]", "mesh.server_names"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("#" * (1 << 21), "larger than"),
    ],
)
def test_a_wrong_file_is_told(config, text, said):
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        load({}, config(text))


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, path):
    with pytest.raises(InvalidInputError, match=re.escape(f"cannot read the settings file {tmp_path / path}")):
        load({}, tmp_path / path)


def test_a_file_that_is_not_text_is_told(tmp_path):
    path = tmp_path / "meshward.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not valid TOML"):
        load({}, path)


def test_the_plaintext_port_may_be_public_if_that_is_said():
    environ = {"MESHWARD_MESH_PLAINTEXT_BIND": "0.0.0.0:15010", "MESHWARD_MESH_PLAINTEXT_PUBLIC": "true"}
    assert not load(environ).settings.mesh.plaintext_bind.is_loopback


def test_any_number_of_ports_may_be_left_to_the_system():
    environ = {f"MESHWARD_{name}_BIND": "127.0.0.1:0" for name in ("MESH_TLS", "MESH_PLAINTEXT", "ADMIN")}
    assert load(environ).settings.admin.bind.port == 0


def test_what_is_shown_can_be_read_back_and_has_no_password(config):
    environ = {
        "MESHWARD_DATABASE_URL": "postgresql+asyncpg://mesh:hunter2@db/mesh?password=hunter2&sslmode=require",
        "MESHWARD_MESH_SERVER_NAMES": "a.example,b.example",
        "MESHWARD_DATA_DIR": 'a "quoted" \\ dir',
        "MESHWARD_SHUTDOWN_GRACE": "1m30s",
        "MESHWARD_QUOTA_CALLERS": "edge=loopback",
    }
    loaded = load(environ)
    shown = as_toml(loaded)
    assert "hunter2" not in shown
    assert "hunter2" not in repr(loaded)
    read_back = load({}, config(shown)).settings
    assert read_back.model_dump(exclude={"database_url"}) == loaded.settings.model_dump(exclude={"database_url"})
    assert tomllib.loads(shown)["mesh"]["server_names"] == ["a.example", "b.example"]
    assert "# policies_dir is not set  # default; MESHWARD_AUTHZ_POLICIES_DIR" in shown
    assert "# MESHWARD_SHUTDOWN_GRACE; MESHWARD_SHUTDOWN_GRACE" in shown


def test_values_for_programs_are_plain():
    values = as_values(load({}))
    assert json.loads(json.dumps(values)) == values
    assert values["ca.svid_default_ttl"] == "1d"
    assert values["authz.policies_dir"] is None


def test_a_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert load({"MESHWARD_DATA_DIR": "~/mesh"}).settings.data_dir == Path("/home/someone/mesh")


@pytest.mark.parametrize("text", ["AB:" * 31 + "AB", "ab" * 32])
def test_a_fingerprint_is_read_as_openssl_prints_it(text):
    assert load({"MESHWARD_CA_TRUSTED_ROOT": text}).settings.ca.trusted_root == "ab" * 32


@pytest.mark.parametrize("text", ["ab" * 31, "ab" * 33, "xy" * 32, "ab" * 32 + "\n"])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(InvalidInputError, match="trusted_root"):
        load({"MESHWARD_CA_TRUSTED_ROOT": text})


def test_gateways_are_networks():
    networks = load({"MESHWARD_CA_XFCC_NETWORKS": "10.1.0.0/16, 2001:db8::/32,192.0.2.7"}).settings.ca.xfcc_networks
    assert [str(network) for network in networks] == ["10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32"]
    for wrong in ("10.1.2.3/16", "gateway", "10.0.0.0/33", ","):
        with pytest.raises(InvalidInputError, match="must be a network"):
            load({"MESHWARD_CA_XFCC_NETWORKS": wrong})


ISSUERS = """
[[ca.jwt_issuers]]
issuer = "https://kubernetes.default.svc"
jwks = "https://10.0.0.1/openid/v1/jwks"
jwks_ca_file = "/ca.crt"
[[ca.jwt_issuers]]
issuer = "https://login.example.org"
audiences = ["mesh", "istio-ca"]
jwks = "/etc/meshward/jwks.json"
"""


def test_issuers_of_jwts_are_tables_in_the_file_and_json_in_the_variable(config):
    by_file = load({}, config(ISSUERS)).settings.ca.jwt_issuers
    first, second = by_file
    assert (first.audiences, first.jwks) == (("istio-ca",), "https://10.0.0.1/openid/v1/jwks")
    assert (second.audiences, second.jwks) == (("mesh", "istio-ca"), Path("/etc/meshward/jwks.json"))
    tables = json.dumps(tomllib.loads(ISSUERS)["ca"]["jwt_issuers"])
    assert load({"MESHWARD_CA_JWT_ISSUERS": tables}).settings.ca.jwt_issuers == by_file


def test_issuers_of_jwts_are_shown_as_they_can_be_read_back(config):
    loaded = load({}, config(ISSUERS))
    assert load({}, config(as_toml(loaded))).settings == loaded.settings


GOOD_ISSUER = {"issuer": "https://a.example", "jwks": "/jwks.json"}


@pytest.mark.parametrize(
    ("issuers", "problem"),
    [
        ("{", "JSON array"),
        ("[" * 100_000, "JSON array"),
        ('["https://a.example"]', r"jwt_issuers\[0\]|dictionary"),
        ([GOOD_ISSUER | {"audience": "x"}], r"ca\.jwt_issuers\[0\]\.audience .*not permitted"),
        ([{"issuer": "https://a.example"}], r"ca\.jwt_issuers\[0\]\.jwks .*required"),
        ([GOOD_ISSUER | {"audiences": []}], "audiences"),
        ([GOOD_ISSUER | {"audiences": [""]}], "audiences"),
        ([GOOD_ISSUER | {"issuer": ""}], "issuer"),
        ([GOOD_ISSUER] * 2, "an issuer twice"),
        ([GOOD_ISSUER | {"issuer": f"https://{number}"} for number in range(17)], "16"),
        ([GOOD_ISSUER | {"jwks": ""}], "must be a path"),
        ([GOOD_ISSUER | {"jwks": "http://a.example/jwks"}], "begins with https://"),
        ([GOOD_ISSUER | {"jwks": "file:///jwks.json"}], "begins with https://"),
        ([GOOD_ISSUER | {"jwks": "https://user@a.example/jwks"}], "without user"),
        ([GOOD_ISSUER | {"jwks": "https://a.example/#x"}], "fragment"),
        ([GOOD_ISSUER | {"jwks": "https://a.example:x/"}], "begins with https://"),
        ([GOOD_ISSUER | {"jwks": "https:///jwks"}], "begins with https://"),
        ([GOOD_ISSUER | {"jwks": "https://a.example/\n"}], "begins with https://"),
        ([GOOD_ISSUER | {"jwks_ca_file": "/ca.crt"}], "jwks_ca_file is for"),
    ],
)
def test_a_wrong_issuer_of_jwts_is_refused_with_its_place(issuers, problem):
    text = issuers if isinstance(issuers, str) else json.dumps(issuers)
    with pytest.raises(InvalidInputError, match=problem) as refusal:
        load({"MESHWARD_CA_JWT_ISSUERS": text})
    assert "MESHWARD_CA_JWT_ISSUERS" in refusal.value.message


def test_keys_may_come_from_this_machine_without_tls():
    issuers = json.dumps([GOOD_ISSUER | {"jwks": "http://127.0.0.1:8080/jwks"}])
    assert load({"MESHWARD_CA_JWT_ISSUERS": issuers}).settings.ca.jwt_issuers[0].jwks == "http://127.0.0.1:8080/jwks"


def test_the_url_of_revocation_lists_is_plain_http_without_a_slash_at_the_end():
    for url in ("http://mesh.example:15014/crl", "https://[::1]:15014/a/crl", "http://10.0.0.1"):
        assert load({"MESHWARD_CA_CRL_URL": url}).settings.ca.crl_url == url
    for url in (
        "http://mesh.example/crl/",
        "ldap://mesh.example",
        "http://",
        "http://a b",
        "http://a/?q",
        "http://ä/crl",
    ):
        with pytest.raises(InvalidInputError, match="crl_url"):
            load({"MESHWARD_CA_CRL_URL": url})
