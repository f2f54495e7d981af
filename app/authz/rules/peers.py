"""PeerAuthentication documents (`security.istio.io/v1`), as far as a check can enforce them.

A check is made after the connection was accepted: what it can do is deny a peer that proved no identity, where STRICT
demands mutual TLS. Istio's reference and validation, `reference/config/security/peer_authentication`; precedence as in
`ComposePeerAuthentication` of istiod.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from app.authz.model import CheckInput, Labels, Scope, TargetKind, Workload
from app.authz.rules.kubernetes import (
    SECURITY_KINDS,
    is_object_key,
    object_key,
    read_head,
    read_selector,
    selector_warnings,
)
from app.authz.rules.values import MAX_PORT
from app.core.errors import Violation
from app.documents.kind import DocumentKind
from app.documents.reader import Reader

KIND = "PeerAuthentication"
# A mesh of a thousand services, each with some.
MAX_DOCUMENTS = 10_000
MAX_BYTES = 64 * 1024
# What a workload listens on.
MAX_PORTS = 256

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LAST = datetime.max.replace(tzinfo=UTC)
_GATEWAY = "gateway"


class PeerMode(Enum):
    """What a workload demands of its peers; UNSET is what the wider scope says."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """One document, parsed. `ports` are the modes by port; `created` is when Kubernetes says that it was."""

    namespace: str
    name: str
    mode: PeerMode = PeerMode.UNSET
    ports: tuple[tuple[int, PeerMode], ...] = ()
    selector: Labels = ()
    created: datetime = _LAST
    warnings: tuple[Violation, ...] = ()

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The workloads of the document."""
        return (Scope(self.selector),)

    @property
    def key(self) -> str:
        """`namespace/name`, by which messages call it."""
        return f"{self.namespace}/{self.name}"

    @property
    def place(self) -> tuple[datetime, str, str]:
        """By which the oldest of several comes first."""
        return self.created, self.namespace, self.name


@dataclass(frozen=True, slots=True)
class PeerModes:
    """What one workload demands: `mode`, and on some ports another, each with the key of the document that says so."""

    mode: PeerMode = PeerMode.PERMISSIVE
    by: str = ""
    ports: Mapping[int, tuple[PeerMode, str]] = field(default_factory=dict[int, tuple[PeerMode, str]])

    def refusal(self, request: CheckInput) -> str:
        """Return why the peer of `request` is refused, empty if it is not.

        Where the port is missing, it is one that demands most.
        """
        source = request.connection.source
        if source is not None and source.principal:
            return ""
        by = self._strict_by(request.connection.destination_port)
        if by is None or _is_gateway(request.connection.workload):
            return ""
        peer = "is not known to have proved an identity" if source is None else "proved no identity, as over plaintext"
        return f"the peer {peer}, and PeerAuthentication {by} demands mutual TLS (STRICT)"

    def _strict_by(self, port: int | None) -> str | None:
        found = (
            [(self.mode, self.by), *self.ports.values()]
            if port is None
            else [self.ports.get(port, (self.mode, self.by))]
        )
        return next((by for mode, by in found if mode is PeerMode.STRICT), None)


def modes_of(documents: Iterable[PeerAuthentication], root: str) -> PeerModes:
    """Return what a workload demands to which all of `documents` apply.

    The narrowest scope that has a mode decides; of several documents of one scope, the oldest. Documents of the root
    namespace with a selector are ignored, as in Istio.
    """
    mesh: list[PeerAuthentication] = []
    namespace: list[PeerAuthentication] = []
    workload: list[PeerAuthentication] = []
    for each in sorted(documents, key=lambda each: each.place):
        if not each.selector:
            (mesh if each.namespace == root else namespace).append(each)
        elif each.namespace != root:
            workload.append(each)
    mode, by = PeerMode.PERMISSIVE, ""
    for scope in (mesh, namespace, workload):
        if scope and scope[0].mode is not PeerMode.UNSET:
            mode, by = scope[0].mode, scope[0].key
    ports = {
        port: (mode, by) if at is PeerMode.UNSET else (at, workload[0].key)
        for port, at in (workload[0].ports if workload else ())
    }
    return PeerModes(mode, by, ports)


def _is_gateway(workload: Workload | None) -> bool:
    """Whether the workload is a gateway, to which Istio applies no PeerAuthentication: its peers are of no mesh."""
    labels = dict(workload.labels or ()) if workload else {}
    return TargetKind.GATEWAY.value in labels or labels.get("istio", "").endswith(_GATEWAY)


def _read(document: Reader) -> PeerAuthentication:
    namespace, name, _ = read_head(document, KIND)
    created = _created(document)
    spec = document.child("spec")
    mode = PeerMode.UNSET
    ports: tuple[tuple[int, PeerMode], ...] = ()
    selector: Labels = ()
    warnings: tuple[Violation, ...] = ()
    if spec is not None:
        selector, warnings = read_selector(spec), tuple(selector_warnings(spec.value))
        mode = _read_mode(spec.child("mtls"))
        ports = tuple(_read_ports(spec, selector))
        spec.close()
    document.close()
    return PeerAuthentication(namespace, name, mode, ports, selector, created, warnings)


def _created(document: Reader) -> datetime:
    metadata = document.value.get("metadata")
    text = metadata.get("creationTimestamp") if isinstance(metadata, Mapping) else None
    try:
        created = datetime.fromisoformat(text) if isinstance(text, str) else _LAST
    except ValueError:
        return _LAST
    return created if created.tzinfo else _LAST


def _read_mode(mtls: Reader | None) -> PeerMode:
    if mtls is None:
        return PeerMode.UNSET
    text = mtls.text("mode") if mtls.has("mode") else PeerMode.UNSET.value
    mtls.close()
    try:
        return PeerMode(text)
    except ValueError:
        mtls.refuse("mode", f"{text!r} is not a mode: use STRICT, PERMISSIVE, DISABLE or UNSET")
        return PeerMode.UNSET


def _read_ports(spec: Reader, selector: Labels) -> Iterator[tuple[int, PeerMode]]:
    ports = spec.child("portLevelMtls")
    if ports is None:
        return
    if not selector:
        spec.refuse("portLevelMtls", "needs a selector: a mesh or a namespace has no ports")
    if not ports.value or len(ports.value) > MAX_PORTS:
        spec.refuse("portLevelMtls", f"must have 1 to {MAX_PORTS} ports: leave it out if none is meant")
        return
    for port in ports.value:
        text = str(port)
        if not _PORT.fullmatch(text) or int(text) > MAX_PORT:
            ports.refuse(port, f"is not a port: write a number from 1 to {MAX_PORT}")
        elif (mtls := ports.child(port)) is not None:
            yield int(text), _read_mode(mtls)


def _warnings_of(document: PeerAuthentication) -> Sequence[Violation]:
    return document.warnings


PEER_AUTHENTICATION_KIND = DocumentKind(
    name="peer_authentication",
    noun="peer authentication",
    plural="peer authentications",
    key_field="metadata",
    read=_read,
    key_of=object_key,
    is_key=is_object_key,
    beside=SECURITY_KINDS - {KIND},
    max_documents=MAX_DOCUMENTS,
    max_bytes=MAX_BYTES,
    warnings_of=_warnings_of,
)
