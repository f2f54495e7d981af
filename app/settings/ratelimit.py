"""The variables of envoyproxy/ratelimit as settings of ours, and what of them has no counterpart."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.core.errors import InvalidInputError

_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "warning": "warning"}
_FORMATS = {"json": "json", "text": "console"}

# Variables whose value is that of a setting, as it is.
_SAME = {
    "LIMIT_LIMIT_HEADER": "quota.limit_header",
    "LIMIT_REMAINING_HEADER": "quota.remaining_header",
    "LIMIT_RESET_HEADER": "quota.reset_header",
    "CACHE_KEY_PREFIX": "counters.prefix",
    "REDIS_TLS_CACERT": "counters.ca_file",
    "REDIS_TLS_CLIENT_CERT": "counters.cert_file",
    "REDIS_TLS_CLIENT_KEY": "counters.key_file",
}
# The same for those that mean something with CONFIG_TYPE=GRPC_XDS_SOTW alone.
_SAME_BY_XDS = {
    "CONFIG_GRPC_XDS_NODE_ID": "quota.xds_node_id",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "quota.xds_cert_file",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "quota.xds_key_file",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "quota.xds_ca_file",
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "quota.xds_server_name",
}
_FLAGS = {
    "SHADOW_MODE": "quota.shadow_mode",
    "QUOTA_MODE": "quota.quota_mode",
    "RESPONSE_DYNAMIC_METADATA": "quota.dynamic_metadata",
    "MERGE_DOMAIN_CONFIG": "quota.merge_domains",
}
# Read together, or by a function of their own.
_READ = frozenset(
    {
        "LIMIT_RESPONSE_HEADERS_ENABLED",
        "NEAR_LIMIT_RATIO",
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "RUNTIME_ROOT",
        "RUNTIME_SUBDIRECTORY",
        "RUNTIME_APPDIRECTORY",
        "REDIS_TYPE",
        "REDIS_SOCKET_TYPE",
        "REDIS_URL",
        "REDIS_TLS",
        "GRPC_UDS",
        "CONFIG_TYPE",
        "CONFIG_GRPC_XDS_SERVER_URL",
        "CONFIG_GRPC_XDS_SERVER_USE_TLS",
        "CONFIG_GRPC_XDS_NODE_METADATA",
        "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
    }
)
# The beginnings of variables that have no counterpart, and what there is instead. The longest that fits counts.
_WITHOUT = {
    "HOST": "/json is on the mesh ports, /healthcheck on the admin port",
    "PORT": "/json is on the mesh ports, /healthcheck on the admin port",
    "DEBUG_": "/rlconfig is on the admin port; there is no profiler",
    "GRPC_HOST": "set mesh.tls_bind, which takes SVIDs, or mesh.plaintext_bind",
    "GRPC_PORT": "set mesh.tls_bind, which takes SVIDs, or mesh.plaintext_bind",
    "GRPC_MAX_": "connections stay open until their clients close them",
    "GRPC_SERVER_": "the TLS port has a certificate of Meshward's own CA",
    "GRPC_CLIENT_": "the TLS port takes SVIDs of the trust domain; quota.callers names who may count",
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "put them into a file, `name: value` on each line, and its path into "
    "quota.xds_headers_file",
    "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "pauses grow from one second to 30, each up to a half shorter",
    "XDS_CLIENT_BACKOFF_": "pauses grow from one second to 30, each up to a half shorter",
    "FORCE_START_WITHOUT_INITIAL_CONFIG": "calls before the configurations are read are an error",
    "USE_DOG_STATSD": "metrics are Prometheus', at /metrics on the admin port",
    "USE_STATSD": "metrics are Prometheus', at /metrics on the admin port",
    "STATSD_": "metrics are Prometheus', at /metrics on the admin port",
    "STATS_": "metrics are Prometheus', at /metrics on the admin port",
    "DISABLE_STATS": "metrics are Prometheus', at /metrics on the admin port",
    "EXTRA_TAGS": "let Prometheus add the labels",
    "USE_PROMETHEUS": "metrics are at /metrics on the admin port",
    "PROMETHEUS_": "metrics are at /metrics on the admin port; relabel them in Prometheus",
    "RUNTIME_IGNOREDOTFILES": "files whose names start with a dot are not read",
    "RUNTIME_WATCH_ROOT": "the directory is read once a second, however it changes",
    "EXPIRATION_JITTER_MAX_SECONDS": "counters expire by themselves",
    "LOCAL_CACHE_SIZE_IN_BYTES": "the store decides on every hit",
    "BACKEND_TYPE": "counters are in memory, Valkey or Redis",
    "MEMCACHE_": "counters are in memory, Valkey or Redis",
    "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "/healthcheck is OK once the configurations are read",
    "REDIS_AUTH": "put the password into a file, and its path into counters.password_file",
    "REDIS_SENTINEL_AUTH": "put the password into a file, and its path into counters.sentinel_password_file",
    "REDIS_PERSECOND": "all limits are counted in one store",
    "REDIS_TIMEOUT": "set counters.timeout_ms, after which a hit is answered without the store",
    "REDIS_": "connections are opened and shared as they are needed",
    "TRACING_": "there is no tracing",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """The settings as a TOML file, and a line for each variable that is set and has no counterpart."""

    toml: str
    notes: tuple[str, ...]


def imported(environment: Mapping[str, str]) -> Imported:
    """Return what the variables of envoyproxy/ratelimit in `environment` mean here; other variables are left out.

    Raises InvalidInputError if one has a value that the service itself would refuse.
    """
    variables = {name: value for name, value in environment.items() if value}
    settings: dict[str, object] = {}
    for name, key in _SAME.items():
        if name in variables:
            settings[key] = variables[name]
    for name, key in _FLAGS.items():
        if name in variables:
            settings[key] = variables[name] in _TRUE
    settings |= dict(_read(variables))
    return Imported(_as_toml(settings), tuple(_notes(variables)))


def _read(variables: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    if variables.get("LIMIT_RESPONSE_HEADERS_ENABLED") in _TRUE:
        yield "quota.headers", ["plain"]
    if variables.get("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT") in _TRUE:
        yield "quota.count_refused", False
    if ratio := variables.get("NEAR_LIMIT_RATIO"):
        yield "quota.near_limit_ratio", _number("NEAR_LIMIT_RATIO", ratio)
    if level := variables.get("LOG_LEVEL"):
        yield "log.level", _LEVELS.get(level.lower(), "error")
    if form := variables.get("LOG_FORMAT"):
        yield "log.format", _FORMATS.get(form.lower(), "auto")
    if variables.get("CONFIG_TYPE", "FILE") == "GRPC_XDS_SOTW":
        yield from _read_xds(variables)
    elif any(name.startswith("RUNTIME_") for name in variables):
        root = variables.get("RUNTIME_ROOT", "/srv/runtime_data/current")
        below = variables.get("RUNTIME_SUBDIRECTORY", ""), variables.get("RUNTIME_APPDIRECTORY", "config")
        yield "quota.configs_dir", str(PurePosixPath(root, *(part.strip("/") for part in below)))
    if socket := variables.get("GRPC_UDS"):
        yield "mesh.plaintext_bind", f"unix:{socket}"
    if any(name in variables for name in ("REDIS_URL", "REDIS_TYPE", "REDIS_SOCKET_TYPE")):
        yield "counters.url", _store_url(variables)


def _read_xds(variables: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for name, key in _SAME_BY_XDS.items():
        if name in variables:
            yield key, variables[name]
    yield "quota.xds_server", variables.get("CONFIG_GRPC_XDS_SERVER_URL", "localhost:18000")
    yield "quota.xds_tls", variables.get("CONFIG_GRPC_XDS_SERVER_USE_TLS") in _TRUE
    metadata = [each for each in variables.get("CONFIG_GRPC_XDS_NODE_METADATA", "").split(",") if "=" in each]
    if metadata:
        yield "quota.xds_node_metadata", metadata
    if size := variables.get("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES"):
        yield "quota.xds_max_message_bytes", int(_number("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", size))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{name} is not a number") from error


def _store_url(variables: Mapping[str, str]) -> str:
    """Return the URL of the store, without user and password, which `REDIS_URL` may have in it."""
    scheme = "valkeys" if variables.get("REDIS_TLS") in _TRUE else "valkey"
    kind = variables.get("REDIS_TYPE", "SINGLE").upper()
    address = variables.get("REDIS_URL", "/var/run/nutcracker/ratelimit.sock")
    if kind == "SINGLE" and variables.get("REDIS_SOCKET_TYPE", "unix") == "unix":
        return f"unix://{address}"
    servers = [each.partition("://")[2] or each for each in address.split(",")]
    servers = [each.rpartition("@")[2] for each in servers]
    if kind == "SENTINEL":
        service, *sentinels = servers
        return f"{scheme}+sentinel://{','.join(sentinels)}/{service}"
    return f"{scheme}{'+cluster' if kind == 'CLUSTER' else ''}://{','.join(servers)}"


def _notes(variables: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(variables.keys() - _SAME.keys() - _SAME_BY_XDS.keys() - _FLAGS.keys() - _READ):
        fitting = [start for start in _WITHOUT if name == start or (start.endswith("_") and name.startswith(start))]
        if name.startswith("REDIS_PERSECOND"):
            fitting = ["REDIS_PERSECOND"]
        if fitting:
            yield f"{name} has no counterpart: {_WITHOUT[max(fitting, key=len)]}"
    if "@" in variables.get("REDIS_URL", ""):
        yield "REDIS_URL has a password that is left out: put it into a file, and its path into counters.password_file"


def _as_toml(settings: Mapping[str, object]) -> str:
    lines: list[str] = []
    area = ""
    for key in sorted(settings):
        table, _, name = key.rpartition(".")
        if table != area:
            area = table
            lines += ["", f"[{area}]"] if lines else [f"[{area}]"]
        # JSON's strings, numbers, booleans and arrays of strings are TOML's as well.
        lines.append(f"{name} = {json.dumps(settings[key], ensure_ascii=False)}")
    return "".join(f"{line}\n" for line in lines)
