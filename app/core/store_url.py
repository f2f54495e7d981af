"""The URL of a counter store: memory, or Valkey and Redis as one server, behind sentinels, or as a cluster."""

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote, unquote

from app.core.errors import InvalidInputError
from app.core.net import Address, parse_address

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
# Servers in one URL: three or five sentinels, some nodes of a cluster.
MAX_SERVERS = 32
# Databases that a server can be configured to have.
MAX_DATABASE = 65_535
FORMS = (
    "memory://, valkey://HOST:PORT, valkeys://HOST:PORT (TLS), valkey+sentinel://HOST,HOST/SERVICE, "
    "valkey+cluster://HOST,HOST or unix:///PATH; redis:// and rediss:// mean the same as valkey:// and valkeys://"
)

_URL = re.compile(r"(?P<scheme>valkeys?|rediss?)(?:\+(?P<kind>sentinel|cluster))?://(?P<rest>.*)", re.DOTALL)
_DATABASE = re.compile(r"[0-9]{1,5}")
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")


class StoreKind(Enum):
    """How the servers of a store work together."""

    MEMORY = "memory"
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed URL: `servers` to ask first, or a Unix socket at `path`; `service` is what sentinels know it by."""

    kind: StoreKind
    servers: tuple[Address, ...] = ()
    path: str = ""
    tls: bool = False
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the URL without user and password."""
        if self.kind is StoreKind.MEMORY:
            return "memory://"
        if self.path:
            return f"unix://{quote(self.path)}" + (f"?db={self.database}" if self.database else "")
        kind = "" if self.kind is StoreKind.SINGLE else f"+{self.kind.value}"
        rest = [self.service] * bool(self.service) + [str(self.database)] * bool(self.database)
        return "/".join([f"valkey{'s' * self.tls}{kind}://{','.join(map(str, self.servers))}", *rest])


def parse_store_url(text: str) -> StoreUrl:
    """Return what `text` spells. Raises InvalidInputError, whose message has no part of the URL."""
    if text == "memory://":
        return StoreUrl(StoreKind.MEMORY)
    if text.startswith("unix://"):
        return _unix(text.removeprefix("unix://"))
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"must be {FORMS}")
    authority, _, path = match["rest"].partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, password = _credentials(credentials)
    kind = StoreKind(match["kind"] or "single")
    service, _, database = path.partition("/") if kind is StoreKind.SENTINEL else ("", "", path)
    if kind is StoreKind.SENTINEL and not _SERVICE.fullmatch(service):
        raise InvalidInputError("needs the name of the sentinels' service after the hosts: valkey+sentinel://HOST/NAME")
    if kind is StoreKind.CLUSTER and database not in {"", "0"}:
        raise InvalidInputError("has a database, and a cluster has database 0 alone")
    return StoreUrl(
        kind,
        _servers(hosts, kind),
        tls=match["scheme"].endswith("s") and match["scheme"] != "redis",
        service=service,
        database=_database(database),
        username=username,
        password=password,
    )


def _unix(rest: str) -> StoreUrl:
    authority, slash, path = rest.partition("/")
    credentials = authority.removesuffix("@")
    if not slash or (authority and credentials == authority):
        raise InvalidInputError("must have an absolute path: unix:///run/valkey.sock")
    path, _, query = path.partition("?")
    database = query.removeprefix("db=")
    if not path or "\0" in path or (query and database == query):
        raise InvalidInputError("must be unix:///PATH, or unix:///PATH?db=NUMBER")
    username, password = _credentials(credentials)
    found = StoreUrl(StoreKind.SINGLE, path=f"/{unquote(path)}", username=username, password=password)
    return found if not database else _with_database(found, database)


def _with_database(url: StoreUrl, database: str) -> StoreUrl:
    return StoreUrl(url.kind, path=url.path, username=url.username, password=url.password, database=_database(database))


def _credentials(text: str) -> tuple[str, str]:
    """Return user and password of `user:password`; a user alone has no password, `:password` is the default user's."""
    username, _, password = text.partition(":")
    return unquote(username), unquote(password)


def _servers(text: str, kind: StoreKind) -> tuple[Address, ...]:
    default = DEFAULT_SENTINEL_PORT if kind is StoreKind.SENTINEL else DEFAULT_PORT
    hosts = text.split(",")
    if kind is StoreKind.SINGLE and len(hosts) > 1:
        raise InvalidInputError("has several hosts: use valkey+sentinel:// or valkey+cluster://")
    if len(hosts) > MAX_SERVERS:
        raise InvalidInputError(f"has more than {MAX_SERVERS} hosts")
    try:
        return tuple(parse_address(host, default_port=default) for host in hosts)
    except InvalidInputError as error:
        raise InvalidInputError(f"must have HOST or HOST:PORT between '://' and '/'; use {FORMS}") from error


def _database(text: str) -> int:
    if not text:
        return 0
    if not _DATABASE.fullmatch(text) or int(text) > MAX_DATABASE:
        raise InvalidInputError(f"has a path that is no database: a number up to {MAX_DATABASE}")
    return int(text)
