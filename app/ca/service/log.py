"""The transparency log: what the CA did, in an order that cannot be changed without being seen (RFC 9162)."""

from collections.abc import Sequence

import structlog

from app.ca.model import CaConfig
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.log import (
    Inclusion,
    LogLeaf,
    SignedTreeHead,
    TreeHead,
    UnsignedHead,
    check_consistency,
    check_head,
)
from app.ca.rules.merkle import (
    Span,
    consistency_spans,
    inclusion_spans,
    span_hash,
    tiles_under,
)
from app.ca.service.authorities import Authorities
from app.core.clock import Clock
from app.core.errors import (
    InternalError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    Violation,
)
from app.core.signals import Latest
from app.spiffe.x509_svid import parse_certificate

log = structlog.get_logger(__name__)


class TransparencyLog:
    """Signs tree heads, and proves what is in the log."""

    def __init__(self, config: CaConfig, transactions: CaTransactions, authorities: Authorities, clock: Clock) -> None:
        self._config, self.transactions = config, transactions
        self._authorities, self._clock = authorities, clock
        self._problem: Latest[str | None] = Latest(None)
        self._signed: SignedTreeHead | None = None

    def check(self) -> None:
        """Raise PreconditionError if the stored log is not the continuation of what was signed before."""
        if self._problem.value is not None:
            raise PreconditionError(self._problem.value)

    async def maintain(self) -> None:
        """Sign a head if the log has grown, there is an authority to sign with, and its past is what was signed.

        A log whose past has changed is never signed; that is reported by `check`.
        """
        async with self.transactions() as repository:
            stored, frontier = await repository.newest_head(), await repository.log_frontier()
            if frontier.size == 0 or self._authorities.waiting_for is not None:
                return
            head = TreeHead(
                self._config.trust_domain, frontier.size, frontier.root, self._clock.now().replace(microsecond=0)
            )
            try:
                signed = self._past(stored)
                if signed is None or (signed.size, signed.root_hash) != (head.size, head.root_hash):
                    await _check_continues(repository, signed, head)
                    active = self._authorities.active()
                    signed = await active.key.sign(UnsignedHead(head, "".join(active.signer.chain)))
                    await repository.add_head(signed)
            except InvalidInputError as error:
                if self._problem.set(f"the transparency log was changed from outside: {error.message}"):
                    log.error("ca_log_changed", reason=error.message)  # noqa: TRY400 - a finding, not a fault
                return
        self._signed = signed
        self._problem.set(None)

    def _past(self, stored: SignedTreeHead | None) -> SignedTreeHead | None:
        """Return the head that the log has to continue: the stored one, or one that this process has seen beyond it.

        Raises InvalidInputError if no authority of ours signed the stored one.
        """
        if stored is not None and stored != self._signed:
            check_head(stored, [parse_certificate(root) for root in self._authorities.bundle().roots])
        if self._signed is not None and (stored is None or stored.size < self._signed.size):
            return self._signed
        return stored

    async def head(self, size: int | None = None) -> SignedTreeHead:
        """Return the newest signed head, or the one of a size. Raises NotFoundError if there is none."""
        async with self.transactions() as repository:
            return await _head(repository, size)

    async def page(self, start: int, limit: int) -> Sequence[LogLeaf]:
        """Return at most `limit` entries from the index `start` on."""
        async with self.transactions() as repository:
            return await repository.log_leaves(start, limit)

    async def inclusion(self, subject: str) -> Inclusion:
        """Return the proof that the entry of a subject, such as a serial number, is in the log of the newest head.

        Raises NotFoundError if the log has no such entry, UnavailableError if no head has been signed since.
        """
        async with self.transactions() as repository:
            leaf = await repository.log_leaf_of(subject)
            if leaf is None:
                raise NotFoundError(f"the log has no entry of {subject}")
            head = await _head(repository, None)
            if leaf.index >= head.size:
                raise UnavailableError("the entry is newer than the last signed tree head: retry in a second")
            proof = await _hashes(repository, inclusion_spans(leaf.index, head.size))
            return Inclusion(leaf, head, proof)

    async def consistency(self, first: int, second: int | None = None) -> tuple[SignedTreeHead, tuple[bytes, ...]]:
        """Return a signed head, the newest or that of size `second`, and the proof that its log begins with `first`.

        RFC 9162, section 2.1.4. Raises NotFoundError if there is no such head, InvalidInputError unless
        0 < `first` <= its size.
        """
        async with self.transactions() as repository:
            head = await _head(repository, second)
            if not 0 < first <= head.size:
                problem = f"not between 1 and {head.size}"
                raise InvalidInputError("the log has no such size", Violation("first", problem))
            return head, await _hashes(repository, consistency_spans(first, head.size))


async def _head(repository: CaRepository, size: int | None) -> SignedTreeHead:
    head = await (repository.newest_head() if size is None else repository.head_of(size))
    if head is None:
        raise NotFoundError("no tree head has been signed yet" if size is None else f"no tree head of size {size}")
    return head


async def _check_continues(repository: CaRepository, signed: SignedTreeHead | None, head: TreeHead) -> None:
    """Check that the stored tree is that of the new head and begins with the signed one. Raises InvalidInputError."""
    if signed is None or signed.size == 0:
        return
    proof = () if signed.size >= head.size else await _hashes(repository, consistency_spans(signed.size, head.size))
    check_consistency(signed, head, proof)


async def _hashes(repository: CaRepository, spans: Sequence[Span]) -> tuple[bytes, ...]:
    """Return the hashes of subtrees. Raises InternalError if a node that they are computed from is not stored."""
    stored = await repository.log_nodes(tiles_under(spans))
    try:
        return tuple(span_hash(span, stored.__getitem__) for span in spans)
    except KeyError as error:
        raise InternalError("a node of the transparency log is missing in the database") from error
