"""Verifying the transparency log as somebody who trusts nothing but the trust bundle."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from pydantic import ValidationError

from app.ca.rest.identities import SvidView
from app.ca.rest.log import ConsistencyView, InclusionView, LeafView, TreeHeadView
from app.ca.rules.log import (
    Inclusion,
    LogLeaf,
    SignedTreeHead,
    check_certificate,
    check_consistency,
    check_head,
    check_inclusion,
    check_tree,
    serial_of,
    svid_entry,
)
from app.cli.admin import AdminClient
from app.core.errors import InvalidInputError, located
from app.core.json_text import parse_object
from app.spiffe.bundle import MAX_BUNDLE_BYTES, parse_bundle
from app.spiffe.x509_svid import MAX_CERTIFICATE_BYTES, parse_certificate
from app.transport.rest.pages import MAX_PAGE_SIZE
from app.transport.rest.views import View

# A proof has some twenty hashes, an entry and a certificate; so has a line of an exported log.
MAX_LINE_BYTES = 256 * 1024

Document = dict[str, Any]
SomeView = TypeVar("SomeView", bound=View)


class Verifier:
    """Verifies against a trust bundle, and if they are given, a tree head that was kept and a certificate to find."""

    def __init__(self, bundle: Path, head: Path | None, certificate: Path | None) -> None:
        """Read the files. Raises InvalidInputError for what cannot be read, or is not what it should be."""
        with located(str(bundle)):
            self._roots = parse_bundle(_text(bundle, MAX_BUNDLE_BYTES))
        self._kept = read_head(head) if head else None
        self._certificate = read_certificate(certificate) if certificate else None
        if self._kept is not None:
            check_head(self._kept, self._roots)

    def verify_proof(self, path: Path) -> str:
        """Return what a proof of inclusion, or of consistency with the kept head, shows.

        Raises InvalidInputError if it does not hold.
        """
        document = parse_object(_text(path, MAX_LINE_BYTES), str(path))
        if "leaf" in document:
            return self._inclusion(_read(InclusionView, document, str(path)))
        if self._kept is None:
            raise InvalidInputError("a proof of consistency is verified against a tree head: name it with --head")
        proof = _read(ConsistencyView, document, str(path))
        head = proof.head.value()
        check_head(head, self._roots)
        check_consistency(self._kept, head, proof.proof)
        return f"the log of {head.size} entries begins with the one of {self._kept.size}"

    def verify_export(self, path: Path) -> str:
        """Return what an exported log shows. Raises InvalidInputError if it is not whole."""
        head, _ = self._log(_lines(path), str(path))
        return _whole(head)

    def verify_server(self, client: AdminClient) -> Iterator[str]:
        """Yield what the log of a running control plane shows, and its records of SVIDs.

        Raises InvalidInputError if the log is not whole, or a record is not what the log says.
        """
        head, leaves = self._log(exported(client), "the log")
        yield _whole(head)
        entries = {leaf.subject: leaf for leaf in leaves}
        count = 0
        for record in client.items("/v1/svids", max_pages=None):
            view = _read(SvidView, record, "an SVID")
            said = entries.get(view.serial)
            if said is None and view.issued_at > head.signed_at:
                continue  # since the head was signed
            if said is None or said.text != svid_entry(view.value()).text:
                raise InvalidInputError(
                    f"the record of the SVID {view.serial} is not what the log says: it was changed"
                )
            count += 1
        yield f"{count} records of SVIDs are as the log has them"

    def _inclusion(self, proof: InclusionView) -> str:
        inclusion = Inclusion(_leaf(proof.leaf), proof.head.value(), tuple(proof.proof))
        check_head(inclusion.head, self._roots)
        check_inclusion(inclusion)
        if self._certificate is not None:
            check_certificate(inclusion.leaf, self._certificate)
        return f"entry {inclusion.leaf.index} of the log of {inclusion.head.size} entries is {inclusion.leaf.text}"

    def _log(self, documents: Iterator[Document], name: str) -> tuple[SignedTreeHead, Sequence[LogLeaf]]:
        head = _read(TreeHeadView, next(documents, {}), name).value()
        check_head(head, self._roots)
        leaves = [_leaf(_read(LeafView, document, name)) for document in documents]
        check_tree(head, leaves)
        if self._kept is not None:
            check_tree(self._kept, leaves[: self._kept.size])
        if self._certificate is not None:
            serial = serial_of(self._certificate)
            found = [leaf for leaf in leaves if leaf.subject == serial]
            if not found:
                raise InvalidInputError(f"the log has no certificate with the serial number {serial}")
            check_certificate(found[-1], self._certificate)
        return head, leaves


def exported(client: AdminClient) -> Iterator[Document]:
    """Yield the signed head, then each entry that it covers, as the admin API returns them."""
    head: Document = client.get("/v1/log/head")
    yield head
    pages = -(-head["size"] // MAX_PAGE_SIZE)
    yield from islice(client.items("/v1/log/entries", max_pages=pages), head["size"])


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a PEM file. Raises InvalidInputError if there is none."""
    end = "-----END CERTIFICATE-----"
    with located(str(path)):
        first, mark, _ = _text(path, MAX_CERTIFICATE_BYTES * 8).partition(end)
        return parse_certificate(first + mark)


def read_head(path: Path) -> SignedTreeHead:
    """Return the tree head of a file. Raises InvalidInputError if it is none."""
    return _read(TreeHeadView, parse_object(_text(path, MAX_LINE_BYTES), str(path)), str(path)).value()


def _whole(head: SignedTreeHead) -> str:
    return f"the log of {head.size} entries, signed at {head.signed_at.isoformat()}, is whole"


def _leaf(view: LeafView) -> LogLeaf:
    return LogLeaf(view.subject, view.text, view.index, view.hash)


def _read(view: type[SomeView], document: Document, name: str) -> SomeView:
    try:
        return view.model_validate(document)
    except ValidationError as error:
        raise InvalidInputError(
            f"{name} is not a document of the transparency log: {error.error_count()} faults"
        ) from error


def _lines(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as file:
            while line := file.readline(MAX_LINE_BYTES):
                yield parse_object(line, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error


def _text(path: Path, most: int) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(most)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
