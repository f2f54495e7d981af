"""Appending to the transparency log, in the transaction that does what the entries say."""

from collections.abc import Sequence

from app.ca.ports import CaRepository
from app.ca.rules.log import LogEntry, LogLeaf, entry_hash
from app.ca.rules.merkle import Frontier


async def append(repository: CaRepository, entries: Sequence[LogEntry]) -> None:
    """Append entries in the transaction that does what they say. Concurrent transactions append one after the other.

    The transaction ends with ConflictError if there are leaves in the place of the new ones.
    """
    await extend(repository, await repository.log_frontier(), entries)


async def extend(repository: CaRepository, frontier: Frontier, entries: Sequence[LogEntry]) -> None:
    """Append entries in a transaction that has read the log's frontier. Ends as `append`."""
    leaves = [entry_hash(entry) for entry in entries]
    grown, nodes = frontier.grown(leaves)
    numbered = zip(range(frontier.size, grown.size), entries, leaves, strict=True)
    placed = [LogLeaf(entry.subject, entry.text, index, leaf) for index, entry, leaf in numbered]
    await repository.extend_log(placed, nodes, grown)
