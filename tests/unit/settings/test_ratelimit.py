"""The variables of envoyproxy/ratelimit become settings that load, or are named."""

import tomllib

import pytest

from app.core.errors import InvalidInputError
from app.settings import load
from app.settings.ratelimit import imported


def settings(**variables):
    return tomllib.loads(imported(variables).toml)


def notes(**variables):
    return list(imported(variables).notes)


def test_the_result_is_a_settings_file(tmp_path):
    result = imported(
        {
            "SHADOW_MODE": "true",
            "QUOTA_MODE": "0",
            "RESPONSE_DYNAMIC_METADATA": "T",
            "NEAR_LIMIT_RATIO": "0.9",
            "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
            "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
            "LIMIT_RESET_HEADER": "X-Reset",
            "LOG_LEVEL": "WARN",
            "LOG_FORMAT": "json",
            "RUNTIME_ROOT": "/srv/runtime",
            "RUNTIME_SUBDIRECTORY": "ratelimit",
            "GRPC_UDS": "/run/ratelimit.sock",
            "REDIS_SOCKET_TYPE": "tcp",
            "REDIS_URL": "redis.example.org:6379",
            "REDIS_TLS": "true",
            "REDIS_TLS_CACERT": "/etc/redis/ca.pem",
            "CACHE_KEY_PREFIX": "limits",
            "PATH": "/usr/bin",
        }
    )
    file = tmp_path / "meshward.toml"
    file.write_text(result.toml)
    loaded = load({}, file).settings
    assert (loaded.quota.shadow_mode, loaded.quota.quota_mode, loaded.quota.dynamic_metadata) == (True, False, True)
    assert (loaded.quota.near_limit_ratio, loaded.quota.headers) == (0.9, ("plain",))
    assert loaded.quota.count_refused is False
    assert (loaded.quota.reset_header, str(loaded.quota.configs_dir)) == ("X-Reset", "/srv/runtime/ratelimit/config")
    assert (loaded.log.level, loaded.log.format) == ("warning", "json")
    assert str(loaded.mesh.plaintext_bind) == "unix:/run/ratelimit.sock"
    assert (str(loaded.counters.url), loaded.counters.prefix) == ("valkeys://redis.example.org:6379", "limits")
    assert result.notes == ()


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"REDIS_URL": "/run/redis.sock"}, "unix:///run/redis.sock"),
        ({"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "a:1"}, "valkey://a:1"),
        ({"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis://user:hunter2@a:1"}, "valkey://a:1"),
        ({"REDIS_TYPE": "sentinel", "REDIS_URL": "mymaster,a:1,b:2"}, "valkey+sentinel://a:1,b:2/mymaster"),
        ({"REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:1,b:2", "REDIS_TLS": "1"}, "valkeys+cluster://a:1,b:2"),
    ],
)
def test_the_store_becomes_a_url_without_secrets(variables, url):
    assert settings(**variables) == {"counters": {"url": url}}
    assert str(load({"MESHWARD_COUNTERS_URL": url}).settings.counters.url) == url


def test_a_management_server_becomes_settings(tmp_path):
    result = imported(
        {
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_NODE_ID": "edge",
            "CONFIG_GRPC_XDS_NODE_METADATA": "role=edge,zone=a",
            "CONFIG_GRPC_XDS_SERVER_URL": "xds.example.org:18000",
            "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
            "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/etc/xds/cert.pem",
            "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/etc/xds/key.pem",
            "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/etc/xds/ca.pem",
            "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "xds",
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "authorization:hunter2",
            "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "1000000",
            "XDS_CLIENT_BACKOFF_JITTER": "true",
            "MERGE_DOMAIN_CONFIG": "true",
            "RUNTIME_ROOT": "/data",
        }
    )
    file = tmp_path / "meshward.toml"
    file.write_text(result.toml)
    quota = load({}, file).settings.quota
    assert (str(quota.xds_server), quota.xds_tls, quota.xds_server_name) == ("xds.example.org:18000", True, "xds")
    assert (quota.xds_node_id, quota.xds_node_metadata) == ("edge", ("role=edge", "zone=a"))
    assert [str(each) for each in (quota.xds_ca_file, quota.xds_cert_file, quota.xds_key_file)] == [
        "/etc/xds/ca.pem",
        "/etc/xds/cert.pem",
        "/etc/xds/key.pem",
    ]
    assert (quota.xds_max_message_bytes, quota.merge_domains, quota.configs_dir) == (1_000_000, True, None)
    assert [note.partition(" ")[0] for note in result.notes] == [
        "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
        "XDS_CLIENT_BACKOFF_JITTER",
    ]
    assert "hunter2" not in result.toml + str(result.notes)


def test_a_management_server_that_is_not_used_gives_nothing():
    assert settings(CONFIG_TYPE="FILE", CONFIG_GRPC_XDS_NODE_ID="a", CONFIG_GRPC_XDS_SERVER_URL="xds:18000") == {}


def test_a_management_server_without_tls_is_called_as_it_was():
    assert settings(CONFIG_TYPE="GRPC_XDS_SOTW") == {"quota": {"xds_server": "localhost:18000", "xds_tls": False}}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"XDS_SERVER": "a:1", "CONFIGS_DIR": "/configs"}, "set one of them"),
        ({"XDS_SERVER": "a:1", "XDS_CERT_FILE": "/cert"}, "must be set together"),
        ({"XDS_SERVER": "a"}, "host:port"),
        ({"XDS_NODE_METADATA": "role"}, "KEY=VALUE"),
    ],
)
def test_settings_of_a_management_server_that_do_not_fit_are_refused(variables, problem):
    with pytest.raises(InvalidInputError, match=problem):
        load({f"MESHWARD_QUOTA_{name}": value for name, value in variables.items()})


def test_what_has_no_counterpart_is_named():
    found = notes(USE_STATSD="false", REDIS_PERSECOND_URL="x", MEMCACHE_SRV="y", DEBUG_PORT="6070", PATH="/bin")
    assert [note.partition(" ")[0] for note in found] == [
        "DEBUG_PORT",
        "MEMCACHE_SRV",
        "REDIS_PERSECOND_URL",
        "USE_STATSD",
    ]
    assert "one store" in found[2]


def test_passwords_are_not_printed():
    result = imported({"REDIS_AUTH": "hunter2", "REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis://:hunter2@a:1"})
    assert "hunter2" not in result.toml + str(result.notes)
    assert len(result.notes) == 2


def test_an_environment_without_its_variables_gives_nothing():
    assert imported({"PATH": "/bin", "HOME": "/root"}).toml == ""


def test_a_value_that_it_would_refuse_is_refused():
    with pytest.raises(InvalidInputError, match="NEAR_LIMIT_RATIO"):
        imported({"NEAR_LIMIT_RATIO": "most"})
