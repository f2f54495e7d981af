"""The connections of checks over gRPC: who sends, to which workload, and what the proxy's configuration declares.

All of a check but its request is the same for the requests of a connection, so that it is remembered by its bytes.
"""

from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from app.authz.model import Connection, Matching, Workload
from app.authz.rpc.attributes import READS, labels_of
from app.authz.rpc.declared import read_forwarded
from app.authz.rpc.destination import Gateways, Named, read_workload
from app.authz.rpc.message import AttributeContext
from app.authz.rpc.metadata import read_filters
from app.authz.rpc.peers import reader_of_peers
from app.authz.rules.addresses import read_address
from app.spiffe.id import SCHEME, SpiffeId

NAMESPACE_EXTENSION = "meshward.namespace"
LABELS_EXTENSION = "meshward.labels"
FORWARDED_EXTENSION = "meshward.forwarded_headers"
METADATA_EXTENSION = "meshward.metadata"

# Connections that are kept, of all proxies; beyond that all are dropped and read again. Longer ones, which have a large
# certificate, are not kept.
MAX_KNOWN_CONNECTIONS = 4096
MAX_KNOWN_CONNECTION = 6 * 1024
# Destinations that were read recently: a sidecar asks about one, or a few if its workload has several ports.
MAX_KNOWN_DESTINATIONS = 2048


@dataclass(frozen=True, slots=True)
class Declared:
    """A connection, and what the proxy's configuration declares of the checks about its requests.

    `forwarded_headers` are the headers that they have if the request has them, None for all of them, `filters` the
    names of filters whose metadata is believed, None for none.
    """

    connection: Connection
    forwarded_headers: Container[str] | None
    filters: tuple[str, ...] | None


class Connections:
    """Reads the connections of checks, and remembers them."""

    def __init__(self, matching: Matching, gateways: Gateways, trusted_hops: int) -> None:
        self._reads, self._read_peer = READS[matching], reader_of_peers(matching)
        self._gateways, self._trusted_hops = gateways, trusted_hops
        self._known: dict[tuple[bytes, SpiffeId | None], Declared] = {}
        self._workload = lru_cache(maxsize=MAX_KNOWN_DESTINATIONS)(self._read_workload)

    def read(self, serialized: bytes, caller: SpiffeId | None) -> Declared:
        """Return the connection in a serialized AttributeContext of a check of `caller`.

        Raises InvalidInputError if it cannot be evaluated, DecodeError if the bytes are none.
        """
        return self._known.get((serialized, caller)) or self._learn(serialized, caller)

    def _learn(self, serialized: bytes, caller: SpiffeId | None) -> Declared:
        declared = self._read(serialized, caller)
        if len(serialized) <= MAX_KNOWN_CONNECTION:
            if len(self._known) >= MAX_KNOWN_CONNECTIONS:
                self._known.clear()
            self._known[serialized, caller] = declared
        return declared

    def _read(self, serialized: bytes, caller: SpiffeId | None) -> Declared:
        attributes = AttributeContext.FromString(serialized)
        source, destination, named = attributes.source, attributes.destination, attributes.context_extensions
        identity = self._read_peer(source.principal, source.certificate)
        at = destination.address.socket_address
        connection = Connection(
            self._workload(
                destination.principal,
                tuple(destination.labels.items()),
                caller,
                named.get(NAMESPACE_EXTENSION),
                named.get(LABELS_EXTENSION),
            ),
            identity,
            read_address(source.address.socket_address.address),
            read_address(at.address),
            at.port_value or None,
            self._server_name(attributes),
            self._trusted_hops,
        )
        forwarded, filters = named.get(FORWARDED_EXTENSION), named.get(METADATA_EXTENSION)
        return Declared(
            connection,
            None if forwarded is None else read_forwarded(forwarded),
            None if filters is None else read_filters(filters),
        )

    def _read_workload(
        self,
        principal: str,
        labels: tuple[tuple[str, str], ...],
        caller: SpiffeId | None,
        named_namespace: str | None,
        named_labels: str | None,
    ) -> Workload | None:
        # A listener that shows a certificate of the web has its name here, which says nothing of the mesh.
        shown = SpiffeId.parse(principal) if principal.startswith(SCHEME) else None
        given = labels_of(dict(labels)) if labels else None
        return read_workload(self._gateways, caller, shown, Named(named_namespace, named_labels), given)

    def _server_name(self, attributes: Any) -> str | None:
        """Return the server name of the TLS connection; None if the check does not have it.

        Without `include_tls_session` it has none. A connection over plaintext has no server name, and is known by its
        peer, of which nothing is verified.
        """
        reads, source = self._reads, attributes.source
        if not attributes.HasField("tls_session"):
            return None if source.principal or source.certificate else reads.no_server_name
        name = attributes.tls_session.sni
        return reads.server_name(name) if name else reads.no_server_name
