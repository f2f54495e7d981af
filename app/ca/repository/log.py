"""Queries of the transparency log."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import and_, bindparam, insert, or_, select, update

from app.ca.repository.authentic import CaQueries
from app.ca.rules.log import LogLeaf, SignedTreeHead
from app.ca.rules.merkle import HASH_BYTES, TILE_WIDTH, Frontier, Node, Tile
from app.ca.tables import LogHeadRow, LogNodeRow, LogRow, LogStateRow
from app.db.base import Base
from app.db.prepared import Prepared, Row, execute
from app.db.rows import Rows

LEAVES = Rows(LogRow, LogLeaf)
HEADS = Rows(LogHeadRow, SignedTreeHead)
LOG_STATE_ID = 1

# Of tables and not of their classes, made once: every transaction that records SVIDs executes them.
_NODES, _STATE = (Base.metadata.tables[row.__tablename__] for row in (LogNodeRow, LogStateRow))
_INSERT_NODES = Prepared(insert(_NODES), ("level", "index", "hash"))
_IS_STATE = _STATE.c.id == bindparam("state", type_=_STATE.c.id.type)
LOG_STATE = Prepared(select(_STATE.c.size, _STATE.c.peaks).where(_IS_STATE).with_for_update(), ("state",))(
    (LOG_STATE_ID,)
)
_GROW_LOG = Prepared(update(_STATE).where(_IS_STATE), ("size", "peaks", "state"))


class LogQueries(CaQueries):
    """What `CaRepository` has under "Transparency log"."""

    async def log_frontier(self) -> Frontier:
        return await self.frontier_of(*await execute(self._session, LOG_STATE))

    async def frontier_of(self, rows: Sequence[Row]) -> Frontier:
        """Return the frontier that LOG_STATE has found."""
        if not rows:  # until something is appended
            await self._session.execute(insert(LogStateRow), {"id": LOG_STATE_ID, "size": 0, "peaks": b""})
            return Frontier()
        ((size, peaks),) = rows
        return Frontier(size, tuple(peaks[start : start + HASH_BYTES] for start in range(0, len(peaks), HASH_BYTES)))

    async def extend_log(self, leaves: Sequence[LogLeaf], nodes: Mapping[Node, bytes], frontier: Frontier) -> None:
        grown = _GROW_LOG((frontier.size, b"".join(frontier.peaks), LOG_STATE_ID))
        completed = [(node.level, node.index, hashed) for node, hashed in nodes.items()]
        stored = [_INSERT_NODES(*completed)] if completed else []
        await execute(self._session, LEAVES.insertion(*leaves), *stored, grown)

    async def log_leaves(self, start: int, limit: int) -> Sequence[LogLeaf]:
        query = LEAVES.select().where(LogRow.index >= start).order_by(LogRow.index).limit(limit)
        return await LEAVES.all(self._session, query)

    async def log_leaf_of(self, subject: str) -> LogLeaf | None:
        query = LEAVES.select().where(LogRow.subject == subject).order_by(LogRow.index.desc()).limit(1)
        return await LEAVES.first(self._session, query)

    async def log_nodes(self, tiles: Collection[Tile]) -> Mapping[Node, bytes]:
        leaves = [LogRow.index.between(*_run(tile)) for tile in tiles if tile.level == 0]
        others = [
            and_(LogNodeRow.level == tile.level, LogNodeRow.index.between(*_run(tile))) for tile in tiles if tile.level
        ]
        nodes: dict[Node, bytes] = {}
        if leaves:
            query = select(LogRow.index, LogRow.hash).where(or_(*leaves))
            nodes = {Node(0, index): hashed for index, hashed in await self._session.execute(query)}
        if others:
            stored = select(LogNodeRow.level, LogNodeRow.index, LogNodeRow.hash).where(or_(*others))
            for level, index, hashed in await self._session.execute(stored):
                nodes[Node(level, index)] = hashed
        return nodes

    async def add_head(self, head: SignedTreeHead) -> None:
        if await self.head_of(head.size) is None:
            await HEADS.insert(self._session, head)

    async def newest_head(self) -> SignedTreeHead | None:
        return await HEADS.first(self._session, HEADS.select().order_by(LogHeadRow.size.desc()).limit(1))

    async def head_of(self, size: int) -> SignedTreeHead | None:
        return await HEADS.first(self._session, HEADS.select().where(LogHeadRow.size == size))


def _run(tile: Tile) -> tuple[int, int]:
    """Return the first and the last index of a tile."""
    first = tile.number * TILE_WIDTH
    return first, first + TILE_WIDTH - 1
