"""The servers of a store: one, the primary that sentinels name, or the nodes of a cluster."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog
from valkey.asyncio.cluster import ClusterParser
from valkey.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from valkey.asyncio.sentinel import Sentinel
from valkey.crc import key_slot
from valkey.credentials import CredentialProvider

from app.core.errors import InvalidInputError
from app.core.net import Address
from app.core.store_url import StoreKind, StoreUrl
from app.quota.backends.valkey.exchange import Redirect, Result, Way, close, reason_of
from app.quota.backends.valkey.link import GRACE_SECONDS, Link, LinkOptions, OpenConnection, Value, unchanged
from app.quota.backends.valkey.wire import Key, PreparedHit
from app.quota.model import Outcome
from app.quota.rules.joint import AllOrNone

SLOTS = 16_384
# How often a cluster is asked for its slots at most and at least; each up to a half later, so that replicas do not ask
# together.
MIN_REFRESH_SECONDS, MAX_REFRESH_SECONDS = 0.2, 30.0
# How often a hit is sent in a cluster whose slots move: to where it was, by itself, and to two nodes after that.
MAX_SENDS = 4
# How long a node without slots is connected to after another one has named it: slots are about to move there.
NAMED_SECONDS = 60.0
# How long one node may take to name the slots, and one sentinel the primary.
ASK_SECONDS = 1.0
# A password with its line break.
MAX_PASSWORD_BYTES = 4096

Outcomes = list[Outcome | None]
"""The outcome of each hit, None of one that was not counted."""

log = structlog.get_logger(__name__)


class Servers(Protocol):
    """Where hits are counted: within `answer_seconds`, or not at all."""

    @property
    def answer_seconds(self) -> float:
        """The longest that outcomes take."""
        ...

    @property
    def counts_jointly(self) -> bool:
        """Whether hits can be counted all or none: not where their counters are at several servers."""
        ...

    def add(
        self, hits: Sequence[PreparedHit], finish: Callable[[Outcomes], Value], joint: AllOrNone | None = None
    ) -> Awaitable[Value] | None:
        """Count `hits` and return an awaitable of what `finish` makes of their outcomes; None if no server counts now.

        `joint` is given only where it `counts_jointly`.

        `finish` may change the list.
        """
        ...

    def nodes(self) -> Mapping[str, OpenConnection]:
        """Return how each server that has counters is connected to, by its name, in the order of names."""
        ...

    def node_of(self, key: Key) -> str | None:
        """Return the name of the server that has the counter with the name `key`, None if none is known."""
        ...

    async def run(self) -> None:
        """Keep the connections until cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """Files that connections need: each is None or read when one is opened, so that it can be replaced.

    `sentinel_password` is that of the sentinels, whose user is `sentinel_user`, if it is not the default one.
    """

    password: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    sentinel_password: Path | None = None
    sentinel_user: str = ""


class _Credentials(CredentialProvider):
    """User and password, the password from its file as it is now."""

    def __init__(self, username: str, password: str, file: Path | None) -> None:
        self._username, self._password, self._file = username, password, file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password if self._file is None else read_password(self._file)
        return (self._username, password) if self._username else (password,)


def read_password(file: Path) -> str:
    """Return the password in `file`, without the line break at its end. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(MAX_PASSWORD_BYTES).decode(errors="replace").rstrip("\r\n")


class Connector:
    """Makes connections to the servers of `url`."""

    def __init__(self, url: StoreUrl, files: StoreFiles) -> None:
        self._url, self._files = url, files

    def to(self, address: Address | None) -> AbstractConnection:
        """Return a connection to `address`, or to the Unix socket if that is None. It is not connected yet."""
        options = self.options()
        if address is None:
            return UnixDomainSocketConnection(path=self._url.path, db=self._url.database, **options)
        if self._url.kind is StoreKind.CLUSTER:
            options["parser_class"] = ClusterParser
        kind = SSLConnection if self._url.tls else Connection
        return kind(host=address.host, port=address.port, db=self._url.database, socket_keepalive=True, **options)

    def options(self, *, sentinel: bool = False) -> dict[str, Any]:
        """Return the options of every connection, or of those to a sentinel; the callers set their time limits."""
        options: dict[str, Any] = {"socket_timeout": None, "lib_name": None, "lib_version": None}
        user, password, file = self._url.username, self._url.password, self._files.password
        if sentinel:
            user, password, file = self._files.sentinel_user, "", self._files.sentinel_password
        if user or password or file:
            options["credential_provider"] = _Credentials(user, password, file)
        if self._url.tls:
            options |= {
                "ssl_check_hostname": True,
                "ssl_ca_certs": _text(self._files.ca),
                "ssl_certfile": _text(self._files.certificate),
                "ssl_keyfile": _text(self._files.key),
            }
        return options


class Server:
    """One server, or the primary behind sentinels: all hits of a request, and of those with it, are one step."""

    counts_jointly = True

    def __init__(self, url: StoreUrl, connector: Connector, options: LinkOptions) -> None:
        self._url, self._connector = url, connector
        self.answer_seconds = options.timeout + GRACE_SECONDS
        self._sentinel = _sentinel(url, connector) if url.kind is StoreKind.SENTINEL else None
        self._link = _link(str(url), self._open, options)

    async def _open(self) -> AbstractConnection:
        if self._sentinel is None:
            return self._connector.to(self._url.servers[0] if self._url.servers else None)
        host, port = await self._sentinel.discover_master(self._url.service)
        return self._connector.to(Address(host, int(port)))

    def add(
        self, hits: Sequence[PreparedHit], finish: Callable[[Outcomes], Value], joint: AllOrNone | None = None
    ) -> Awaitable[Value] | None:
        """Count `hits`; see Servers."""
        return self._link.add(hits, finish, joint=joint)  # type: ignore[arg-type]  # only nodes of a cluster redirect

    def nodes(self) -> Mapping[str, OpenConnection]:
        """Return the one server; see Servers."""
        return {str(self._url): self._open}

    def node_of(self, key: Key) -> str | None:  # noqa: ARG002 - it has every counter
        """Return the one server; see Servers."""
        return str(self._url)

    async def run(self) -> None:
        """Keep the connections; see Servers."""
        try:
            await self._link.run()
        finally:
            for sentinel in self._sentinel.sentinels if self._sentinel else ():
                await sentinel.aclose()


class _Sent(NamedTuple):
    """Hits that a node was sent, by their places, and what will come of them."""

    node: Address
    places: Sequence[int]
    results: "asyncio.Future[list[Result]]"


class Cluster:
    """The nodes of a cluster. Each counter has a slot of its own, so that each hit is a step of its own."""

    counts_jointly = False

    def __init__(self, url: StoreUrl, connector: Connector, options: LinkOptions) -> None:
        self._connector, self._options = connector, options
        # A hit may be sent on to another node, while there is time.
        self.answer_seconds = 2 * (options.timeout + GRACE_SECONDS)
        self._seeds = url.servers
        self._nodes: dict[Address, tuple[Link, asyncio.Task[None]]] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        # Nodes without slots that others have named, and until when they are connected to.
        self._named: dict[Address, float] = {}
        self._stale = asyncio.Event()

    def add(
        self,
        hits: Sequence[PreparedHit],
        finish: Callable[[Outcomes], Value],
        joint: AllOrNone | None = None,  # noqa: ARG002 - see `counts_jointly`
    ) -> Awaitable[Value] | None:
        """Count `hits`; see Servers."""
        by_node: dict[Address | None, list[int]] = {}
        for place, (_, key, _) in enumerate(hits):
            by_node.setdefault(self._owners[key_slot(key)], []).append(place)
        sent = [each for node, places in by_node.items() if (each := self._send(node, Way.TOGETHER, hits, places))]
        return self._finish(hits, sent, finish) if sent else None

    def nodes(self) -> Mapping[str, OpenConnection]:
        """Return the primaries; see Servers."""
        return {name: self._opening(address) for name, address in sorted((str(each), each) for each in self._nodes)}

    def node_of(self, key: Key) -> str | None:
        """Return the primary of the counter's slot; see Servers."""
        owner = self._owners[key_slot(key)]
        return None if owner is None else str(owner)

    def _send(self, node: Address | None, way: Way, hits: Sequence[PreparedHit], places: Sequence[int]) -> _Sent | None:
        """Send the hits at `places` to a node; None if it is not connected."""
        link = self._nodes[node][0] if node in self._nodes else None
        results = link.add([hits[place] for place in places], unchanged, way) if link else None
        if node is None or results is None:
            self._stale.set()
            return None
        return _Sent(node, places, results)

    async def _finish(
        self, hits: Sequence[PreparedHit], sent: Sequence[_Sent], finish: Callable[[Outcomes], Value]
    ) -> Value:
        return finish(await self._collect(hits, sent))

    async def _collect(self, hits: Sequence[PreparedHit], sent: Sequence[_Sent]) -> Outcomes:
        """Return the outcomes of what was sent; a hit whose counter has moved is sent on, while there is time."""
        outcomes: Outcomes = [None] * len(hits)
        clock = self._options.clock
        until = clock.monotonic() + self._options.timeout
        for _ in range(MAX_SENDS):
            again: dict[tuple[Address, Way], list[int]] = {}
            for node, places, results in sent:
                for place, result in zip(places, await results, strict=True):
                    if isinstance(result, Redirect):
                        again.setdefault(self._follow(node, result), []).append(place)
                    else:
                        outcomes[place] = result
            if not again or clock.monotonic() >= until:
                break
            sent = [each for (node, way), places in again.items() if (each := self._send(node, way, hits, places))]
        return outcomes

    def _follow(self, asked: Address, redirect: Redirect) -> tuple[Address, Way]:
        """Note where a slot has moved, and return where its hits are to be sent, and how."""
        if redirect.way is Way.APART:
            return asked, Way.APART
        node = Address(redirect.host or asked.host, redirect.port)
        if node not in self._nodes:
            self._named[node] = self._options.clock.monotonic() + NAMED_SECONDS
            self._stale.set()
        elif redirect.way is Way.TOGETHER:
            self._owners[redirect.slot] = node
            self._stale.set()
        return node, redirect.way

    async def run(self) -> None:
        """Keep the connections and the map of slots; see Servers."""
        async with asyncio.TaskGroup() as links:
            failure = ""
            while True:
                try:
                    self._install(await self._discover(), links)
                    failure = ""
                except _NoSlotsError as error:
                    if error.reason != failure:
                        failure = error.reason
                        log.error("counters_cluster_unknown", reason=failure)  # noqa: TRY400 - a reason, not a crash
                self._stale.clear()
                await asyncio.sleep(MIN_REFRESH_SECONDS * random.uniform(1.0, 1.5))  # noqa: S311 - spreads load
                with suppress(TimeoutError):
                    async with asyncio.timeout(MAX_REFRESH_SECONDS * random.uniform(1.0, 1.5)):  # noqa: S311
                        await self._stale.wait()

    async def _discover(self) -> Mapping[Address, Sequence[range]]:
        """Return the slots of each primary, as the first node that answers names them."""
        known = [*self._nodes, *(seed for seed in self._seeds if seed not in self._nodes)]
        reason = "connection"
        for address in known:
            connection = self._connector.to(address)
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    await connection.send_command("CLUSTER SLOTS")
                    found = slots_of(await connection.read_response(), address)
            except Exception as error:  # noqa: BLE001 - the parser of replies raises anything on what is no reply
                reason = reason_of(error)
            else:
                return found
            finally:
                await close(connection)
        raise _NoSlotsError(reason)

    def _install(self, slots: Mapping[Address, Sequence[range]], links: asyncio.TaskGroup) -> None:
        owners: list[Address | None] = [None] * SLOTS
        for address, ranges in slots.items():
            for each in ranges:
                owners[each.start : each.stop] = [address] * len(each)
        now = self._options.clock.monotonic()
        self._named = {address: until for address, until in self._named.items() if until > now}
        wanted = slots.keys() | self._named.keys()
        for address in wanted - self._nodes.keys():
            link = _link(str(address), self._opening(address), self._options, slots.get(address, ()))
            self._nodes[address] = link, links.create_task(link.run())
        for address in self._nodes.keys() - wanted:
            self._nodes.pop(address)[1].cancel()
        self._owners = owners

    def _opening(self, address: Address) -> OpenConnection:
        async def open_connection() -> AbstractConnection:
            return self._connector.to(address)

        return open_connection


class _NoSlotsError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def slots_of(reply: object, asked: Address) -> Mapping[Address, Sequence[range]]:
    """Return the slots of each primary in the reply to CLUSTER SLOTS.

    A node that does not know its own address is the one that was `asked`. Raises ValueError or another error of a
    wrong answer.
    """
    if not isinstance(reply, list) or not reply:
        raise ValueError("no slots")
    found: dict[Address, list[range]] = {}
    for start, end, primary, *_ in reply:
        if not 0 <= start <= end < SLOTS:
            raise ValueError("no such slot")
        host = primary[0].decode() if primary[0] else asked.host
        found.setdefault(Address(host, int(primary[1])), []).append(range(start, end + 1))
    return found


def connect(url: StoreUrl, files: StoreFiles, options: LinkOptions) -> Servers:
    """Return the servers of `url`; nothing is connected before `run`."""
    connector = Connector(url, files)
    if url.kind is StoreKind.CLUSTER:
        return Cluster(url, connector, options)
    if url.kind is StoreKind.MEMORY:
        raise InvalidInputError("memory:// has no servers")
    return Server(url, connector, options)


def _sentinel(url: StoreUrl, connector: Connector) -> Sentinel:
    shared = connector.options(sentinel=True) | {"socket_timeout": ASK_SECONDS, "socket_connect_timeout": ASK_SECONDS}
    servers = [(each.host, each.port) for each in url.servers]
    return Sentinel(servers, sentinel_kwargs=shared | {"ssl": url.tls})  # type: ignore[no-untyped-call]


def _link(
    name: str, open_connection: OpenConnection, options: LinkOptions, owned: Sequence[range] | None = None
) -> Link:
    slot_of = None if owned is None else key_slot
    return Link(name, open_connection, options, probe_key(options.prefix, owned), slot_of)


def probe_key(prefix: str, owned: Sequence[range] | None) -> Key:
    """Return the name of a counter that no limit has, in one of the slots that a node of a cluster owns, if any."""
    for number in range(100 * SLOTS):
        key = f"{prefix}:probe:{number}".encode()
        if not owned or any(key_slot(key) in each for each in owned):
            return key
    raise InvalidInputError("no key has a slot of the node")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
